//! Steps -> the world, with a journal, and undone in reverse when one fails.

mod deeds;
mod error;
pub mod image;
mod journal;
mod links;
pub mod modes;
mod sight;
mod start;
mod trees;

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::state::STATE_DIR;
pub use error::DeedError;
use journal::Fate;
pub use journal::{JOURNAL_FILE, Journal, JournalError};

use crate::name::MachineName;
use crate::plan::{Plan, Step, stages, undo};
use crate::sys::{Bus, Disk, DiskError, fault, now, together};

/// The host, and somebody who hears what happens to it.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub disk: &'a Disk,
    /// None below `--root`: just files then.
    pub bus: Option<&'a Bus>,
    pub listener: &'a dyn Listener,
}

/// Hears of each step as it begins.
pub trait Listener {
    fn begins(&self, step: &Step);
    /// What a tool says that is at work.
    fn says_in_passing(&self, line: &str);
    /// How far the step is, from 0 to 1.
    fn progresses(&self, part: f64);
    /// A word between the steps: what is undone, who is waited for.
    fn says(&self, text: &str);
}

/// What was seen while the plan was carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Sighting {
    /// The machine answers at this address; `after` its start was asked for, if it was.
    Answers { machine: MachineName, address: Ipv6Addr, planned: Ipv6Addr, after: Option<Duration> },
    /// The machine has these addresses of the LAN; none: it has none yet.
    OnLan { machine: MachineName, addresses: Vec<IpAddr> },
}

