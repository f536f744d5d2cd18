//! Files below a root, and the ways to them.

mod error;
mod place;
mod space;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

pub use error::DiskError;
use write::DRAFT;
pub use write::FileEdit;

/// Where trees and images are.
const MACHINES: &str = "/var/lib/machines";
/// No file that others write, too, is larger.
const LIMIT: u64 = 64 << 20;
/// No file that a person writes is larger; parsed, it takes fifty times as much.
const DEFINITION_LIMIT: u64 = 1 << 20;

/// The files of a host, or of a tree that will be one.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    pub fn new(root: &Path) -> Disk {
        Disk { root: root.to_owned() }
    }

    /// The tree of a machine or image; none if there is none, or if it is a disk image.
    pub fn tree(&self, name: &str) -> Option<super::tree::Tree> {
        super::tree::Tree::at(self.at(&Path::new(MACHINES).join(name)).ok()?.way())
    }

    /// The trees and disk images there are; none is known to who may not list them, as the folder is
    /// root's alone (mode 0700).
    pub fn tree_names(&self) -> Option<BTreeSet<String>> {
        Some(self.names(Path::new(MACHINES)).ok()?.into_iter().collect())
    }

    /// Which tree that is.
    pub fn tree_identity(&self, name: &str) -> Option<crate::observed::TreeId> {
        super::tree::identity_in(self.at(&Path::new(MACHINES).join(name)).ok()?.folder(), name)
    }

    /// Whether its files are those of the host that we run on.
    pub fn is_this_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The text of a file; none if there is no file. Bytes that are no UTF-8
    /// come as U+FFFD: what is parsed from them fails, what is compared differs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &Path) -> Result<Option<String>, DiskError> {
        self.read_bounded(path, LIMIT)
    }

    /// The same of a file that a person writes.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than any of them.
    pub fn read_definition(&self, path: &Path) -> Result<Option<String>, DiskError> {
        self.read_bounded(path, DEFINITION_LIMIT)
    }

    /// Whether nobody but root has it; below another root, whose we are.
    pub(super) fn is_roots(&self, path: &Path) -> bool {
        let meta = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).and_then(|file| file.metadata());
        meta.is_ok_and(|meta| meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw())
    }

    /// The text of a file in a folder that somebody else may write to, and whether it is root's; none where it is a link
    /// or has other names.
    pub fn read_beside(&self, path: &Path) -> Option<(String, bool)> {
        let file = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).ok()?;
        let meta = file.metadata().ok()?;
        let is_roots = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
        if !meta.is_file() || meta.nlink() != 1 || meta.len() > LIMIT {
            return None;
        }
        let mut text = String::new();
        file.take(LIMIT).read_to_string(&mut text).ok()?;
        Some((text, is_roots))
    }

    fn read_bounded(&self, path: &Path, limit: u64) -> Result<Option<String>, DiskError> {
        let Some(file) = self.open_to_read(path)? else { return Ok(None) };
        let failed = self.failed("read", path);
        let meta = file.metadata().map_err(&failed)?;
        if meta.len() > limit {
            return Err(DiskError::TooLarge { path: self.shown(path), limit });
        }
        // Masked with a link to /dev/null, say: something that is not ours.
        if !meta.is_file() {
            return Ok(Some(String::new()));
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }

    /// Opens a file that the user named, wherever it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_foreign(path: &Path) -> Result<std::fs::File, DiskError> {
        let failed = |source| DiskError::At { doing: "open", path: path.to_owned(), source };
        // A pipe would make us wait for somebody who writes.
        let flags = nix::libc::O_NONBLOCK;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            let other = std::io::Error::new(ErrorKind::Unsupported, "it is neither a file nor a folder");
            return Err(failed(other));
        }
        // systemd's services take no file with flags that they do not know.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).map_err(|error| failed(error.into()))?;
        Ok(file)
    }

    /// Reads a text that the user named, wherever it is; and whether others may read it, too.
    ///
    /// # Errors
    /// When it cannot be read, is too long, or is no text.
    pub fn read_foreign(path: &Path) -> Result<(String, bool), DiskError> {
        let failed = |source| DiskError::At { doing: "read", path: path.to_owned(), source };
        let file = Disk::open_foreign(path)?;
        let meta = file.metadata().map_err(failed)?;
        if meta.len() > DEFINITION_LIMIT {
            return Err(DiskError::TooLarge { path: path.to_owned(), limit: DEFINITION_LIMIT });
        }
        let mut text = String::new();
        file.take(DEFINITION_LIMIT).read_to_string(&mut text).map_err(failed)?;
        Ok((text, meta.permissions().mode() & 0o007 != 0))
    }

    /// The permissions of a file that is there.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        let file = self.open(path, OFlag::O_PATH).ok()?;
        let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(meta.permissions().mode() & 0o777)
    }

    /// Opens a file to read; none if there is none.
    ///
    /// # Errors
    /// When we may not.
    pub fn open_to_read(&self, path: &Path) -> Result<Option<std::fs::File>, DiskError> {
        // A pipe would make us wait for somebody who writes.
        match self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => Ok(Some(file.map_err(self.failed("read", path))?)),
        }
    }

    /// Opens a file for a lock, and makes it if it is missing.
    ///
    /// # Errors
    /// When it cannot be had, or is a link.
    pub fn open_lock(&self, path: &Path) -> Result<std::fs::File, DiskError> {
        let place = self.make_way(path)?;
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW).open(place.way()).map_err(place.failed("open"))
    }

    /// The files of a folder, by path, whose names the filter takes.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn folder(
        &self,
        dir: &Path,
        take: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<PathBuf, String>, DiskError> {
        let mut texts = BTreeMap::new();
        for name in self.names(dir)? {
            let path = dir.join(&name);
            if take(&name)
                && let Some(text) = self.read(&path)?
            {
                texts.insert(path, text);
            }
        }
        Ok(texts)
    }

    /// The names in a folder; none if there is no folder. Drafts of a killed run are no names.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let mut names = self.all_names(dir)?;
        names.retain(|name| !name.starts_with(DRAFT));
        names.sort();
        Ok(names)
    }

    fn all_names(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let open = self.open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK);
        let entries = open.and_then(|open| std::fs::read_dir(format!("/proc/self/fd/{}", open.as_raw_fd())));
        let names = entries.and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        });
        match names {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => names.map_err(self.failed("read", dir)),
        }
    }

    /// Whether a file itself is there: no link to one.
    pub fn is_file(&self, path: &Path) -> bool {
        let place = self.at(path);
        place.is_ok_and(|place| place.way().symlink_metadata().is_ok_and(|meta| meta.is_file()))
    }

    /// Whether anything is there, be it a link that leads nowhere.
    pub fn has(&self, path: &Path) -> bool {
        self.at(path).is_ok_and(|place| place.way().symlink_metadata().is_ok())
    }

    /// Whether a folder or file is there.
    pub fn exists(&self, path: &Path) -> bool {
        self.open(path, OFlag::O_PATH).is_ok()
    }
}
