//! Limits of units that run, through systemctl(1): it reads them as systemd reads them in a
//! unit's file, whose words they are.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Disk, DiskError};
use crate::emit::DEVICES;
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
    let words = limits.iter().map(|(key, value)| format!("{key}={value}"));
    let done = systemctl(unit, ["set-property", "--runtime", unit], words).await;
    super::fault::point();
    forget(disk, unit, limits)?;
    done.map(drop)
}

/// Lets a unit use devices, beside those that it may use already: "/dev/kvm rw".
///
/// # Errors
/// When systemd does not do so.
pub async fn allow(disk: &Disk, unit: &str, devices: &[String]) -> Result<(), LimitError> {
    if devices.is_empty() { Ok(()) } else { devices_of(disk, unit, devices).await }
}

/// Lets it use them no longer.
///
/// # Errors
/// When systemd does not do so.
pub async fn deny(disk: &Disk, unit: &str, devices: &[String]) -> Result<(), LimitError> {
    if devices.is_empty() {
        return Ok(());
    }
    let there = systemctl(unit, ["show", "--property=DeviceAllow", "--value", unit], []).await?;
    let stay = there.lines().filter(|device| !devices.iter().any(|gone| gone == device));
    // An empty one takes all away.
    let all: Vec<String> = std::iter::once("").chain(stay).map(str::to_owned).collect();
    devices_of(disk, unit, &all).await
}

async fn devices_of(disk: &Disk, unit: &str, devices: &[String]) -> Result<(), LimitError> {
    let words = devices.iter().map(|device| format!("{DEVICES}={device}"));
    let done = systemctl(unit, ["set-property", "--runtime", unit], words).await;
    super::fault::point();
    forget(disk, unit, &BTreeMap::from([(DEVICES.to_owned(), String::new())]))?;
    done.map(drop)
}

/// What systemctl(1) says.
async fn systemctl<const N: usize>(
    unit: &str,
    verb: [&str; N],
    words: impl IntoIterator<Item = String>,
) -> Result<String, LimitError> {
    let mut command = Command::new("systemctl");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C").kill_on_drop(true);
    command.args(verb).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let limit = super::fault::bus_limit().unwrap_or(LIMIT);
    let done = tokio::time::timeout(limit, command.output()).await;
    let done = done.map_err(|_| LimitError::Hangs { unit: unit.to_owned() })??;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
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
