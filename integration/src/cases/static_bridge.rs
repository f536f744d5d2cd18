//! A bridge with a static address of the host, when asked for; made twice it is made once;
//! gone from nsctl.toml it goes, once no machine is on it.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let create = "bridge create vbr0 --uplink enp6s0 --address 192.168.5.9/24 --gateway 192.168.5.1";
    lab.nsctl_ok(create)?;
    let address = || Ok(lab.sh("ip -4 -br addr show dev vbr0")?.contains("192.168.5.9/24"));
    until(Duration::from_secs(20), "the bridge has its static address", address)?;
    lab.must(&["ping", "-c1", "-W5", "192.168.5.1"])?;
    must!(lab.sh("ip route show default")?.contains("via 192.168.5.1 dev vbr0"), "no default route");
    let leased = lab.sh("ip -4 -br addr show dev vbr0")?;
    must!(leased.matches("192.168.5.").count() == 1, "it took a lease, too: {leased}");
    lab.nsctl_ok(create)?;
    refused(lab, "bridge create vbr0 --uplink enp6s0", 1, "made otherwise")?;

    lab.nsctl_ok("create bot --bridge vbr0 --image debian-13 --no-start")?;
    lab.sh("sed -i '/bridge.vbr0/,$d' /etc/nsctl/nsctl.toml")?;
    refused(lab, "apply --yes", 1, "there is no such bridge")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("attach bot --routed")?;
    must!(lab.nsctl_ok("plan")?.contains("link vbr0 is deleted"), "{}", lab.nsctl_ok("plan")?);
    lab.nsctl_ok("apply --yes")?;
    must!(!lab.sh("ip -br link")?.contains("vbr0"), "the bridge is still there");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}
