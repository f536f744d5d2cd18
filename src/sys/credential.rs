//! Secrets, encrypted and looked at by systemd-creds(1): with this host's own key, and its TPM where it has one.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::hint::Hint;
use crate::spec::SecretId;

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("systemd-creds cannot be run")]
    Run(#[from] std::io::Error),
    #[error("systemd-creds: {0}")]
    Refused(String),
    #[error("systemd-creds hangs: it did not end within {} s", LIMIT.as_secs())]
    Hangs,
}

impl Hint for CredentialError {
    fn hint(&self) -> Option<String> {
        match self {
            CredentialError::Run(_) => Some("it comes with systemd, from 250 on".into()),
            CredentialError::Refused(_) => Some(
                "`systemd-creds setup` makes the key of this host, `systemd-creds has-tpm2` tells of its TPM"
                    .into(),
            ),
            CredentialError::Hangs => {
                Some("`systemd-creds has-tpm2` tells whether it waits for the TPM".into())
            }
        }
    }
}

/// The bytes that one may have. All of a unit's together may have 1 MiB.
pub const MOST: u64 = 512 * 1024;

/// Were we to crash, nobody would find in what is left of us what was typed (core(5)).
pub fn keep_no_core() {
    use nix::sys::resource::{Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// What is in a file that the user named, or comes by standard input; one byte more than it may have tells that it has
/// more.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: Option<&Path>) -> std::io::Result<Vec<u8>> {
    let from: Box<dyn Read> = match file {
        Some(file) => Box::new(std::fs::File::open(file)?),
        None => Box::new(std::io::stdin()),
    };
    let mut secret = Vec::new();
    from.take(MOST + 1).read_to_end(&mut secret)?;
    Ok(secret)
}

/// A TPM takes its time.
const LIMIT: Duration = Duration::from_secs(60);

/// What it says to these words, where it does what it is told. What it is given goes by a pipe: words of a command
/// everybody on the host sees.
async fn systemd_creds(words: &[&str], input: &[u8]) -> Result<Vec<u8>, CredentialError> {
    tracing::debug!(call = %words.join(" "), bytes = input.len(), "systemd-creds");
    let mut command = Command::new("systemd-creds");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C").env("SYSTEMD_LOG_LEVEL", "warning");
    command.kill_on_drop(true);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that refuses does not read to the end.
            let _ = stdin.write_all(input).await;
        }
    };
    let all = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LIMIT, all).await.map_err(|_| CredentialError::Hangs)??;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(CredentialError::Refused(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
}

/// A secret as it is kept: in base64, and bound to its name. It is bound to no state of the host's firmware, and to no
/// kernel: an update of those would lose all of them (`--tpm2-pcrs=`, `--with-key=`, systemd-creds(1)).
///
/// # Errors
/// When systemd-creds cannot be run, or makes nothing of it.
pub async fn encrypt(id: &SecretId, secret: &[u8]) -> Result<String, CredentialError> {
    let name = format!("--name={id}");
    let has_tpm = systemd_creds(&["has-tpm2", "--quiet"], b"").await.is_ok();
    let key = if has_tpm { "--with-key=host+tpm2" } else { "--with-key=host" };
    let text = systemd_creds(&[key, "--tpm2-pcrs=", &name, "encrypt", "-", "-"], secret).await?;
    String::from_utf8(text).map_err(|_| CredentialError::Refused("what it wrote is no text".into()))
}

/// Whether this host can decrypt what is in a file.
///
/// # Errors
/// Why it cannot.
pub async fn can_decrypt(id: &SecretId, file: &Path) -> Result<(), CredentialError> {
    let name = format!("--name={id}");
    // What comes of it is read by nobody, and written nowhere.
    systemd_creds(&[&name, "decrypt", &file.to_string_lossy(), "/dev/null"], b"").await.map(drop)
}
