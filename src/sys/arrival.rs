//! Where files arrive that come from another host: whole, in one step, and as plain files and folders.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::carry::CarryError;

/// Where something is to be that comes from there: ours, as we may be anybody.
#[derive(Debug)]
pub struct Arrival {
    place: PathBuf,
    name: OsString,
    /// Beside it, so that it gets there in one step.
    draft: tempfile::TempDir,
    force: bool,
}

impl Arrival {
    /// In a folder that is there it gets its own name.
    ///
    /// # Errors
    /// When there is no such folder, or something is there and is not to be replaced.
    pub fn at(word: &Path, name: &OsStr, force: bool) -> Result<Arrival, CarryError> {
        let shown = word.display().to_string();
        // Without the '/' at the end, with which a link would be followed.
        if word.components().collect::<PathBuf>().is_symlink() {
            return Err(CarryError::Link(shown));
        }
        let place = match word.is_dir() {
            true => word.join(name),
            false if shown.ends_with('/') => return Err(CarryError::NoFolder(shown)),
            false => word.to_owned(),
        };
        if place.is_symlink() {
            return Err(CarryError::Link(shown));
        }
        if !force && place.exists() {
            return Err(CarryError::Taken(place.display().to_string()));
        }
        let absolute = std::path::absolute(&place).map_err(|error| CarryError::Io(shown.clone(), error))?;
        let folder = absolute.parent().filter(|folder| folder.is_dir());
        let folder = folder.ok_or_else(|| CarryError::NoFolder(shown.clone()))?;
        let draft = tempfile::Builder::new().prefix(".nsctl-").tempdir_in(folder);
        let draft = draft.map_err(|error| CarryError::Io(folder.display().to_string(), error))?;
        Ok(Arrival { place: absolute, name: name.to_owned(), draft, force })
    }

    /// An empty folder for it, under its own name.
    pub fn draft(&self) -> &Path {
        self.draft.path()
    }

    /// All of it is in the draft, and gets its place.
    ///
    /// # Errors
    /// When something is there that is not to be replaced, or of another kind; or when what came is no plain file or
    /// folder in part.
    pub fn settle(self) -> Result<(), CarryError> {
        let from = self.draft.path().join(&self.name);
        tame(&from)?;
        if self.force {
            return fill(&from, &self.place);
        }
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(AT_FDCWD, &from, AT_FDCWD, &self.place, flags).map_err(|error| match error {
            Errno::EEXIST => CarryError::Taken(self.place.display().to_string()),
            error => CarryError::Io(self.place.display().to_string(), error.into()),
        })
    }
}

/// Files replace files, and folders are filled.
fn fill(from: &Path, to: &Path) -> Result<(), CarryError> {
    let io = |error| CarryError::Io(to.display().to_string(), error);
    let is_folder = |path: &Path| path.symlink_metadata().map(|meta| meta.is_dir());
    match (is_folder(from).map_err(io)?, is_folder(to)) {
        (true, Ok(true)) => {
            for entry in std::fs::read_dir(from).map_err(io)? {
                let entry = entry.map_err(io)?;
                fill(&entry.path(), &to.join(entry.file_name()))?;
            }
            Ok(())
        }
        (one, Ok(other)) if one != other => Err(CarryError::Unlike(to.display().to_string())),
        _ => std::fs::rename(from, to).map_err(io),
    }
}

/// Whoever runs the other host sends what he likes: no file runs as its owner here, and none is a device.
fn tame(path: &Path) -> Result<(), CarryError> {
    let shown = || path.display().to_string();
    let io = |error| CarryError::Io(shown(), error);
    let meta = path.symlink_metadata().map_err(io)?;
    if meta.is_symlink() {
        return Ok(());
    }
    if !meta.is_file() && !meta.is_dir() {
        return Err(CarryError::Special(shown()));
    }
    let mode = meta.permissions().mode() & 0o755;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io)?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(io)? {
            tame(&entry.map_err(io)?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_tame_and_replaces_only_where_asked() {
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("world");
        let come = |force: bool| {
            let arrival = Arrival::at(&place, OsStr::new("srv"), force)?;
            let folder = arrival.draft().join("srv");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("tool"), "new").unwrap();
            std::fs::set_permissions(folder.join("tool"), std::fs::Permissions::from_mode(0o4777)).unwrap();
            arrival.settle()
        };
        come(false).unwrap();
        let mode = place.join("tool").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        // In a folder that is there it has its own name.
        come(false).unwrap();
        assert!(place.join("srv/tool").is_file());
        assert!(matches!(come(false), Err(CarryError::Taken(_))));
        std::fs::write(place.join("srv/mine"), "mine").unwrap();
        come(true).unwrap();
        assert!(place.join("srv/mine").is_file(), "a folder is filled, and loses nothing");
        let arrival = Arrival::at(&home.path().join("pipe"), OsStr::new("pipe"), false).unwrap();
        nix::unistd::mkfifo(&arrival.draft().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(arrival.settle(), Err(CarryError::Special(_))));
        std::os::unix::fs::symlink("/etc", home.path().join("link")).unwrap();
        for word in ["link", "link/"] {
            assert!(matches!(
                Arrival::at(&home.path().join(word), OsStr::new("x"), true),
                Err(CarryError::Link(_))
            ));
        }
        let left: Vec<_> =
            std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "drafts stay: {left:?}"); // world and link
    }
}
