//! What a tree may take of its disk: simple quotas of btrfs (btrfs-quota(5)), project quotas of XFS and
//! ext4 (quotactl(2)).

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, fstatfs};

use crate::hint::Hint;

mod btrfs;
mod project;

const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

/// Why a tree is not limited.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error("{0} cannot be read")]
    Open(PathBuf, #[source] Errno),
    #[error("{0} is a disk image, which is as large as it is")]
    Image(PathBuf),
    #[error("the file system of {0} cannot limit what a folder takes")]
    Unable(PathBuf),
    #[error("{0} is no subvolume, and btrfs limits nothing else")]
    NoSubvolume(PathBuf),
    #[error(
        "this kernel's btrfs has no simple quotas, and others a machine gets round by subvolumes of its own"
    )]
    Old,
    #[error("btrfs counts by groups here, which a machine gets round by subvolumes of its own")]
    Groups,
    #[error("the file system of {0} has no project quotas")]
    Off(PathBuf),
    #[error("{0} cannot be limited")]
    Refused(PathBuf, #[source] Errno),
}

impl Hint for QuotaError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            QuotaError::Image(path) => format!("`truncate` and the guest's own tools change how large: {}", path.display()),
            QuotaError::Unable(_) => "btrfs, XFS and ext4 can: take `disk` out of [limits], or move the trees there".into(),
            QuotaError::NoSubvolume(path) => format!(
                "`btrfs subvolume create` another, `cp -a --reflink` {} into it, and let it take the old one's place",
                path.display()
            ),
            QuotaError::Old => "Linux has them since 6.7; until then, take `disk` out of [limits]".into(),
            QuotaError::Groups => "`btrfs quota disable /var/lib/machines` lets nsctl turn on simple ones".into(),
            QuotaError::Off(_) => {
                "mount it with the option prjquota (ext4: `tune2fs -O project,quota -Q prjquota` before); of the root \
                 file system the kernel's rootflags= says so"
                    .into()
            }
            QuotaError::Open(..) | QuotaError::Refused(..) => return None,
        })
    }
}

/// Lets the tree of this name take so many bytes, as from now; none: as many as there are.
///
/// # Errors
/// When its file system cannot, or does not.
pub fn limit(name: &str, bytes: Option<u64>) -> Result<(), QuotaError> {
    let path = Path::new("/var/lib/machines").join(name);
    let image = path.with_file_name(format!("{name}.raw"));
    if !path.is_dir() && image.exists() {
        return if bytes.is_none() { Ok(()) } else { Err(QuotaError::Image(image)) };
    }
    limit_at(&path, bytes)
}

fn limit_at(path: &Path, bytes: Option<u64>) -> Result<(), QuotaError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let tree = open(path, flags, Mode::empty()).map_err(|errno| QuotaError::Open(path.to_owned(), errno))?;
    let tree = File::from(tree);
    let kind = fstatfs(&tree).map_err(|errno| QuotaError::Open(path.to_owned(), errno))?.filesystem_type();
    match kind {
        BTRFS_SUPER_MAGIC => btrfs::limit(&tree, path, bytes),
        XFS_SUPER_MAGIC | EXT4_SUPER_MAGIC => project::limit(&tree, path, bytes),
        _ if bytes.is_none() => Ok(()),
        _ => Err(QuotaError::Unable(path.to_owned())),
    }
}
