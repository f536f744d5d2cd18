//! How etcd and a host differ.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Conflict, Memory, View, Wanted, agree};
use crate::name::MachineName;
use crate::pool::Lease;

/// What is not in both as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// What somebody else has, too.
    pub conflicts: Vec<String>,
    /// The machines of this host that etcd does not know so.
    pub missing: Vec<String>,
    /// The machines and prefixes that etcd takes for this host's, and are not here.
    pub left: Vec<String>,
    /// The hosts that have not said what they have since etcd forgot something.
    pub silent: Vec<String>,
}

impl Differences {
    pub fn of(view: &View, wanted: &Wanted, memory: &Memory) -> Differences {
        let (_, conflicts) = agree(view, wanted, false, 0);
        let lost = losers(&conflicts);
        let mine = |name: &MachineName| view.machines.get(name).filter(|known| known.host == wanted.id);
        let missing = wanted.machines.iter().filter(|(name, lease)| {
            let is_leased = lease
                .is_none_or(|lease| view.leases.get(&lease).is_some_and(|holder| holder.host == wanted.id));
            let is_known = is_leased && mine(name).is_some_and(|known| known.lease == **lease);
            !is_known && !lost.contains(*name)
        });
        let left =
            view.machines.keys().filter(|name| mine(name).is_some() && !wanted.machines.contains_key(*name));
        let own = Lease::Subnet(wanted.own);
        let held = |lease: &Lease| wanted.machines.values().flatten().chain([&own]).any(|held| held == lease);
        let prefixes = view.leases.iter().filter(|(lease, holder)| holder.host == wanted.id && !held(lease));
        Differences {
            missing: missing.map(|(name, _)| name.to_string()).collect(),
            left: left.map(ToString::to_string).chain(prefixes.map(|(lease, _)| lease.to_string())).collect(),
            silent: memory.silent(view),
            conflicts: conflicts.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn is_none(&self) -> bool {
        self.lists().iter().all(|(_, list)| list.is_empty())
    }

    /// Each kind, in words.
    pub fn lists(&self) -> [(&'static str, &Vec<String>); 4] {
        [
            ("somebody else has it", &self.conflicts),
            ("etcd does not know that this host has", &self.missing),
            ("etcd takes for this host's what is not here", &self.left),
            ("what they have since etcd forgot something is not said by", &self.silent),
        ]
    }
}

/// Who cannot have what he has.
pub fn losers(conflicts: &[Conflict]) -> BTreeSet<MachineName> {
    let who = |conflict: &Conflict| match conflict {
        Conflict::Name { machine, .. } => Some(machine.clone()),
        Conflict::Lease { machine, .. } => machine.clone(),
        Conflict::Pool { .. } => None,
    };
    conflicts.iter().filter_map(who).collect()
}
