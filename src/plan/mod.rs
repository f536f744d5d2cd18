//! (what is wanted, what is observed) -> ordered steps. Pure.

mod change;
mod checks;
mod definitions;
mod effects;
mod files;
pub mod guests;
mod machines;
mod naming;
pub mod others;
mod stale;
mod step;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use change::{Change, ChangeError, spec_of, usable_spec_of};
pub use checks::{Refusal, holds_router};
pub use definitions::unbound;
pub use effects::{Effect, few};
pub use files::{diff, kept_beside, origin_of_kept};
pub use machines::{check, wrong_link};
pub use naming::taken;
pub use stale::Stale;
pub use step::{Source, Step, stages, undo, with_reloads};
pub use whole::{Whole, whole};

use crate::emit::{self, ManagedFile, Owner, Reader};
use crate::name::{IfName, MachineName};
use crate::observed::{Nftables, Observed, v6};
use crate::pool::Leases;
use crate::provision::FirstBoot;
use crate::spec::Spec;
use crate::state::{self, State};

/// What a verb wants the host to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub spec: Spec,
    /// The leases as they are to be; see [`settle`].
    pub leases: Leases,
    /// Machines whose trees an nsctl before this one made.
    pub unclaimed: BTreeSet<MachineName>,
    /// The user's own files that the verb changes; none: taken away.
    pub inputs: BTreeMap<PathBuf, Option<String>>,
    /// The permissions that new ones of them get.
    pub modes: BTreeMap<PathBuf, u32>,
    pub scope: Scope,
    pub images: Vec<NewImage>,
    /// Images that are made before the plan is carried out.
    pub made: BTreeSet<String>,
    /// The tree of a machine that gets another name.
    pub rename_tree: Option<(MachineName, MachineName)>,
    /// Machines whose trees are to be deleted.
    pub drop_images: Vec<MachineName>,
    /// Machines that are to run.
    pub start: BTreeSet<MachineName>,
    /// Files of others that the user agreed to replace.
    pub take_over: BTreeSet<PathBuf>,
    /// Machines that stay as they are, whatever the scope.
    pub left_out: BTreeSet<MachineName>,
}

impl Wanted {
    pub fn new(spec: Spec, state: State, scope: Scope) -> Wanted {
        let State { leases, unclaimed } = state;
        let left_out = spec.broken.keys().cloned().collect();
        Wanted {
            spec,
            leases,
            unclaimed,
            scope,
            left_out,
            inputs: BTreeMap::new(),
            modes: BTreeMap::new(),
            images: Vec::new(),
            made: BTreeSet::new(),
            rename_tree: None,
            drop_images: Vec::new(),
            start: BTreeSet::new(),
            take_over: BTreeSet::new(),
        }
    }

    /// Whether what is somebody's is to be as it is wanted.
    pub fn holds(&self, owner: &Owner) -> bool {
        let is_left_out = matches!(owner, Owner::Machine(name) if self.left_out.contains(name));
        self.scope.holds(owner) && !is_left_out
    }
}

/// What a verb is about: it leaves the rest of the host alone. A bridge needs the
/// host's own files too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    /// Just the state and the user's own files.
    Records,
    Host,
    Bridge(IfName),
    Machine(MachineName),
    /// A machine's old name and its new one.
    Renamed(MachineName, MachineName),
}

impl Scope {
    pub fn holds(&self, owner: &Owner) -> bool {
        match (self, owner) {
            (Scope::All, _)
            | (Scope::Host | Scope::Bridge(_), Owner::Host)
            | (Scope::Bridge(_), Owner::Port(_))
            | (Scope::Host | Scope::Machine(_) | Scope::Renamed(..), Owner::Firewall | Owner::Names) => true,
            (Scope::Bridge(one), Owner::Bridge(other)) => one == other,
            (Scope::Machine(one), Owner::Machine(other)) => one == other,
            (Scope::Renamed(old, new), Owner::Machine(other)) => old == other || new == other,
            _ => false,
        }
    }
}

/// A tree that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    pub source: Source,
    pub to: MachineName,
    /// What its owner asked for at its first boot; none for a tree that stays as it is.
    pub first_boot: Option<FirstBoot>,
}

