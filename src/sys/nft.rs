//! nftables, through nft(8): rules are loaded as text, whole or not at all.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::hint::Hint;
use crate::name::MachineName;
use crate::nftables::counter::{self, Dropped, Reason};
use crate::nftables::table::Table;
use crate::nftables::{self, TABLE, TO_MACHINES};
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

impl Hint for NftError {
    fn hint(&self) -> Option<String> {
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

/// What it says, where it does what it is told.
async fn nft(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let limit = super::fault::bus_limit().unwrap_or(LIMIT);
    let done = tokio::time::timeout(limit, unlimited(arguments, input)).await;
    done.unwrap_or(Err(NftError::Hangs(limit)))
}

async fn unlimited(arguments: &[&str], input: &str) -> Result<String, NftError> {
    tracing::debug!(call = %arguments.join(" "), bytes = input.len(), "nft");
    let mut command = Command::new("nft");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C");
    // Who gives up on a load must not have it come about later.
    command.kill_on_drop(true);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    said(&child.wait_with_output().await?)
}

fn said(output: &Output) -> Result<String, NftError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

async fn command(text: &str) -> Result<(), NftError> {
    nft(&["-f", "-"], text).await.map(drop)
}

/// Loads a file of rules in one transaction.
///
/// # Errors
/// When nft does not take them; the old ones stay then.
pub async fn load(file: &Path) -> Result<(), NftError> {
    let loaded = nft(&["-f", &file.to_string_lossy()], "").await.map(drop);
    let Err(NftError::Refused(_)) = loaded else { return loaded };
    // Somebody may have put a chain or set of another kind in the place of one of ours.
    let anew = format!("table inet {TABLE}\ndelete table inet {TABLE}\ninclude \"{}\"\n", file.display());
    match command(&anew).await {
        Err(NftError::Refused(_)) => loaded,
        done => done,
    }
}

/// Changes the table by commands, all of them or none.
///
/// # Errors
/// When nft does not take them; all is as it was then.
pub async fn change(commands: &str) -> Result<(), NftError> {
    command(commands).await
}

/// Drops what our table has and its file does not say: chains of machines that are gone, and
/// what others put there.
///
/// # Errors
/// When it stays.
pub async fn prune(file: &Path) -> Result<(), NftError> {
    let (Listing::Table(loaded), intended) = (list().await?, intended(file).await?) else { return Ok(()) };
    let (loaded, intended) = (Table::read([loaded.as_str()]), Table::read([intended.as_str()]));
    let extras = intended.extras(&loaded);
    if extras.is_empty() {
        return Ok(());
    }
    let commands = extras.iter().filter_map(|extra| extra.split_once(' '));
    let commands: String =
        commands.map(|(kind, name)| format!("delete {kind} inet {TABLE} {name}\n")).collect();
    command(&commands).await
}

/// Drops our table, if it is there.
///
/// # Errors
/// When it stays.
pub async fn unload() -> Result<(), NftError> {
    command(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).await
}

/// Whether our table is there, and nobody has flushed it; what is in it is not read. A chain that another
/// leads to cannot be deleted, and here nobody tries to in earnest (nft(8), `--check`).
///
/// # Errors
/// When nft cannot be run.
pub async fn is_loaded() -> Result<bool, NftError> {
    match nft(&["-c", &format!("delete chain inet {TABLE} {TO_MACHINES}")], "").await {
        Err(NftError::Refused(said)) => Ok(said.contains("busy")),
        done => done.map(|_| false),
    }
}

/// What nft(8) lists of our table.
#[derive(Debug)]
pub enum Listing {
    Table(String),
    /// It is not loaded.
    Gone,
    /// There is no nft, or we may not ask.
    Unknown,
}

/// Our table as it is loaded, without what its counters say.
///
/// # Errors
/// When it cannot be listed.
pub async fn list() -> Result<Listing, NftError> {
    match nft(&LIST, "").await {
        Err(NftError::Run(error)) if error.kind() == ErrorKind::NotFound => Ok(Listing::Unknown),
        Err(NftError::Refused(said)) if said.contains("No such file") => Ok(Listing::Gone),
        Err(NftError::Refused(_)) if !super::is_root() => Ok(Listing::Unknown),
        listed => listed.map(Listing::Table),
    }
}

const LIST: [&str; 5] = ["-s", "list", "table", "inet", TABLE];

/// What was dropped on each machine's account.
///
/// # Errors
/// When it cannot be listed.
pub async fn dropped() -> Result<BTreeMap<(MachineName, Reason), Dropped>, NftError> {
    let said = nft(&["-j", "list", "counters", "table", "inet", TABLE], "").await?;
    let listed = serde_json::from_str(&said).map_err(|error| NftError::Refused(error.to_string()))?;
    Ok(counter::read(&listed))
}

/// Our table as nft(8) would list it if it were what its file says: that is loaded in a network
/// namespace that is nobody's, so that this holds for every version of nft and of the kernel.
///
/// # Errors
/// When nft does not take it.
pub async fn intended(file: &Path) -> Result<String, NftError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let file = file.to_string_lossy().into_owned();
    std::thread::spawn(move || {
        // Who asked may have gone.
        let _ = tell.send(intended_elsewhere(&file));
    });
    told.await.unwrap_or_else(|_| Err(NftError::Refused("gave no answer".into())))
}

/// This thread alone goes there, and ends.
fn intended_elsewhere(file: &str) -> Result<String, NftError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new("nft");
        command.env("PATH", super::build::PATH).env("LC_ALL", "C").args(words).stdin(Stdio::null());
        said(&command.output()?)
    };
    run(&["-f", file])?;
    run(&LIST)
}

/// What concerns us of the kernel's rules; none where nft is not installed, or
/// we may not look.
///
/// # Errors
/// When it cannot be run.
pub async fn look() -> Result<Option<Nftables>, NftError> {
    let tables = match nft(&["-j", "list", "tables"], "").await {
        Err(NftError::Run(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        // Only root is told: nothing is known to be wrong.
        Err(NftError::Refused(_)) if !super::is_root() => {
            return Ok(Some(Nftables { ours: true, ..Nftables::default() }));
        }
        Err(NftError::Refused(_)) => return Ok(None),
        listed => nftables::tables(&serde_json::from_str(&listed?).unwrap_or_default()),
    };
    // Of a thousand machines ours is by far the largest: whether it is there is all that is asked of it here.
    let (ours, others): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|(family, name)| family == "inet" && name == TABLE);
    let mut objects = Vec::new();
    for (family, name) in &others {
        // One that has gone meanwhile does nothing.
        match nft(&["-j", "list", "table", family, name], "").await {
            Err(NftError::Refused(_)) => {}
            listed => {
                let mut listed: Value = serde_json::from_str(&listed?).unwrap_or_default();
                objects.extend(listed["nftables"].as_array_mut().map(std::mem::take).unwrap_or_default());
            }
        }
    }
    let is_whole = async || nft(&["list", "chain", "inet", TABLE, "forward"], "").await.is_ok();
    let ours = !ours.is_empty() && is_whole().await;
    Ok(Some(Nftables { ours, ..nftables::read(&serde_json::json!({ "nftables": objects })) }))
}
