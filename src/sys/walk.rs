//! Through trees whose owners may have put anything there: no link is followed, and nothing is opened but folders.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

/// How deep folders are looked into: no path that a program can name has more, and a guest may make them deeper.
pub const DEEP: u32 = 2048;

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

pub fn folder(path: &Path) -> nix::Result<OwnedFd> {
    open(path, FOLDER, Mode::empty())
}

/// What is in a folder, by name.
pub fn entries(folder: &mut Dir) -> nix::Result<BTreeMap<CString, FileStat>> {
    let names: Vec<CString> =
        folder.iter().filter_map(Result::ok).map(|entry| entry.file_name().to_owned()).collect();
    let mut entries = BTreeMap::new();
    for name in names.into_iter().filter(|name| ![&b"."[..], b".."].contains(&name.to_bytes())) {
        match fstatat(&*folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(meta) => _ = entries.insert(name, meta),
            // Gone by now.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(entries)
}

pub fn is_file(meta: &FileStat) -> bool {
    meta.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
}

pub fn is_folder(meta: &FileStat) -> bool {
    meta.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// A folder in one; none where it has gone, or is something else by now.
pub fn inner(folder: &Dir, name: &CString) -> nix::Result<Option<OwnedFd>> {
    match openat(folder, name.as_c_str(), FOLDER, Mode::empty()) {
        Ok(inner) => Ok(Some(inner)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What is told of each file that is no folder: the folder that it is in, its name, and what it is.
pub type Visit<'v> = &'v mut dyn FnMut(&Dir, &CString, &FileStat) -> nix::Result<()>;

/// Visits all that is below a folder.
///
/// # Errors
/// When something cannot be read, or lies too deep; and those of the visit.
pub fn all(folder: OwnedFd, deep: u32, visit: Visit) -> nix::Result<()> {
    let deep = deep.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    let mut folder = Dir::from_fd(folder)?;
    let entries = entries(&mut folder)?;
    entries.iter().try_for_each(|(name, meta)| below(&folder, name, meta, deep, visit))
}

/// Visits one entry of a folder, and all that is below.
///
/// # Errors
/// As of [`all`].
pub fn below(folder: &Dir, name: &CString, meta: &FileStat, deep: u32, visit: Visit) -> nix::Result<()> {
    if !is_folder(meta) {
        return visit(folder, name, meta);
    }
    inner(folder, name)?.map_or(Ok(()), |inner| all(inner, deep, visit))
}
