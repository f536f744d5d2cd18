//! nftables, through nft(8): rules are loaded as text, whole or not at all.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::nftables::{self, TABLE};
use crate::observed::Nftables;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft cannot be run")]
    Run(#[from] std::io::Error),
    #[error("nft: {0}")]
    Refused(String),
    #[error("nft hangs: it did not end within {} s", .0.as_secs_f64())]
    Hangs(Duration),
}

impl NftError {
    pub fn hint(&self) -> Option<String> {
        match self {
            NftError::Run(_) => Some("install it: on Debian it is the package nftables".into()),
            NftError::Hangs(_) => Some(
                "`time nft list tables` tells whether it still does, `pgrep -a nft` who else runs it".into(),
            ),
            NftError::Refused(_) => None,
        }
    }
}

/// Rules of a thousand machines take it a second.
const LIMIT: Duration = Duration::from_secs(60);

async fn nft(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let limit = super::fault::bus_limit().unwrap_or(LIMIT);
    let done = tokio::time::timeout(limit, unlimited(arguments, input)).await;
    done.unwrap_or(Err(NftError::Hangs(limit)))
}

async fn unlimited(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let mut command = Command::new("nft");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C");
    // Who gives up on a load must not have it come about later.
    command.kill_on_drop(true);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    Ok(child.wait_with_output().await?)
}

/// Loads a file of rules in one transaction.
///
/// # Errors
/// When nft does not take them; the old ones stay then.
pub async fn load(file: &Path) -> Result<(), NftError> {
    done(&nft(&["-f", &file.to_string_lossy()], "").await?)
}

/// Drops the chains of machines that are gone: nothing leads to them any more.
///
/// # Errors
/// When they stay.
pub async fn prune() -> Result<(), NftError> {
    let output = nft(&["-j", "-t", "list", "table", "inet", TABLE], "").await?;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let unused = nftables::unused(&listed);
    if unused.is_empty() {
        return Ok(());
    }
    let commands: String =
        unused.iter().map(|chain| format!("delete chain inet {TABLE} {chain}\n")).collect();
    done(&nft(&["-f", "-"], &commands).await?)
}

/// Drops our table, if it is there.
///
/// # Errors
/// When it stays.
pub async fn unload() -> Result<(), NftError> {
    done(&nft(&["-f", "-"], &format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).await?)
}

fn done(output: &Output) -> Result<(), NftError> {
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Whether our table is loaded; none where nft is not installed.
///
/// # Errors
/// When it cannot be run.
pub async fn is_loaded() -> Result<Option<bool>, NftError> {
    match nft(&["list", "tables", "inet"], "").await {
        Err(NftError::Run(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
        output => {
            let listed = String::from_utf8_lossy(&output?.stdout).into_owned();
            Ok(Some(listed.lines().any(|line| line == format!("table inet {TABLE}"))))
        }
    }
}

/// What concerns us of the kernel's rules; none where nft is not installed, or
/// we may not look.
///
/// # Errors
/// When it cannot be run.
pub async fn look() -> Result<Option<Nftables>, NftError> {
    let output = match nft(&["-j", "list", "ruleset"], "").await {
        Err(NftError::Run(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(output.status.success().then(|| nftables::read(&listed)))
}
