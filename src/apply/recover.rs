//! What a killed nsctl left: finished or undone. What cannot be is kept with its machine, tried
//! again by the next nsctl, and holds up nobody else.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::error::{StepError, chain};
use super::journal::{Fate, JOURNAL_DIR, Journal, JournalError};
use super::{Executor, Failure, Records};
use crate::name::MachineName;
use crate::plan::{Step, stages, undo, with_reloads};
use crate::state::STATE_DIR;

/// A command that is neither finished nor undone yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    pub command: String,
    /// Those that wait for it.
    pub machines: BTreeSet<MachineName>,
    /// Why, in sentences.
    pub why: Vec<String>,
}

impl Unresolved {
    pub fn of(journal: &Journal) -> Unresolved {
        Unresolved {
            command: journal.command.clone(),
            machines: journal.machines(),
            why: journal.left.clone(),
        }
    }
}

/// What was cut short, for who only looks. Who may not look, as root may, sees nothing.
///
/// # Errors
/// When a journal makes no sense.
pub fn cut_short(records: &impl Records) -> Result<Vec<Unresolved>, JournalError> {
    let journals = match Journal::all(records) {
        Err(JournalError::Sys(_)) => Vec::new(),
        journals => journals?,
    };
    let dead = journals.iter().filter(|journal| !journal.is_under_way(records));
    Ok(dead.map(Unresolved::of).collect())
}

/// The machines that other commands wait for just now.
///
/// # Errors
/// When a journal cannot be read.
pub fn waited_for(records: &impl Records) -> Result<BTreeSet<MachineName>, JournalError> {
    let journals = Journal::all(records)?;
    let under_way = journals.iter().filter(|journal| journal.is_under_way(records));
    Ok(under_way.flat_map(Journal::machines).collect())
}

/// Finishes or undoes what killed ones left, and says which; gives what could not be.
///
/// # Errors
/// When a journal cannot be read or written.
pub async fn recover(host: &impl Executor) -> Result<Vec<Unresolved>, Failure> {
    let journals = Journal::all(host.records())?;
    let (under_way, cut_short): (Vec<Journal>, Vec<Journal>) =
        journals.into_iter().partition(|journal| journal.is_under_way(host.records()));
    let mut folders = BTreeSet::from([PathBuf::from(STATE_DIR)]);
    // Who still waits for a machine may just be writing down that all is done.
    folders.extend(under_way.is_empty().then(|| PathBuf::from(JOURNAL_DIR)));
    host.clear_drafts(&folders).map_err(|error| Failure::Other(Box::new(error)))?;
    let mut unresolved = Vec::new();
    for mut journal in cut_short {
        let fixed = fix(host, &mut journal).await;
        if !fixed.map_err(|error| Failure::Other(Box::new(error)))? {
            unresolved.push(Unresolved::of(&journal));
        }
    }
    Ok(unresolved)
}

/// Whether nothing is left of it.
async fn fix(host: &impl Executor, journal: &mut Journal) -> Result<bool, StepError> {
    let paths = journal.steps.iter().flat_map(Step::paths);
    host.clear_drafts(&paths.filter_map(|path| Some(path.parent()?.to_owned())).collect())?;
    let command = journal.command.clone();
    let says = |text: String| host.listener().says(&text);
    match journal.fate {
        Fate::Keep => {
            says(format!(
                "`nsctl {command}` was cut short when all was done, and only whether it works was not yet seen"
            ));
            journal.end(host).await?;
            Ok(true)
        }
        Fate::Finish => {
            if journal.left.is_empty() {
                says(format!("finishing `nsctl {command}`, which was cut short"));
            }
            if let Err((step, error)) = finish(host, &journal.steps).await {
                journal.is_stuck(host, format!("cannot {}: {}", step.describe(), chain(&error)))?;
                return Ok(false);
            }
            journal.end(host).await?;
            Ok(true)
        }
        Fate::Undo => {
            says(format!("`nsctl {command}` was cut short"));
            let undoing = undo(&journal.steps[..journal.reached.min(journal.steps.len())]);
            let undoing = stopped_first(host, journal, undoing).await?;
            let mut left = Left::default();
            revert(host, &undoing, &mut left).await;
            Ok(conclude(host, journal, left).await?.is_empty())
        }
        Fate::Left => {
            let mut left = Left::default();
            take_back(host, &journal.steps, &mut left).await;
            let done = conclude(host, journal, left).await?.is_empty();
            if done {
                says(format!("`nsctl {command}` is undone at last"));
            }
            Ok(done)
        }
    }
}

