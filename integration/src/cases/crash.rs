//! The power goes in the middle of a move to the LAN, and boot starts the machine by whatever
//! files there are: what runs is where its definition says, all the same.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    wrong_link(lab)?;
    for point in (4..).step_by(7) {
        let done =
            lab.run(&["sh", "-c", &format!("NSCTL_KILL_AT={point} nsctl-faults attach web --bridge vbr0")])?;
        if done.ok() {
            must!(point > 10, "it was not killed");
            return Ok(());
        }
        lab.sh("sync")?;
        lab.power_off()?;
        lab.power_on()?;
        lab.sh("until systemctl is-active -q systemd-nspawn@web; do :; done")?;
        let next = lab.nsctl("bridge create vbr0 --uplink enp6s0")?;
        must!(next.ok(), "after a crash at {point}:\n{}", next.all());
        must!(
            lab.nsctl_ok("plan")? == "nothing to do\n",
            "after a crash at {point}:\n{}",
            lab.nsctl("plan")?.all()
        );
        // Its guest has only just been started.
        let settled = || Ok(lab.machine("web")?["drift"] == serde_json::json!([]));
        until(Duration::from_secs(30), "it is where it was planned", settled)?;
        let machine = lab.machine("web")?;
        let link = lab.sh("ip -br link | awk '{print $1}' | grep -o '^v[eb]-web'")?;
        let routed = machine["network"]["mode"] == "routed";
        must!(
            (link.trim() == "ve-web") == routed,
            "after a crash at {point}: {link}{machine}\n{}",
            next.all()
        );
        if !routed {
            lab.nsctl_ok("attach web --routed")?;
        }
    }
    Ok(())
}

/// Somebody puts a routed machine on the LAN.
fn wrong_link(lab: &Lab) -> Result<()> {
    lab.sh("ip link set ve-web master vbr0")?;
    let plan = lab.nsctl_ok("plan")?;
    must!(plan.contains("it is to be routed, and ve-web is on vbr0"), "{plan}");
    must!(lab.machine("web")?["drift"].to_string().contains("ve-web is on vbr0"), "{}", lab.machine("web")?);
    lab.nsctl_ok("apply --yes")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}
