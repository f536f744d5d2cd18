//! What a file system has room for, and what copies cost on it.

use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FsType};

use super::Disk;
use crate::observed::Sharing;

impl Disk {
    /// Bytes that are free on the file system of a folder.
    pub fn room(&self, dir: &Path) -> u64 {
        let folder = self.open(dir, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok();
        let stat = folder.and_then(|folder| nix::sys::statvfs::fstatvfs(&folder).ok());
        stat.map_or(0, |stat| stat.blocks_free() * stat.fragment_size())
    }

    /// What copies cost on the file system of a folder. XFS shares blocks since 2019's mkfs.
    pub fn sharing(&self, dir: &Path) -> Sharing {
        const XFS: FsType = FsType(0x5846_5342);
        const BCACHEFS: FsType = FsType(0xca45_1a4e_u32 as _);
        let folder = self.open(dir, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok();
        match folder.and_then(|folder| nix::sys::statfs::fstatfs(&folder).ok()).map(|fs| fs.filesystem_type())
        {
            Some(BTRFS_SUPER_MAGIC) => Sharing::Snapshot,
            Some(kind) if kind == XFS || kind == BCACHEFS => Sharing::Reflink,
            _ => Sharing::Copy,
        }
    }
}
