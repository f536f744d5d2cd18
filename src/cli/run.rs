//! `nsctl start|stop|restart`.

use std::time::Instant;

use clap::Args;

use super::session::{Session, tell};
use super::show::unknown;
use super::{Fault, Global};
use crate::apply;
use crate::name::MachineName;
use crate::plan::{Plan, Scope, Step, Wanted, check, flushed};
use crate::sys;

/// Which machines
#[derive(Debug, Args)]
pub struct Names {
    /// The machines' names
    #[arg(required = true)]
    names: Vec<String>,
}

/// What to do with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Start,
    Stop,
    Restart,
}

pub async fn run(global: &Global, args: Names, way: Way) -> Result<u8, Fault> {
    let mut names: Vec<MachineName> = args.names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    names.sort();
    names.dedup();
    if !super::session::is_live(global) {
        return Err(Fault::new("machines are started and stopped on a running host, not below --root"));
    }
    let session = Session::begin(global).await?;
    for name in &names {
        refuse_unknown(&session, name)?;
    }
    let idle = |name: &&MachineName| match way {
        Way::Start => session.observed.is_running(name),
        Way::Stop => !session.observed.is_running(name),
        Way::Restart => false,
    };
    let (idle, busy): (Vec<_>, Vec<_>) = names.iter().partition(idle);
    for name in idle {
        session.say(format!("{name} is {} already", if way == Way::Start { "running" } else { "stopped" }));
    }
    let machines: Vec<MachineName> = busy.into_iter().cloned().collect();
    if machines.is_empty() {
        return Ok(0);
    }
    let started = sys::now();
    session.perform(&Plan { steps: steps(&session, way, &machines), ..Plan::default() }).await?;
    match way {
        Way::Stop => machines.iter().for_each(|name| session.say(format!("{name} is stopped"))),
        Way::Start | Way::Restart => verify(&session, &machines, started).await?,
    }
    Ok(0)
}

fn steps(session: &Session, way: Way, machines: &[MachineName]) -> Vec<Step> {
    let machines = machines.to_vec();
    let wanted = Wanted::new(session.spec.clone(), session.state.clone(), Scope::All);
    // A machine does not start without its firewall.
    let flushed = way != Way::Stop && flushed(&wanted, &session.observed);
    let mut steps: Vec<Step> = flushed.then_some(Step::ReloadFirewall).into_iter().collect();
    steps.extend(match way {
        Way::Start => vec![Step::Start { machines }],
        Way::Stop => vec![Step::Stop { machines }],
        Way::Restart => vec![Step::Stop { machines: machines.clone() }, Step::Start { machines }],
    });
    steps
}

fn refuse_unknown(session: &Session, name: &MachineName) -> Result<(), Fault> {
    let observed = &session.observed;
    let known = session.spec.machines.contains_key(name)
        || observed.images.contains(name.as_str())
        || observed.is_running(name);
    if known {
        return Ok(());
    }
    Err(unknown(name.as_str(), session.spec.machines.keys().map(MachineName::as_str)))
}

/// Sees that each of our machines is where it should be. One that does not
/// answer stays up: it was asked for, and somebody may want to look at it.
async fn verify(session: &Session, machines: &[MachineName], started: Instant) -> Result<(), Fault> {
    let wanted = Wanted::new(session.spec.clone(), session.state.clone(), Scope::All);
    let ours = machines.iter().filter_map(|name| Some((name, session.spec.machines.get(name)?)));
    let checks: Vec<Step> = ours.map(|(name, machine)| check(name, machine, &wanted)).collect();
    let seen = futures_util::future::join_all(
        checks.iter().map(|step| apply::verify(session.world(), step, started)),
    )
    .await;
    let mut fault = None;
    for sighting in seen {
        match sighting {
            Ok(sighting) => sighting.iter().for_each(|sighting| session.say(tell(sighting))),
            Err(error) => fault = Some(error),
        }
    }
    for name in machines.iter().filter(|name| !session.spec.machines.contains_key(*name)) {
        session.say(format!("{name} is started"));
    }
    fault.map_or(Ok(()), |error| Err(error.into()))
}
