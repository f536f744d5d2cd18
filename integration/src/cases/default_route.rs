//! Forwarding costs the host its own default route neither with an uplink run
//! by networkd nor with one run by the kernel.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    by_networkd(lab)?;
    by_kernel(lab)
}

fn has_default(lab: &Lab) -> Result<bool> {
    Ok(lab.sh("ip -6 route show default")?.contains("dev wan0"))
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

fn by_kernel(lab: &mut Lab) -> Result<()> {
    lab.sh(
        "rm -r /etc/nsctl /var/lib/nsctl /etc/systemd/network/* /etc/sysctl.d/60-nsctl.conf /etc/systemd/system/machines.target.wants
         sync",
    )?;
    lab.power_off()?;
    lab.power_on()?;
    lab.sh(
        "sysctl -qw net.ipv6.conf.wan0.accept_ra=1 && ip link set wan0 up
         ip addr add 2001:db8:ffff::2/64 dev wan0 nodad",
    )?;
    until(Duration::from_secs(20), "the kernel has a default route by RA", || has_default(lab))?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    must!(lab.sh("sysctl -n net.ipv6.conf.all.forwarding")? == "1\n", "it does not forward");
    must!(lab.sh("sysctl -n net.ipv6.conf.wan0.accept_ra")? == "2\n", "the uplink ignores RA");
    must!(has_default(lab)?, "the default route is gone");
    lab.sh("while ip -6 route del default 2>/dev/null; do :; done; ip link set wan0 down; ip link set wan0 up")?;
    until(Duration::from_secs(20), "the kernel takes RAs of a host that forwards", || has_default(lab))
}
