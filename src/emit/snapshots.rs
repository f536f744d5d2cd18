//! Units that take snapshots by themselves: one template of a service, one of a timer, whose instance says how often.

use std::collections::BTreeSet;

use super::file::ManagedFile;
use super::ini::Ini;
use crate::snapshot::Every;
use crate::spec::Spec;

/// The timer of those that are taken so often.
pub fn timer(every: Every) -> String {
    format!("nsctl-snapshot@{}.timer", every.word())
}

/// None where no machine has a schedule.
pub fn files(spec: &Spec) -> Vec<(ManagedFile, String)> {
    let schedules = spec.machines.values().filter_map(|machine| machine.snapshots.as_ref()?.every);
    let words: BTreeSet<Every> = schedules.collect();
    if words.is_empty() {
        return Vec::new();
    }
    let service = Ini::new()
        .section("Unit")
        .set("Description", "Take %i snapshots of machines")
        .set("Documentation", "man:nsctl-snapshot(1)")
        .set("After", "dbus.socket")
        .section("Service")
        .set("Type", "oneshot")
        // Machines come first.
        .set("Nice", 10)
        .set("IOSchedulingClass", "idle")
        .set("ExecStart", "nsctl snapshot --every %i")
        // What lets a frozen machine go on outlives who froze it.
        .set("KillMode", "process")
        .set("OOMPolicy", "continue");
    let timer_unit = Ini::new()
        .section("Unit")
        .set("Description", "Take %i snapshots of machines")
        .section("Timer")
        .set("OnCalendar", "%i")
        .set("RandomizedDelaySec", 60)
        // What was due while the host was off is taken once it is on.
        .set("Persistent", "yes");
    let wanted = words.into_iter().map(timer);
    vec![
        (ManagedFile::SnapshotService, service.render()),
        (ManagedFile::SnapshotTimer, timer_unit.render()),
        (ManagedFile::TimersDropIn, Ini::new().section("Unit").set_some("Wants", wanted).render()),
    ]
}
