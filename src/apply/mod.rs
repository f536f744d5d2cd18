//! Steps -> the world, with a journal, and undone in reverse when one fails.

mod backup;
mod error;
mod execute;
mod executor;
pub mod image;
mod journal;
mod links;
mod live;
pub mod modes;
mod recover;
mod start;
mod trees;
pub mod upgrade;
mod verify;

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

pub use error::StepError;
pub use execute::remember_stopped;
pub use executor::{Executor, Listener, Records};
use journal::Fate;
pub use journal::{JOURNAL_DIR, Journal, JournalError, Owner};
pub use links::taken;
pub use live::Interrupt;
pub use live::World;
pub use recover::{Unresolved, cut_short, recover, waited_for};

use crate::name::MachineName;
use crate::plan::{Plan, Step, stages, undo};
use crate::pool::Planned;
use crate::spec::HealthCheck;
use crate::sys::{fault, together};

/// What was seen while the plan was carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Verified {
    /// The machine answers at this address; `after` its start was asked for, if it was.
    Answers { machine: MachineName, address: Ipv6Addr, planned: Planned, after: Option<Duration> },
    /// The machine has these addresses of the LAN; none: it has none yet.
    OnLan { machine: MachineName, addresses: Vec<IpAddr> },
    /// The machine does what its definition asks; `after` its start was asked for.
    Works { machine: MachineName, check: HealthCheck, after: Option<Duration> },
    /// It does not, or not yet.
    Fails { machine: MachineName, check: HealthCheck, why: String },
}

/// A plan that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// `left` is why some of what was done could not be undone; empty: all was undone.
    #[error("cannot {doing}")]
    Step { doing: String, source: Box<StepError>, left: Vec<String> },
    #[error("interrupted")]
    Interrupted { left: Vec<String> },
    #[error("cannot finish: {doing}; the next nsctl tries again")]
    Unfinished { doing: String, source: Box<StepError> },
    #[error("all was done, but it is not sure to outlive a power cut")]
    NotSettled(#[source] Box<StepError>),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Other(Box<StepError>),
}

impl Failure {
    /// What could not be undone.
    pub fn left(&self) -> &[String] {
        match self {
            Failure::Step { left, .. } | Failure::Interrupted { left } => left,
            _ => &[],
        }
    }
}

/// Carries out a plan whole, or not at all.
///
/// # Errors
/// The step that failed, after everything before it was undone.
pub async fn apply(host: &impl Executor, plan: &Plan, command: &str) -> Result<Vec<Verified>, Failure> {
    if plan.steps.is_empty() {
        return Ok(Vec::new());
    }
    host.listener().plans(&plan.steps);
    fault::point();
    let mut journal = Journal::begin(host, command, &plan.steps)?;
    let waits = first_wait(&plan.steps);
    let mut verified = Vec::new();
    let mut started = None;
    let mut index = 0;
    for stage in stages(&plan.steps) {
        let range = index..index + stage.len();
        if index == waits {
            host.release();
        }
        if matches!(stage, [Step::Start { .. }]) {
            started = Some(host.now());
        }
        match carry_out(host, &mut journal, range.clone(), started).await {
            Ok(seen) => verified.extend(seen),
            Err(Some((at, source))) if journal.fate == Fate::Finish => {
                return Err(unfinished(host, &mut journal, &stage[at], source));
            }
            Err(fault) => return Err(fall_back(host, &mut journal, range, fault, index >= waits).await),
        }
        index += stage.len();
    }
    fault::point();
    journal.end(host).await.map_err(|error| Failure::NotSettled(Box::new(error)))?;
    Ok(verified)
}

/// From which step on a plan only waits for machines.
fn first_wait(steps: &[Step]) -> usize {
    steps.len() - steps.iter().rev().take_while(|step| step.waits()).count()
}

