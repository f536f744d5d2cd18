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

/// The steps of a plan. Each can be undone whether or not it was begun, so it
/// is enough to know all of them, and whether the point of no return is passed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    version: u32,
    /// The words after `nsctl`, for the user.
    pub command: String,
    /// Set before the first step that cannot be undone.
    pub is_final: bool,
    pub steps: Vec<Step>,
}

impl Journal {
    /// Writes down what will be done.
    ///
    /// # Errors
    /// When it cannot be kept; nothing must be done then.
    pub fn begin(disk: &Disk, command: &str, steps: &[Step]) -> Result<Journal, JournalError> {
        let journal =
            Journal { version: VERSION, command: command.to_owned(), is_final: false, steps: steps.to_vec() };
        journal.save(disk)?;
        Ok(journal)
    }

    /// Writes down that there is no way back.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn make_final(&mut self, disk: &Disk) -> Result<(), JournalError> {
        self.is_final = true;
        self.save(disk)
    }

    fn save(&self, disk: &Disk) -> Result<(), JournalError> {
        let text = serde_json::to_string(self).map_err(|e| JournalError::Damaged(e.to_string()))?;
        Ok(disk.write(Path::new(JOURNAL_FILE), &text)?)
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
    pub fn end(disk: &Disk) -> Result<(), JournalError> {
        Ok(disk.remove(Path::new(JOURNAL_FILE))?)
    }
}
