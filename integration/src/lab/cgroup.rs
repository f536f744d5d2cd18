//! The control group that holds a host, and everything in it that must end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fs_err as fs;

use super::host::until;

/// How the names of our groups begin; the process that made them follows.
pub const PREFIX: &str = "nsctl-lab-";

/// Where cgroup2 is mounted: /sys/fs/cgroup, or beside version 1.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let place = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(place)
    });
    place.map(PathBuf::from).next().context("cgroup2 is not mounted anywhere")
}

/// Ends every process of a group, and removes it.
pub fn remove(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    fs::write(group.join("cgroup.kill"), "1")?;
    let empty = || Ok(fs::read_to_string(group.join("cgroup.events"))?.contains("populated 0"));
    until(Duration::from_secs(10), "the host's processes are gone", empty)?;
    remove_folders(group)
}

/// Removes the groups of harnesses that were killed.
pub fn sweep() -> Result<()> {
    for entry in fs::read_dir(root()?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(PREFIX) else { continue };
        let owner = id.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_folders(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(path)?)
}
