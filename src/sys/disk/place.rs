//! The way to a file below a root.

use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::{Disk, DiskError};
use crate::sys::within;

/// Where a file is, or is to be. Below a foreign root its folder is open: whatever is renamed and
/// linked there meanwhile, the way leads into the folder that was found.
pub(super) struct Place {
    /// As people know it.
    path: PathBuf,
    /// As the kernel is told it.
    way: PathBuf,
    _folder: Option<OwnedFd>,
}

impl Place {
    fn of_this_host(path: &Path) -> Place {
        Place { path: path.to_owned(), way: path.to_owned(), _folder: None }
    }

    fn within(folder: OwnedFd, path: PathBuf) -> Place {
        let open = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let way = path.file_name().map_or(open.clone(), |name| open.join(name));
        Place { path, way, _folder: Some(folder) }
    }

    pub fn way(&self) -> &Path {
        &self.way
    }

    pub fn folder(&self) -> &Path {
        self.way.parent().unwrap_or(&self.way)
    }

    /// What went wrong there, by the name that people know.
    pub fn failed(&self, doing: &'static str) -> impl Fn(Error) -> DiskError {
        let path = self.path.clone();
        move |error| DiskError::At { doing, path: path.clone(), source: without_path(error) }
    }
}

/// tempfile tells its own path, which is a draft's.
fn without_path(error: Error) -> Error {
    let inner = error.get_ref().and_then(std::error::Error::source);
    let code = inner.and_then(|inner| inner.downcast_ref::<Error>()?.raw_os_error());
    code.map_or(error, Error::from_raw_os_error)
}

/// Services read what is in it, whatever root's umask is; what is private is so itself.
fn make_folder(path: impl AsRef<Path>) -> Result<()> {
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o755))),
    }
}

impl Disk {
    /// Where a path of the host is, seen from us. Links in the way to it are followed as on that
    /// host: none leads out of a foreign root (openat2(2), RESOLVE_IN_ROOT). The last part
    /// may be a link itself: who replaces or removes it does not follow it.
    pub(super) fn at(&self, path: &Path) -> Result<Place> {
        if self.is_this_host() {
            return Ok(Place::of_this_host(path));
        }
        let folder = self.open(path.parent().unwrap_or(path), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        Ok(Place::within(folder.into(), self.shown(path)))
    }

    /// The same; the folders that lead to it are made where they are missing.
    pub(super) fn make_way(&self, path: &Path) -> std::result::Result<Place, DiskError> {
        let folder = path.parent().unwrap_or(path);
        let failed = |source| DiskError::At { doing: "make the folder", path: self.shown(folder), source };
        if self.is_this_host() {
            let missing: Vec<&Path> = folder.ancestors().take_while(|above| !above.exists()).collect();
            missing.into_iter().rev().try_for_each(make_folder).map_err(failed)?;
        }
        match self.at(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && folder != path => {
                make_folder(self.make_way(folder)?.way()).map_err(failed)?;
                self.at(path).map_err(failed)
            }
            place => place.map_err(failed),
        }
    }

    /// Opens what a path leads to, the last part of it followed, too.
    pub(super) fn open(&self, path: &Path, flags: OFlag) -> Result<File> {
        let flags = flags | OFlag::O_CLOEXEC;
        let opened = if self.is_this_host() {
            nix::fcntl::open(path, flags, Mode::empty())?
        } else {
            within::open(&File::open(&self.root)?, path, flags)?
        };
        Ok(opened.into())
    }

    /// A path as it is told, the root before it.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What went wrong at a path.
    pub(super) fn failed(&self, doing: &'static str, path: &Path) -> impl Fn(Error) -> DiskError {
        let path = self.shown(path);
        move |source| DiskError::At { doing, path: path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A link of the tree means what it means on that host; nothing is read or written outside.
    #[test]
    fn links_do_not_lead_out_of_a_root() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::new(root.path());
        fs::write(outside.path().join("secret"), "theirs").unwrap();
        symlink(outside.path(), root.path().join("etc")).unwrap();
        symlink("../../../../../../..", root.path().join("up")).unwrap();
        symlink(outside.path().join("secret"), root.path().join("secret")).unwrap();
        assert!(disk.write_private(Path::new("/etc/x"), "y").is_err());
        assert!(!outside.path().join("x").exists());
        for path in ["/etc/secret", "/secret", "/../secret"] {
            assert_eq!(disk.read(Path::new(path)).unwrap(), None, "{path}");
            assert!(!disk.exists(Path::new(path)) && disk.mode(Path::new(path)).is_none(), "{path}");
        }
        disk.write_private(Path::new("/up/usr/lib/x"), "y").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("usr/lib/x")).unwrap(), "y");
        symlink("/usr", root.path().join("opt")).unwrap();
        assert_eq!(disk.read(Path::new("/opt/lib/x")).unwrap().as_deref(), Some("y"));
        assert_eq!(disk.names(Path::new("/opt/lib")).unwrap(), ["x"]);
    }

    /// Somebody in the tree puts a link where a folder was, again and again.
    #[test]
    fn a_folder_that_becomes_a_link_meanwhile_leads_nowhere_else() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::new(root.path());
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        symlink(outside.path(), at("link")).unwrap();
        let done = AtomicBool::new(false);
        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (cwd, one, other) = (nix::fcntl::AT_FDCWD, at("folder"), at("link"));
                    nix::fcntl::renameat2(cwd, &one, cwd, &other, flags).unwrap();
                }
            });
            let path = Path::new("/folder/x");
            let (mut tries, mut written) = (0, 0);
            // On a busy machine it may be long in the one place, or in the other.
            while tries < 2000 || written == 0 {
                written += u32::from(disk.write_private(path, "y").is_ok());
                let _ = disk.remove(path);
                tries += 1;
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