/// What will be done, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What the user should know before it begins.
    pub notes: Vec<String>,
    /// What happens to units, links and rules, and why.
    pub effects: Vec<Effect>,
}

impl Plan {
    /// Whether something is deleted, replaced or stopped, and not only added.
    pub fn takes_away(&self) -> bool {
        let shared = |path: &Path| path == state::path() || path == Path::new(emit::HOSTS_FILE);
        self.steps.iter().any(|step| match step {
            Step::Write { path, old, .. } => old.is_some() && !shared(path),
            Step::RenameTree { .. }
            | Step::RemoveImage { .. }
            | Step::Stop { .. }
            | Step::Kill { .. }
            | Step::Deafen { .. }
            | Step::Inside { .. }
            | Step::Disable { .. }
            | Step::DeleteLink { .. }
            | Step::FlushPort { .. }
            | Step::Move { .. } => true,
            _ => false,
        })
    }
}

/// The steps from what is observed to what is wanted.
///
/// # Errors
/// Every reason not to begin, at once.
pub fn plan(wanted: &Wanted, observed: &Observed) -> Result<Plan, Vec<Refusal>> {
    let wanted = &guests::settled(wanted, observed);
    let mut refusals = checks::refusals(wanted, observed);
    let changes = match files::changes(wanted, observed) {
        Ok(changes) if refusals.is_empty() => changes,
        Ok(_) => return Err(refusals),
        Err(mut more) => {
            refusals.append(&mut more);
            return Err(refusals);
        }
    };
    let unfit = definitions::refusals(wanted, observed, &changes);
    if !unfit.is_empty() {
        return Err(unfit);
    }
    let actions = machines::actions(wanted, observed, &changes);
    let mut notes = actions.notes();
    notes.extend(wanted.made.iter().map(|image| format!("the image '{image}' is made first")));
    notes.extend(checks::notes(wanted, observed, &changes));
    notes.extend(naming::notes(wanted, observed));
    notes.extend(others::notes(wanted, observed));
    let mut plan = Plan { steps: steps(wanted, observed, &changes, &actions), notes, effects: Vec::new() };
    if observed.live {
        plan.effects = effects::of_units(&plan, &actions.reasons());
        let files = effects::of_files(&changes, &wanted.spec);
        plan.effects.extend(effects::of_firewall(wanted, observed, &files));
        plan.effects.extend(files);
    }
    Ok(plan)
}

/// The order matters: the lease is on disk before anything uses it, a machine
/// is stopped before its files change, everybody has read the files before a
/// machine starts with them, and what cannot be undone comes last.
fn steps(
    wanted: &Wanted,
    observed: &Observed,
    changes: &[files::FileChange],
    actions: &machines::MachineActions,
) -> Vec<Step> {
    let mut steps = files::records(wanted, observed);
    steps.extend(actions.stop());
    let (listen, deafen) = sockets(observed, changes);
    steps.extend(deafen.filter(|_| observed.live));
    let read: Vec<Step> = changes.iter().map(files::FileChange::step).chain(actions.with_host()).collect();
    let mut stale = Stale::beside(observed.units.keys().cloned().collect());
    for step in &read {
        stale.note(step);
    }
    if flushed(wanted, observed) {
        stale.note_firewall();
    }
    steps.extend(read);
    if observed.live {
        let renamed = wanted.rename_tree.clone();
        steps.extend(renamed.map(|(from, to)| Step::RenameTree { from, to }));
        steps.extend(changed_tunnels(changes));
        steps.append(&mut stale.reloads());
        // After the .nspawn file: machined copies the image's where there is none,
        // and when a tree is deleted its .nspawn goes with it.
        steps.extend(wanted.images.iter().flat_map(|image| image_steps(image, observed)));
        steps.append(&mut bridge_steps(wanted, observed, changes));
        steps.append(&mut host_steps(wanted, observed, changes));
    }
    steps.extend(listen.filter(|_| observed.live));
    steps.append(&mut actions.after_files());
    if observed.live {
        steps.extend(wanted.drop_images.iter().flat_map(|name| drop_image(name, observed)));
    }
    steps
}

