//! The journal: what a plan is about to do, on disk before its first step. Each command has a
//! file of its own, so that one that only waits for its machine holds up nobody.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StepError;
use super::{Executor, Records};
use crate::hint::Hint;
use crate::name::MachineName;
use crate::plan::Step;
use crate::sys;

/// Holds a file for each plan that is being carried out, or was cut short.
pub const JOURNAL_DIR: &str = "/var/lib/nsctl/journal";
/// Where an nsctl before this one kept its only journal.
const OLD_FILE: &str = "/var/lib/nsctl/journal.json";
const VERSION: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{} cannot be read: {what}", .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("the journal cannot be kept")]
    Sys(#[from] sys::Error),
}

impl Hint for JournalError {
    fn hint(&self) -> Option<String> {
        match self {
            JournalError::Damaged { path, .. } => Some(format!(
                "it tells what an nsctl that was cut short had begun; look at it, put things right, and delete {}",
                path.display()
            )),
            JournalError::Sys(error) => error.hint(),
        }
    }
}

/// What the next nsctl does with a plan that was cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// What was begun is undone.
    Undo,
    /// All was done; it was only not yet seen to work.
    Keep,
    /// There is no way back: the rest is done.
    Finish,
    /// It was undone but for these steps, each of which is tried again.
    Left,
}

/// A process, and no later one of its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub process: u32,
    /// Ticks since the boot.
    pub started: u64,
}

/// The steps of a plan, and how far it may have come. Undoing a write that was
/// not begun does no harm, so not every step is noted: only those that make or
/// start something, which must not be undone unless they were begun.
///
/// As long as all would be undone, only the journal itself, and what replaces a file, is synced
/// step by step; new files and trees are before the journal says, or its end does, that they stay.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The words after `nsctl`, for the user.
    pub command: String,
    #[serde(default)]
    owner: Owner,
    /// The boot in which it was begun: what runs in another, boot has started.
    #[serde(default)]
    pub boot: String,
    pub fate: Fate,
    /// No step from this one on has been begun.
    pub reached: usize,
    pub steps: Vec<Step>,
    /// Why the steps that are left could not be done, in sentences.
    #[serde(default)]
    pub left: Vec<String>,
    #[serde(skip)]
    path: PathBuf,
    /// It is never on the disk.
    #[serde(skip)]
    is_passing: bool,
    /// What the steps before this one changed is on the disk.
    #[serde(skip)]
    settled: usize,
}

/// A start or stop alone is carried out by systemd, whatever becomes of us: to undo it later
/// would not be what was asked for.
fn ends_by_itself(steps: &[Step]) -> bool {
    matches!(steps, [Step::Start { .. } | Step::Stop { .. }])
}

/// The first step from `from` on that must be noted before it is begun. That a machine
/// starts need not be, when it is one whose tree is made before: all of it goes anyway.
fn milestone(steps: &[Step], from: usize) -> usize {
    let next = (from..steps.len()).find(|at| steps[*at].is_milestone() && !starts_new(steps, *at));
    next.unwrap_or(steps.len())
}

fn starts_new(steps: &[Step], at: usize) -> bool {
    let makes = |name| steps[..at].iter().any(|step| matches!(step, Step::MakeTree { to, .. } if to == name));
    matches!(&steps[at], Step::Start { machines, .. } if machines.iter().all(makes))
}

impl Journal {
    /// Writes down what will be done.
    ///
    /// # Errors
    /// When it cannot be kept; nothing must be done then.
    pub fn begin(host: &impl Executor, command: &str, steps: &[Step]) -> Result<Journal, JournalError> {
        let mut journal = Journal {
            version: VERSION,
            command: command.to_owned(),
            owner: host.records().owner(),
            boot: host.records().boot_id()?,
            fate: Fate::Undo,
            reached: milestone(steps, 0),
            steps: steps.to_vec(),
            left: Vec::new(),
            path: Path::new(JOURNAL_DIR).join(format!("{:020}.json", host.records().stamp())),
            is_passing: ends_by_itself(steps),
            settled: 0,
        };
        journal.advance(0..1);
        journal.save(host)?;
        Ok(journal)
    }

    /// Writes down, before steps are taken together, what must be known of them after a crash.
    ///
    /// # Errors
    /// When it cannot be kept; the steps must not be begun then.
    pub async fn reach(&mut self, host: &impl Executor, stage: Range<usize>) -> Result<(), StepError> {
        let before = (self.fate, self.reached, self.settled);
        let reached = self.go_on(host, stage).await;
        if reached.is_err() {
            // The disk knows nothing of it: what is done is undone, and nothing is final.
            (self.fate, self.reached, self.settled) = before;
        }
        reached
    }