/// Does steps that are taken together; none in the error: interrupted.
async fn carry_out(
    host: &impl Executor,
    journal: &mut Journal,
    range: Range<usize>,
    started: Option<Instant>,
) -> Result<Vec<Verified>, Option<(usize, StepError)>> {
    journal.reach(host, range.clone()).await.map_err(|error| Some((0, error)))?;
    fault::point();
    let stage = &journal.steps[range];
    stage.iter().for_each(|step| host.listener().begins(step));
    let mut doing = std::pin::pin!(host.perform(stage, started));
    tokio::select! {
        biased;
        done = &mut doing => done.map_err(Some),
        () = host.interrupted(), if journal.fate != Fate::Finish => {
            // All is done: only whether it works is not known.
            if stage.iter().all(Step::is_health) {
                return Ok(stage.iter().filter_map(not_waited_for).collect());
            }
            let Some(step) = stage.iter().find(|step| step.makes_tree()) else { return Err(None) };
            host.cancel(step).await;
            Err(doing.await.err().filter(|(_, error)| error.left_nothing()))
        }
    }
}

fn not_waited_for(step: &Step) -> Option<Verified> {
    let Step::Check { machine, check } = step.clone() else { return None };
    Some(Verified::Fails { machine, check, why: "nobody waited for it".to_owned() })
}

fn unfinished(host: &impl Executor, journal: &mut Journal, step: &Step, source: StepError) -> Failure {
    // Where that cannot be written, the next nsctl finds out by itself.
    let _ = journal.is_stuck(host, format!("cannot {}: {}", step.describe(), error::chain(&source)));
    Failure::Unfinished { doing: step.describe(), source: Box::new(source) }
}

/// Sees whether each machine is where it should be, outside any plan.
///
/// # Errors
/// When the user does not want to wait for that.
pub async fn verify(
    world: World<'_>,
    checks: &[Step],
    started: Instant,
) -> Result<Vec<Result<Option<Verified>, StepError>>, StepError> {
    let mut interrupt = Interrupt::begin();
    tokio::select! {
        seen = together(checks.iter().map(|check| execute::one(world, check, Some(started)))) => Ok(seen),
        () = interrupt.came() => Err(StepError::Interrupted),
    }
}

/// Undoes what was done before the stage that failed, and what of that may have been. What only
/// waits for a machine is undone while others may still change the host.
async fn fall_back(
    host: &impl Executor,
    journal: &mut Journal,
    stage: Range<usize>,
    fault: Option<(usize, StepError)>,
    is_released: bool,
) -> Failure {
    // The stage may have been done in part, unless it says that it was not.
    let untouched = fault.as_ref().is_some_and(|(_, error)| error.left_nothing());
    let begun = if untouched { stage.start } else { stage.end };
    let doing = fault.map(|(at, source)| (describe(&journal.steps[stage.clone()], at), source));
    let undoing = undo(&journal.steps[..begun]);
    let waits = if is_released { undoing.iter().take_while(|step| step.waits()).count() } else { 0 };
    let mut left = recover::Left::default();
    recover::revert(host, &undoing[..waits], &mut left).await;
    if is_released && let Err(error) = host.retake().await {
        let left = vec![format!("{}; the next nsctl undoes the rest", error::chain(&error))];
        return failure(doing, left);
    }
    // Where even this cannot be written, the undoing may still work.
    let _ = journal.fall_back(host, begun);
    recover::revert(host, &undoing[waits..], &mut left).await;
    let why = recover::conclude(host, journal, left).await;
    let why = why.unwrap_or_else(|error| vec![error::chain(&error)]);
    failure(doing, why)
}

fn describe(stage: &[Step], at: usize) -> String {
    let step = &stage[at];
    if step.is_write() && stage.len() > 1 { "change files".into() } else { step.describe() }
}

fn failure(doing: Option<(String, StepError)>, left: Vec<String>) -> Failure {
    match doing {
        None => Failure::Interrupted { left },
        Some((doing, source)) => Failure::Step { doing, source: Box::new(source), left },
    }
}
