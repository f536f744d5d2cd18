//! nsupdate(1): changes of a zone, signed (RFC 2136, RFC 8945).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::hint::Hint;

/// Why a zone was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("nsupdate cannot be run")]
    Run(#[from] std::io::Error),
    /// What was asked of the name before the change does not hold.
    #[error("the name is not as it was asked for")]
    Prerequisite,
    #[error("the server says: {0}")]
    Refused(String),
    #[error("the server does not answer within {} s", LIMIT.as_secs())]
    Silent,
}

impl Hint for UpdateError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            UpdateError::Run(_) => "install it: on Debian it is in the package bind9-dnsutils".into(),
            UpdateError::Prerequisite => return None,
            UpdateError::Refused(_) => {
                "does its configuration let this key change the zone (update-policy, allow-update), and are both clocks right?".into()
            }
            UpdateError::Silent => "is it the zone's primary server, and reachable from here? [dns.push] in /etc/nsctl/nsctl.toml names it".into(),
        })
    }
}

/// How long a server may take, tries over UDP and TCP included.
const LIMIT: Duration = Duration::from_secs(20);
/// What RFC 2136 2.2 calls a prerequisite that does not hold.
const NOT_SO: [&str; 3] = ["NXRRSET", "YXDOMAIN", "NXDOMAIN"];

/// Sends one change.
///
/// # Errors
/// When it is not made; the zone is as it was then, but where the server was silent.
pub async fn send(key: &Path, script: &str) -> Result<(), UpdateError> {
    tokio::time::timeout(LIMIT, run(key, script)).await.map_err(|_| UpdateError::Silent)?
}

async fn run(key: &Path, script: &str) -> Result<(), UpdateError> {
    let mut command = Command::new("nsupdate");
    command.env_clear().env("PATH", super::build::PATH).env("LC_ALL", "C").kill_on_drop(true);
    command.arg("-k").arg(key).args(["-t", "15", "-u", "3", "-r", "2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let done = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() && said.is_empty() {
        return Ok(());
    }
    let fault = said.rsplit("update failed: ").next().unwrap_or_default().trim();
    if NOT_SO.iter().any(|word| fault.contains(word)) {
        Err(UpdateError::Prerequisite)
    } else if said.contains("timed out") || said.contains("Communication with") {
        Err(UpdateError::Silent)
    } else {
        Err(UpdateError::Refused(fault.to_owned()))
    }
}
