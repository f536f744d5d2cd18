//! etcdctl(1): what the hosts of a fleet agree on, read and changed.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::disk::{Disk, DiskError};
use crate::fleet::{Op, PREFIX, View, ViewError, script};
use crate::hint::Hint;
use crate::spec::Fleet;
use crate::sys::{build, kernel};

/// Why etcd was not asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("etcdctl cannot be run")]
    Run(#[source] std::io::Error),
    #[error("the fleet's etcd cannot be asked: {0}")]
    Silent(String),
    #[error("the fleet's etcd says: {0}")]
    Refused(String),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the password of etcd's user cannot be read")]
    Password(#[from] DiskError),
    #[error("{} may be used by others than root", .0.display())]
    Open(PathBuf),
    #[error("there is no {}", .0.display())]
    NoPassword(PathBuf),
}

impl Hint for EtcdError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            EtcdError::Run(_) => "install it: on Debian it is in the package etcd-client".into(),
            EtcdError::Silent(_) => {
                "what this host has runs on without it; `nsctl fleet status` tells which members answer"
                    .into()
            }
            EtcdError::Refused(_) => {
                "[fleet] in /etc/nsctl/nsctl.toml says who this host is to it: cert and key, or user".into()
            }
            EtcdError::View(_) => {
                "is that etcd nsctl's alone? `etcdctl get --prefix /nsctl/` shows it".into()
            }
            EtcdError::Password(error) => return error.hint(),
            EtcdError::Open(path) => format!("chown root: {0}; chmod go= {0}", path.display()),
            EtcdError::NoPassword(_) => {
                "it holds the password of etcd's user, and root alone may read it".into()
            }
        })
    }
}

impl EtcdError {
    /// Whether nobody answers, or no majority does.
    pub fn is_silent(&self) -> bool {
        matches!(self, EtcdError::Silent(_))
    }
}

/// How long a member may take to be reached, and to answer: etcdctl tries the next then.
const DIAL: &str = "--dial-timeout=2s";
const ANSWER: &str = "--command-timeout=5s";
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(15);

/// A fleet's etcd, and how this host comes in.
#[derive(Debug, Clone)]
pub struct Etcd {
    words: Vec<OsString>,
    /// Where etcdctl finds the socket: it takes its name as one of this folder.
    folder: PathBuf,
    /// Not among the words: those everybody can read.
    user: Option<String>,
}

impl Etcd {
    /// # Errors
    /// When the password cannot be read.
    pub fn of(disk: &Disk, fleet: &Fleet) -> Result<Etcd, EtcdError> {
        let (folder, endpoints) = match fleet.socket() {
            // Who may come in there moves machines.
            Some((folder, _))
                if std::fs::metadata(folder)
                    .is_ok_and(|meta| meta.uid() != 0 || meta.mode() & 0o077 != 0) =>
            {
                return Err(EtcdError::Open(folder.to_owned()));
            }
            Some((folder, name)) => (folder.to_owned(), format!("unix://{name}")),
            None => ("/".into(), fleet.etcd.join(",")),
        };
        let mut words: Vec<OsString> =
            vec![format!("--endpoints={endpoints}").into(), DIAL.into(), ANSWER.into()];
        for (option, path) in [("--cacert", &fleet.ca), ("--cert", &fleet.cert), ("--key", &fleet.key)] {
            words.extend(path.iter().flat_map(|path| [option.into(), path.clone().into_os_string()]));
        }
        let user = match (&fleet.user, &fleet.password_file) {
            (Some(user), Some(file)) => {
                if disk.mode(file).is_some_and(|mode| mode & 0o077 != 0) {
                    return Err(EtcdError::Open(file.clone()));
                }
                let password = disk.read(file)?.ok_or_else(|| EtcdError::NoPassword(file.clone()))?;
                Some(format!("{user}:{}", password.trim_end_matches('\n')))
            }
            _ => None,
        };
        Ok(Etcd { words, folder, user })
    }

    /// What etcd knows, as a majority of it does.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub async fn view(&self) -> Result<View, EtcdError> {
        Ok(View::read(&self.run(&["get", "--prefix", PREFIX, "-w", "json"], "").await?)?)
    }

    /// Makes these changes, where nothing has changed since; whether it did, and the revision that it has by then.
    ///
    /// # Errors
    /// When nobody knows whether they were made.
    pub async fn change(&self, generation: u64, ops: &[Op]) -> Result<Option<u64>, EtcdError> {
        let mark = kernel::random().map_err(EtcdError::Run)?;
        let answer = self.run(&["txn", "-w", "json"], &script(generation, ops, mark)).await?;
        let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|_| ViewError::Nonsense)?;
        let revision = answer["header"]["revision"].as_u64().ok_or(ViewError::Nonsense)?;
        Ok((answer["succeeded"] == true).then_some(revision))
    }

    /// How each member is, as etcdctl(1) tells it.
    pub async fn members(&self) -> Vec<(String, bool)> {
        // It fails where one of them does, and tells of all.
        let told = match self.run(&["endpoint", "health", "-w", "json"], "").await {
            Ok(told) => told,
            Err(EtcdError::Silent(told)) => told,
            Err(_) => return Vec::new(),
        };
        let all: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap_or_default();
        all.iter()
            .filter_map(|one| Some((one["endpoint"].as_str()?.to_owned(), one["health"] == true)))
            .collect()
    }

    async fn run(&self, words: &[&str], input: &str) -> Result<String, EtcdError> {
        tracing::debug!(call = ?words, input, "etcdctl");
        let mut command = Command::new("etcdctl");
        command.env_clear().env("PATH", build::PATH).env("LC_ALL", "C").env("ETCDCTL_API", "3");
        command.envs(self.user.iter().map(|user| ("ETCDCTL_USER", user)));
        command.args(words).args(&self.words).kill_on_drop(true);
        if self.folder.is_dir() {
            command.current_dir(&self.folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(EtcdError::Run)?;
        let done = async {
            if let Some(mut stdin) = child.stdin.take() {
                // Who has ended already says why below.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let silent = |_| EtcdError::Silent(format!("it did not answer within {} s", LIMIT.as_secs()));
        let done = tokio::time::timeout(LIMIT, done).await.map_err(silent)?.map_err(EtcdError::Run)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if done.status.success() {
            return Ok(text(&done.stdout));
        }
        Err(fault(&text(&done.stdout), &text(&done.stderr)))
    }
}

/// Its last line says why; what its library logged before is JSON.
fn fault(told: &str, said: &str) -> EtcdError {
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('{'));
    let why = last.unwrap_or(said).trim_start_matches("Error: ").to_owned();
    let silent = ["deadline", "unavailable", "no leader", "timed out", "connection", "unhealthy"];
    if told.starts_with('[') {
        return EtcdError::Silent(told.to_owned());
    }
    if silent.iter().any(|word| why.to_lowercase().contains(word)) {
        let cause = ["certificate", "authentication handshake", "no such file", "connection refused"];
        let log = said.lines().find(|line| cause.iter().any(|word| line.contains(word)));
        let cause = log.and_then(|line| line.rsplit("desc = ").next()).unwrap_or_default();
        let cause = cause.trim_matches(['"', '}', ' ', '\\']);
        return EtcdError::Silent(if cause.is_empty() { why } else { format!("{why} ({cause})") });
    }
    EtcdError::Refused(why)
}
