//! What two trees have in another way. Guests may have put anything there: no link is followed, and nothing
//! is opened but folders.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::sys::stat::FileStat;
use serde::Serialize;

use super::walk::{self, DEEP, entries, folder, inner, is_file, is_folder};

/// So many files, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub files: u64,
    pub bytes: u64,
}

/// What one tree has, seen from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Only the first has them.
    pub more: Count,
    /// Both have them, with another content, or other permissions; the bytes are the first's.
    pub changed: Count,
    /// Only the second has them.
    pub less: Count,
}

impl Count {
    fn add(&mut self, meta: &FileStat) {
        self.files += 1;
        self.bytes += u64::try_from(meta.st_size).unwrap_or_default();
    }
}

/// The trees of two images of machined's; none where one is a disk image.
///
/// # Errors
/// When one cannot be read.
pub fn trees(first: &str, second: &str) -> io::Result<Option<Difference>> {
    let machines = Path::new("/var/lib/machines");
    let (first, second) = (machines.join(first), machines.join(second));
    if !first.is_dir() || !second.is_dir() {
        return Ok(None);
    }
    let mut difference = Difference::default();
    both(folder(&first)?, folder(&second)?, &mut difference, DEEP)?;
    Ok(Some(difference))
}

/// How many plain files a copy of a tree lacks, or has shorter, of those that were not touched since a moment.
///
/// # Errors
/// When one cannot be read.
pub fn lost(from: &str, to: &str, since: i64) -> io::Result<u64> {
    let machines = Path::new("/var/lib/machines");
    let (from, to) = (machines.join(from), machines.join(to));
    if !from.is_dir() || !to.is_dir() {
        return Ok(0);
    }
    let mut count = 0;
    lost_below(folder(&from)?, Some(folder(&to)?), since, &mut count, DEEP)?;
    Ok(count)
}

fn lost_below(from: OwnedFd, to: Option<OwnedFd>, since: i64, count: &mut u64, deep: u32) -> nix::Result<()> {
    let deep = deep.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    let mut from = Dir::from_fd(from)?;
    let has = entries(&mut from)?;
    let mut to = to.map(Dir::from_fd).transpose()?;
    let copied = to.as_mut().map(entries).transpose()?.unwrap_or_default();
    for (name, meta) in has {
        if is_folder(&meta) {
            let Some(one) = inner(&from, &name)? else { continue };
            let other = match &to {
                Some(to) if copied.get(&name).is_some_and(is_folder) => inner(to, &name)?,
                _ => None,
            };
            lost_below(one, other, since, count, deep)?;
        } else if is_file(&meta) && meta.st_ctime < since {
            let same = copied.get(&name).is_some_and(|copy| copy.st_size == meta.st_size);
            *count += u64::from(!same);
        }
    }
    Ok(())
}

/// How much is in an image's tree.
///
/// # Errors
/// When it cannot be read.
pub fn size(image: &str) -> io::Result<Count> {
    let path = Path::new("/var/lib/machines").join(image);
    let mut count = Count::default();
    match folder(&path) {
        Ok(tree) => walk::all(tree, DEEP, &mut |_, _, meta| {
            count.add(meta);
            Ok(())
        })?,
        Err(_) => {
            let meta = std::fs::metadata(path.with_file_name(format!("{image}.raw")))?;
            count = Count { files: 1, bytes: meta.len() };
        }
    }
    Ok(count)
}

fn both(first: OwnedFd, second: OwnedFd, difference: &mut Difference, deep: u32) -> nix::Result<()> {
    let deep = deep.checked_sub(1).ok_or(Errno::ENAMETOOLONG)?;
    let (mut first, mut second) = (Dir::from_fd(first)?, Dir::from_fd(second)?);
    let (has, mut other) = (entries(&mut first)?, entries(&mut second)?);
    for (name, meta) in has {
        match other.remove(&name) {
            Some(was) if is_folder(&meta) && is_folder(&was) => {
                if let (Some(one), Some(other)) = (inner(&first, &name)?, inner(&second, &name)?) {
                    both(one, other, difference, deep)?;
                }
            }
            Some(was) => {
                let of = |meta: &FileStat| {
                    (meta.st_mode, meta.st_size, meta.st_mtime, meta.st_mtime_nsec, meta.st_uid)
                };
                if of(&meta) != of(&was) {
                    difference.changed.add(&meta);
                }
            }
            None => alone(&first, &name, &meta, &mut difference.more, deep)?,
        }
    }
    other.iter().try_for_each(|(name, meta)| alone(&second, name, meta, &mut difference.less, deep))
}

fn alone(folder: &Dir, name: &CString, meta: &FileStat, count: &mut Count, deep: u32) -> nix::Result<()> {
    walk::below(folder, name, meta, deep, &mut |_, _, meta| {
        count.add(meta);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_differs_is_counted_and_no_link_is_followed() {
        let folders = tempfile::tempdir().unwrap();
        let at = |path: &str| folders.path().join(path);
        for tree in ["a", "b"] {
            fs::create_dir_all(at(tree).join("etc")).unwrap();
            fs::write(at(tree).join("etc/same"), "1234").unwrap();
            let old = std::time::UNIX_EPOCH;
            fs::File::open(at(tree).join("etc/same")).unwrap().set_modified(old).unwrap();
            let longer = if tree == "a" { "12" } else { "1" };
            fs::write(at(tree).join("etc/changed"), longer).unwrap();
        }
        std::os::unix::fs::symlink("/", at("a/out")).unwrap();
        fs::create_dir(at("a/new")).unwrap();
        fs::write(at("a/new/file"), "12345").unwrap();
        fs::write(at("b/gone"), "123").unwrap();
        let mut difference = Difference::default();
        both(folder(&at("a")).unwrap(), folder(&at("b")).unwrap(), &mut difference, DEEP).unwrap();
        assert_eq!(difference.more, Count { files: 2, bytes: 6 });
        assert_eq!(difference.less, Count { files: 1, bytes: 3 });
        assert_eq!(difference.changed, Count { files: 1, bytes: 2 });
    }

    #[test]
    fn what_a_copy_lacks_is_counted() {
        let folders = tempfile::tempdir().unwrap();
        let at = |path: &str| folders.path().join(path);
        fs::create_dir_all(at("from/deep/er")).unwrap();
        fs::create_dir_all(at("to/deep")).unwrap();
        for (file, text) in [("from/same", "12"), ("to/same", "12"), ("from/short", "123"), ("to/short", "1")]
        {
            fs::write(at(file), text).unwrap();
        }
        fs::write(at("from/deep/er/gone"), "1").unwrap();
        std::os::unix::fs::symlink("/", at("from/out")).unwrap();
        let lost = |since| {
            let mut count = 0;
            lost_below(folder(&at("from")).unwrap(), folder(&at("to")).ok(), since, &mut count, DEEP)
                .unwrap();
            count
        };
        assert_eq!(lost(i64::MAX), 2);
        assert_eq!(lost(0), 0, "what is newer than the copy is none of its matter");
    }
}
