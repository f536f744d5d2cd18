//! Snapshots of a Debian guest, copy-on-write: of one that runs, and back again while it is stopped; beside
//! Incus, and btrfs(8) by hand.

use anyhow::{Context, Result};

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use super::rivals::INCUS;
use crate::lab::{Lab, Suite, Trees};

const ROUNDS: usize = 7;

/// What is done to one way's guest in each round; LABEL is the round's own.
struct Way {
    name: &'static str,
    /// The guest runs.
    snapshot: &'static str,
    stop: &'static str,
    /// It is stopped. On the disk when it is done, as nsctl's is.
    rollback: &'static str,
    start: &'static str,
}

const WAYS: [Way; 3] = [
    Way {
        name: "nsctl",
        snapshot: "nsctl snapshot web LABEL",
        stop: "nsctl stop web",
        rollback: "nsctl rollback web LABEL --yes",
        start: "nsctl start web",
    },
    Way {
        name: "Incus",
        snapshot: "incus snapshot create inc LABEL < /dev/null",
        stop: "incus stop --force inc",
        rollback: "incus snapshot restore inc LABEL < /dev/null",
        start: "incus start inc",
    },
    Way {
        name: "btrfs by hand, synced",
        snapshot: "btrfs -q subvolume snapshot -r /var/lib/machines/hand /var/lib/machines/.hand-LABEL && sync -f /var/lib/machines",
        stop: "machinectl terminate hand; until systemctl show -P ActiveState systemd-nspawn@hand | grep -qE 'inactive|failed'; do :; done",
        rollback: "cd /var/lib/machines && mv hand .hand-before-LABEL && btrfs -q subvolume snapshot .hand-LABEL hand && sync -f .",
        start: "systemctl start systemd-nspawn@hand",
    },
];

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    INCUS.set_up(&lab)?;
    let measured = rounds(&lab);
    let torn_down = INCUS.tear_down(&lab);
    let times = measured?;
    let ours = &times[0];
    for (way, theirs) in WAYS.iter().zip(&times).skip(1) {
        sheet.pair("snapshot of one that runs", "ms", &ours.0, (way.name, &theirs.0), Goal::Times(1.0));
        sheet.pair("rollback of one that is stopped", "ms", &ours.1, (way.name, &theirs.1), Goal::Times(1.0));
    }
    torn_down
}

fn rounds(lab: &Lab) -> Result<Vec<(Figures, Figures)>> {
    lab.nsctl_ok("create web --routed --image debian-13")?;
    INCUS.sh(lab, &format!("create inc {}", INCUS.address(2)))?;
    lab.sh("machinectl clone debian-13 hand && systemctl start systemd-nspawn@hand")?;
    lab.booted("web")?;
    let mut times: Vec<(Figures, Figures)> = WAYS.iter().map(|_| Default::default()).collect();
    for round in 0..=ROUNDS {
        for (way, (snapshots, rollbacks)) in WAYS.iter().zip(&mut times) {
            let line = |line: &str| line.replace("LABEL", &format!("r{round}"));
            // What a guest has written meanwhile is nobody's to pay for twice.
            lab.sh("sync")?;
            let snapshot = cost(lab, &line(way.snapshot)).with_context(|| way.name)?;
            lab.sh(&format!("{}; sync", way.stop))?;
            let rollback = cost(lab, &line(way.rollback)).with_context(|| way.name)?;
            lab.sh(way.start)?;
            if round > 0 {
                snapshots.add(snapshot.elapsed);
                rollbacks.add(rollback.elapsed);
            }
        }
    }
    Ok(times)
}
