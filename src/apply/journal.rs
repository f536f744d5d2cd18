//! The journal: what a plan is about to do, on disk before its first step.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::plan::Step;
use crate::sys::{Disk, DiskError};

/// There while a plan is being carried out, and after a crash in the middle.
pub const JOURNAL_FILE: &str = "/var/lib/nsctl/journal.json";
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{JOURNAL_FILE} cannot be read: {0}")]
    Damaged(String),
    #[error("the journal cannot be kept")]
    Disk(#[from] DiskError),
}

impl JournalError {
    pub fn hint(&self) -> Option<String> {
        match self {
            JournalError::Damaged(_) => Some(format!(
                "it tells what an nsctl that was cut short had begun; look at it, put things right, and delete {JOURNAL_FILE}"
            )),
            JournalError::Disk(error) => error.hint(),
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
}

/// The steps of a plan, and how far it may have come. Undoing a write that was
/// not begun does no harm, so not every step is noted: only those that make or
/// start something, which must not be undone unless they were begun.
///
/// As long as all would be undone, only the journal itself, and what replaces a file, is synced
/// step by step; new files are before the journal says, or its end does, that they stay.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The words after `nsctl`, for the user.
    pub command: String,
    pub fate: Fate,
    /// No step from this one on has been begun.
    pub reached: usize,
    pub steps: Vec<Step>,
    /// Whether it is on the disk at all.
    #[serde(skip, default = "yes")]
    is_kept: bool,
    /// What the steps before this one changed is on the disk.
    #[serde(skip)]
    settled: usize,
}

fn yes() -> bool {
    true
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
    pub fn begin(disk: &Disk, command: &str, steps: &[Step]) -> Result<Journal, JournalError> {
        let mut journal = Journal {
            version: VERSION,
            command: command.to_owned(),
            fate: Fate::Undo,
            reached: milestone(steps, 0),
            steps: steps.to_vec(),
            is_kept: !ends_by_itself(steps),
            settled: 0,
        };
        journal.advance(0..1);
        journal.save(disk)?;
        Ok(journal)
    }

    /// Writes down, before steps are taken together, what must be known of them after a crash.
    ///
    /// # Errors
    /// When it cannot be kept; the steps must not be begun then.
    pub fn reach(&mut self, disk: &Disk, stage: Range<usize>) -> Result<(), JournalError> {
        let before = self.fate;
        let begin = stage.start;
        // What starts with the host must not do so from half of its files.
        let enables = self.steps[stage.clone()].iter().any(|step| matches!(step, Step::Enable { .. }));
        let is_news = self.advance(stage);
        if enables || self.fate != before {
            self.settle(disk, begin)?;
        }
        if is_news { self.save(disk) } else { Ok(()) }
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

    fn settle(&mut self, disk: &Disk, until: usize) -> Result<(), JournalError> {
        let paths: Vec<_> = self.steps[self.settled..until].iter().flat_map(Step::paths).collect();
        self.settled = until;
        Ok(disk.settle(&paths)?)
    }

    /// Writes down that a step failed, and that all before this one is being undone.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn fall_back(&mut self, disk: &Disk, begun: usize) -> Result<(), JournalError> {
        (self.fate, self.reached) = (Fate::Undo, self.reached.min(begun));
        self.settled = 0;
        self.save(disk)
    }

    fn save(&self, disk: &Disk) -> Result<(), JournalError> {
        if !self.is_kept {
            return Ok(());
        }
        let text = serde_json::to_string(self).map_err(|e| JournalError::Damaged(e.to_string()))?;
        Ok(disk.write_private(Path::new(JOURNAL_FILE), &text)?)
    }

    /// What a killed nsctl left.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(disk: &Disk) -> Result<Option<Journal>, JournalError> {
        let Some(text) = disk.read(Path::new(JOURNAL_FILE))? else { return Ok(None) };
        let journal: Journal =
            serde_json::from_str(&text).map_err(|e| JournalError::Damaged(e.to_string()))?;
        if journal.version != VERSION {
            return Err(JournalError::Damaged(format!("it has format {}", journal.version)));
        }
        Ok(Some(journal))
    }

    /// The plan is carried out, or undone.
    ///
    /// # Errors
    /// When the file stays.
    pub fn end(&mut self, disk: &Disk) -> Result<(), JournalError> {
        if !self.is_kept {
            return Ok(());
        }
        self.settle(disk, self.steps.len())?;
        Ok(disk.remove(Path::new(JOURNAL_FILE))?)
    }
}
