//! Steps -> the world, with a journal, and undone in reverse when one fails.

mod deeds;
mod journal;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::state::STATE_DIR;
pub use deeds::DeedError;
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
    /// A word between the steps: what is undone, who is waited for.
    fn says(&self, text: &str);
}

/// What was seen while the plan was carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Sighting {
    /// The machine answers at this address, so long after its start was asked for.
    Answers { machine: MachineName, address: Ipv6Addr, planned: Ipv6Addr, after: Duration },
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
            Failure::Step { left, .. } | Failure::Interrupted { left } => left,
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
    let mut started = now();
    for (index, step) in plan.steps.iter().enumerate() {
        if step.is_final() && !journal.is_final {
            journal.make_final(world.disk)?;
        }
        fault::point();
        world.listener.begins(step);
        if matches!(step, Step::Start { .. }) {
            started = now();
        }
        let done = tokio::select! {
            done = deeds::perform(world, step, started) => done.map_err(Some),
            () = interrupt.came(), if !journal.is_final => Err(None),
        };
        match done {
            Ok(sighting) => sightings.extend(sighting),
            Err(Some(source)) if journal.is_final => {
                return Err(Failure::Unfinished { doing: step.describe(), source: Box::new(source) });
            }
            Err(fault) => return Err(fall_back(world, &plan.steps, index, fault).await),
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
    deeds::perform(world, check, started).await
}

async fn fall_back(world: World<'_>, steps: &[Step], failed: usize, fault: Option<DeedError>) -> Failure {
    // The step that failed may have been done in part. An image is not: its maker cleans up.
    let begun = if fault.as_ref().is_some_and(DeedError::left_nothing) { failed } else { failed + 1 };
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
    if journal.is_final {
        world.listener.says(&format!("finishing `nsctl {}`, which was cut short", journal.command));
        for step in journal.steps.iter().filter(|step| step.is_final()) {
            world.listener.begins(step);
            deeds::perform(world, step, now())
                .await
                .map_err(|source| Failure::Unfinished { doing: step.describe(), source: Box::new(source) })?;
        }
    } else {
        world.listener.says(&format!("`nsctl {}` was cut short", journal.command));
        let left = revert(world, &journal.steps).await;
        if !left.is_empty() {
            return Err(Failure::Interrupted { left });
        }
    }
    Ok(Journal::end(world.disk)?)
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
