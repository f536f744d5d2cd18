//! The folder in which it is made anew: beside its place, as only there a move is one step
//! on every file system. Where we are killed, the next one takes it away: a record tells where it is.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::openat;
use nix::sys::stat::{Mode, mkdirat};

use super::{CarryError, FOLDER, Target, io};
use crate::sys::kernel::random;

/// Where it is told which copies are under way.
const RECORDS: &str = "/var/lib/nsctl/copies";
const PREFIX: &str = ".nsctl-draft-";
/// What is carried has this name in the draft.
pub const WHOLE: &str = "whole";

/// Gone when dropped.
#[derive(Debug)]
pub struct Draft {
    pub folder: OwnedFd,
    /// By way of the folder that we hold open, whatever its path leads to by now.
    path: PathBuf,
    record: PathBuf,
    /// Tells others that we live.
    _alive: File,
}

impl Draft {
    /// Makes it where this place is, and takes away what killed ones left.
    pub fn make(place: &Target) -> Result<Draft, CarryError> {
        let failed = |error| CarryError::Io(format!("cannot work in {RECORDS}"), error);
        let id = format!("{PREFIX}{:016x}", random().map_err(failed)? as u64);
        let (record, alive) = record(&id, place).map_err(failed)?;
        let cannot = || format!("cannot write where {} is to be", place.shown());
        mkdirat(&place.parent, id.as_str(), Mode::S_IRWXU).map_err(io(cannot()))?;
        let folder = openat(&place.parent, id.as_str(), FOLDER, Mode::empty()).map_err(io(cannot()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{id}", place.parent.as_raw_fd()));
        Ok(Draft { folder, path, record, _alive: alive })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.path).is_ok() {
            let _ = std::fs::remove_file(&self.record);
        }
    }
}

/// Tells of a draft before it is there.
fn record(id: &str, place: &Target) -> std::io::Result<(PathBuf, File)> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(RECORDS)?;
    // One at a time looks through them: a record is locked before others see it.
    let all = File::open(RECORDS)?;
    all.lock()?;
    for entry in std::fs::read_dir(RECORDS)? {
        sweep(&entry?.path());
    }
    let path = Path::new(RECORDS).join(id);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let parent = std::fs::read_link(format!("/proc/self/fd/{}", place.parent.as_raw_fd()))?;
    file.write_all(parent.join(id).as_os_str().as_bytes())?;
    file.sync_all()?;
    file.lock()?;
    Ok((path, file))
}

/// Takes away the draft that a record tells of, unless somebody works on it. Nobody but us
/// gives such names: no other folder can be meant.
fn sweep(record: &Path) {
    let Ok(mut file) = File::open(record) else { return };
    let mut text = Vec::new();
    if file.try_lock().is_err() || file.read_to_end(&mut text).is_err() {
        return;
    }
    let draft = Path::new(OsStr::from_bytes(&text));
    let ours = draft.is_absolute() && draft.file_name() == record.file_name();
    let there = draft.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == 0);
    if !(ours && there) || std::fs::remove_dir_all(draft).is_ok() {
        let _ = std::fs::remove_file(record);
    }
}
