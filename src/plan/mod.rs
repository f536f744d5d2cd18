//! (what is wanted, what is observed) -> ordered steps. Pure.

mod change;
mod checks;
mod definitions;
mod effects;
mod files;
mod fleet;
pub mod guests;
mod live;
mod machines;
mod naming;
mod order;
pub mod others;
mod phase;
mod probe;
mod refusal;
mod secrets;
mod stale;
mod step;
mod undo;
mod unreachable;
mod vlans;
mod whole;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use change::{Change, ChangeError, spec_of, usable_spec_of};
pub use checks::holds_router;
pub use definitions::lacking;
pub use effects::{Effect, few};
pub use files::{diff, kept_beside, origin_of_kept};
pub use fleet::FleetChange;
pub use live::disk_limit;
pub use machines::{health, proof, wrong_link};
pub use naming::taken;
pub use order::flushed;
pub use phase::{Phase, phases};
pub use probe::{next_addresses, probe};
pub use refusal::Refusal;
pub use secrets::needed;
pub use stale::Stale;
pub use step::{Source, Step, stages};
pub use undo::{undo, with_reloads};
pub use vlans::{bridge_of, mixed, vlan_of};
pub use whole::{Whole, whole};

use crate::emit::{self, Owner};
use crate::hint::Hint as _;
use crate::name::{IfName, MachineName};
use crate::observed::{Observed, v6};
use crate::pool::Leases;
use crate::provision::FirstBoot;
use crate::spec::Spec;
use crate::state::{self, State};
use crate::visible::joined;

/// What a verb wants the host to be.
#[derive(Debug, Clone, Default)]
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
    /// Snapshots whose machine gets another name.
    pub move_trees: Vec<(String, String)>,
    /// A machine's tree that becomes a snapshot's, and the image that another is made from.
    pub swap: Option<Swap>,
    /// Machines whose trees are to be deleted.
    pub drop_images: Vec<MachineName>,
    /// Machines that are to run.
    pub start: BTreeSet<MachineName>,
    /// Files of others that the user agreed to replace.
    pub take_over: BTreeSet<PathBuf>,
    /// Machines that have nothing on this host for now but their definitions, trees and leases.
    pub parked: BTreeSet<MachineName>,
    /// Machines that stay as they are, whatever the scope.
    pub left_out: BTreeSet<MachineName>,
}

impl Wanted {
    pub fn new(spec: Spec, state: State, scope: Scope) -> Wanted {
        let State { leases, unclaimed } = state;
        let left_out = spec.broken.keys().cloned().collect();
        Wanted { spec, leases, unclaimed, scope, left_out, ..Wanted::default() }
    }

    /// Whether what is somebody's is to be as it is wanted.
    pub fn holds(&self, owner: &Owner) -> bool {
        let is_left_out = matches!(owner, Owner::Machine(name) if self.left_out.contains(name));
        self.scope.holds(owner) && !is_left_out
    }

    /// Whether this machine is.
    pub fn holds_machine(&self, name: &MachineName) -> bool {
        self.holds(&Owner::Machine(name.clone()))
    }
}

/// What a verb is about: it leaves the rest of the host alone. A bridge needs the
/// host's own files too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    All,
    /// Just the state and the user's own files.
    Records,
    Host,
    Bridge(IfName),
    Machine(MachineName),
    /// The same, where nothing is known of all others: nor is what all share.
    Alone(MachineName),
    /// A machine's old name and its new one.
    Renamed(MachineName, MachineName),
}

impl Scope {
    pub fn holds(&self, owner: &Owner) -> bool {
        match (self, owner) {
            (Scope::All, _)
            | (Scope::Host | Scope::Bridge(_), Owner::Host)
            | (Scope::Bridge(_), Owner::Port(_))
            | (
                Scope::Host | Scope::Machine(_) | Scope::Renamed(..),
                Owner::Firewall | Owner::Names | Owner::Snapshots | Owner::Routing,
            ) => true,
            (Scope::Bridge(one), Owner::Bridge(other)) => one == other,
            (Scope::Machine(one) | Scope::Alone(one), Owner::Machine(other)) => one == other,
            (Scope::Renamed(old, new), Owner::Machine(other)) => old == other || new == other,
            _ => false,
        }
    }
}

/// A machine that gets another tree, made from an image, and whose own is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    pub machine: MachineName,
    pub from: String,
    /// What the image is called that its own becomes.
    pub aside: String,
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
    /// What the other hosts of a fleet have to do with it.
    pub fleet: Option<FleetChange>,
}

