//! What `init` and `bridge create` did is taken back, and comes again; and a pool becomes another while machines
//! run.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    // A host that has just booted is about to change what STATE reads: networkd sets accept_ra when it comes to wan0.
    lab.sh("/lib/systemd/systemd-networkd-wait-online --interface wan0 --timeout 30")?;
    let before = lab.sh(STATE)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    renumbered(lab)?;
    refused(lab, "deinit", 1, "machines are routed by this host: web")?;
    lab.nsctl_ok("deinit --force --yes")?;
    let after = lab.sh(STATE)?;
    must!(before == after, "deinit leaves:\n{after}\nwhere there was:\n{before}");
    must!(lab.machine("web")?["state"] == "stopped", "it runs without a firewall");
    let way = || Ok(lab.sh("ping -6 -c1 -W1 2001:db8:ffff::1 || true")?.contains("1 received"));
    until(Duration::from_secs(10), "the host has its own way to the world", way)?;

    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("apply --yes")?;
    answers(lab, "2001:db8:a:1::2")?;
    // Its tree is still nsctl's to delete.
    let said = lab.nsctl_ok("remove web --yes")?;
    must!(!said.contains("its tree stays"), "{said}");
    lab.nsctl_ok("deinit --yes")?;
    bridge(lab)
}

/// What `init` changes of a host.
const STATE: &str = "sysctl -n net.ipv6.conf.all.forwarding net.ipv6.conf.wan0.accept_ra
    ip -6 route show type unreachable | grep -v ^::/0 || true; nft list tables
    find /etc/systemd/network /etc/sysctl.d /etc/systemd/resolved.conf.d -type f 2> /dev/null || true
    ls -d /etc/systemd/system/*nsctl* /etc/systemd/system/*/50-nsctl.conf 2> /dev/null || true
    grep nsctl /etc/hosts || true";

fn answers(lab: &Lab, address: &str) -> Result<()> {
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
    until(Duration::from_secs(20), &format!("{address} answers"), answers)
}

/// The machine keeps its number.
fn renumbered(lab: &Lab) -> Result<()> {
    lab.router.script("ip -6 route replace 2001:db8:e::/48 via $(ip -6 route show 2001:db8:a::/48 | sed 's/.*via \\([^ ]*\\).*/\\1/') dev $(ip -6 route show 2001:db8:a::/48 | sed 's/.*dev \\([^ ]*\\).*/\\1/')")?;
    lab.nsctl_ok("init --pool 2001:db8:e::/48 --uplink wan0 --renumber --yes")?;
    answers(lab, "2001:db8:e:1::2")?;
    must!(
        !lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:a:1::2"])?.ok(),
        "it still has its old address"
    );
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0 --renumber --yes")?;
    answers(lab, "2001:db8:a:1::2")
}

/// A bridge goes when nobody is on it, and the host keeps its addresses there.
fn bridge(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    refused(lab, "bridge remove vbr0 --yes", 1, "no file of networkd's is for enp6s0")?;
    lab.sh("printf '[Match]\\nName=enp6s0\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/20-lan.network
         ip link add other type veth peer name another; ip link set other master vbr0")?;
    refused(lab, "bridge remove vbr0 --yes", 1, "others are ports of vbr0: other")?;
    lab.sh("ip link del other")?;
    lab.nsctl_ok("create lan --bridge vbr0 --image debian-13")?;
    refused(lab, "bridge remove vbr0 --yes", 1, "machines are on vbr0: lan")?;
    lab.nsctl_ok("remove lan --yes")?;
    lab.nsctl_ok("bridge remove vbr0 --yes")?;
    must!(!lab.run(&["ip", "link", "show", "vbr0"])?.ok(), "the bridge is still there");
    let has = || Ok(lab.sh("ip -4 address show enp6s0")?.contains("192.168.5."));
    until(Duration::from_secs(30), "the uplink has an address of the LAN again", has)
}