/// Our table is not what its files say: somebody flushed all rules, or changed some.
pub fn flushed(wanted: &Wanted, observed: &Observed) -> bool {
    let there = observed.file(Path::new(emit::FIREWALL_FILE)).is_some();
    let loaded = |nftables: &Nftables| nftables.ours && nftables.drift.is_empty();
    there && !observed.nftables.as_ref().is_none_or(loaded) && wanted.holds(&Owner::Firewall)
}

/// The host's sockets for machines that run: those whose files are new or changed
/// listen, those whose files change or go did.
fn sockets(observed: &Observed, changes: &[files::FileChange]) -> (Option<Step>, Option<Step>) {
    let unit = |change: &files::FileChange| match (&change.file, change.file.reader()) {
        (ManagedFile::HostUnit(machine, _, "socket"), Reader::Systemd(unit)) => {
            Some((unit, observed.is_running(machine)))
        }
        _ => None,
    };
    let named =
        |takes: fn(&files::FileChange) -> bool| changes.iter().filter(move |c| takes(c)).filter_map(unit);
    let new: Vec<String> =
        named(|change| change.new.is_some()).filter(|(_, runs)| *runs).map(|(file, _)| file).collect();
    let old: Vec<String> = named(|change| change.old.is_some()).map(|(file, _)| file).collect();
    let listen = (!new.is_empty()).then_some(Step::Listen { units: new });
    (listen, (!old.is_empty()).then_some(Step::Deafen { units: old }))
}

/// The tree goes, and with it the .nspawn file: one that its owner wrote comes back.
fn drop_image(name: &MachineName, observed: &Observed) -> Vec<Step> {
    let path = ManagedFile::Nspawn(name.clone()).path();
    let back = observed.file(&kept_beside(&path)).map(str::to_owned);
    let remove = Step::RemoveImage { name: name.clone(), tree: observed.trees.get(name).cloned() };
    let back = back.map(|text| Step::Write { path, old: None, new: Some(text), mode: None });
    std::iter::once(remove).chain(back).collect()
}

fn image_steps(image: &NewImage, observed: &Observed) -> Vec<Step> {
    let NewImage { source, to, first_boot } = image.clone();
    let fit = first_boot.map(|first_boot| Step::Provision { machine: to.clone(), first_boot });
    let claim = Step::Claim { machine: to.clone() };
    let make = Step::MakeTree { source, to, sharing: observed.sharing };
    std::iter::once(make).chain(fit).chain([claim]).collect()
}

/// Bridges whose files are new: wait for them, and clean their ports. Those whose
/// files are gone: networkd does not delete what it made.
fn bridge_steps(wanted: &Wanted, observed: &Observed, changes: &[files::FileChange]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, bridge) in &wanted.spec.host.bridges {
        if changes.iter().any(|change| change.is_of_bridge(name, bridge)) {
            let is_new = observed.link(name.as_str()).is_none();
            let port = bridge.uplink.clone();
            steps.push(Step::BridgeUp { bridge: name.clone(), port: port.clone(), is_new });
            steps.push(Step::FlushPort { port });
        }
    }
    let gone = changes.iter().filter(|change| change.new.is_none());
    steps.extend(gone.filter_map(|change| match &change.file {
        ManagedFile::TunnelNetdev(name) => Some(Step::DeleteLink { name: name.clone() }),
        ManagedFile::BridgeNetdev(name) if observed.is_bridge(name) => {
            Some(Step::DeleteLink { name: name.clone() })
        }
        _ => None,
    }));
    steps
}

/// networkd of systemd 252 does not change a tunnel that is there: it is made anew.
fn changed_tunnels(changes: &[files::FileChange]) -> impl Iterator<Item = Step> {
    let changed = changes.iter().filter(|change| change.old.is_some() && change.new.is_some());
    changed.filter_map(|change| match &change.file {
        ManagedFile::TunnelNetdev(name) => Some(Step::DeleteLink { name: name.clone() }),
        _ => None,
    })
}

