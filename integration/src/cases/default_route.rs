//! Forwarding costs the host its own default route with no uplink: run by
//! networkd, by the kernel, or by NetworkManager.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    undecided(lab)?;
    by_networkd(lab)?;
    by_kernel(lab)?;
    by_network_manager(lab)
}

fn has_default(lab: &Lab) -> Result<bool> {
    Ok(lab.sh("ip -6 route show default")?.contains("dev wan0"))
}

/// networkd has not looked at the uplink yet, as udev, which it waits for, has not told of it:
/// `init` guesses nothing.
fn undecided(lab: &Lab) -> Result<()> {
    lab.sh("systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd
         rm /run/udev/data/n$(cat /sys/class/net/wan0/ifindex); touch /run/udev/control
         systemctl restart systemd-networkd")?;
    must!(lab.sh("networkctl list wan0")?.contains("pending"), "networkd waits for no udev");
    let init = "init --pool 2001:db8:a::/48 --uplink wan0";
    let refused = lab.run(&["sh", "-c", &format!("NSCTL_BUS_LIMIT=3000 nsctl-faults {init}")])?;
    must!(refused.status == 1, "it guessed: {}", refused.all());
    must!(refused.stderr.contains("has not yet decided what to do with wan0"), "{}", refused.all());
    must!(lab.run(&["test", "-e", "/etc/nsctl/nsctl.toml"])?.status == 1, "a refused init wrote its file");
    let decided = lab.sh(&format!(
        "nsctl {init} & rm /run/udev/control; systemctl start systemd-udevd && udevadm trigger --action=add \
             /sys/class/net/wan0 && wait $! && cat /etc/nsctl/nsctl.toml"
    ))?;
    must!(decided.contains("accept-ra = \"networkd\""), "{decided}");
    Ok(())
}

fn by_networkd(lab: &Lab) -> Result<()> {
    until(Duration::from_secs(20), "the host has a default route by RA", || has_default(lab))?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    must!(lab.sh("sysctl -n net.ipv6.conf.all.forwarding")? == "1\n", "it does not forward");
    until(Duration::from_secs(20), "it still has it", || has_default(lab))?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink enp6s0")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("grep -q IPv6AcceptRA=yes /etc/systemd/network/20-wan0.network.d/05-nsctl.conf")?;
    // Starting a machine with the stock file makes networkd look at forwarding again (FACTS).
    lab.nsctl_ok("create one --routed --image debian-13")?;
    lab.sh("machinectl clone debian-13 stock && systemctl start systemd-nspawn@stock")?;
    lab.sh("while ip -6 route del default 2>/dev/null; do :; done; networkctl reconfigure wan0")?;
    until(Duration::from_secs(20), "networkd takes RAs of a host that forwards", || has_default(lab))
}

/// A host without nsctl and without a file for its uplink, booted anew.
fn blank(lab: &mut Lab) -> Result<()> {
    lab.sh(
        "rm -rf /etc/nsctl /var/lib/nsctl /etc/systemd/network/* /etc/sysctl.d/60-nsctl.conf /etc/systemd/nspawn \
            /etc/systemd/system/systemd-nspawn@*.service.d /etc/systemd/system/machines.target.wants
         sync",
    )?;
    lab.power_off()?;
    lab.power_on()
}

/// It takes router advertisements by itself, in user space: forwarding is nothing to it.
fn by_network_manager(lab: &mut Lab) -> Result<()> {
    blank(lab)?;
    lab.sh(
        "printf '[main]\\nplugins=keyfile\\n[keyfile]\\nunmanaged-devices=except:interface-name:wan0\\n' > /etc/NetworkManager/conf.d/lab.conf
         printf '[connection]\\nid=wan0\\ntype=ethernet\\ninterface-name=wan0\\n[ipv4]\\nmethod=disabled\\n[ipv6]\\nmethod=auto\\naddress1=2001:db8:ffff::2/64\\n' > /etc/NetworkManager/system-connections/wan0.nmconnection
         chmod 600 /etc/NetworkManager/system-connections/*
         systemctl unmask NetworkManager NetworkManager-dispatcher 2>/dev/null; systemctl start NetworkManager
         nmcli device set wan0 managed yes; nmcli connection up wan0",
    )?;
    until(Duration::from_secs(20), "NetworkManager has a default route by RA", || has_default(lab))?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create two --routed --image debian-13")?;
    must!(lab.sh("sysctl -n net.ipv6.conf.all.forwarding")? == "1\n", "it does not forward");
    must!(has_default(lab)?, "the default route is gone");
    lab.sh("while ip -6 route del default 2>/dev/null; do :; done; nmcli connection up wan0")?;
    until(Duration::from_secs(20), "NetworkManager takes RAs of a host that forwards", || has_default(lab))?;
    let out = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:a:1::2"])?.ok());
    until(Duration::from_secs(10), "the machine is reached", out)
}

fn by_kernel(lab: &mut Lab) -> Result<()> {
    blank(lab)?;
    lab.sh("sysctl -qw net.ipv6.conf.wan0.accept_ra=1 && ip link set wan0 up
         ip addr add 2001:db8:ffff::2/64 dev wan0 nodad")?;
    until(Duration::from_secs(20), "the kernel has a default route by RA", || has_default(lab))?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    must!(lab.sh("sysctl -n net.ipv6.conf.all.forwarding")? == "1\n", "it does not forward");
    must!(lab.sh("sysctl -n net.ipv6.conf.wan0.accept_ra")? == "2\n", "the uplink ignores RA");
    must!(has_default(lab)?, "the default route is gone");
    lab.sh(
        "while ip -6 route del default 2>/dev/null; do :; done; ip link set wan0 down; ip link set wan0 up",
    )?;
    until(Duration::from_secs(20), "the kernel takes RAs of a host that forwards", || has_default(lab))?;
    lab.sh("sysctl -qw net.ipv6.conf.wan0.accept_ra=1")?;
    super::doctor::fixed(lab, "ignores router advertisements")
}
