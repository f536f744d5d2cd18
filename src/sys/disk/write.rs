//! Files replaced whole, made and removed: a power cut leaves the old or the new.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tempfile::TempPath;

use super::place::Place;
use super::{Disk, DiskError};
use crate::observed::Readers;

/// How the names of files begin that are being written.
pub(super) const DRAFT: &str = ".nsctl-draft-";
/// Whose files networkd reads.
const NETWORKD: &str = "/etc/systemd/network";
/// How many files are synced one by one.
const FEW: usize = 32;

/// One file as it is to be.
#[derive(Debug, Clone, Copy)]
pub struct FileEdit<'a> {
    pub path: &'a Path,
    /// None: the file goes.
    pub text: Option<&'a str>,
    /// The permissions of a new one; one that is there never gets wider ones.
    pub mode: Option<u32>,
}

/// A text beside the place that it is for. It goes when it is dropped.
struct Draft {
    file: TempPath,
    place: Place,
    /// Whether a file is there that it replaces.
    replaces: bool,
}

impl Draft {
    fn sync(drafts: &[&Draft]) -> Result<(), DiskError> {
        let open = |draft: &&Draft| File::open(&draft.file);
        let failed = |draft: &&Draft, error| draft.place.failed("write")(error);
        let drafts = drafts.iter().copied();
        if drafts.len() > FEW {
            return sync_file_systems(drafts, open, failed);
        }
        sync_each(drafts, open, failed)
    }

    /// Puts it in its place.
    fn put(self) -> Result<(), DiskError> {
        crate::sys::fault::point();
        let put = self.file.persist(self.place.way()).map_err(|e| e.error);
        put.map_err(self.place.failed("replace"))?;
        crate::sys::fault::point();
        Ok(())
    }
}

impl Disk {
    /// Replaces files whole, makes or removes them, in this order. A new one gets
    /// the permissions of the old one, as far as its own allow. All are written beside their
    /// places before the first is renamed, and what replaces a file is synced by then: a
    /// power cut leaves the old or the new of it. Of files that were not there it may
    /// leave empty ones, until [`Disk::settle`].
    ///
    /// # Errors
    /// When one cannot be put there; it is then as it was, and so are those after it.
    pub fn change(&self, changes: &[FileEdit<'_>]) -> Result<(), DiskError> {
        let drafts = changes.iter().map(|change| self.draft_of(change)).collect::<Result<Vec<_>, _>>();
        let drafts = drafts.inspect_err(|_| self.clear_drop_ins(changes))?;
        let replacing: Vec<&Draft> = drafts.iter().flatten().filter(|draft| draft.replaces).collect();
        Draft::sync(&replacing).inspect_err(|_| self.clear_drop_ins(changes))?;
        for (change, draft) in changes.iter().zip(drafts) {
            match draft {
                Some(draft) => draft.put()?,
                None => _ = self.take_away(change.path)?,
            }
        }
        Ok(())
    }

    fn draft_of(&self, change: &FileEdit<'_>) -> Result<Option<Draft>, DiskError> {
        let Some(text) = change.text else { return Ok(None) };
        let old = self.mode(change.path);
        // In a folder of somebody else's it may be his, or a link.
        let own = old.filter(|_| change.path.parent().is_none_or(|folder| self.is_roots(folder)));
        let mode = match (own, change.mode) {
            (Some(old), most) => old & most.unwrap_or(0o777),
            (None, mode) => mode.unwrap_or(0o644),
        };
        let draft = self.draft(change.path, text, mode)?;
        Ok(Some(Draft { replaces: old.is_some(), ..draft }))
    }

    /// Makes sure that these files, or that there are none, are on the disk.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn settle(&self, paths: &[PathBuf]) -> Result<(), DiskError> {
        let folders: BTreeSet<&Path> = paths.iter().filter_map(|path| path.parent()).collect();
        // That of a drop-in may have gone with the last file in it.
        let there = folders.into_iter().filter_map(|folder| folder.ancestors().find(|at| self.exists(at)));
        let mut all: BTreeSet<&Path> = there.collect();
        if paths.len() > FEW {
            // A file that was put there by renaming is on the file system of its folder (rename(2), EXDEV).
            return sync_file_systems(all, self.opening(), self.failing());
        }
        all.extend(paths.iter().map(PathBuf::as_path).filter(|path| self.is_file(path)));
        sync_each(all, self.opening(), self.failing())
    }

    fn sync(&self, path: &Path) -> Result<(), DiskError> {
        sync_each([path], self.opening(), self.failing())
    }

    fn opening(&self) -> impl Fn(&&Path) -> io::Result<File> {
        |path| self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
    }

    fn failing(&self) -> impl Fn(&&Path, io::Error) -> DiskError {
        |path, error| self.failed("sync", path)(error)
    }

