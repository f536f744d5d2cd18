//! What a plan does, in a few lines: its steps by the phase that they belong to.

use super::Step;
use crate::visible::joined;

/// A part of a plan that people wait for as one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Trees,
    /// What guests install.
    Packages,
    Files,
    /// What services and the kernel are told of the files.
    Loading,
    Links,
    Stopping,
    Starting,
    /// Until what was started is seen to be where it should be.
    Waiting,
}

impl Step {
    pub fn phase(&self) -> Phase {
        match self {
            Step::MakeTree { .. }
            | Step::Snapshot { .. }
            | Step::Restore { .. }
            | Step::RemoveSnapshot { .. }
            | Step::SwapTree { .. }
            | Step::SwapBack { .. }
            | Step::MoveTree { .. }
            | Step::RenameTree { .. }
            | Step::Provision { .. }
            | Step::Claim { .. }
            | Step::Disclaim { .. }
            | Step::RemoveImage { .. } => Phase::Trees,
            Step::Upgrade { .. } | Step::Revert { .. } => Phase::Packages,
            Step::Write { .. } => Phase::Files,
            Step::ReloadSystemd { .. }
            | Step::ReloadNetworkd
            | Step::ReloadFirewall { .. }
            | Step::RestartResolved
            | Step::ReloadBird
            | Step::Switch { .. }
            | Step::Enable { .. }
            | Step::Disable { .. }
            | Step::Listen { .. }
            | Step::Deafen { .. }
            | Step::Inside { .. }
            | Step::Limit { .. }
            | Step::LimitDisk { .. }
            | Step::Bind { .. }
            | Step::Unbind { .. } => Phase::Loading,
            Step::PoolRoute { .. }
            | Step::DropUnreachable { .. }
            | Step::TunnelUp { .. }
            | Step::Delegation
            | Step::BridgeUp { .. }
            | Step::FilterVlans { .. }
            | Step::DeleteLink { .. }
            | Step::FlushPort { .. }
            | Step::Move { .. } => Phase::Links,
            Step::Stop { .. } | Step::Kill { .. } | Step::EndProof { .. } => Phase::Stopping,
            Step::Probe { .. } | Step::Start { .. } | Step::RestartIfAsked { .. } => Phase::Starting,
            Step::Answer { .. }
            | Step::LanAddress { .. }
            | Step::WorksAsBefore { .. }
            | Step::Prove { .. }
            | Step::Check { .. } => Phase::Waiting,
        }
    }
}

/// The phases of a plan in their order, each in a line.
pub fn phases(steps: &[Step]) -> Vec<(Phase, String)> {
    let groups = steps.chunk_by(|one, next| one.phase() == next.phase());
    groups.filter_map(|group| Some((group.first()?.phase(), summary(group)))).collect()
}

/// How many lines of a phase are told.
const TOLD: usize = 3;

fn summary(steps: &[Step]) -> String {
    if let [_, _, ..] = steps
        && steps.iter().all(Step::is_write)
    {
        return written(steps);
    }
    // What a new tree gets beside itself goes without saying.
    let aside =
        |step: &&Step| matches!(step, Step::Provision { .. } | Step::Claim { .. } | Step::Disclaim { .. });
    let main: Vec<&Step> = steps.iter().filter(|step| !aside(step)).collect();
    let steps = if main.is_empty() { steps.iter().collect() } else { main };
    let told = joined(steps.iter().take(TOLD).map(|step| step.describe()), "; ");
    match steps.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

/// How many files, by what becomes of them.
fn written(steps: &[Step]) -> String {
    let count = |wanted: fn(bool, bool) -> bool| {
        let is = |step: &&Step| matches!(step, Step::Write { old, new, .. } if wanted(old.is_some(), new.is_some()));
        steps.iter().filter(is).count()
    };
    let counts = [
        (count(|old, new| !old && new), "write"),
        (count(|old, new| old && new), "change"),
        (count(|_, new| !new), "remove"),
    ];
    let told = counts.into_iter().filter(|(count, _)| *count > 0);
    let told =
        told.map(|(count, verb)| format!("{verb} {count} {}", if count == 1 { "file" } else { "files" }));
    joined(told, ", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str, old: Option<&str>, new: Option<&str>) -> Step {
        let text = |text: &str| text.to_owned();
        Step::Write { path: path.into(), old: old.map(text), new: new.map(text), mode: None }
    }

    #[test]
    fn many_files_are_one_line() {
        let steps = [
            write("/etc/a", None, Some("")),
            write("/etc/b", None, Some("")),
            write("/etc/c", Some(""), Some("x")),
            write("/etc/d", Some(""), None),
            Step::ReloadNetworkd,
        ];
        let told: Vec<String> = phases(&steps).into_iter().map(|(_, line)| line).collect();
        assert_eq!(told, ["write 2 files, change 1 file, remove 1 file", "reload networkd"]);
    }

    #[test]
    fn one_file_is_named() {
        assert_eq!(phases(&[write("/etc/a", None, Some(""))]), [(Phase::Files, "write /etc/a".to_owned())]);
    }
}
