//! Makes anew what a guest has: contents of plain files, folders, and links where asked.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, futimens, mkdirat};
use nix::sys::statfs::{self, FsType};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, fchown, fchownat, linkat, lseek, symlinkat};

use super::draft::{Draft, WHOLE};
use super::{CarryError, FOLDER, Terms, io};

/// How deep folders may be: each holds files open.
const DEPTH: usize = 200;
/// What something without content counts for.
const ENTRY: u64 = 4096;
/// How much is copied between two looks at the limit, and at who waits.
const PIECE: u64 = 8 << 20;
/// Files of the kernel have no size.
const SIZELESS: u64 = 16 << 20;
/// Of how many files with several names is known where they are; others come once for each name.
const SEVERAL: usize = 100_000;
/// What stays of a mode: cp(1) with the usual umask would leave as much.
const MODE: u32 = 0o755;

/// What did not come along, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    links: u64,
    astray: u64,
    special: u64,
    kernel: u64,
    unread: u64,
}

impl LeftOut {
    pub fn is_empty(&self) -> bool {
        *self == LeftOut::default()
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.links, "symbolic links (--links)"),
            (self.astray, "links that lead out of what is copied"),
            (self.special, "devices, pipes and sockets"),
            (self.kernel, "mounts of the kernel's own files"),
            (self.unread, "that cannot be read"),
        ];
        let some = kinds.iter().filter(|(count, _)| *count > 0);
        let said: Vec<String> = some.map(|(count, what)| format!("{count} {what}")).collect();
        write!(f, "{}", said.join(", "))
    }
}

/// Makes it in the draft; it is on the disk then.
pub fn bring(found: &OwnedFd, shown: &str, draft: &Draft, terms: &Terms) -> Result<LeftOut, CarryError> {
    let mut bringing =
        Bringing { terms, draft, spent: 0, made: BTreeMap::new(), depth: 0, left_out: LeftOut::default() };
    let stat = fstat(found).map_err(io(format!("{shown} cannot be read")))?;
    match kind(stat) {
        SFlag::S_IFREG => bringing.file(found, stat, &draft.folder, Path::new(WHOLE))?,
        SFlag::S_IFDIR => bringing.folder(found, stat, &draft.folder, Path::new(WHOLE))?,
        _ => return Err(CarryError::Special(shown.to_owned())),
    }
    nix::unistd::syncfs(&draft.folder).map_err(io(format!("{shown} cannot be written to the disk")))?;
    Ok(bringing.left_out)
}

