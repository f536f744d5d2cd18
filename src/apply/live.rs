//! The live host: its disk, its services, its kernel.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::error::StepError;
use super::execute;
use super::executor::{Executor, Listener, Performed, Records};
use super::journal::Owner;
use crate::name::MachineName;
use crate::plan::Step;
use crate::sys::{self, Bus, Disk, Lock, processes, tree};

/// The host, and somebody who hears what happens to it.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub disk: &'a Disk,
    /// None below `--root`: just files then.
    pub bus: Option<&'a Bus>,
    pub listener: &'a dyn Listener,
    /// What keeps others from changing the host; none where it stays locked, or need not be.
    pub lock: Option<&'a Lock>,
    pub interrupt: Option<&'a RefCell<Interrupt>>,
}

impl Records for Disk {
    fn recall(&self, path: &Path) -> Result<Option<String>, sys::Error> {
        Ok(self.read(path)?)
    }

    fn keep(&self, path: &Path, text: &str) -> Result<(), sys::Error> {
        Ok(self.write_private(path, text)?)
    }

    fn forget(&self, path: &Path) -> Result<(), sys::Error> {
        Ok(self.forget_file(path)?)
    }

    fn kept(&self, folder: &Path) -> Result<Vec<PathBuf>, sys::Error> {
        Ok(self.names(folder)?.into_iter().map(|name| folder.join(name)).collect())
    }

    fn boot_id(&self) -> Result<String, sys::Error> {
        Ok(sys::boot_id()?)
    }

    fn stamp(&self) -> u128 {
        sys::stamp()
    }

    fn owner(&self) -> Owner {
        let process = std::process::id();
        Owner { process, started: processes::started(process).unwrap_or_default() }
    }

    fn is_alive(&self, owner: Owner) -> bool {
        processes::is_alive(owner.process, owner.started)
    }
}

impl Executor for World<'_> {
    type Records = Disk;

    fn records(&self) -> &Disk {
        self.disk
    }

    fn listener(&self) -> &dyn Listener {
        self.listener
    }

    fn now(&self) -> Instant {
        sys::now()
    }

    async fn perform(&self, stage: &[Step], started: Option<Instant>) -> Performed {
        execute::perform(*self, stage, started).await
    }

    async fn take_back(&self, stage: &[Step]) -> Vec<(Step, StepError)> {
        execute::take_back(*self, stage).await
    }

    async fn cancel(&self, step: &Step) {
        if let (Step::MakeTree { to, .. }, Some(bus)) = (step, self.bus) {
            // It may be over already.
            let _ = bus.cancel_transfer(to.as_str()).await;
        }
    }

    async fn settle(&self, steps: &[Step]) -> Result<(), StepError> {
        let paths: Vec<PathBuf> = steps.iter().flat_map(Step::paths).collect();
        self.disk.settle(&paths)?;
        if self.bus.is_some() && steps.iter().any(Step::changes_trees) {
            // machined syncs nothing, and this may take long.
            tokio::task::spawn_blocking(tree::settle_all).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn running(&self) -> Result<BTreeSet<MachineName>, StepError> {
        let Some(bus) = self.bus else { return Ok(BTreeSet::new()) };
        Ok(bus.machines().await?.keys().filter_map(|name| name.parse().ok()).collect())
    }

    // Nobody else has it: all is done by one task, which waits for this or for a step.
    #[allow(clippy::await_holding_refcell_ref)]
    async fn interrupted(&self) {
        match self.interrupt {
            Some(interrupt) => interrupt.borrow_mut().came().await,
            None => std::future::pending().await,
        }
    }

    fn release(&self) {
        if let Some(lock) = self.lock {
            lock.release();
        }
    }

    async fn retake(&self) -> Result<(), StepError> {
        match self.lock {
            Some(lock) => Ok(lock.retake(RETAKE_TIME).await?),
            None => Ok(()),
        }
    }

    fn clear_drafts(&self, folders: &BTreeSet<PathBuf>) -> Result<(), StepError> {
        folders.iter().try_for_each(|folder| self.disk.sweep(folder))?;
        Ok(())
    }
}

/// How long others may keep us from undoing what we have begun.
const RETAKE_TIME: Duration = Duration::from_secs(1800);

/// SIGINT and SIGTERM: a plan is undone before we go.
#[derive(Debug)]
pub struct Interrupt {
    signals: Vec<tokio::signal::unix::Signal>,
}

impl Interrupt {
    /// Takes signals from now on.
    #[must_use]
    pub fn begin() -> Interrupt {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        // Without handlers a signal just ends us, and the journal remains.
        Interrupt { signals: kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// Until one comes.
    pub async fn came(&mut self) {
        if self.signals.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.signals.iter_mut().map(|one| Box::pin(one.recv()));
        futures_util::future::select_all(waits).await;
    }
}