/// The switches now, as the sysctl.d file is read at boot only, and the pool's route.
fn host_steps(wanted: &Wanted, observed: &Observed, changes: &[files::FileChange]) -> Vec<Step> {
    let mut steps = Vec::new();
    if wanted.holds(&Owner::Host) {
        let all = emit::switches(&wanted.spec.host);
        steps.extend(all.into_iter().filter_map(|(key, value)| switch(observed, key, value)));
        let changed = changes.iter().any(|change| change.file.owner() == Owner::Host);
        let made = changes.iter().filter(|change| change.new.is_some());
        steps.extend(made.filter_map(|change| match &change.file {
            ManagedFile::TunnelNetdev(link) => {
                Some(Step::TunnelUp { link: link.clone(), is_new: change.old.is_none() })
            }
            _ => None,
        }));
        if changed {
            let host = &wanted.spec.host;
            let routed = host.fixed_pool().filter(|_| host.answers_on().is_none());
            steps.extend(routed.map(|pool| Step::PoolRoute { pool }));
            steps.extend(host.delegated().map(|_| Step::Delegation));
        }
    }
    steps
}

/// A switch that is as it should be, or a limit that is higher, stays.
fn switch(observed: &Observed, key: String, value: u32) -> Option<Step> {
    let old = observed.sysctls.get(&key)?.clone();
    let enough = old.parse::<u32>().is_ok_and(|old| old == value || (old > value && value > 0));
    (!enough).then(|| Step::Switch { key, old, new: value.to_string() })
}

/// The leases that this spec needs: routed machines get one, and keep it; the
/// leases of machines that are gone or not routed any more rest. Only those of
/// `scope`: the files of others still have the addresses of theirs.
///
/// # Errors
/// Every machine that cannot get one.
pub fn settle(spec: &Spec, leases: Leases, scope: &Scope) -> Result<Leases, Vec<Refusal>> {
    let (leases, refusals) = settle_those(spec, leases, |name| scope.holds(&Owner::Machine(name.clone())));
    if refusals.is_empty() { Ok(leases) } else { Err(refusals) }
}

/// The same for machines that the filter takes; and those that cannot get one.
fn settle_those(
    spec: &Spec,
    mut leases: Leases,
    takes: impl Fn(&MachineName) -> bool,
) -> (Leases, Vec<Refusal>) {
    // What a definition wants that cannot be read is not known.
    let ours = |name: &MachineName| takes(name) && !spec.broken.contains_key(name);
    let leaving: Vec<MachineName> = leases
        .held()
        .keys()
        .filter(|name| ours(name))
        .filter(|name| spec.machines.get(name).is_none_or(|machine| machine.network.routed().is_none()))
        .cloned()
        .collect();
    for name in leaving {
        leases.release(&name);
    }
    leases.reserve(v6(spec.own_addresses.iter().copied()));
    let mut refusals = Vec::new();
    // Pinned ones first, so that nobody gets by chance what another asks for by name.
    for pinned in [true, false] {
        for (name, machine) in &spec.machines {
            let Some(routed) = machine.network.routed() else { continue };
            if routed.subnet.is_some() != pinned || !ours(name) {
                continue;
            }
            let Some(pool) = spec.host.pool() else {
                refusals.push(Refusal::NoPool(name.clone()));
                continue;
            };
            if let Err(fault) = leases.lease(pool, name, routed.subnet) {
                refusals.push(Refusal::NoLease(name.clone(), fault));
            }
        }
    }
    (leases, refusals)
}

/// The text of a file that all machines share, without what a command wrote into it that is
/// taken back; none of a file that is somebody's own.
pub fn take_back(
    path: &Path,
    current: Option<&str>,
    written: Option<&str>,
    before: Option<&str>,
) -> Option<Option<String>> {
    if path == state::path() {
        return state::take_back(current, written, before).map(Some);
    }
    let hosts = path == Path::new(emit::HOSTS_FILE);
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let back = || emit::names::take_back(&text(current), &text(written), &text(before));
    hosts.then(back).map(|text| Some(text).filter(|text| !text.is_empty() || current.is_some()))
}
