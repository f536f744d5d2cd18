//! The host as all its files say: each machine is judged alone, and one that cannot be as it
//! should holds up no other.

use std::collections::{BTreeMap, BTreeSet};

use super::{NewImage, Plan, Refusal, Scope, Wanted, plan, settle_those};
use crate::name::MachineName;
use crate::observed::Observed;
use crate::spec::Spec;
use crate::state::State;
use crate::visible::joined;

/// A plan for the whole host, but for what it leaves out.
#[derive(Debug)]
pub struct Whole {
    pub wanted: Wanted,
    pub plan: Plan,
    /// Why machines stay as they are.
    pub left_out: Vec<Refusal>,
}

/// Plans for every machine that can be planned for. `images` are the trees that machines
/// without one are to get, `made` those that are made first; `held` are those that must not be touched, and why.
///
/// # Errors
/// What stands in the way of the host itself.
pub fn whole(
    spec: &Spec,
    state: &State,
    observed: &Observed,
    images: &BTreeMap<MachineName, Result<NewImage, Refusal>>,
    made: BTreeSet<String>,
    held: Vec<Refusal>,
) -> Result<Whole, Vec<Refusal>> {
    let broken = spec.broken.iter().map(|(name, problems)| {
        Refusal::of(name, joined(problems, "\n"), "fix that in the file; the machine stays as it is")
    });
    let unmade = images.values().filter_map(|image| image.as_ref().err().cloned());
    let mut left_out: Vec<Refusal> = broken.chain(held).chain(unmade).collect();
    loop {
        let (mut wanted, mut refusals) = wanted(spec, state, observed, images, &left_out);
        wanted.made = made.clone();
        if refusals.is_empty() {
            match plan(&wanted, observed) {
                Ok(plan) => return Ok(Whole { wanted, plan, left_out }),
                Err(found) => refusals = found,
            }
        }
        let news =
            |refusal: &Refusal| refusal.machine.as_ref().is_some_and(|name| !wanted.left_out.contains(name));
        if !refusals.iter().all(|refusal| refusal.machine.is_some()) || !refusals.iter().any(news) {
            return Err(refusals);
        }
        left_out.extend(refusals.into_iter().filter(news));
    }
}

/// All but what is left out; and who gets no subnet.
fn wanted(
    spec: &Spec,
    state: &State,
    observed: &Observed,
    images: &BTreeMap<MachineName, Result<NewImage, Refusal>>,
    left_out: &[Refusal],
) -> (Wanted, Vec<Refusal>) {
    let left_out: BTreeSet<MachineName> =
        left_out.iter().filter_map(|refusal| refusal.machine.clone()).collect();
    let (leases, refusals) = settle_those(spec, state.leases.clone(), |name| !left_out.contains(name));
    let state = State { leases, ..state.clone() };
    let machines = spec.machines.iter().filter(|(name, _)| observed.live && !left_out.contains(name));
    // Who was stopped by hand stays so, until he is started or the host is.
    let start = machines.filter(|(name, machine)| machine.autostart && !observed.stopped.contains(name));
    let start = start.map(|(name, _)| name.clone()).collect();
    let images = images.iter().filter(|(name, _)| !left_out.contains(name));
    let images = images.filter_map(|(_, image)| image.as_ref().ok().cloned()).collect();
    (Wanted { start, images, left_out, ..Wanted::new(spec.clone(), state, Scope::All) }, refusals)
}
