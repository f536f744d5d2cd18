//! What becomes of each machine: nothing, a move while it runs, a restart, an end.

use std::collections::BTreeMap;

use super::effects::restart_reason;
use super::files::FileChange;
use super::vlans::{bridge_of, vlan_of};
use super::{Scope, Step, Wanted, probe};
use crate::emit::expose::{Unit, without_bound};
use crate::emit::ini::Ini;
use crate::emit::{LIMITS, MOUNT_BURST, ManagedFile, Reader};
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
        if observed.is_running(&name) {
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
        .chain(wanted.drop_images.iter().filter(|name| observed.is_running(name)).cloned())
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
        let running = observed.is_running(name);
        if !running && !wanted.start.contains(name) {
            if machine.autostart && wanted.scope == Scope::All && observed.stopped.contains(name) {
                self.stay.push(name.clone());
            }
            return;
        }
        if !running {
            self.start.push(name.clone());
        } else if let Some(step) = move_of(name, machine, observed) {
            self.moves.push(step);
            self.limits.extend(limits(name, changes));
            self.checks.push(Step::LanAddress { machine: name.clone(), moved: true, second: false });
            return;
        } else if let Some(change) = changes.iter().find(|change| read_at_start(change)) {
            self.restart.push((name.clone(), restart_reason(&change.file)));
        } else if let Some(link) = wrong_link(name, machine, observed) {
            self.restart.push((name.clone(), link));
        } else if changes.is_empty() {
            return;
        } else {
            self.limits.extend(limits(name, changes));
            self.moves.extend(listeners(name, changes));
        }
        self.checks.extend(proof(name, machine, wanted));
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
        let mut steps = self.moves.clone();
        steps.extend(probe(wanted, &start));
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

/// Whether nspawn or the guest reads this change only when the machine starts.
fn read_at_start(FileChange { file, old, new }: &FileChange) -> bool {
    let bare = |text: &Option<String>| {
        text.as_deref().map(|text| without_bound(text).without(|_, value| value == MOUNT_BURST))
    };
    match file {
        ManagedFile::Nspawn(_) => bare(old) != bare(new),
        // They change while it runs.
        ManagedFile::BoundUnit(..) => false,
        // Whom the host answers for is said when it starts, and taken back when it ends.
        ManagedFile::UnitDropIn(_) => service(old, "ExecStopPost") != service(new, "ExecStopPost"),
        // networkd of systemd 252 takes no port out of a VLAN; and the guest asks for addresses
        // of its second interface only when that is new.
        ManagedFile::HostEnd(_) => place(old, vlan_of) != place(new, vlan_of),
        ManagedFile::LanEnd(_) if old.is_none() || new.is_none() => false,
        ManagedFile::LanEnd(_) => {
            place(old, vlan_of) != place(new, vlan_of) || place(old, bridge_of) != place(new, bridge_of)
        }
        file => file.reader() == Reader::Start,
    }
}

fn place<T>(text: &Option<String>, of: fn(&str) -> Option<T>) -> Option<T> {
    text.as_deref().and_then(of)
}

/// The values of a key of a unit.
fn service(text: &Option<String>, key: &str) -> Vec<String> {
    let ini = Ini::parse(text.as_deref().unwrap_or_default());
    ini.values("Service", key).map(str::to_owned).collect()
}

/// The limits that change. systemd gives a file's to the kernel when it starts the unit, whatever
/// `systemctl show` says in between.
fn limits(name: &MachineName, changes: &[&FileChange]) -> Option<Step> {
    let change = changes.iter().find(|change| matches!(change.file, ManagedFile::UnitDropIn(_)))?;
    let changed = || LIMITS.into_iter().filter(|key| service(&change.old, key) != service(&change.new, key));
    let values = |text: &Option<String>| -> BTreeMap<String, String> {
        changed().map(|key| (key.to_owned(), service(text, key).pop().unwrap_or_default())).collect()
    };
    let (old, new) = (values(&change.old), values(&change.new));
    (!new.is_empty()).then(|| Step::Limit { machine: name.clone(), old, new })
}

/// What becomes of the listeners inside a machine that goes on running.
fn listeners(name: &MachineName, changes: &[&FileChange]) -> Option<Step> {
    let units = |text: fn(&FileChange) -> Option<&str>| -> Vec<Unit> {
        changes.iter().filter_map(|change| Unit::of(&change.file, text(change))).collect()
    };
    let (old, new) = (units(|change| change.old.as_deref()), units(|change| change.new.as_deref()));
    let any = !old.is_empty() || !new.is_empty();
    any.then(|| Step::Inside { machine: name.clone(), old, new })
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
