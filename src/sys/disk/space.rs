//! What a file system has room for, and what copies cost on it.

use std::path::Path;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, FsType};

use super::Disk;
use crate::observed::Sharing;

impl Disk {
    /// Bytes that are free on the file system of a folder.
    pub fn room(&self, dir: &Path) -> u64 {
        let stat = self.at(dir).ok().and_then(|place| nix::sys::statvfs::statvfs(&place).ok());
        stat.map_or(0, |stat| stat.blocks_free() * stat.fragment_size())
    }

    /// What copies cost on the file system of a folder. XFS shares blocks since 2019's mkfs.
    pub fn sharing(&self, dir: &Path) -> Sharing {
        const XFS: FsType = FsType(0x5846_5342);
        const BCACHEFS: FsType = FsType(0xca45_1a4e_u32 as _);
        let place = self.at(dir).ok();
        match place.and_then(|place| nix::sys::statfs::statfs(&place).ok()).map(|fs| fs.filesystem_type()) {
            Some(BTRFS_SUPER_MAGIC) => Sharing::Snapshot,
            Some(kind) if kind == XFS || kind == BCACHEFS => Sharing::Reflink,
            _ => Sharing::Copy,
        }
    }
}
