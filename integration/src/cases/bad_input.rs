//! Bad words get a clear error, a hint, the right status, and change nothing.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;

pub fn run(lab: &mut Lab) -> Result<()> {
    for pool in ["2001:db8::/113", "2001:db8::/128"] {
        refused(lab, &format!("init --pool {pool} --uplink wan0"), 2, "too long")?;
    }
    refused(lab, "init --pool 10.0.0.0/8 --uplink wan0", 2, "IPv4")?;
    refused(lab, "init --pool 2001:db8::1/48 --uplink wan0", 2, "host bits")?;
    refused(lab, "init --pool nonsense --uplink wan0", 2, "not an IPv6 prefix")?;
    refused(lab, "init --pool 2001:db8:a::/48 --uplink wan9", 1, "no interface 'wan9'")?;
    refused(lab, "create web --routed --image debian-13", 1, "no pool")?;
    refused(lab, "create web --bridge vbr0 --image debian-13", 1, "no such bridge")?;
    for usage in [
        "",
        "frobnicate",
        "create web",
        "create web --routed --vlan 20",
        "init --on-link",
        "list --frob",
        "start",
    ] {
        refused(lab, usage, 2, "sage")?;
    }

    lab.nsctl_ok("init --pool 2001:db8:a::/62 --uplink wan0")?;
    for name in ["-x", "a/b", "../x", "a..b", "ümlaut", &"n".repeat(65)] {
        refused(lab, &format!("create --routed --image debian-13 -- {name}"), 2, "not a valid machine name")?;
    }
    refused(lab, "create web --routed --image nothing", 1, "no image 'nothing'")?;
    refused(lab, "create web --routed --image /nothing.tar", 1, "does not exist")?;
    refused(lab, "create debian-13 --routed --image debian-13", 1, "already a tree")?;
    refused(lab, "create web --bridge vbr0 --image debian-13", 1, "no such bridge")?;
    refused(lab, "bridge create vbr0 --uplink eth9", 1, "no interface 'eth9'")?;
    refused(lab, "bridge create this-name-is-too-long --uplink enp6s0", 2, "not a valid interface name")?;
    refused(lab, "bridge create wan0 --uplink enp6s0", 1, "already an interface 'wan0'")?;
    refused(lab, "bridge create vbr0 --uplink enp6s0 --address nonsense", 2, "not an address")?;

    lab.sh("ip link add br9 type bridge && ip link set enp6s0 master br9")?;
    refused(lab, "bridge create vbr0 --uplink enp6s0", 1, "already a port of br9")?;
    lab.sh("ip link del br9")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    refused(lab, "bridge create vbr1 --uplink enp6s0", 1, "already the port of vbr0")?;

    for k in 1..=3 {
        lab.nsctl_ok(&format!("create m{k} --routed --image debian-13 --no-start"))?;
    }
    refused(lab, "create m4 --routed --image debian-13", 1, "full")?;
    refused(lab, "create m1 --routed --image debian-13", 1, "already a machine named 'm1'")?;
    refused(lab, "init --pool 2001:db8:b::/48 --uplink wan0", 1, "holds")?;
    let done =
        lab.sh("setpriv --reuid 1000 --clear-groups nsctl create x --routed 2>&1 || echo status $?")?;
    anyhow::ensure!(
        done.contains("only root") && done.contains("hint:") && done.contains("status 1"),
        "{done}"
    );
    Ok(())
}
