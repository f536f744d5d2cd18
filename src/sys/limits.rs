//! Limits of units that run, through systemctl(1): it reads them as systemd reads them in a
//! unit's file, whose words they are.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Disk, DiskError};
use crate::hint::Hint;

/// Why limits are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("systemctl cannot be run")]
    Run(#[from] std::io::Error),
    #[error("systemd does not take the limits of {unit}: {said}")]
    Refused { unit: String, said: String },
    #[error("systemd hangs: it did not set the limits of {unit} within {} s", LIMIT.as_secs())]
    Hangs { unit: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Hint for LimitError {
    fn hint(&self) -> Option<String> {
        match self {
            LimitError::Run(_) => Some("is systemctl(1) in /usr/bin?".into()),
            LimitError::Refused { .. } => Some("systemd.resource-control(5) tells what it takes".into()),
            LimitError::Hangs { .. } => Some("`systemctl list-jobs` tells what it waits for".into()),
            LimitError::Disk(error) => error.hint(),
        }
    }
}

/// As long as systemctl(1) itself waits for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Sets them now; an empty one is none.
///
/// # Errors
/// When systemd does not take them.
pub async fn set(disk: &Disk, unit: &str, limits: &BTreeMap<String, String>) -> Result<(), LimitError> {
    let mut command = Command::new("systemctl");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C").kill_on_drop(true);
    command.args(["set-property", "--runtime", unit]);
    command.args(limits.iter().map(|(key, value)| format!("{key}={value}")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let limit = super::fault::bus_limit().unwrap_or(LIMIT);
    let done = tokio::time::timeout(limit, command.output()).await;
    let done = done.map_err(|_| LimitError::Hangs { unit: unit.to_owned() })??;
    super::fault::point();
    forget(disk, unit, limits)?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(LimitError::Refused { unit: unit.to_owned(), said })
}

/// Takes away what systemd was told of them: it keeps that in files of its own, which come after all others until
/// the host is started again. The unit's own file is to have the say when it starts next.
///
/// # Errors
/// When one stays.
pub fn forget(disk: &Disk, unit: &str, limits: &BTreeMap<String, String>) -> Result<(), DiskError> {
    let file = |key| format!("/run/systemd/system.control/{unit}.d/50-{key}.conf");
    limits.keys().try_for_each(|key| disk.forget_file(file(key).as_ref()))
}
