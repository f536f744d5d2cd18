//! A machine on trial: it has no network but a link that leads nowhere, and a unit that goes with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::emit::Trial;
use crate::hint::Hint;
use crate::name::MachineName;

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("{0} cannot be run: {1}")]
    Run(&'static str, std::io::Error),
    #[error("it cannot be started: {0}")]
    Start(String),
    #[error("it cannot be given a link: {0}")]
    Link(String),
}

impl Hint for TrialError {
    fn hint(&self) -> Option<String> {
        match self {
            TrialError::Run(..) => Some("it comes with systemd, or is the package iproute2".into()),
            _ => None,
        }
    }
}

/// How long nspawn may take to begin.
const BEGIN_TIME: Duration = Duration::from_secs(90);
/// Whatever becomes of us, it ends some time.
const LAST: &str = "RuntimeMaxSec=3600";

/// The unit that runs it.
pub fn unit(name: &MachineName) -> String {
    format!("nsctl-{name}.service")
}

/// How many files of a folder are looked at.
const LOOKED_AT: usize = 20_000;

/// Whether somebody who sees this of the host, to read, can have nobody on it do anything: neither is it a socket or a
/// pipe, nor is one in it, as far as that can be seen.
pub fn is_quiet(path: &Path) -> bool {
    // nspawn follows links.
    let Ok(path) = path.canonicalize() else { return false };
    if path.starts_with("/run") || path.starts_with("/var/run") || path.starts_with("/dev") {
        return false;
    }
    let mut todo = vec![path];
    let mut left = LOOKED_AT;
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { return false };
        let kind = meta.file_type();
        if kind.is_dir() {
            let Ok(entries) = std::fs::read_dir(&path) else { return false };
            todo.extend(entries.flatten().map(|entry| entry.path()));
        } else if !kind.is_file() && !kind.is_symlink() {
            return false;
        }
        left -= 1;
        if left == 0 || todo.len() > LOOKED_AT {
            return false;
        }
    }
    true
}

/// Starts it from the tree of this name; once that has been done, its first process runs.
///
/// # Errors
/// When systemd or nspawn cannot.
pub async fn start(image: &str, trial: &Trial) -> Result<(), TrialError> {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", "--service-type=notify", "--slice=machine.slice"]);
    command.arg(format!("--unit={}", unit(&trial.name)));
    // As systemd-nspawn@.service has them.
    let usual = [
        "KillMode=mixed",
        "Delegate=yes",
        "DevicePolicy=closed",
        "DeviceAllow=/dev/net/tun rwm",
        "DeviceAllow=char-pts rw",
        "Nice=10",
        // Nobody needs what it would put in order.
        "TimeoutStopSec=2",
        LAST,
    ];
    for property in usual.into_iter().chain(trial.properties.iter().map(String::as_str)) {
        command.arg(format!("--property={property}"));
    }
    command.args(["systemd-nspawn", "--quiet", "--keep-unit", "--boot", "--link-journal=no", "-U"]);
    command.args(["--settings=override", "--private-network"]);
    command.arg(format!("--machine={}", trial.name)).arg(format!("--directory=/var/lib/machines/{image}"));
    command.args(&trial.words);
    said(command, BEGIN_TIME, "systemd-run", TrialError::Start).await
}

/// A link of the name that a guest knows, which leads nowhere: services that want the machine's address have it.
///
/// # Errors
/// When it cannot be made.
pub async fn give_link(leader: u32, addresses: &[String]) -> Result<(), TrialError> {
    // Its other end is beside it, where nobody reads what comes.
    let mut all = vec![
        vec!["link", "add", "host0", "type", "veth", "peer", "name", "nowhere"],
        vec!["link", "set", "nowhere", "up"],
        vec!["link", "set", "host0", "up"],
    ];
    for address in addresses {
        // networkd may have been quicker.
        let nodad = address.contains(':').then_some("nodad");
        all.push(["addr", "replace", address, "dev", "host0"].into_iter().chain(nodad).collect());
    }
    for words in all {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{leader}/ns/net")).arg("ip").args(words);
        said(command, Duration::from_secs(10), "nsenter", TrialError::Link).await?;
    }
    Ok(())
}

async fn said(
    mut command: Command,
    limit: Duration,
    name: &'static str,
    fault: fn(String) -> TrialError,
) -> Result<(), TrialError> {
    tracing::debug!(call = ?command.as_std().get_args(), "{name}");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output.map_err(|_| fault(format!("{name} did not end within {} s", limit.as_secs())))?;
    let output = output.map_err(|error| TrialError::Run(name, error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fault(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
}
