//! What carries steps out: the live host, or a test's model of one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Verified;
use super::error::StepError;
use super::journal::Owner;
use crate::name::MachineName;
use crate::plan::Step;
use crate::sys;

/// Hears of each step as it begins.
pub trait Listener {
    /// What is to come.
    fn plans(&self, _steps: &[Step]) {}
    fn begins(&self, step: &Step);
    /// What a tool says that is at work.
    fn says_in_passing(&self, line: &str);
    /// What a guest says that is at work.
    fn hears(&self, _machine: &MachineName, _line: &str) {}
    /// How far the step is, from 0 to 1.
    fn progresses(&self, part: f64);
    /// How many bytes have come, of who knows how many.
    fn counts(&self, _bytes: u64) {}
    /// A word between the steps: what is undone, who is waited for.
    fn says(&self, text: &str);
}

/// Where journals are kept, and what tells whose they are.
pub trait Records {
    /// The text of a record; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn recall(&self, path: &Path) -> Result<Option<String>, sys::Error>;

    /// Replaces a record; it is on the disk then.
    ///
    /// # Errors
    /// When it cannot be put there.
    fn keep(&self, path: &Path, text: &str) -> Result<(), sys::Error>;

    /// Removes a record.
    ///
    /// # Errors
    /// When it is there and stays there.
    fn forget(&self, path: &Path) -> Result<(), sys::Error>;

    /// The records in a folder, by name.
    ///
    /// # Errors
    /// When it cannot be read.
    fn kept(&self, folder: &Path) -> Result<Vec<PathBuf>, sys::Error>;

    /// Another after each boot (random(4)).
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn boot_id(&self) -> Result<String, sys::Error>;

    /// A number that grows.
    fn stamp(&self) -> u128;

    /// This process.
    fn owner(&self) -> Owner;

    /// Whether a process is still there.
    fn is_alive(&self, owner: Owner) -> bool;
}

/// What was seen of steps that were taken together, or which of them failed, and why.
pub type Performed = Result<Vec<Verified>, (usize, StepError)>;

/// Carries steps out, and takes them back.
#[allow(async_fn_in_trait)]
pub trait Executor {
    type Records: Records;

    fn records(&self) -> &Self::Records;

    fn listener(&self) -> &dyn Listener;

    fn now(&self) -> Instant;

    /// Does steps that are taken together; `started` is when the machines were asked to
    /// start, if they were.
    ///
    /// # Errors
    /// Which of them failed, and why: of several the first, unless one says that it left nothing.
    async fn perform(&self, stage: &[Step], started: Option<Instant>) -> Performed;

    /// Does steps that undo others, which may or may not have been begun; gives those that
    /// could not be done, and why.
    async fn take_back(&self, stage: &[Step]) -> Vec<(Step, StepError)>;

    /// Ends the making of a tree that somebody does not want to wait for.
    async fn cancel(&self, step: &Step);

    /// Makes sure that what these steps changed is on the disk.
    ///
    /// # Errors
    /// When it cannot be done.
    async fn settle(&self, steps: &[Step]) -> Result<(), StepError>;

    /// The machines that run.
    ///
    /// # Errors
    /// When nobody tells.
    async fn running(&self) -> Result<BTreeSet<MachineName>, StepError>;

    /// Until somebody wants the plan to be undone.
    async fn interrupted(&self);

    /// Lets others change the host.
    fn release(&self);

    /// Has the host for itself again.
    ///
    /// # Errors
    /// When others do not let go of it in time.
    async fn retake(&self) -> Result<(), StepError>;

    /// Removes from folders what a killed run was only about to put in its place.
    ///
    /// # Errors
    /// When some stays.
    fn clear_drafts(&self, folders: &BTreeSet<PathBuf>) -> Result<(), StepError>;
}
