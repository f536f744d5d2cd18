//! Files below a root, and the ways to them.

mod error;
mod space;
mod write;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

pub use error::DiskError;
use write::DRAFT;
pub use write::FileEdit;

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
        super::tree::Tree::at(&self.root.join("var/lib/machines").join(name))
    }

    /// Which tree that is.
    pub fn tree_identity(&self, name: &str) -> Option<crate::observed::TreeId> {
        super::tree::identity_in(&self.root.join("var/lib/machines"), name)
    }

    /// Whether its files are those of the host that we run on.
    pub fn is_this_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a path of the host is, seen from us. Symbolic links of a foreign
    /// root must not lead out of it. The last part of the path may be a link
    /// itself: who replaces or removes it does not follow it.
    fn at(&self, path: &Path) -> Result<PathBuf, DiskError> {
        if self.root == Path::new("/") {
            return Ok(path.to_owned());
        }
        let inside = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let root = fs::canonicalize(&self.root)?;
        let existing = inside.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(&root);
        if !fs::canonicalize(existing)?.starts_with(&root) {
            return Err(DiskError::Escapes(inside, root));
        }
        Ok(inside)
    }

    /// The same, for who would follow the last part.
    fn at_plain(&self, path: &Path) -> Result<PathBuf, DiskError> {
        let place = self.at(path)?;
        let foreign = self.root != Path::new("/");
        if foreign && fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_symlink()) {
            return Err(DiskError::Escapes(place, self.root.clone()));
        }
        Ok(place)
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

    fn read_bounded(&self, path: &Path, limit: u64) -> Result<Option<String>, DiskError> {
        let place = self.at_plain(path)?;
        // A pipe would make us wait for somebody who writes.
        let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&place);
        let file = match file {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let meta = file.metadata()?;
        if meta.len() > limit {
            return Err(DiskError::TooLarge { path: place, limit });
        }
        // Masked with a link to /dev/null, say: something that is not ours.
        if !meta.is_file() {
            return Ok(Some(String::new()));
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
        file.take(limit).read_to_end(&mut bytes)?;
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
        Ok(fs::File::open(path)?.into_parts().0)
    }

    /// The permissions of a file that is there.
    pub fn mode(&self, path: &Path) -> Option<u32> {
        let meta = fs::metadata(self.at(path).ok()?).ok().filter(std::fs::Metadata::is_file)?;
        Some(meta.permissions().mode() & 0o777)
    }

    /// Opens a file to read; none if there is none.
    ///
    /// # Errors
    /// When we may not.
    pub fn open_to_read(&self, path: &Path) -> Result<Option<std::fs::File>, DiskError> {
        match fs::File::open(self.at_plain(path)?) {
            Ok(file) => Ok(Some(file.into_parts().0)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file for a lock, and makes it if it is missing.
    ///
    /// # Errors
    /// When it cannot be had, or is a link.
    pub fn open_lock(&self, path: &Path) -> Result<std::fs::File, DiskError> {
        let place = self.at(path)?;
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(options.custom_flags(nix::libc::O_NOFOLLOW).open(place)?.into_parts().0)
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
        let entries = match fs::read_dir(self.at(dir)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let names: Result<Vec<String>, std::io::Error> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
        let mut names = names?;
        names.retain(|name| !name.starts_with(DRAFT));
        names.sort();
        Ok(names)
    }

    /// Whether a file itself is there: no link to one.
    pub fn is_file(&self, path: &Path) -> bool {
        self.at(path).is_ok_and(|place| is_plain(&place))
    }

    /// Whether a folder or file is there.
    pub fn exists(&self, path: &Path) -> bool {
        self.at(path).is_ok_and(|place| place.exists())
    }
}

fn is_plain(place: &Path) -> bool {
    place.symlink_metadata().is_ok_and(|meta| meta.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out_of_a_root() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc")).unwrap();
        let disk = Disk::new(root.path());
        assert!(matches!(disk.write_private(Path::new("/etc/x"), "y"), Err(DiskError::Escapes(..))));
        assert!(!outside.path().join("x").exists());
    }
}
