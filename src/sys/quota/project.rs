//! Project quotas: each file of a tree is of a project, and what the guest makes in a folder is of the folder's.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::QuotaError;

/// linux/fs.h
mod ioctl {
    #[repr(C)]
    #[derive(Default)]
    pub struct Attributes {
        pub flags: u32,
        pub sizes: [u32; 2],
        pub project: u32,
        pub rest: [u32; 3],
    }

    nix::ioctl_read!(get, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set, b'X', 32, Attributes);
}

/// `FS_XFLAG_PROJINHERIT`.
const INHERIT: u32 = 0x200;
/// `QIF_BLIMITS`: of what is told, the limits of blocks hold.
const LIMITS: u32 = 1;
/// `PRJQUOTA`.
const PROJECT: libc::c_int = 2;
/// How deep folders may lie: no path that a program can name has more.
const DEEP: u32 = 2048;
/// Blocks of quotactl(2), in bytes.
const BLOCK: u64 = 1024;

pub fn limit(tree: &File, path: &Path, bytes: Option<u64>) -> Result<(), QuotaError> {
    let refused = |errno| QuotaError::Refused(path.to_owned(), errno);
    let project = match attributes(tree).map_err(refused)?.project {
        0 if bytes.is_none() => return Ok(()),
        0 => new_project(tree).map_err(refused)?,
        known => known,
    };
    // Before files are of it: so it is known whether the file system counts at all.
    let blocks = bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK));
    set_limit(tree, project, blocks).map_err(|errno| match errno {
        Errno::ESRCH | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENOTTY => QuotaError::Off(path.to_owned()),
        errno => refused(errno),
    })?;
    let root = tree.as_fd().try_clone_to_owned().map_err(|_| refused(Errno::EMFILE))?;
    if bytes.is_some() { assign(root, project, DEEP).map_err(refused) } else { Ok(()) }
}

/// One that no other tree has: of the inode, and when it was made.
fn new_project(tree: &File) -> nix::Result<u32> {
    let meta = tree.metadata().map_err(|_| Errno::EIO)?;
    let mut hasher = DefaultHasher::new();
    (meta.ino(), meta.created().ok()).hash(&mut hasher);
    // Small ones may be somebody's own.
    Ok((hasher.finish() as u32 >> 1) | 1 << 30)
}

fn attributes(file: &impl AsRawFd) -> nix::Result<ioctl::Attributes> {
    let mut attributes = ioctl::Attributes::default();
    // SAFETY: the kernel fills in a value of ours, of the size that it knows, that lives through the call.
    unsafe { ioctl::get(file.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// A folder before what is in it: what a guest that runs makes there meanwhile is of the project already. It may
/// put links and pipes anywhere: none is followed, and nothing but files and folders is opened.
fn assign(folder: OwnedFd, project: u32, deep: u32) -> nix::Result<()> {
    let deep = deep.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    set_project(&folder, project, INHERIT)?;
    let mut entries = Dir::from_fd(folder)?;
    let names: Vec<_> =
        entries.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned()).collect();
    for name in names.iter().filter(|name| ![&b"."[..], b".."].contains(&name.to_bytes())) {
        let meta = match fstatat(&entries, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            meta => meta?,
        };
        let kind = SFlag::from_bits_truncate(meta.st_mode & SFlag::S_IFMT.bits());
        let folder = kind == SFlag::S_IFDIR;
        if !folder && kind != SFlag::S_IFREG {
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let flags = if folder { flags | OFlag::O_DIRECTORY } else { flags };
        match openat(&entries, name.as_c_str(), flags, Mode::empty()) {
            // It is gone, or something else, by now.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::ENXIO) => {}
            Ok(inner) if folder => assign(inner, project, deep)?,
            Ok(file) => set_project(&file, project, 0)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn set_project(file: &impl AsRawFd, project: u32, flags: u32) -> nix::Result<()> {
    let mut attributes = attributes(file)?;
    if attributes.project == project && attributes.flags & flags == flags {
        return Ok(());
    }
    attributes.project = project;
    attributes.flags |= flags;
    // SAFETY: the kernel reads a value of ours, of the size that it knows, that lives through the call.
    unsafe { ioctl::set(file.as_raw_fd(), &raw const attributes) }.map(drop)
}

/// In the file system of this file (quotactl_fd(2), Linux 5.14).
fn set_limit(tree: &File, project: u32, blocks: u64) -> nix::Result<()> {
    // SAFETY: all of it are numbers, for which 0 is one.
    let mut limits: libc::dqblk = unsafe { std::mem::zeroed() };
    limits.dqb_bhardlimit = blocks;
    limits.dqb_bsoftlimit = blocks;
    limits.dqb_valid = LIMITS;
    let command = libc::QCMD(libc::Q_SETQUOTA, PROJECT);
    // SAFETY: the kernel reads a value of ours, of the size that it knows, that lives through the call.
    let done = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, tree.as_raw_fd(), command, project, &raw const limits)
    };
    Errno::result(done).map(drop)
}
