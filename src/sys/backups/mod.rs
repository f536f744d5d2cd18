//! What backups are put into, by restic(1) or by btrfs-send(8).

mod btrfs;
mod restic;

use std::path::{Path, PathBuf};

pub use btrfs::{BtrfsError, BtrfsStore};
pub use restic::{ENVIRONMENT_FILE, PASSWORD_FILE, Restic, ResticError};

use super::{Disk, Error, tree};
use crate::backup::{Backup, BackupId};
use crate::name::MachineName;
use crate::spec::Repository;

/// A repository, and how it is reached.
#[derive(Debug, Clone)]
pub enum Store {
    Restic(Restic),
    Btrfs(BtrfsStore),
}

/// What is backed up.
#[derive(Debug, Clone, Copy)]
pub struct Save<'a> {
    pub machine: &'a MachineName,
    /// Its snapshot.
    pub tree: &'a Path,
    /// machine.toml.
    pub contents: &'a str,
    pub tags: &'a [String],
    /// Snapshots that were sent here before, and are kept for this.
    pub sent: &'a [PathBuf],
}

/// What a backup has come to.
#[derive(Debug)]
pub struct Saved {
    pub id: BackupId,
    /// Bytes that the repository did not have.
    pub added: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// From 0 to 1.
    Part(f64),
    /// How many have been sent: of how many nobody knows.
    Bytes(u64),
}

impl Store {
    /// # Errors
    /// When restic has no password, or a file with variables cannot be read.
    pub fn of(disk: &Disk, repository: &Repository) -> Result<Store, Error> {
        match repository.folder() {
            Some(folder) => Ok(Store::Btrfs(BtrfsStore::of(folder))),
            None => Restic::of(disk, repository).map(Store::Restic),
        }
    }

    /// Whether what is sent here is the difference to a snapshot that stays until the next time.
    pub fn needs_the_last(&self) -> bool {
        matches!(self, Store::Btrfs(_))
    }

    /// Whether a tree can be put here as it is.
    ///
    /// # Errors
    /// When it cannot.
    pub fn takes(&self, tree: &Path) -> Result<(), Error> {
        match self {
            Store::Restic(_) => Ok(()),
            Store::Btrfs(_) => Ok(btrfs::sendable(tree)?),
        }
    }

    /// Whether there is a repository.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn is_there(&self) -> Result<bool, Error> {
        match self {
            Store::Restic(restic) => Ok(restic.is_there().await?),
            Store::Btrfs(btrfs) => Ok(btrfs.is_there().await?),
        }
    }

    /// What is wrong where there is none.
    pub fn missing(&self, repository: &Repository) -> Error {
        match self {
            Store::Restic(_) => ResticError::NoRepository(repository.to_string()).into(),
            Store::Btrfs(_) => BtrfsError::NoRepository(repository.to_string()).into(),
        }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When there is one, or it cannot be made.
    pub async fn init(&self) -> Result<(), Error> {
        match self {
            Store::Restic(restic) => Ok(restic.init().await?),
            Store::Btrfs(btrfs) => Ok(btrfs.init().await?),
        }
    }

    /// The backups in it, the oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn backups(&self, machine: Option<&MachineName>) -> Result<Vec<Backup>, Error> {
        match self {
            Store::Restic(restic) => Ok(restic.backups(machine).await?),
            Store::Btrfs(btrfs) => Ok(btrfs.backups(machine).await?),
        }
    }

    /// What lies beside the tree in a backup.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn contents(&self, id: &BackupId) -> Result<String, Error> {
        match self {
            Store::Restic(restic) => Ok(restic.contents(id).await?),
            Store::Btrfs(btrfs) => Ok(btrfs.contents(id).await?),
        }
    }

    /// Puts a tree, and what is known of it, into the repository.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn save(&self, save: &Save<'_>, hears: impl Fn(Progress)) -> Result<Saved, Error> {
        match self {
            Store::Restic(restic) => Ok(restic.save(save, |part| hears(Progress::Part(part))).await?),
            Store::Btrfs(btrfs) => Ok(btrfs.save(save, |bytes| hears(Progress::Bytes(bytes))).await?),
        }
    }

    /// How many bytes a backup takes where it is restored; none where nobody knows.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn room(&self, id: &BackupId) -> Result<Option<u64>, Error> {
        match self {
            Store::Restic(restic) => Ok(restic.room(id).await?),
            Store::Btrfs(_) => Ok(None),
        }
    }

    /// Makes a tree of this name of what was backed up.
    ///
    /// # Errors
    /// When that is not done whole; what there is of it stays.
    pub async fn restore(
        &self,
        machine: &MachineName,
        id: &BackupId,
        image: &str,
        limit: impl FnOnce(),
        hears: impl Fn(Progress),
    ) -> Result<(), Error> {
        match self {
            Store::Restic(restic) => {
                let place = tree::make(image)?;
                limit();
                Ok(restic.restore(machine, id, &place).await?)
            }
            Store::Btrfs(btrfs) => {
                btrfs.restore(id, image, |bytes| hears(Progress::Bytes(bytes))).await?;
                limit();
                Ok(())
            }
        }
    }

    /// Forgets backups, and what only they had.
    ///
    /// # Errors
    /// When they cannot be forgotten.
    pub async fn forget(&self, ids: &[BackupId]) -> Result<(), Error> {
        match self {
            Store::Restic(restic) => Ok(restic.forget(ids).await?),
            Store::Btrfs(btrfs) => Ok(btrfs.forget(ids).await?),
        }
    }
}