    async fn go_on(&mut self, host: &impl Executor, stage: Range<usize>) -> Result<(), StepError> {
        let before = self.fate;
        let begin = stage.start;
        // What starts with the host must not do so from half of its files.
        let enables = self.steps[stage.clone()].iter().any(|step| matches!(step, Step::Enable { .. }));
        let is_news = self.advance(stage);
        if enables || self.fate != before {
            self.settle(host, begin).await?;
        }
        if is_news { Ok(self.save(host)?) } else { Ok(()) }
    }

    /// Goes on to steps; whether that must be known of them before they are begun.
    fn advance(&mut self, stage: Range<usize>) -> bool {
        let all_done = self.steps[stage.start..].iter().all(Step::is_check);
        let fate = match self.fate {
            Fate::Undo if self.steps[stage.clone()].iter().any(Step::is_final) => Fate::Finish,
            Fate::Undo if all_done => Fate::Keep,
            fate => fate,
        };
        let reached =
            if stage.contains(&self.reached) { milestone(&self.steps, stage.end) } else { self.reached };
        let news = (fate, reached) != (self.fate, self.reached);
        (self.fate, self.reached) = (fate, reached);
        news
    }

    async fn settle(&mut self, host: &impl Executor, until: usize) -> Result<(), StepError> {
        let from = std::mem::replace(&mut self.settled, until);
        host.settle(&self.steps[from..until]).await
    }

    /// Makes sure that all that the steps changed is on the disk.
    ///
    /// # Errors
    /// When it cannot be done.
    pub async fn settle_all(&mut self, host: &impl Executor) -> Result<(), StepError> {
        self.settle(host, self.steps.len()).await
    }

    /// Writes down that a step failed, and that all before this one is being undone.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn fall_back(&mut self, host: &impl Executor, begun: usize) -> Result<(), JournalError> {
        (self.fate, self.reached) = (Fate::Undo, self.reached.min(begun));
        self.settled = 0;
        self.save(host)
    }

    /// Writes down why what must be finished is not.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn is_stuck(&mut self, host: &impl Executor, why: String) -> Result<(), JournalError> {
        self.left = vec![why];
        self.save(host)
    }

    /// Writes down that all but these steps, which undo something, is done.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn leave(
        &mut self,
        host: &impl Executor,
        steps: Vec<Step>,
        why: Vec<String>,
    ) -> Result<(), JournalError> {
        // Even a start or stop leaves something where it cannot be undone.
        self.is_passing = false;
        (self.fate, self.reached, self.settled) = (Fate::Left, steps.len(), 0);
        (self.steps, self.left) = (steps, why);
        self.save(host)
    }

    fn save(&self, host: &impl Executor) -> Result<(), JournalError> {
        if self.is_passing {
            return Ok(());
        }
        let damaged =
            |e: serde_json::Error| JournalError::Damaged { path: self.path.clone(), what: e.to_string() };
        Ok(host.records().keep(&self.path, &serde_json::to_string(self).map_err(damaged)?)?)
    }

    /// All journals, the oldest first.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn all(records: &impl Records) -> Result<Vec<Journal>, JournalError> {
        let mut paths = records.kept(Path::new(JOURNAL_DIR))?;
        paths.insert(0, PathBuf::from(OLD_FILE));
        let found = paths.into_iter().map(|path| Journal::read(records, path));
        found.filter_map(Result::transpose).collect()
    }

    fn read(records: &impl Records, path: PathBuf) -> Result<Option<Journal>, JournalError> {
        let Some(text) = records.recall(&path)? else { return Ok(None) };
        let damaged = |what: String| JournalError::Damaged { path: path.clone(), what };
        let journal: Journal = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if !(1..=VERSION).contains(&journal.version) {
            return Err(damaged(format!("it has format {}", journal.version)));
        }
        Ok(Some(Journal { path, ..journal }))
    }

    /// Whether whom it is of is still at it.
    pub fn is_under_way(&self, records: &impl Records) -> bool {
        let this_boot = records.boot_id().is_ok_and(|boot| boot == self.boot);
        this_boot && self.fate != Fate::Left && records.is_alive(self.owner)
    }

    /// The machines whose steps are not done.
    pub fn machines(&self) -> BTreeSet<MachineName> {
        let begun = if self.fate == Fate::Finish {
            self.steps.iter().position(Step::is_final).unwrap_or_default()
        } else {
            0
        };
        self.steps[begun..].iter().flat_map(Step::machines).collect()
    }

    /// The plan is carried out, or undone. That the journal's own end is not sure to be on the
    /// disk does no harm: it would be found again, and say that there is nothing to do.
    ///
    /// # Errors
    /// When what was done, or the journal's end, cannot be written.
    pub async fn end(&mut self, host: &impl Executor) -> Result<(), StepError> {
        if self.is_passing {
            return Ok(());
        }
        self.settle_all(host).await?;
        Ok(host.records().forget(&self.path)?)
    }
}