pub fn kind(stat: FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// The names in a folder.
pub fn names(folder: &OwnedFd) -> nix::Result<Vec<OsString>> {
    let mut dir = nix::dir::Dir::openat(folder, ".", FOLDER, Mode::empty())?;
    let names = dir.iter().map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
    let mut names = names.collect::<nix::Result<Vec<_>>>()?;
    names.retain(|name| name != "." && name != "..");
    Ok(names)
}

/// Opens what an O_PATH descriptor stands for: that very thing, whatever has its name by now.
fn reopen(found: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    open(path.as_str(), flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK, Mode::empty())
}

/// Whether a link in a folder this deep stays in the tree: up by real folders first, then down.
fn stays_within(target: &Path, depth: usize) -> bool {
    let parts: Vec<Component> = target.components().filter(|part| *part != Component::CurDir).collect();
    let up = parts.iter().take_while(|part| **part == Component::ParentDir).count();
    up <= depth && parts[up..].iter().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether these are files of the kernel's, which do not end, or say things of the host.
fn is_kernels(found: &OwnedFd) -> bool {
    const SYSFS: FsType = FsType(0x6265_6572);
    const DEBUGFS: FsType = FsType(0x6462_6720);
    const TRACEFS: FsType = FsType(0x7472_6163);
    const BPF: FsType = FsType(0xcafe_4a11_u32 as _);
    let kernels = [statfs::PROC_SUPER_MAGIC, statfs::CGROUP2_SUPER_MAGIC, SYSFS, DEBUGFS, TRACEFS, BPF];
    statfs::fstatfs(found).is_ok_and(|fs| kernels.contains(&fs.filesystem_type()))
}

type Done = Result<(), CarryError>;

/// Counts what does not come along.
fn leave(kind: &mut u64) -> Done {
    *kind += 1;
    Ok(())
}

/// The last part of a path in the draft: every one there has a name.
fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

struct Bringing<'a> {
    terms: &'a Terms,
    draft: &'a Draft,
    spent: u64,
    /// Files with several names, by where they are in the draft.
    made: BTreeMap<(u64, u64), PathBuf>,
    depth: usize,
    left_out: LeftOut,
}

impl Bringing<'_> {
    fn spend(&mut self, bytes: u64) -> Done {
        if self.terms.stop.load(Ordering::Relaxed) {
            return Err(CarryError::Interrupted);
        }
        self.spent = self.spent.saturating_add(bytes);
        if self.spent > self.terms.limit { Err(CarryError::TooLarge(self.terms.limit)) } else { Ok(()) }
    }

    /// Everything in a folder, in one of the same name.
    fn folder(&mut self, found: &OwnedFd, stat: FileStat, into: &OwnedFd, path: &Path) -> Done {
        let name = name_of(path);
        let cannot = || io(format!("{} cannot be made", name.display()));
        self.spend(ENTRY)?;
        let Ok(from) = reopen(found, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else {
            return leave(&mut self.left_out.unread);
        };
        mkdirat(into, name, Mode::S_IRWXU).map_err(cannot())?;
        let made = openat(into, name, FOLDER, Mode::empty()).map_err(cannot())?;
        for name in names(&from).map_err(cannot())? {
            self.entry(&from, stat, &made, &path.join(&name))?;
        }
        finish(&made, stat, Mode::S_IRWXU, self.terms).map_err(cannot())
    }

    /// One thing in a folder.
    fn entry(&mut self, from: &OwnedFd, above: FileStat, into: &OwnedFd, path: &Path) -> Done {
        let name = name_of(path);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(from, name, flags, Mode::empty()).and_then(|found| Ok((fstat(&found)?, found)));
        let (stat, found) = match opened {
            Ok(opened) => opened,
            // Deleted meanwhile.
            Err(Errno::ENOENT) => return Ok(()),
            Err(_) => return leave(&mut self.left_out.unread),
        };
        if stat.st_dev != above.st_dev && is_kernels(&found) {
            return leave(&mut self.left_out.kernel);
        }
        match kind(stat) {
            SFlag::S_IFREG => self.file(&found, stat, into, path),
            SFlag::S_IFDIR if self.depth >= DEPTH => Err(CarryError::TooDeep(DEPTH)),
            SFlag::S_IFDIR => {
                self.depth += 1;
                self.folder(&found, stat, into, path)?;
                self.depth -= 1;
                Ok(())
            }
            SFlag::S_IFLNK => self.link(&found, into, name),
            _ => leave(&mut self.left_out.special),
        }
    }

    fn link(&mut self, found: &OwnedFd, into: &OwnedFd, name: &OsStr) -> Done {
        if !self.terms.links {
            return leave(&mut self.left_out.links);
        }
        self.spend(ENTRY)?;
        match readlinkat(found, "") {
            Ok(target) if stays_within(Path::new(&target), self.depth) => {
                let cannot = || io(format!("the link {} cannot be made", name.display()));
                symlinkat(&*target, into, name).map_err(cannot())?;
                let Some((uid, gid)) = self.terms.owner else { return Ok(()) };
                fchownat(into, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(cannot())
            }
            _ => leave(&mut self.left_out.astray),
        }
    }

    fn file(&mut self, found: &OwnedFd, stat: FileStat, into: &OwnedFd, path: &Path) -> Done {
        let name = name_of(path);
        let failed = |error| CarryError::Io(format!("{} cannot be copied", name.display()), error);
        self.spend(ENTRY)?;
        let several = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        if let Some(first) = several.and_then(|key| self.made.get(&key))
            && linkat(&self.draft.folder, first.as_path(), into, name, AtFlags::empty()).is_ok()
        {
            return Ok(());
        }
        let Ok(from) = reopen(found, OFlag::O_RDONLY) else { return leave(&mut self.left_out.unread) };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(into, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed(e.into()))?;
        let (from, mut to) = (File::from(from), File::from(made));
        self.content(&from, &mut to, u64::try_from(stat.st_size).unwrap_or(0), &failed)?;
        finish(&OwnedFd::from(to), stat, Mode::empty(), self.terms).map_err(|errno| failed(errno.into()))?;
        if let Some(key) = several.filter(|_| self.made.len() < SEVERAL) {
            self.made.insert(key, path.to_owned());
        }
        Ok(())
    }

    /// As much as it was long when it was opened: a file that grows would not end. Holes stay holes.
    fn content(
        &mut self,
        from: &File,
        to: &mut File,
        size: u64,
        failed: &dyn Fn(std::io::Error) -> CarryError,
    ) -> Done {
        let end = if size == 0 { SIZELESS } else { size };
        let mut at = 0;
        while at < end {
            let (begin, stop) = if size == 0 { (at, end) } else { extent(from, at, end) };
            let length = PIECE.min(stop.saturating_sub(begin));
            if length == 0 {
                break;
            }
            // Before it is written: a full disk is nobody's friend.
            self.spend(if size == 0 { 0 } else { length })?;
            { from }.seek(SeekFrom::Start(begin)).map_err(failed)?;
            to.seek(SeekFrom::Start(begin)).map_err(failed)?;
            let copied = std::io::copy(&mut from.take(length), to).map_err(failed)?;
            if copied == 0 {
                break;
            }
            at = begin + copied;
        }
        if size > 0 { to.set_len(size).map_err(failed) } else { Ok(()) }
    }
}

/// The next piece of a file with something in it; where the file system does not tell, all.
fn extent(from: &File, at: u64, end: u64) -> (u64, u64) {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(|_| Errno::EINVAL)?;
        lseek(from, at, whence).map(|found| u64::try_from(found).unwrap_or(end))
    };
    match seek(at, Whence::SeekData) {
        Ok(begin) => (begin.min(end), seek(begin, Whence::SeekHole).unwrap_or(end).min(end)),
        Err(Errno::ENXIO) => (end, end),
        Err(_) => (at, end),
    }
}

/// Its owner, its mode, without what grants rights, and its time.
fn finish(made: &OwnedFd, stat: FileStat, least: Mode, terms: &Terms) -> nix::Result<()> {
    if let Some((uid, gid)) = terms.owner {
        fchown(made, Some(uid), Some(gid))?;
    }
    fchmod(made, Mode::from_bits_truncate(stat.st_mode & MODE) | least)?;
    let time = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    futimens(made, &time, &time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_what_is_copied() {
        for (target, depth, stays) in [
            ("file", 0, true),
            ("./a/b", 0, true),
            ("../file", 1, true),
            ("../file", 0, false),
            ("/etc/cron.d", 3, false),
            ("../../x", 1, false),
            // Up again behind a link that leads nowhere near.
            ("here/here/../../..", 0, false),
            ("a/../b", 5, false),
            ("..", 1, true),
            (".", 0, true),
        ] {
            assert_eq!(stays_within(Path::new(target), depth), stays, "{target} at {depth}");
        }
    }
}