/// After a reboot, what runs by files that do not stay is stopped before they go, and started
/// again by those that come back: boot has started it already, and to start it would do nothing.
async fn stopped_first(
    host: &impl Executor,
    journal: &Journal,
    undoing: Vec<Step>,
) -> Result<Vec<Step>, StepError> {
    let same = host.records().boot_id()? == journal.boot;
    if same || journal.boot.is_empty() {
        return Ok(undoing);
    }
    let of = |takes: fn(&Step) -> bool| -> BTreeSet<MachineName> {
        undoing.iter().filter(|step| takes(step)).flat_map(Step::machines).collect()
    };
    let touched = of(|step| matches!(step, Step::Write { .. } | Step::Enable { .. } | Step::Disable { .. }));
    let wrong: Vec<MachineName> = host.running().await?.intersection(&touched).cloned().collect();
    if wrong.is_empty() {
        return Ok(undoing);
    }
    let starts = of(|step| matches!(step, Step::Start { .. }));
    let has_files = of(|step| matches!(step, Step::Write { new: Some(_), .. }));
    let again = wrong.iter().filter(|name| has_files.contains(*name) && !starts.contains(*name));
    let again: Vec<MachineName> = again.cloned().collect();
    let start = (!again.is_empty()).then(|| Step::start(again, &[]));
    Ok(std::iter::once(Step::Stop { machines: wrong }).chain(undoing).chain(start).collect())
}

/// What of an undoing could not be done, in its order, and why.
#[derive(Debug, Default)]
pub struct Left {
    steps: Vec<Step>,
    why: Vec<String>,
}

/// Takes steps that undo others; adds to what is left. A machine of which something is left is
/// not started yet: it would run by the wrong files.
pub async fn revert(host: &impl Executor, undoing: &[Step], left: &mut Left) {
    if !undoing.is_empty() {
        host.listener().says("undoing what was done");
    }
    take_back(host, undoing, left).await;
}

async fn take_back(host: &impl Executor, undoing: &[Step], left: &mut Left) {
    for stage in stages(undoing) {
        let (due, late) = left.held_back(stage);
        due.iter().for_each(|step| host.listener().begins(step));
        for (step, error) in host.take_back(&due).await {
            left.why.push(format!("cannot {}: {}", step.describe(), chain(&error)));
            left.steps.push(step);
        }
        left.steps.extend(late);
    }
}

impl Left {
    /// What of a stage can be done, and whose start has to wait.
    fn held_back(&self, stage: &[Step]) -> (Vec<Step>, Option<Step>) {
        let held: BTreeSet<MachineName> = self.steps.iter().flat_map(Step::machines).collect();
        let [Step::Start { machines, addresses }] = stage else { return (stage.to_vec(), None) };
        let (late, due): (Vec<MachineName>, Vec<MachineName>) =
            machines.iter().cloned().partition(|name| held.contains(name));
        let start = |machines: Vec<MachineName>| {
            let addresses = addresses.clone();
            (!machines.is_empty()).then_some(Step::Start { machines, addresses })
        };
        (start(due).into_iter().collect(), start(late))
    }
}

/// Ends the journal, or keeps what is left in it; gives why, in sentences.
///
/// # Errors
/// When the journal cannot be written.
pub async fn conclude(
    host: &impl Executor,
    journal: &mut Journal,
    left: Left,
) -> Result<Vec<String>, StepError> {
    if left.steps.is_empty() {
        journal.end(host).await?;
        return Ok(Vec::new());
    }
    // Those that are done are not looked at again. Where they cannot be written, nor can the rest.
    let _ = journal.settle_all(host).await;
    journal.leave(host, with_reloads(left.steps), left.why.clone())?;
    Ok(left.why)
}

/// Does what comes after the point of no return.
async fn finish(host: &impl Executor, steps: &[Step]) -> Result<(), (Step, StepError)> {
    let begun = steps.iter().position(Step::is_final).unwrap_or(steps.len());
    for stage in stages(&steps[begun..]) {
        stage.iter().for_each(|step| host.listener().begins(step));
        host.perform(stage, None).await.map_err(|(at, error)| (stage[at].clone(), error))?;
    }
    Ok(())
}
