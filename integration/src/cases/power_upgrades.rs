//! The power goes, for real, while a machine is upgraded: it is what it was, or what it was to be.

use anyhow::Result;

use super::upgrades::{HANGS, guest, is_well, machine, publish};
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.move_to_ext4()?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    machine(lab, "web")?;
    // What the guest has written itself is its own to sync.
    publish(lab, "web", &["2", ":"])?;
    lab.sh("sync")?;
    in_the_middle(lab)?;
    while_packages_are_set_up(lab)?;
    // After it is done.
    publish(lab, "web", &["3", ":"])?;
    lab.nsctl_ok("upgrade web --yes")?;
    cut(lab)?;
    is_well(lab, "web", "3", "after an upgrade")
}

fn cut(lab: &mut Lab) -> Result<()> {
    let copy = lab.cut()?;
    lab.lose_power(copy)?;
    lab.power_on()?;
    lab.booted("web")
}

/// Cut between two steps.
fn in_the_middle(lab: &mut Lab) -> Result<()> {
    let mut upgraded = false;
    for point in [5, 11, 17, 24, 32, 41, 52, 65] {
        let line = format!("NSCTL_KILL_AT={point} nsctl-faults upgrade web --yes");
        let done = lab.run(&["sh", "-c", &line])?;
        cut(lab)?;
        let place = format!("a power cut at point {point} (status {})", done.status);
        let next = lab.nsctl("apply --yes")?;
        must!(next.ok(), "after {place}:\n{}", next.all());
        let version = guest(lab, "web", "dpkg-query -W greeter")?;
        upgraded = version.ends_with("2\n") || version.trim().ends_with('2');
        is_well(lab, "web", if upgraded { "2" } else { "1" }, &place)?;
        must!(!done.ok() || upgraded, "it was done, and is lost, after {place}");
        if upgraded {
            must!(point > 11, "{place}: it was never killed");
            break;
        }
    }
    if !upgraded {
        lab.nsctl_ok("upgrade web --yes")?;
        is_well(lab, "web", "2", "after them all")?;
    }
    Ok(())
}

/// Half of a package is there when the power goes.
fn while_packages_are_set_up(lab: &mut Lab) -> Result<()> {
    publish(lab, "web", &["2.5", HANGS])?;
    lab.sh("sync; systemd-run -q --unit=upgrades nsctl upgrade web --yes")?;
    until(std::time::Duration::from_secs(60), "a package hangs", || {
        Ok(lab.nsctl("shell web -- test -e /run/hangs")?.ok())
    })?;
    lab.sh("sync")?;
    cut(lab)?;
    let next = lab.nsctl("apply --yes")?;
    must!(next.ok() && next.all().contains("was cut short"), "{}", next.all());
    is_well(lab, "web", "2", "after a power cut in a package")
}
