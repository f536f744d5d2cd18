//! Steps -> the world, with a journal, and undone in reverse when one fails.

mod deeds;
pub mod image;
mod journal;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::state::STATE_DIR;
pub use deeds::DeedError;
use journal::Fate;
pub use journal::{JOURNAL_FILE, Journal, JournalError};

use crate::name::MachineName;
use crate::plan::{Plan, Step, undo};
use crate::sys::{Bus, Disk, DiskError, fault, now};

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
    let mut journal = Journal::begin(world.disk, command, &plan.steps)?;
    let mut sightings = Vec::new();
    let mut interrupt = Interrupt::new();
    let mut started = None;
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(error) = journal.reach(world.disk, index) {
            return Err(fall_back(world, &mut journal, index, Some(error.into())).await);
        }
        fault::point();
        world.listener.begins(step);
        if matches!(step, Step::Start { .. }) {
            started = Some(now());
        }
        let is_final = journal.fate == Fate::Finish;
        let mut doing = std::pin::pin!(deeds::perform(world, step, started));
        let done = tokio::select! {
            done = &mut doing => done.map_err(Some),
            () = interrupt.came(), if !is_final => {
                if step.makes_tree() {
                    deeds::cancel(world, step).await;
                    let _ = doing.await;
                }
                Err(None)
            }
        };
        match done {
            Ok(sighting) => sightings.extend(sighting),
            Err(Some(source)) if is_final => {
                return Err(Failure::Unfinished { doing: step.describe(), source: Box::new(source) });
            }
            Err(fault) => return Err(fall_back(world, &mut journal, index, fault).await),
        }
    }
    fault::point();
    Journal::end(world.disk)?;
    Ok(sightings)
}

/// Sees that a machine is where it should be, outside any plan.
///
/// # Errors
/// When it is not.
pub async fn verify(world: World<'_>, check: &Step, started: Instant) -> Result<Option<Sighting>, DeedError> {
    let mut interrupt = Interrupt::new();
    tokio::select! {
        done = deeds::perform(world, check, Some(started)) => done,
        () = interrupt.came() => Err(DeedError::Interrupted),
    }
}

async fn fall_back(
    world: World<'_>,
    journal: &mut Journal,
    failed: usize,
    fault: Option<DeedError>,
) -> Failure {
    // The step that failed may have been done in part, unless it says that it was not.
    let begun = if fault.as_ref().is_some_and(DeedError::left_nothing) { failed } else { failed + 1 };
    // Where even this cannot be written, the undoing may still work.
    let _ = journal.fall_back(world.disk);
    let steps = &journal.steps;
    let mut left = revert(world, &steps[..begun]).await;
    if left.is_empty()
        && let Err(error) = Journal::end(world.disk)
    {
        left.push(error.to_string());
    }
    match fault {
        None => Failure::Interrupted { left },
        Some(source) => Failure::Step { doing: steps[failed].describe(), source: Box::new(source), left },
    }
}

/// Undoes steps; gives what could not be undone.
async fn revert(world: World<'_>, done: &[Step]) -> Vec<String> {
    let steps = undo(done);
    if !steps.is_empty() {
        world.listener.says("undoing what was done");
    }
    let mut left = Vec::new();
    for step in steps {
        world.listener.begins(&step);
        if let Err(fault) = deeds::take_back(world, &step).await {
            left.push(format!("cannot {}: {}", step.describe(), deeds::chain(&fault)));
        }
    }
    left
}

/// Finishes or undoes what a killed nsctl left, and says which.
///
/// # Errors
/// When the journal cannot be read, or not everything could be undone.
pub async fn recover(world: World<'_>) -> Result<(), Failure> {
    world.disk.sweep(STATE_DIR.as_ref())?;
    let Some(journal) = Journal::find(world.disk)? else { return Ok(()) };
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
    Ok(Journal::end(world.disk)?)
}

/// Does what comes after the point of no return.
async fn finish(world: World<'_>, steps: &[Step]) -> Result<(), Failure> {
    for step in steps.iter().skip_while(|step| !step.is_final()) {
        world.listener.begins(step);
        deeds::perform(world, step, None)
            .await
            .map_err(|source| Failure::Unfinished { doing: step.describe(), source: Box::new(source) })?;
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
