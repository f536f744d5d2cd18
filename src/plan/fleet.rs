//! What a plan has to do with the other hosts of a fleet.

use super::Wanted;
use crate::emit::{ManagedFile, Origin};
use crate::fleet::Machines;
use crate::name::MachineName;
use crate::observed::Observed;
use crate::pool::Lease;
use crate::state;

/// What they are asked, and told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetChange {
    /// What is new here, and must be nobody else's.
    pub asks: Machines,
    /// Whether this host gives something up.
    pub frees: bool,
}

/// None of a host that is in no fleet. What it has already, it does not ask for.
pub fn change(wanted: &Wanted, observed: &Observed) -> Option<FleetChange> {
    wanted.spec.host.fleet.as_ref()?;
    // Who cannot read the state is told so elsewhere.
    let before = state::parse(observed.file(state::path())).map(|state| state.leases).unwrap_or_default();
    let is_rendered = |name: &MachineName| {
        observed
            .file(&ManagedFile::Nspawn(name.clone()).path())
            .is_some_and(|text| Origin::of(text) != Origin::Foreign)
    };
    let has = |name: &MachineName, lease: Option<Lease>| match lease {
        Some(_) => before.get(name) == lease,
        None => is_rendered(name) || before.get(name).is_some(),
    };
    let ours = wanted.spec.machines.keys().filter(|name| wanted.holds_machine(name));
    let asks =
        ours.map(|name| (name.clone(), wanted.leases.get(name))).filter(|(name, lease)| !has(name, *lease));
    let stays = |name: &MachineName| {
        wanted.spec.machines.contains_key(name)
            || wanted.spec.broken.contains_key(name)
            || wanted.parked.contains(name)
    };
    let goes =
        wanted.inputs.iter().filter(|(_, text)| text.is_none()).filter_map(|(path, _)| defined_by(path));
    let frees = before.held().iter().any(|(name, lease)| wanted.leases.get(name) != Some(*lease))
        || goes.into_iter().any(|name| !stays(&name));
    Some(FleetChange { asks: asks.collect(), frees })
}

fn defined_by(path: &std::path::Path) -> Option<MachineName> {
    let is_definition = path.parent() == Some(std::path::Path::new(crate::spec::MACHINES_DIR));
    path.file_name()?.to_str()?.strip_suffix(".toml").filter(|_| is_definition)?.parse().ok()
}
