//! What goes wrong on a host.

use std::io;

use super::archive::ArchiveError;
use super::bird::BirdError;
use super::build::BuildError;
use super::carry::CarryError;
use super::{
    BtrfsError, BusError, CredentialError, DiskError, EtcdError, GuestError, LimitError, LockError,
    MountError, NetError, NftError, QuotaError, ResticError, TrialError,
};
use crate::hint::Hint;

/// What went wrong on this host. The text and the hint are those of the part that it comes from.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum Error {
    Archive(#[from] ArchiveError),
    Btrfs(#[from] BtrfsError),
    Build(#[from] BuildError),
    Bird(#[from] BirdError),
    Bus(#[from] BusError),
    Carry(#[from] CarryError),
    Credential(#[from] CredentialError),
    Disk(#[from] DiskError),
    Etcd(#[from] EtcdError),
    Guest(#[from] GuestError),
    Io(#[from] io::Error),
    Lock(#[from] LockError),
    Net(#[from] NetError),
    Nft(#[from] NftError),
    Limit(#[from] LimitError),
    Mount(#[from] MountError),
    Quota(#[from] QuotaError),
    Restic(#[from] ResticError),
    Trial(#[from] TrialError),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Archive(error) => error.hint(),
            Error::Btrfs(error) => error.hint(),
            Error::Build(error) => error.hint(),
            Error::Bird(error) => error.hint(),
            Error::Bus(error) => error.hint(),
            Error::Carry(error) => error.hint(),
            Error::Credential(error) => error.hint(),
            Error::Disk(error) => error.hint(),
            Error::Etcd(error) => error.hint(),
            Error::Guest(error) => error.hint(),
            Error::Io(error) => error.hint(),
            Error::Lock(error) => error.hint(),
            Error::Net(error) => error.hint(),
            Error::Nft(error) => error.hint(),
            Error::Limit(error) => error.hint(),
            Error::Mount(error) => error.hint(),
            Error::Quota(error) => error.hint(),
            Error::Restic(error) => error.hint(),
            Error::Trial(error) => error.hint(),
        }
    }
}