impl Plan {
    /// What is to be done, in a line.
    pub fn summary(&self) -> String {
        if self.steps.is_empty() {
            return "nothing to do".to_owned();
        }
        format!("to do: {}", joined(phases(&self.steps).into_iter().map(|(_, line)| line), "; "))
    }

    /// Whether something is deleted, replaced or stopped, and not only added.
    pub fn takes_away(&self) -> bool {
        let shared = |path: &Path| path == state::path() || path == Path::new(emit::HOSTS_FILE);
        self.steps.iter().any(|step| match step {
            Step::Write { path, old, .. } => old.is_some() && !shared(path),
            Step::RenameTree { .. }
            | Step::SwapTree { .. }
            | Step::SwapBack { .. }
            | Step::MoveTree { .. }
            | Step::RemoveSnapshot { .. }
            | Step::Upgrade { .. }
            | Step::Revert { .. }
            | Step::EndProof { .. }
            | Step::RestartIfAsked { .. }
            | Step::RemoveImage { .. }
            | Step::Stop { .. }
            | Step::Kill { .. }
            | Step::Deafen { .. }
            | Step::Inside { .. }
            | Step::Limit { .. }
            | Step::LimitDisk { .. }
            | Step::Unbind { .. }
            | Step::Disable { .. }
            | Step::DeleteLink { .. }
            | Step::FilterVlans { on: false, .. }
            | Step::FlushPort { .. }
            | Step::Move { .. } => true,
            _ => false,
        })
    }
}

/// Whether a machine that stays as it is has been given the translation that it needs.
fn still_translated(wanted: &Wanted, observed: &Observed) -> bool {
    let of_machines = observed.files.iter().filter(|(_, text)| text.contains(emit::nat64::TRANSLATOR));
    let mut whose = of_machines.filter_map(|(path, _)| match emit::ManagedFile::parse(path)? {
        emit::ManagedFile::UnitDropIn(name) => Some(name),
        _ => None,
    });
    whose.any(|name| !wanted.holds_machine(&name))
}

/// The steps from what is observed to what is wanted.
///
/// # Errors
/// Every reason not to begin, at once.
pub fn plan(wanted: &Wanted, observed: &Observed) -> Result<Plan, Vec<Refusal>> {
    let mut settled = guests::settled(wanted, observed);
    settled.spec.still_translated = still_translated(wanted, observed);
    let wanted = &settled;
    let mut refusals = checks::refusals(wanted, observed);
    let (changes, not_ours) = files::changes(wanted, observed);
    refusals.extend(not_ours);
    if refusals.is_empty() {
        refusals = definitions::refusals(wanted, observed, &changes);
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let actions = machines::actions(wanted, observed, &changes);
    let mut notes = actions.notes();
    notes.extend(wanted.made.iter().map(|image| format!("the image '{image}' is made first")));
    notes.extend(checks::notes(wanted, observed, &changes));
    notes.extend(checks::after_nobody(wanted, observed));
    notes.extend(naming::notes(wanted, observed));
    notes.extend(others::notes(wanted, observed));
    let steps = order::steps(wanted, observed, &changes, &actions);
    notes.extend(vlans::notes(&steps, observed));
    let mut plan = Plan { steps, notes, effects: Vec::new(), fleet: fleet::change(wanted, observed) };
    if observed.live {
        plan.effects = effects::of_units(&plan, &actions.reasons());
        let files = effects::of_files(&changes, &wanted.spec);
        plan.effects.extend(effects::of_firewall(wanted, observed, &files));
        plan.effects.extend(files);
    }
    Ok(plan)
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
    leases.reserve(spec.host.fleet.as_ref().map(|fleet| fleet.own.host_end()));
    let mut refusals = Vec::new();
    let all =
        spec.machines.iter().filter_map(|(name, machine)| Some((name, machine.network.routed()?.ask())));
    let mut asks: Vec<_> = all.filter(|(name, _)| ours(name)).collect();
    // Pinned ones first, so that nobody gets by chance what another asks for by name; and then
    // those that need the most room.
    asks.sort_by_key(|(_, ask)| (ask.pinned.is_none(), ask.length));
    for (name, ask) in asks {
        let Some(pool) = spec.host.pool() else {
            let what = format!("'{name}' cannot be routed: this host has no pool");
            refusals.push(Refusal::of(name, what, "`nsctl init --pool PREFIX --uplink INTERFACE`"));
            continue;
        };
        if let Err(fault) = leases.lease(pool, name, ask) {
            let hint = fault.hint().unwrap_or_default();
            refusals.push(Refusal::of(name, format!("'{name}' gets no subnet: {fault}"), hint));
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
