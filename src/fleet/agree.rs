//! How what a host has comes into etcd: one transaction, or none.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{EPOCH, GENERATION, Holder, Holding, Host, POOL, PREFIX, Rested, View, Wanted};
use crate::name::MachineName;
use crate::pool::{Lease, Prefix};

/// One change of etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Where there is none.
    Create {
        key: String,
        value: String,
    },
    Put {
        key: String,
        value: String,
    },
    Delete {
        key: String,
    },
}

impl Op {
    fn key(&self) -> &str {
        match self {
            Op::Create { key, .. } | Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// What somebody else has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("there is a machine named '{machine}' on {host}")]
    Name { machine: MachineName, host: String },
    #[error("{lease} is leased to {holder}")]
    Lease { machine: Option<MachineName>, lease: Lease, holder: String },
    #[error("the hosts there share {theirs}, not {ours}")]
    Pool { ours: Prefix, theirs: Prefix },
}

/// How many changes go into one transaction: etcd takes 128 (`--max-txn-ops`), and the generation is one.
pub const AT_ONCE: usize = 100;

/// What makes etcd say what a host has. With `frees`, what it has no more is freed, and rests from now on.
/// What conflicts is left out.
pub fn agree(view: &View, wanted: &Wanted, frees: bool, now: u64) -> (Vec<Op>, Vec<Conflict>) {
    let (mut ops, mut conflicts) = (Vec::new(), Vec::new());
    match view.pool {
        Some(theirs) if theirs != wanted.pool => {
            return (ops, vec![Conflict::Pool { ours: wanted.pool, theirs }]);
        }
        Some(_) => {}
        None => ops.push(Op::Create { key: POOL.into(), value: wanted.pool.to_string() }),
    }
    let own = claim(view, wanted, None, Lease::Subnet(wanted.own));
    let all = wanted.machines.iter().flat_map(|(name, lease)| {
        let lease_of_it = lease.map(|lease| claim(view, wanted, Some(name), lease));
        // Who cannot have the name keeps what he has of the pool from others, and the other way round.
        std::iter::once(machine(view, wanted, name, *lease)).chain(lease_of_it)
    });
    for claimed in std::iter::once(own).chain(all) {
        match claimed {
            Ok(more) => ops.extend(more),
            Err(conflict) => conflicts.push(conflict),
        }
    }
    let host = Host { name: wanted.name.clone(), own: wanted.own, epoch: view.epoch };
    // With a conflict, too: it has said all that it has.
    if view.hosts.get(&wanted.id) != Some(&host) {
        ops.push(put(format!("{PREFIX}hosts/{}", wanted.id), &host));
    }
    if view.gone.contains(&wanted.id) {
        ops.push(Op::Delete { key: format!("{PREFIX}gone/{}", wanted.id) });
    }
    if frees {
        ops.extend(freed(view, wanted, now));
    }
    (ordered(ops), conflicts)
}

fn machine(
    view: &View,
    wanted: &Wanted,
    name: &MachineName,
    lease: Option<Lease>,
) -> Result<Vec<Op>, Conflict> {
    let key = format!("{PREFIX}machines/{name}");
    let holding = Holding { host: wanted.id.clone(), lease };
    match view.machines.get(name) {
        Some(other) if other.host != wanted.id => {
            let host = view.name_of(&other.host).to_owned();
            Err(Conflict::Name { machine: name.clone(), host })
        }
        Some(known) if *known == holding => Ok(Vec::new()),
        Some(_) => Ok(vec![put(key, &holding)]),
        None => Ok(vec![Op::Create { key, value: json(&holding) }]),
    }
}

/// A subnet for a machine of this host's, or for the host itself. What rests of it rests no more.
fn claim(
    view: &View,
    wanted: &Wanted,
    machine: Option<&MachineName>,
    lease: Lease,
) -> Result<Vec<Op>, Conflict> {
    let holder = Holder { host: wanted.id.clone(), machine: machine.cloned() };
    let key = format!("{PREFIX}leases/{}", String::from(lease));
    let mut ops = Vec::new();
    for (taken, other) in view.leases.iter().filter(|(taken, _)| taken.overlaps(lease)) {
        // What this host has of it with another length goes once the machine has it no more.
        if other.host != wanted.id {
            let holder = view.words(other);
            return Err(Conflict::Lease { machine: machine.cloned(), lease: *taken, holder });
        }
    }
    match view.leases.get(&lease) {
        Some(known) if *known == holder => {}
        Some(_) => ops.push(put(key, &holder)),
        None => ops.push(Op::Create { key, value: json(&holder) }),
    }
    let rested = view.resting.keys().filter(|rested| rested.overlaps(lease));
    ops.extend(rested.map(|rested| Op::Delete { key: format!("{PREFIX}resting/{}", String::from(*rested)) }));
    Ok(ops)
}

/// A key may be changed once in a transaction. What does not fit into one is cut where nothing is free too early: what
/// goes, goes last.
fn ordered(mut ops: Vec<Op>) -> Vec<Op> {
    let mut keys = BTreeSet::new();
    ops.retain(|op| keys.insert(op.key().to_owned()));
    ops.sort_by_key(|op| matches!(op, Op::Delete { .. }));
    ops
}

/// What is this host's in etcd, and not here.
pub fn freed(view: &View, wanted: &Wanted, now: u64) -> Vec<Op> {
    let mut ops = Vec::new();
    let gone = view
        .machines
        .iter()
        .filter(|(name, holding)| holding.host == wanted.id && !wanted.machines.contains_key(*name));
    ops.extend(gone.map(|(name, _)| Op::Delete { key: format!("{PREFIX}machines/{name}") }));
    let held: Vec<Lease> =
        wanted.machines.values().flatten().copied().chain([Lease::Subnet(wanted.own)]).collect();
    let mine = view.leases.iter().filter(|(lease, holder)| holder.host == wanted.id && !held.contains(lease));
    for (lease, holder) in mine {
        let key = String::from(*lease);
        ops.push(Op::Delete { key: format!("{PREFIX}leases/{key}") });
        // Of what a machine has with another length now, the rest was never used.
        if !held.iter().any(|held| held.overlaps(*lease)) {
            let rested = Rested { machine: holder.machine.clone(), since: now };
            ops.push(put(format!("{PREFIX}resting/{key}"), &rested));
        }
    }
    ops
}

/// All that a host has in etcd goes.
pub fn leave(view: &View, id: &str, now: u64) -> Vec<Op> {
    let mut ops: Vec<Op> = view
        .machines
        .iter()
        .filter(|(_, holding)| holding.host == id)
        .map(|(name, _)| Op::Delete { key: format!("{PREFIX}machines/{name}") })
        .collect();
    for (lease, holder) in view.leases.iter().filter(|(_, holder)| holder.host == id) {
        let lease = String::from(*lease);
        ops.push(Op::Delete { key: format!("{PREFIX}leases/{lease}") });
        let rested = Rested { machine: holder.machine.clone(), since: now };
        ops.push(put(format!("{PREFIX}resting/{lease}"), &rested));
    }
    ops.push(Op::Delete { key: format!("{PREFIX}hosts/{id}") });
    let mut ops = ordered(ops);
    // At last: as long as something of it is there, it can be said again.
    ops.push(Op::Put { key: format!("{PREFIX}gone/{id}"), value: now.to_string() });
    ops
}

/// A host that etcd has forgotten.
pub fn known_again(id: &str, host: &Host) -> Op {
    put(format!("{PREFIX}hosts/{id}"), host)
}

/// etcd has forgotten something: every host is to say what it has.
pub fn next_epoch(epoch: u64) -> Op {
    Op::Put { key: EPOCH.into(), value: epoch.to_string() }
}

fn put(key: String, value: &impl Serialize) -> Op {
    Op::Put { key, value: json(value) }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A transaction, as etcdctl(1) reads it: all of it, where nothing has changed since.
pub fn script(generation: u64, ops: &[Op], mark: u128) -> String {
    use std::fmt::Write;
    let mut text = format!("mod({GENERATION:?}) = \"{generation}\"\n");
    for op in ops {
        if let Op::Create { key, .. } = op {
            let _ = writeln!(text, "mod({key:?}) = \"0\"");
        }
    }
    let _ = writeln!(text, "\nput {GENERATION:?} \"{mark:032x}\"");
    for op in ops {
        let _ = match op {
            Op::Create { key, value } | Op::Put { key, value } => writeln!(text, "put {key:?} {value:?}"),
            Op::Delete { key } => writeln!(text, "del {key:?}"),
        };
    }
    text + "\n\n"
}