    /// Folders of drop-ins that were made for drafts, and in which there is nothing now.
    fn clear_drop_ins(&self, changes: &[FileEdit<'_>]) {
        for folder in changes.iter().filter_map(|change| change.path.parent()).filter(|f| is_drop_in(f)) {
            self.clear(folder);
        }
    }

    /// Removes a folder in which there is nothing; whether it went.
    fn clear(&self, folder: &Path) -> bool {
        self.at(folder).is_ok_and(|place| std::fs::remove_dir(place.way()).is_ok())
    }

    /// Takes permissions away from a file, if it is there and has more than these.
    ///
    /// # Errors
    /// When it keeps them.
    pub fn narrow(&self, path: &Path, mode: u32) -> Result<(), DiskError> {
        let Some(old) = self.mode(path).filter(|old| old & !mode != 0) else { return Ok(()) };
        let file = self.open(path, OFlag::O_RDONLY).map_err(self.failed("read", path))?;
        self.permit(&file, path, old & mode)
    }

    /// networkd reads its files as a user of its own: those that not everybody may read are
    /// its group's. Where there is no such group, nobody else is root's.
    fn permit(&self, file: &File, path: &Path, mode: u32) -> Result<(), DiskError> {
        let failed = self.failed("set the permissions of", path);
        if path.starts_with(NETWORKD)
            && mode & 0o044 == 0o040
            && let Some(gid) = self.networkds_group()?
        {
            std::os::unix::fs::fchown(file, None, Some(gid)).map_err(&failed)?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)
    }

    fn networkds_group(&self) -> Result<Option<u32>, DiskError> {
        let groups = self.read(Path::new("/etc/group"))?.unwrap_or_default();
        let line = groups.lines().find_map(|line| line.strip_prefix("systemd-network:"));
        Ok(line.and_then(|rest| rest.split(':').nth(1)?.parse().ok()))
    }

    /// Who reads a file beside root: everybody, and networkd; none where it is not there.
    pub fn readers(&self, path: &Path) -> Option<Readers> {
        let meta = self.open(path, OFlag::O_PATH).ok()?.metadata().ok()?;
        let mode = meta.permissions().mode();
        let of_group = self.networkds_group().ok()?.is_none_or(|group| group == meta.gid());
        Some(Readers {
            everybody: mode & 0o004 != 0,
            networkd: mode & 0o004 != 0 || (of_group && mode & 0o040 != 0),
        })
    }

    /// Replaces a file that is nobody's business but root's; it is on the disk then.
    ///
    /// # Errors
    /// When the text cannot be put there.
    pub fn write_private(&self, path: &Path, text: &str) -> Result<(), DiskError> {
        let draft = self.draft(path, text, 0o600)?;
        Draft::sync(&[&draft])?;
        draft.put()?;
        path.parent().map_or(Ok(()), |folder| self.sync(folder))
    }

    /// Writes a text beside its place.
    fn draft(&self, path: &Path, text: &str, mode: u32) -> Result<Draft, DiskError> {
        let place = self.make_way(path)?;
        let draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(place.folder());
        let mut draft = draft.map_err(place.failed("write"))?;
        draft.write_all(text.as_bytes()).map_err(place.failed("write"))?;
        self.permit(draft.as_file(), path, mode)?;
        Ok(Draft { file: draft.into_temp_path(), place, replaces: true })
    }

    /// Removes the drafts that a killed run left in a folder. Nobody else is
    /// writing: the host is locked.
    ///
    /// # Errors
    /// When one stays.
    pub fn sweep(&self, dir: &Path) -> Result<(), DiskError> {
        for name in self.all_names(dir)?.iter().filter(|name| name.starts_with(DRAFT)) {
            self.take_away(&dir.join(name))?;
        }
        if is_drop_in(dir) {
            self.clear(dir);
        }
        Ok(())
    }

    /// Removes a file, and the folder that it was the last in, if that is a drop-in's; it is
    /// gone from the disk then.
    ///
    /// # Errors
    /// When it is there and stays there.
    pub fn remove(&self, path: &Path) -> Result<(), DiskError> {
        match self.take_away(path)? {
            Some(folder) => self.sync(folder),
            None => Ok(()),
        }
    }

    /// Removes a file whose return after a power cut would be told, and do no harm: that the disk
    /// does not take the news is no fault.
    ///
    /// # Errors
    /// When it is there and stays there.
    pub fn forget_file(&self, path: &Path) -> Result<(), DiskError> {
        if let Some(folder) = self.take_away(path)? {
            let _ = self.sync(folder);
        }
        Ok(())
    }

    /// The same; gives the folder that is to be synced.
    fn take_away<'a>(&self, path: &'a Path) -> Result<Option<&'a Path>, DiskError> {
        match self.at(path).and_then(|place| std::fs::remove_file(place.way())) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            gone => gone.map_err(self.failed("remove", path))?,
        }
        let Some(folder) = path.parent() else { return Ok(None) };
        if is_drop_in(folder) && self.clear(folder) {
            return Ok(folder.parent());
        }
        Ok(Some(folder).filter(|folder| self.exists(folder)))
    }

    /// Makes symbolic links: where, and where to. One that is there is replaced by the new one,
    /// and missing at no time.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn link(&self, links: &[(PathBuf, &str)]) -> Result<(), DiskError> {
        for (path, to) in links {
            let place = self.make_way(path)?;
            let draft = tempfile::Builder::new()
                .prefix(DRAFT)
                .make_in(place.folder(), |draft| std::os::unix::fs::symlink(to, draft));
            let draft = draft.map_err(place.failed("link"))?.into_temp_path();
            draft.persist(place.way()).map_err(|e| place.failed("link")(e.error))?;
        }
        Ok(())
    }
}

