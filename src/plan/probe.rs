//! Addresses that are asked for on a link, before a machine has them: nobody else must.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Step, Wanted};
use crate::name::MachineName;
use crate::pool::{Lease, Pool};
use crate::spec::Spec;
use crate::state::State;

/// How many free addresses are asked for, beside those that are wanted.
const SPARE: usize = 8;

/// Asks for the addresses that this host will answer for once these machines run.
pub fn probe(wanted: &Wanted, starting: &[MachineName]) -> Option<Step> {
    let host = &wanted.spec.host;
    let link = host.may_answer_on()?.clone();
    let all = starting.iter().filter_map(|name| {
        let machine = wanted.spec.machines.get(name)?;
        let addresses = host.answered_for(machine, wanted.leases.get(name));
        (!addresses.is_empty()).then(|| (name.clone(), addresses))
    });
    let addresses: BTreeMap<MachineName, Vec<IpAddr>> = all.collect();
    (!addresses.is_empty()).then_some(Step::Probe { link, addresses })
}

/// The addresses of a pool on the link that these machines would get, and some more.
pub fn next_addresses(spec: &Spec, state: &State, names: &[&MachineName]) -> BTreeSet<IpAddr> {
    let pool = spec.host.fixed_pool().filter(|_| spec.host.answers_on().is_some());
    let mut leases = state.leases.clone();
    leases.reserve(crate::observed::v6(spec.own_addresses.iter().copied()));
    let spare = (0..SPARE).filter_map(|number| format!("spare-{number}").parse().ok());
    let all = names.iter().copied().cloned().chain(spare);
    let next = all.filter_map(|name: MachineName| match leases.lease(Pool::Fixed(pool?), &name, None) {
        Ok(Lease::Address(address)) => Some(IpAddr::V6(address)),
        _ => None,
    });
    next.collect()
}