/// A plan that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot {doing}")]
    Step {
        doing: String,
        #[source]
        source: Box<DeedError>,
        /// Why some of what was done could not be undone; empty: all was undone.
        left: Vec<String>,
    },
    #[error("interrupted")]
    Interrupted { left: Vec<String> },
    #[error("what `nsctl {command}` had begun cannot be undone")]
    Unmended { command: String, left: Vec<String> },
    #[error("cannot finish: {doing}; the next nsctl tries again")]
    Unfinished {
        doing: String,
        #[source]
        source: Box<DeedError>,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Failure {
    /// What could not be undone.
    pub fn left(&self) -> &[String] {
        match self {
            Failure::Step { left, .. } | Failure::Interrupted { left } | Failure::Unmended { left, .. } => {
                left
            }
            _ => &[],
        }
    }
}

/// Carries out a plan whole, or not at all.
///
/// # Errors
/// The step that failed, after everything before it was undone.
pub async fn apply(world: World<'_>, plan: &Plan, command: &str) -> Result<Vec<Sighting>, Failure> {
    if plan.steps.is_empty() {
        return Ok(Vec::new());
    }
    fault::point();
    let plan = &modes::settled(world.disk, plan);
    let mut journal = Journal::begin(world.disk, command, &plan.steps)?;
    let mut sightings = Vec::new();
    let mut interrupt = Interrupt::new();
    let mut started = None;
    let mut index = 0;
    for stage in stages(&plan.steps) {
        let end = index + stage.len();
        if let Err(error) = journal.reach(world.disk, index..end) {
            return Err(fall_back(world, &mut journal, index..end, Some((0, error.into()))).await);
        }
        fault::point();
        stage.iter().for_each(|step| world.listener.begins(step));
        if matches!(stage, [Step::Start { .. }]) {
            started = Some(now());
        }
        let is_final = journal.fate == Fate::Finish;
        let mut doing = std::pin::pin!(deeds::perform(world, stage, started));
        let done = tokio::select! {
            done = &mut doing => done.map_err(Some),
            () = interrupt.came(), if !is_final => {
                if let Some(step) = stage.iter().find(|step| step.makes_tree()) {
                    deeds::cancel(world, step).await;
                    Err(doing.await.err().filter(|(_, error)| error.left_nothing()))
                } else {
                    Err(None)
                }
            }
        };
        match done {
            Ok(seen) => sightings.extend(seen),
            Err(Some((at, source))) if is_final => {
                return Err(Failure::Unfinished { doing: stage[at].describe(), source: Box::new(source) });
            }
            Err(fault) => return Err(fall_back(world, &mut journal, index..end, fault).await),
        }
        index = end;
    }
    fault::point();
    journal.end(world.disk)?;
    Ok(sightings)
}

/// Sees whether each machine is where it should be, outside any plan.
///
/// # Errors
/// When the user does not want to wait for that.
pub async fn verify(
    world: World<'_>,
    checks: &[Step],
    started: Instant,
) -> Result<Vec<Result<Option<Sighting>, DeedError>>, DeedError> {
    let mut interrupt = Interrupt::new();
    tokio::select! {
        seen = together(checks.iter().map(|check| deeds::one(world, check, Some(started)))) => Ok(seen),
        () = interrupt.came() => Err(DeedError::Interrupted),
    }
}

/// Undoes what was done before the stage that failed, and what of that may have been.
async fn fall_back(
    world: World<'_>,
    journal: &mut Journal,
    stage: Range<usize>,
    fault: Option<(usize, DeedError)>,
) -> Failure {
    // The stage may have been done in part, unless it says that it was not.
    let untouched = fault.as_ref().is_some_and(|(_, error)| error.left_nothing());
    let begun = if untouched { stage.start } else { stage.end };
    // Where even this cannot be written, the undoing may still work.
    let _ = journal.fall_back(world.disk, begun);
    let mut left = revert(world, &journal.steps[..begun]).await;
    if left.is_empty()
        && let Err(error) = journal.end(world.disk)
    {
        left.push(error.to_string());
    }
    match fault {
        None => Failure::Interrupted { left },
        Some((at, source)) => {
            let step = &journal.steps[stage.start + at];
            let doing =
                if step.is_write() && stage.len() > 1 { "change files".into() } else { step.describe() };
            Failure::Step { doing, source: Box::new(source), left }
        }
    }
}

/// Undoes steps; gives what could not be undone.
async fn revert(world: World<'_>, done: &[Step]) -> Vec<String> {
    let steps = undo(done);
    if !steps.is_empty() {
        world.listener.says("undoing what was done");
    }
    let mut left = Vec::new();
    for stage in stages(&steps) {
        stage.iter().for_each(|step| world.listener.begins(step));
        let faults = deeds::take_back(world, stage).await;
        left.extend(
            faults.iter().map(|(step, fault)| format!("cannot {}: {}", step.describe(), error::chain(fault))),
        );
    }
    left
}

/// Finishes or undoes what a killed nsctl left, and says which.
///
/// # Errors
/// When the journal cannot be read, or not everything could be undone.
pub async fn recover(world: World<'_>) -> Result<(), Failure> {
    world.disk.sweep(STATE_DIR.as_ref())?;
    let Some(mut journal) = Journal::find(world.disk)? else { return Ok(()) };
    for step in &journal.steps {
        if let Step::Write { path, .. } = step
            && let Some(folder) = path.parent()
        {
            world.disk.sweep(folder)?;
        }
    }
    let Journal { command, steps, .. } = &journal;
    match journal.fate {
        Fate::Keep => world.listener.says(&format!(
            "`nsctl {command}` was cut short when all was done, and only whether it works was not yet seen"
        )),
        Fate::Finish => {
            world.listener.says(&format!("finishing `nsctl {command}`, which was cut short"));
            finish(world, steps).await?;
        }
        Fate::Undo => {
            world.listener.says(&format!("`nsctl {command}` was cut short"));
            let left = revert(world, &steps[..journal.reached.min(steps.len())]).await;
            if !left.is_empty() {
                return Err(Failure::Unmended { command: command.clone(), left });
            }
        }
    }
    Ok(journal.end(world.disk)?)
}

/// Does what comes after the point of no return.
async fn finish(world: World<'_>, steps: &[Step]) -> Result<(), Failure> {
    let begun = steps.iter().position(Step::is_final).unwrap_or(steps.len());
    for stage in stages(&steps[begun..]) {
        stage.iter().for_each(|step| world.listener.begins(step));
        let done = deeds::perform(world, stage, None).await;
        done.map_err(|(at, source)| Failure::Unfinished {
            doing: stage[at].describe(),
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// SIGINT and SIGTERM: a plan is undone before we go.
struct Interrupt {
    signals: Vec<tokio::signal::unix::Signal>,
}

impl Interrupt {
    fn new() -> Interrupt {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        // Without handlers a signal just ends us, and the journal remains.
        Interrupt { signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    async fn came(&mut self) {
        if self.signals.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.signals.iter_mut().map(|one| Box::pin(one.recv()));
        futures_util::future::select_all(waits).await;
    }
}