/// A folder of drop-ins or bound units, which is nothing without a file in it.
fn is_drop_in(folder: &Path) -> bool {
    let name = folder.to_string_lossy();
    [".service.d", ".network.d", ".target.d"].iter().any(|end| name.ends_with(end))
        || name.contains("/nsctl/expose/")
}

/// Syncs a few files and folders.
fn sync_each<T>(
    what: impl IntoIterator<Item = T>,
    open: impl Fn(&T) -> io::Result<File>,
    failed: impl Fn(&T, io::Error) -> DiskError,
) -> Result<(), DiskError> {
    what.into_iter()
        .try_for_each(|one| open(&one).and_then(|file| file.sync_all()).map_err(|error| failed(&one, error)))
}

/// Syncs the file systems that hold these, whole (syncfs(2)): it takes hardly longer than one
/// file does.
fn sync_file_systems<T>(
    what: impl IntoIterator<Item = T>,
    open: impl Fn(&T) -> io::Result<File>,
    failed: impl Fn(&T, io::Error) -> DiskError,
) -> Result<(), DiskError> {
    let mut file_systems = BTreeMap::new();
    for one in what {
        let file = open(&one).map_err(|error| failed(&one, error))?;
        file_systems.insert(file.metadata().map_err(|error| failed(&one, error))?.dev(), (file, one));
    }
    file_systems
        .into_values()
        .try_for_each(|(file, one)| nix::unistd::syncfs(file).map_err(|error| failed(&one, error.into())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_removed_with_its_drop_in_folder() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let path = Path::new("/etc/systemd/system/x.service.d/50-nsctl.conf");
        assert_eq!(disk.read(path).unwrap(), None);
        disk.write_private(path, "one").unwrap();
        let change = |text| disk.change(&[FileEdit { path, text, mode: None }]);
        change(Some("two")).unwrap();
        assert_eq!(disk.read(path).unwrap().as_deref(), Some("two"));
        assert_eq!(
            fs::metadata(root.path().join(&path.display().to_string()[1..])).unwrap().mode() & 0o777,
            0o600
        );
        change(None).unwrap();
        assert!(!disk.exists(path.parent().unwrap()));
        assert!(disk.exists(Path::new("/etc/systemd/system")));
    }

    #[test]
    fn a_drop_in_folder_goes_with_all_that_was_in_it() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let paths = ["/etc/x.service.d/1.conf", "/etc/x.service.d/2.conf"].map(Path::new);
        for text in [Some("x"), None] {
            disk.change(&paths.map(|path| FileEdit { path, text, mode: None })).unwrap();
        }
        assert!(disk.exists(Path::new("/etc")) && !disk.exists(Path::new("/etc/x.service.d")));
        disk.settle(&paths.map(PathBuf::from)).unwrap();
        fs::write(root.path().join("etc/file"), "").unwrap();
        let paths = ["/etc/x.service.d/1.conf", "/etc/file/no-folder"].map(Path::new);
        assert!(disk.change(&paths.map(|path| FileEdit { path, text: Some("x"), mode: None })).is_err());
        assert!(!disk.exists(Path::new("/etc/x.service.d")));
    }

    #[test]
    fn many_files_are_changed_in_one_go() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let paths: Vec<PathBuf> = (0..3 * FEW).map(|k| format!("/etc/{}/{k}", k % 5).into()).collect();
        let change = |path, text| FileEdit { path, text, mode: None };
        let new: Vec<FileEdit> = paths.iter().map(|path| change(path, Some("x"))).collect();
        disk.change(&new).unwrap();
        disk.settle(&paths).unwrap();
        assert!(paths.iter().all(|path| disk.read(path).unwrap().as_deref() == Some("x")));
        // One that cannot be written: none of the others changes.
        let mut bad: Vec<FileEdit> = paths.iter().map(|path| change(path, None)).collect();
        bad.push(change(Path::new("/etc/0/0/below-a-file"), Some("x")));
        assert!(disk.change(&bad).is_err());
        assert!(paths.iter().all(|path| disk.exists(path)));
        assert!(disk.names(Path::new("/etc/0")).unwrap().iter().all(|name| !name.starts_with(DRAFT)));
    }
}
