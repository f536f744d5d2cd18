//! Where it goes. The user named the place, and so the links on the way to its folder are
//! the user's; from there on no link is followed, and none is replaced.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::bring::{kind, names};
use super::draft::{Draft, WHOLE};
use super::{CarryError, FOLDER, io};
use crate::sys::tree::Tree;
use crate::sys::within;

/// A name in a folder that we hold open.
#[derive(Debug)]
pub struct Target {
    pub parent: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

impl Target {
    /// The place that the user named; in a folder what comes gets its own name.
    ///
    /// # Errors
    /// When the last part is a link, or the folder is not there.
    pub fn of(word: &str, own_name: &OsStr) -> Result<Target, CarryError> {
        let failed = |error| CarryError::Io(format!("{word} cannot be reached"), error);
        // Without the '/' at the end, with which a link would be followed.
        let path: PathBuf = std::path::absolute(word).map_err(failed)?.components().collect();
        let meta = path.symlink_metadata();
        if meta.as_ref().is_ok_and(std::fs::Metadata::is_symlink) {
            return Err(CarryError::Link(path.display().to_string()));
        }
        let is_folder = meta.is_ok_and(|meta| meta.is_dir());
        if !is_folder && word.ends_with('/') {
            return Err(CarryError::NoFolder(word.to_owned()));
        }
        let (folder, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if !is_folder => (parent, name),
            _ => (path.as_path(), own_name),
        };
        let missing = |_| CarryError::NoFolder(folder.display().to_string());
        let flags = if is_folder { FOLDER } else { FOLDER.difference(OFlag::O_NOFOLLOW) };
        let parent = nix::fcntl::open(folder, flags, Mode::empty()).map_err(missing)?;
        Ok(Target { parent, name: name.to_owned(), shown: folder.join(name) })
    }

    /// A place in the tree of a machine that is stopped: links lead nowhere but there.
    ///
    /// # Errors
    /// When the folder is not there, or the last part is a link.
    pub fn within(tree: &Tree, path: &Path, own_name: &OsStr, shown: &str) -> Result<Target, CarryError> {
        let missing = || CarryError::NoFolder(shown.to_owned());
        let root = tree.folder().map_err(|_| missing())?;
        let path_only = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let stat = within::open(&root, path, path_only).and_then(fstat).map(kind);
        if stat == Ok(SFlag::S_IFLNK) {
            return Err(CarryError::Link(shown.to_owned()));
        }
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") && stat != Ok(SFlag::S_IFDIR) {
            return Err(missing());
        }
        let (folder, name) = match (stat, path.parent(), path.file_name()) {
            (Ok(SFlag::S_IFDIR), ..) => (path, own_name),
            (_, Some(parent), Some(name)) => (parent, name),
            _ => return Err(missing()),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let parent = within::open(&root, folder, flags).map_err(|_| missing())?;
        Ok(Target { parent, name: name.to_owned(), shown: folder.join(name) })
    }

    pub fn shown(&self) -> String {
        self.shown.display().to_string()
    }

    /// Whether something of this kind may go there, before it is fetched.
    pub fn must_take(&self, found: &OwnedFd, force: bool) -> Result<(), CarryError> {
        let comes = fstat(found).map_err(io(format!("{} cannot be made", self.shown())))?;
        let there = there(&self.parent, &self.name).map_err(io(self.shown()))?;
        let stays = verdict(comes, there, &self.shown)?;
        if stays == Merge::Free || force { Ok(()) } else { Err(CarryError::Taken(self.shown())) }
    }

    /// Moves what is in the draft there; it is on the disk then.
    pub fn take(&self, draft: &Draft, force: bool) -> Result<(), CarryError> {
        let whole = OsStr::new(WHOLE);
        let failed = || io(format!("{} cannot be put there", self.shown()));
        crate::sys::fault::point();
        match renameat2(&draft.folder, whole, &self.parent, &*self.name, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            // Not every file system knows how (rename(2), EINVAL).
            Err(Errno::EEXIST) | Err(Errno::EINVAL) => {
                let ends =
                    Ends { from: &draft.folder, from_name: whole, to: &self.parent, to_name: &self.name };
                ends.check(&self.shown, force)?;
                ends.put(&self.shown)?;
            }
            Err(errno) => return Err(failed()(errno)),
        }
        nix::unistd::fsync(&self.parent).map_err(failed())
    }
}

/// What is to be done with what is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Free,
    Replace,
    Fill,
}

fn there(folder: &OwnedFd, name: &OsStr) -> nix::Result<Option<FileStat>> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        found => found.map(Some),
    }
}

fn verdict(comes: FileStat, there: Option<FileStat>, path: &Path) -> Result<Merge, CarryError> {
    let shown = || path.display().to_string();
    match (kind(comes), there.map(kind)) {
        (_, None) => Ok(Merge::Free),
        // One that came the last time, say.
        (SFlag::S_IFLNK, Some(SFlag::S_IFLNK)) => Ok(Merge::Replace),
        (_, Some(SFlag::S_IFLNK)) => Err(CarryError::Link(shown())),
        (SFlag::S_IFDIR, Some(SFlag::S_IFDIR)) => Ok(Merge::Fill),
        (SFlag::S_IFREG | SFlag::S_IFLNK, Some(SFlag::S_IFREG)) => Ok(Merge::Replace),
        _ => Err(CarryError::Unlike(shown())),
    }
}

/// Something in the draft, and where it goes.
struct Ends<'a> {
    from: &'a OwnedFd,
    from_name: &'a OsStr,
    to: &'a OwnedFd,
    to_name: &'a OsStr,
}

impl Ends<'_> {
    fn way(&self, path: &Path) -> Result<Merge, CarryError> {
        let cannot = || io(path.display().to_string());
        let comes = fstatat(self.from, self.from_name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(cannot())?;
        verdict(comes, there(self.to, self.to_name).map_err(cannot())?, path)
    }

    /// Whether all of it can go there: nothing has been moved yet.
    fn check(&self, path: &Path, force: bool) -> Result<(), CarryError> {
        match self.way(path)? {
            Merge::Free => Ok(()),
            _ if !force => Err(CarryError::Taken(path.display().to_string())),
            Merge::Replace => Ok(()),
            Merge::Fill => self.each(path, &|ends, path| ends.check(path, force)),
        }
    }

    /// Moves it. Somebody may have put a link there meanwhile: a move replaces it, and follows none.
    fn put(&self, path: &Path) -> Result<(), CarryError> {
        let cannot = || io(format!("{} cannot be put there", path.display()));
        match self.way(path)? {
            Merge::Free | Merge::Replace => {
                renameat(self.from, self.from_name, self.to, self.to_name).map_err(cannot())
            }
            Merge::Fill => self.each(path, &|ends, path| ends.put(path)),
        }
    }

    fn each(
        &self,
        path: &Path,
        act: &dyn Fn(&Ends<'_>, &Path) -> Result<(), CarryError>,
    ) -> Result<(), CarryError> {
        let cannot = || io(path.display().to_string());
        let from = openat(self.from, self.from_name, FOLDER, Mode::empty()).map_err(cannot())?;
        let to = openat(self.to, self.to_name, FOLDER, Mode::empty()).map_err(cannot())?;
        for name in &names(&from).map_err(cannot())? {
            act(&Ends { from: &from, from_name: name, to: &to, to_name: name }, &path.join(name))?;
        }
        nix::unistd::fsync(&to).map_err(cannot())
    }
}
