//! The host ends and boots again, with nsctl removed: every machine is back
//! with its address, and the host with its default route.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create one --routed --image debian-13")?;
    lab.nsctl_ok("create two --routed --image debian-13")?;
    lab.nsctl_ok("create three --bridge vbr0 --image debian-13")?;
    lab.sh("sync; mv /usr/local/bin/nsctl /root/nsctl")?;
    lab.power_off()?;
    lab.power_on()?;
    must!(lab.run(&["sh", "-c", "command -v nsctl"])?.status != 0, "nsctl is still there");

    for address in ["2001:db8:a:1::2", "2001:db8:a:2::2"] {
        let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
        until(Duration::from_secs(30), &format!("the router reaches {address}"), answers)?;
    }
    let nobody = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:a:99::1"])?;
    must!(nobody.stdout.contains("Destination unreachable"), "the pool's route is gone:\n{}", nobody.all());
    let lease = || Ok(lab.sh("machinectl show three -p State; machinectl list -l")?.contains("192.168.5."));
    until(Duration::from_secs(30), "the bridged machine has its lease", lease)?;
    let default = || Ok(lab.sh("ip -6 route show default")?.contains("wan0"));
    until(Duration::from_secs(30), "the host has its default route", default)?;
    must!(lab.sh("systemctl --failed --no-legend")?.trim().is_empty(), "{}", lab.sh("systemctl --failed")?);

    lab.sh("mv /root/nsctl /usr/local/bin/nsctl")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}
