//! What brings back what was before some steps, in the order in which it can be.

use std::collections::BTreeMap;

use super::{Stale, Step, unreachable};
use crate::emit::ManagedFile;

impl Step {
    /// The step that undoes this one; none where nothing needs to be undone, or nothing can be.
    pub fn inverse(&self) -> Option<Step> {
        match self.clone() {
            Step::Write { path, old, new, mode } => Some(Step::Write { path, old: new, new: old, mode }),
            Step::MakeTree { to, .. } => Some(Step::RemoveImage { name: to, tree: None }),
            Step::Snapshot { image, .. } | Step::Restore { image, .. } => {
                Some(Step::RemoveSnapshot { image })
            }
            Step::Prove { trial, .. } => Some(Step::EndProof { name: trial.name }),
            Step::SwapTree { machine, aside, .. } => Some(Step::SwapBack { machine, aside }),
            Step::MoveTree { from, to } => Some(Step::MoveTree { from: to, to: from }),
            Step::Upgrade { machine, back, .. } => Some(Step::Revert { machine, back }),
            Step::RenameTree { from, to } => Some(Step::RenameTree { from: to, to: from }),
            Step::Claim { machine } => Some(Step::Disclaim { machine }),
            Step::Stop { machines } => Some(Step::Start { machines, addresses: BTreeMap::new() }),
            Step::Start { machines, .. } => Some(Step::Kill { machines }),
            Step::Listen { units } => Some(Step::Deafen { units }),
            Step::Deafen { units } => Some(Step::Listen { units }),
            Step::Inside { machine, old, new } => Some(Step::Inside { machine, old: new, new: old }),
            Step::Limit { machine, old, new } => Some(Step::Limit { machine, old: new, new: old }),
            Step::LimitDisk { machine, old, new } => Some(Step::LimitDisk { machine, old: new, new: old }),
            Step::Bind { machine, binds, devices } => Some(Step::Unbind { machine, binds, devices }),
            Step::Unbind { machine, binds, devices } => Some(Step::Bind { machine, binds, devices }),
            Step::Enable { machines } => Some(Step::Disable { machines }),
            Step::Disable { machines } => Some(Step::Enable { machines }),
            Step::Switch { key, old, new } => Some(Step::Switch { key, old: new, new: old }),
            Step::FilterVlans { bridge, on, was, places } => {
                (on != was).then_some(Step::FilterVlans { bridge, on: was, was: on, places })
            }
            // networkd makes one that was there before anew, of the files that it reads then.
            Step::BridgeUp { bridge: name, is_new: true, .. } | Step::TunnelUp { link: name, .. } => {
                Some(Step::DeleteLink { name })
            }
            // Who has read the files reads them again once they are back.
            Step::ReloadSystemd { .. }
            | Step::ReloadNetworkd
            | Step::ReloadFirewall { .. }
            | Step::RestartResolved
            | Step::ReloadBird => None,
            // It goes with the tree.
            Step::Provision { .. } => None,
            // What is gone for good, and what only undoes.
            Step::RemoveImage { .. }
            | Step::RemoveSnapshot { .. }
            | Step::SwapBack { .. }
            | Step::Revert { .. }
            | Step::EndProof { .. }
            | Step::Kill { .. }
            | Step::Disclaim { .. } => None,
            // What it runs on by then is what the upgrade made.
            Step::RestartIfAsked { .. } | Step::WorksAsBefore { .. } => None,
            Step::Move { machine, link, bridge, from: Some(from) } => {
                Some(Step::Move { machine, link, bridge: from, from: Some(bridge) })
            }
            // networkd puts back what its files say.
            Step::DropUnreachable { .. }
            | Step::DeleteLink { .. }
            | Step::FlushPort { .. }
            | Step::Move { from: None, .. } => None,
            Step::BridgeUp { is_new: false, .. } => None,
            Step::PoolRoute { .. }
            | Step::Delegation
            | Step::Probe { .. }
            | Step::Answer { .. }
            | Step::LanAddress { .. }
            | Step::Check { .. } => None,
        }
    }
}

/// The steps that bring back what was before `done`, the first `done.len()`
/// steps of a plan. systemd and networkd read their files again as soon as
/// those are back, and before anything is started with them.
pub fn undo(done: &[Step]) -> Vec<Step> {
    with_reloads(done.iter().rev().filter_map(Step::inverse))
}

/// Steps that undo others, and between them that those read changed files again who must.
pub fn with_reloads(undoing: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut stale = Stale::default();
    let (moves, undoing): (Vec<Step>, Vec<Step>) =
        undoing.into_iter().partition(|step| matches!(step, Step::Move { .. }));
    let (reloads, undoing): (Vec<Step>, Vec<Step>) = undoing.into_iter().partition(Step::is_reload);
    for step in undoing {
        if !stale.note(&step) {
            steps.append(&mut stale.reloads());
        }
        steps.push(step);
    }
    steps.append(&mut stale.reloads());
    for reload in reloads {
        if !steps.contains(&reload) {
            steps.push(reload);
        }
    }
    steps.extend(dropped_routes(&steps));
    // networkd would put a link where its file says, as long as that is not back.
    steps.extend(moves);
    steps
}

/// Unreachable routes whose files some steps take away, once networkd has heard of it.
fn dropped_routes(steps: &[Step]) -> Option<Step> {
    let is_live = steps.contains(&Step::ReloadNetworkd);
    let writes = steps.iter().filter_map(|step| match step {
        Step::Write { path, old, new, .. } => {
            Some((ManagedFile::parse(path)?, old.as_deref(), new.as_deref()))
        }
        _ => None,
    });
    let writes: Vec<_> = writes.collect();
    let files = writes.iter().map(|(file, old, new)| (file, *old, *new));
    if is_live { unreachable::dropped(files) } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn write(path: &str, old: Option<&str>, new: Option<&str>) -> Step {
        Step::Write { path: path.into(), old: old.map(Into::into), new: new.map(Into::into), mode: None }
    }

    #[test]
    fn undoing_a_restart_reloads_before_it_starts_again() {
        let machines = vec!["a".parse().unwrap()];
        let done = [
            write("/var/lib/nsctl/state.toml", None, Some("s")),
            Step::Stop { machines: machines.clone() },
            write("/etc/systemd/network/x", Some("1"), Some("2")),
            write("/etc/systemd/system/y", None, Some("2")),
            Step::ReloadSystemd { units: BTreeSet::new() },
            Step::ReloadNetworkd,
            Step::start(machines.clone(), &[]),
            Step::Answer { machine: machines[0].clone(), address: "::2".parse().unwrap() },
        ];
        assert_eq!(
            undo(&done),
            [
                Step::Kill { machines: machines.clone() },
                write("/etc/systemd/system/y", Some("2"), None),
                write("/etc/systemd/network/x", Some("2"), Some("1")),
                Step::ReloadSystemd { units: BTreeSet::new() },
                Step::ReloadNetworkd,
                Step::start(machines, &[]),
                write("/var/lib/nsctl/state.toml", Some("s"), None),
            ]
        );
    }
}
