//! Files and folders of the host, seen by a machine that runs as if nspawn had bound them at its start.
//! machined's BindMountMachine refuses machines with users of their own (org.freedesktop.machine1(5)).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchdir, setfsgid, setfsuid};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{processes, within};
use crate::hint::Hint;
use crate::spec::Bind;

/// Why a machine does not see something of the host.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{0} cannot be bound")]
    Source(String, #[source] Errno),
    #[error("the machine's own files cannot be entered")]
    Enter(#[source] Errno),
    #[error("{0} cannot be had in the machine")]
    Target(String, #[source] Errno),
    #[error("{0} holds other file systems, such as {1}: those are bound when a machine starts")]
    Below(String, String),
    #[error("{0} is a folder on one side, and none on the other")]
    Kind(String),
}

impl Hint for MountError {
    fn hint(&self) -> Option<String> {
        match self {
            MountError::Source(path, _) => Some(format!("`ls -ld {path}` tells what it is")),
            MountError::Below(..) => Some("`nsctl stop` the machine before, and start it after".into()),
            MountError::Enter(_) => None,
            MountError::Target(..) | MountError::Kind(_) => {
                Some("name another place in the machine, as in \"/srv/world:/world\"".into())
            }
        }
    }
}

/// Shows it, beginning now. What the machine lacks for that is made, by its own root. Done already, where it
/// is there.
///
/// # Errors
/// When the host has no such file, or the machine no place for it.
pub fn show(leader: u32, bind: &Bind) -> Result<(), MountError> {
    let source = |errno| MountError::Source(bind.source.display().to_string(), errno);
    if let Some(below) = mounted_below(&bind.source) {
        return Err(MountError::Below(bind.source.display().to_string(), below));
    }
    let tree = copy(&bind.source).map_err(source)?;
    let what = fstat(&tree).map_err(source)?;
    let target = |errno| MountError::Target(bind.target.clone(), errno);
    enter(leader, |root, owner| {
        let place = place(root, &bind.target, is_folder(&what), owner).map_err(target)?;
        let there = fstat(&place).map_err(target)?;
        if is_same(&there, &what) {
            return Ok(());
        }
        if is_folder(&there) != is_folder(&what) {
            return Err(MountError::Kind(bind.target.clone()));
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &place, "", flags)
            .map_err(|error| target(Errno::from_raw(error.raw_os_error())))
    })
}

/// Takes it away again, as far as it is that which is there.
///
/// # Errors
/// When the machine's files cannot be entered.
pub fn hide(leader: u32, bind: &Bind) -> Result<(), MountError> {
    let Ok(what) = nix::sys::stat::stat(&bind.source) else { return Ok(()) };
    enter(leader, |root, _| {
        let path = Path::new(bind.target.trim_matches('/'));
        let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
            return Ok(());
        };
        let target = |errno| MountError::Target(bind.target.clone(), errno);
        let open = |path: &Path| within::open(root, below(path), OFlag::O_PATH);
        let Ok(there) = open(path).and_then(|place| fstat(&place)) else { return Ok(()) };
        if !is_same(&there, &what) {
            return Ok(());
        }
        // By its name in the folder that it is in: no link is followed any more.
        fchdir(open(parent).map_err(target)?).map_err(target)?;
        match umount2(name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It was there by another way, and nothing is mounted.
            Err(Errno::EINVAL) => Ok(()),
            done => done.map_err(target),
        }
    })
}

/// What is mounted below a path. A guest could take it away, and see what it hides: the kernel locks only what is
/// there when the guest starts (mount_namespaces(7)).
fn mounted_below(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut points = mounts.lines().filter_map(|line| Some(unescaped(line.split(' ').nth(4)?)));
    points.find(|point| Path::new(point) != path && Path::new(point).starts_with(&path))
}

/// Blanks and their like are told as octal numbers (proc_pid_mountinfo(5)).
fn unescaped(point: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(point.to_owned(), |point, (code, letter)| point.replace(code, letter))
}

/// A mount of its own of what a path leads to. What is mounted there on the host later is seen, too, and nothing
/// the other way round.
fn copy(source: &Path) -> nix::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, source, flags);
    let tree = tree.map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    let attributes = Attributes { set: 0, clear: 0, propagation: nix::libc::MS_SLAVE, user_namespace: 0 };
    let flags = nix::libc::AT_EMPTY_PATH | nix::libc::AT_RECURSIVE;
    // SAFETY: the kernel reads a text and a value of ours, of the size that it is told, that live through
    // the call.
    let done = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(done)?;
    Ok(tree)
}

/// mount_setattr(2), `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Does something in a machine's mounts, on a thread of its own: one that has been there is of no other use.
/// It gets the machine's root, and who is root there.
fn enter<T: Send>(
    leader: u32,
    action: impl FnOnce(&OwnedFd, u32) -> Result<T, MountError> + Send,
) -> Result<T, MountError> {
    let mounts = File::open(format!("/proc/{leader}/ns/mnt"));
    let mounts =
        mounts.map_err(|error| MountError::Enter(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    let owner = processes::uid_shift(leader).ok_or(MountError::Enter(Errno::EINVAL))?;
    let work = move || {
        unshare(CloneFlags::CLONE_FS).map_err(MountError::Enter)?;
        setns(&mounts, CloneFlags::CLONE_NEWNS).map_err(MountError::Enter)?;
        let root = File::open("/").map_err(|_| MountError::Enter(Errno::ENOENT))?;
        action(&root.into(), owner)
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or(Err(MountError::Enter(Errno::EIO)))
}

/// What a path in the machine leads to; what is missing of it is made.
fn place(root: &OwnedFd, path: &str, folder: bool, owner: u32) -> nix::Result<OwnedFd> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut parent = within::open(root, ".", OFlag::O_PATH)?;
    for (at, part) in parts.iter().enumerate() {
        let so_far = parts[..=at].join("/");
        parent = match within::open(root, so_far.as_str(), OFlag::O_PATH) {
            Err(Errno::ENOENT) => {
                make(&parent, part, folder || at + 1 < parts.len(), owner)?;
                within::open(root, so_far.as_str(), OFlag::O_PATH)?
            }
            opened => opened?,
        };
    }
    Ok(parent)
}

/// As the machine's root, who may not make it anywhere that is not his.
fn make(parent: &OwnedFd, name: &str, folder: bool, owner: u32) -> nix::Result<()> {
    setfsgid(Gid::from_raw(owner));
    setfsuid(Uid::from_raw(owner));
    let made = if folder {
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(parent, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
    };
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    made
}

fn below(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn is_folder(what: &FileStat) -> bool {
    what.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
