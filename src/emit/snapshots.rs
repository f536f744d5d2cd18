//! Units that take snapshots, and make backups, by themselves: of each one template of a service, one of a timer, whose
//! instance says how often.

use std::collections::BTreeSet;

use super::file::ManagedFile;
use super::ini::Ini;
use crate::snapshot::Every;
use crate::spec::{MachineSpec, Spec};

/// The timer of those that are taken so often.
pub fn timer(every: Every) -> String {
    format!("nsctl-snapshot@{}.timer", every.word())
}

/// The same of backups.
pub fn backup_timer(every: Every) -> String {
    format!("nsctl-backup@{}.timer", every.word())
}

/// None where no machine has a schedule.
pub fn files(spec: &Spec) -> Vec<(ManagedFile, String)> {
    let all = |words: fn(&MachineSpec) -> Vec<Every>| -> BTreeSet<Every> {
        spec.machines.values().flat_map(words).collect()
    };
    let snapshots = all(|machine| machine.snapshots.iter().filter_map(|schedule| schedule.every).collect());
    let backups = all(|machine| {
        machine.backup.iter().flat_map(|schedule| [schedule.every, schedule.verify]).flatten().collect()
    });
    let mut files = Vec::new();
    if !snapshots.is_empty() {
        files.push((ManagedFile::SnapshotService, snapshot_service().render()));
        files.push((ManagedFile::SnapshotTimer, timer_unit("Take %i snapshots of machines", 60).render()));
    }
    if !backups.is_empty() {
        files.push((ManagedFile::BackupService, backup_service().render()));
        // Where many hosts have one repository, they do not all come at once.
        files.push((ManagedFile::BackupTimer, timer_unit("Make %i backups of machines", 600).render()));
    }
    let wanted: Vec<String> =
        snapshots.into_iter().map(timer).chain(backups.into_iter().map(backup_timer)).collect();
    if !wanted.is_empty() {
        let drop_in = Ini::new().section("Unit").set_some("Wants", wanted);
        files.push((ManagedFile::TimersDropIn, drop_in.render()));
    }
    files
}

fn service(description: &str, manual: &str) -> Ini {
    Ini::new()
        .section("Unit")
        .set("Description", description)
        .set("Documentation", manual)
        .set("After", "dbus.socket")
}

fn behind(unit: Ini) -> Ini {
    // Machines come first.
    unit.section("Service").set("Type", "oneshot").set("Nice", 10).set("IOSchedulingClass", "idle")
}

fn snapshot_service() -> Ini {
    behind(service("Take %i snapshots of machines", "man:nsctl-snapshot(1)"))
        .set("ExecStart", "nsctl snapshot --every %i")
        // What lets a frozen machine go on outlives who froze it.
        .set("KillMode", "process")
        .set("OOMPolicy", "continue")
}

fn backup_service() -> Ini {
    let unit = service("Make %i backups of machines", "man:nsctl-backup(1)");
    behind(unit.set("Wants", "network-online.target").set("After", "network-online.target"))
        .set("ExecStart", "nsctl backup --every %i")
}

fn timer_unit(description: &str, delay: u32) -> Ini {
    Ini::new()
        .section("Unit")
        .set("Description", description)
        .section("Timer")
        .set("OnCalendar", "%i")
        .set("RandomizedDelaySec", delay)
        // What was due while the host was off is taken once it is on.
        .set("Persistent", "yes")
}
