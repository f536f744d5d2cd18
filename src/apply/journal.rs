//! The journal: what a plan is about to do, on disk before its first step.

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
}

fn yes() -> bool {
    true
}

/// A start or stop alone is carried out by systemd to its end, whatever becomes of us:
/// to undo it later would not be what was asked for.
fn ends_by_itself(steps: &[Step]) -> bool {
    matches!(steps, [Step::Start { .. } | Step::Stop { .. }])
}

/// The first step from `from` on that must be noted before it is begun.
fn milestone(steps: &[Step], from: usize) -> usize {
    let next = steps.iter().skip(from).position(Step::is_milestone);
    next.map_or(steps.len(), |next| from + next)
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
        };
        journal.advance(0);
        journal.save(disk)?;
        Ok(journal)
    }

    /// Writes down, before a step, what must be known of it after a crash.
    ///
    /// # Errors
    /// When it cannot be kept; the step must not be begun then.
    pub fn reach(&mut self, disk: &Disk, index: usize) -> Result<(), JournalError> {
        if self.advance(index) { self.save(disk) } else { Ok(()) }
    }

    /// Goes on to a step; whether that must be known of it before it is begun.
    fn advance(&mut self, index: usize) -> bool {
        let step = &self.steps[index];
        let all_done = self.steps[index..].iter().all(Step::is_check);
        let fate = match self.fate {
            Fate::Undo if step.is_final() => Fate::Finish,
            Fate::Undo if all_done => Fate::Keep,
            fate => fate,
        };
        let reached = if step.is_milestone() { milestone(&self.steps, index + 1) } else { self.reached };
        let news = (fate, reached) != (self.fate, self.reached);
        (self.fate, self.reached) = (fate, reached);
        news
    }

    /// Writes down that a step failed, and that all of it is being undone.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn fall_back(&mut self, disk: &Disk) -> Result<(), JournalError> {
        self.fate = Fate::Undo;
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
    pub fn end(&self, disk: &Disk) -> Result<(), JournalError> {
        if !self.is_kept {
            return Ok(());
        }
        Ok(disk.remove(Path::new(JOURNAL_FILE))?)
    }
}
