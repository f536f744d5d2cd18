//! What becomes of each machine: nothing, a move while it runs, a restart, an end.

use std::collections::BTreeMap;

use super::effects::restart_reason;
use super::files::FileChange;
use super::live::{binds, disk, limits, listeners, only_moves, read_at_start};
use super::{Scope, Step, Wanted, probe};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::observed::{Link, Observed};
use crate::spec::{BridgePort, MachineSpec, Network};

/// What happens to the machines that a plan is about.
#[derive(Debug, Default)]
pub struct MachineActions {
    stop: Vec<MachineName>,
    /// And why.
    restart: Vec<(MachineName, String)>,
    /// Stopped by hand, though they start with the host.
    stay: Vec<MachineName>,
    /// Other limits of those that run on.
    limits: Vec<Step>,
    disks: Vec<Step>,
    start: Vec<MachineName>,
    enable: Vec<MachineName>,
    disable: Vec<MachineName>,
    moves: Vec<Step>,
    checks: Vec<Step>,
}

/// Decides for every machine in the plan's scope.
pub fn actions(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> MachineActions {
    let mut actions = MachineActions::default();
    let mut by_machine: BTreeMap<MachineName, Vec<&FileChange>> = BTreeMap::new();
    for change in changes {
        if let Some(name) = change.file.machine() {
            by_machine.entry(name).or_default().push(change);
        }
    }
    for (name, machine) in &wanted.spec.machines {
        if wanted.holds_machine(name) {
            let mine = by_machine.get(name).map_or(&[][..], Vec::as_slice);
            actions.decide(name, machine, wanted, observed, mine);
        }
    }
    for name in leaving(wanted, observed, changes) {
        let mine = by_machine.get(&name).map_or(&[][..], Vec::as_slice);
        let has_tree = observed.images.contains(name.as_str());
        // One that goes, too: of a tree that is full btrfs deletes nothing.
        actions.disks.extend(disk(&name, wanted, observed, mine).filter(|_| has_tree));
        if observed.is_running(&name) || observed.is_coming(&name) {
            actions.stop.push(name.clone());
        }
        if observed.enabled.contains(&name) {
            actions.disable.push(name);
        }
    }
    actions
}

/// Machines of ours that are wanted no more: their files go.
fn leaving(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<MachineName> {
    let gone = changes.iter().filter(|change| change.new.is_none());
    let mut names: Vec<MachineName> = gone
        .filter_map(|change| change.file.machine())
        .filter(|name| !wanted.spec.machines.contains_key(name) && !wanted.left_out.contains(name))
        .chain(
            wanted
                .drop_images
                .iter()
                .filter(|name| observed.is_running(name) || observed.is_coming(name))
                .cloned(),
        )
        .collect();
    names.sort();
    names.dedup();
    names
}

impl MachineActions {
    fn decide(
        &mut self,
        name: &MachineName,
        machine: &MachineSpec,
        wanted: &Wanted,
        observed: &Observed,
        changes: &[&FileChange],
    ) {
        if machine.autostart != observed.enabled.contains(name) {
            if machine.autostart { self.enable.push(name.clone()) } else { self.disable.push(name.clone()) }
        }
        self.disks.extend(disk(name, wanted, observed, changes));
        let swapped = wanted.swap.as_ref().is_some_and(|swap| swap.machine == *name);
        // Its tree is not taken from under one that systemd is about to start.
        let running = observed.is_running(name) || (swapped && observed.is_coming(name));
        let mut starts = false;
        if !running && !wanted.start.contains(name) {
            if machine.autostart && wanted.scope == Scope::All && observed.stopped.contains(name) {
                self.stay.push(name.clone());
            }
            return;
        }
        if !running {
            self.start.push(name.clone());
            starts = true;
        } else if swapped {
            self.restart.push((name.clone(), "its tree is another then".to_owned()));
            starts = true;
        } else if let Some(step) = move_of(name, machine, observed).filter(|_| only_moves(changes)) {
            self.moves.push(step);
            self.limits.extend(limits(name, changes));
            self.checks.push(Step::LanAddress { machine: name.clone(), moved: true, second: false });
            return;
        } else if let Some(change) = changes.iter().find(|change| read_at_start(change)) {
            self.restart.push((name.clone(), restart_reason(&change.file)));
            starts = true;
        } else if let Some(link) = wrong_link(name, machine, observed) {
            self.restart.push((name.clone(), link));
            starts = true;
        } else if changes.is_empty() {
            return;
        } else {
            self.limits.extend(limits(name, changes));
            self.moves.extend(binds(name, changes));
            self.moves.extend(listeners(name, changes));
        }
        self.checks.extend(proof(name, machine, wanted));
        self.checks.extend(health(name, machine).filter(|_| starts));
    }

    /// What the user should know: who is restarted.
    pub fn notes(&self) -> Vec<String> {
        let restart = self
            .restart
            .iter()
            .map(|(name, why)| format!("'{name}' is running and will be restarted: {why}"));
        let stay = self.stay.iter().map(|name| {
            format!("'{name}' was stopped by hand, and stays so until `nsctl start {name}` or the next boot")
        });
        restart.chain(stay).collect()
    }

    fn restarting(&self) -> impl Iterator<Item = &MachineName> {
        self.restart.iter().map(|(name, _)| name)
    }

    /// The units that restart, and why.
    pub fn reasons(&self) -> Vec<(String, String)> {
        self.restart.iter().map(|(name, why)| (name.unit(), why.clone())).collect()
    }

    pub fn stop(&self) -> Option<Step> {
        let machines: Vec<MachineName> = self.stop.iter().chain(self.restarting()).cloned().collect();
        some(&machines).map(|machines| Step::Stop { machines })
    }

    /// What machines that run on may take from now on.
    pub fn limits(&self) -> &[Step] {
        &self.limits
    }

    /// What starts with the host, and what no longer does.
    pub fn with_host(&self) -> Vec<Step> {
        let disable = some(&self.disable).map(|machines| Step::Disable { machines });
        disable.into_iter().chain(some(&self.enable).map(|machines| Step::Enable { machines })).collect()
    }

    /// Moves, what starts now, and whether it answers.
    pub fn after_files(&self, wanted: &Wanted) -> Vec<Step> {
        let start: Vec<MachineName> = self.restarting().chain(&self.start).cloned().collect();
        let mut steps = self.disks.clone();
        steps.extend(self.moves.iter().cloned());
        steps.extend(probe(wanted, &start));
        let start = wanted.spec.in_order(&start);
        steps.extend(some(&start).map(|machines| Step::start(machines, &self.checks)));
        steps.extend(self.checks.clone());
        steps
    }
}

fn some(machines: &[MachineName]) -> Option<Vec<MachineName>> {
    (!machines.is_empty()).then(|| machines.to_vec())
}

/// How a machine is proved to be where it should be.
pub fn proof(name: &MachineName, machine: &MachineSpec, wanted: &Wanted) -> Vec<Step> {
    let (routed, lease) = (machine.network.routed(), wanted.leases.get(name));
    let planned = routed.and_then(|routed| Some(routed.planned(lease?)));
    let answer = planned.map(|address| Step::Answer { machine: name.clone(), address });
    let second = answer.is_some();
    // A guest without networkd may leave its second interface alone.
    let asks = routed.is_some_and(|routed| routed.lan.is_some() && routed.chosen.is_none());
    let on_lan = !second || asks;
    let lan = on_lan.then(|| Step::LanAddress { machine: name.clone(), moved: false, second });
    answer.into_iter().chain(lan).collect()
}

/// What is asked of a machine that has been started, beside where it is.
pub fn health(name: &MachineName, machine: &MachineSpec) -> Option<Step> {
    let check = machine.check.clone()?;
    Some(Step::Check { machine: name.clone(), check })
}

/// Where a running machine really is, if that is not where its definition says: somebody
/// started it by other files, or took its link off or onto a bridge.
pub fn wrong_link(name: &MachineName, machine: &MachineSpec, observed: &Observed) -> Option<String> {
    let link = observed.host_end(name);
    let master = link.and_then(|link| observed.master_of(link)).map(|master| master.name.as_str());
    let (wanted, is_right) = match &machine.network {
        Network::Routed(_) => {
            let routed = link.is_some_and(|link| link.is_called(&name.routed_link()));
            ("routed".to_owned(), routed && master.is_none())
        }
        Network::Bridge(BridgePort { bridge, .. }) => {
            (format!("on {bridge}"), master == Some(bridge.as_str()))
        }
    };
    if is_right {
        return wrong_lan(name, machine, observed);
    }
    let really = match (link, master) {
        (None, _) => "it has no link to this host".to_owned(),
        (Some(link), None) => format!("{} is on no bridge", link.name),
        (Some(link), Some(master)) => format!("{} is on {master}", link.name),
    };
    Some(format!("it is to be {wanted}, and {really}"))
}

/// The same of a second interface.
fn wrong_lan(name: &MachineName, machine: &MachineSpec, observed: &Observed) -> Option<String> {
    let bridge = &machine.network.routed()?.lan.as_ref()?.bridge;
    let link = name.lan_link();
    let master = observed.link(&link).and_then(|link| observed.master_of(link));
    let is_right = master.is_some_and(|master| master.is_called(bridge.as_str()));
    (!is_right).then(|| format!("{link} is to be on {bridge}, and is not"))
}

/// A running machine goes to a bridge without a restart if it has a veth, and
/// if its guest configures itself: one that was routed has a static address.
fn move_of(name: &MachineName, machine: &MachineSpec, observed: &Observed) -> Option<Step> {
    let BridgePort { bridge, vlan } = machine.network.bridge()?;
    // Before its bridge keeps VLANs apart it would be in none of them.
    if vlan.is_some() && !observed.link(bridge.as_str()).is_some_and(Link::keeps_vlans_apart) {
        return None;
    }
    let link = observed.host_end(name)?;
    let routed_before = observed.file(&ManagedFile::GuestEnd(name.clone()).path()).is_some();
    let from = observed.master_of(link).and_then(|master| master.name.parse().ok());
    let elsewhere = from.as_ref() != Some(bridge);
    (!routed_before && elsewhere).then(|| Step::Move {
        machine: name.clone(),
        link: link.name.clone(),
        bridge: bridge.clone(),
        from,
    })
}
