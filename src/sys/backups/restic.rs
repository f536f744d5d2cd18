//! Backups by restic(1): encrypted, incremental, to wherever restic can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use super::{Save, Saved};
use crate::backup::{Backup, BackupId, TAG, listed, tag_of};
use crate::hint::Hint;
use crate::name::MachineName;
use crate::spec::Repository;
use crate::sys::{self, Disk, build};

/// What encrypts a repository, where no variable of restic's says otherwise.
pub const PASSWORD_FILE: &str = "/etc/nsctl/backup.password";
/// Variables for restic, a `KEY=VALUE` a line: how it comes in to the backend (AWS_ACCESS_KEY_ID and the like).
pub const ENVIRONMENT_FILE: &str = "/etc/nsctl/backup.env";
const CACHE: &str = "/var/cache/nsctl/restic";
/// Where restic sees what is backed up: always the same place, by which it knows what has not changed.
const PLACE: &str = "/run/nsctl/backup";
/// What is beside the tree in a backup.
const CONTENTS: &str = "machine.toml";
/// How often a repository is tried that somebody else has for himself, and how long is waited in between.
const LOCKED_TRIES: u32 = 60;
const LOCKED_TIME: Duration = Duration::from_secs(10);
/// No record of ours is larger.
const CONTENTS_LIMIT: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ResticError {
    #[error("restic cannot be run: {0}")]
    Run(std::io::Error),
    #[error("restic has no password for {0}")]
    NoPassword(String),
    #[error("there is no repository at {0}")]
    NoRepository(String),
    #[error("somebody else works with the repository at {0}")]
    Locked(String),
    #[error("restic, at {at}: {said}")]
    Failed { at: String, said: String },
    #[error("restic said what cannot be read: {0}")]
    Nonsense(String),
    #[error("{0} cannot be made ready")]
    Place(PathBuf, #[source] std::io::Error),
}

impl Hint for ResticError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ResticError::Run(_) => "install it: on Debian it is the package restic".to_owned(),
            ResticError::NoPassword(_) => format!(
                "`(umask 077; head -c 24 /dev/urandom | base64 > {PASSWORD_FILE})`, and keep a copy elsewhere: without \
                 it nobody can read the backups"
            ),
            ResticError::NoRepository(_) => {
                "`nsctl backup NAME` makes one with the first backup; for another, --from or [backup] in \
                 /etc/nsctl/nsctl.toml"
                    .to_owned()
            }
            ResticError::Locked(_) => "wait for him; `restic list locks` shows who that is".to_owned(),
            ResticError::Failed { .. } => format!(
                "is it reachable, and is this its password? {PASSWORD_FILE} and {ENVIRONMENT_FILE} are what restic is \
                 given"
            ),
            ResticError::Nonsense(_) => "restic 0.14 and later are known".to_owned(),
            ResticError::Place(_, error) => return error.hint(),
        };
        Some(hint)
    }
}

/// A repository, and how restic comes in.
#[derive(Debug, Clone)]
pub struct Restic {
    repository: Repository,
    environment: BTreeMap<String, String>,
}

/// One line of what it says with --json.
#[derive(Deserialize)]
struct Line {
    message_type: String,
    percent_done: Option<f64>,
    snapshot_id: Option<BackupId>,
    data_added: Option<u64>,
}

impl Restic {
    /// # Errors
    /// When there is no password, or a file with variables cannot be read.
    pub fn of(disk: &Disk, repository: &Repository) -> Result<Restic, sys::Error> {
        let text = disk.read(Path::new(ENVIRONMENT_FILE))?.unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut environment: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| {
                let bare = value.trim().trim_matches('"').to_owned();
                (key.trim().trim_start_matches("export ").to_owned(), bare)
            })
            .collect();
        let passwords = ["RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"];
        let is_set = |key: &&str| environment.contains_key(*key) || std::env::var_os(*key).is_some();
        if !passwords.iter().any(is_set) {
            if !disk.exists(Path::new(PASSWORD_FILE)) {
                return Err(ResticError::NoPassword(repository.to_string()).into());
            }
            environment.insert("RESTIC_PASSWORD_FILE".into(), PASSWORD_FILE.into());
        }
        environment.insert("RESTIC_REPOSITORY".into(), repository.as_str().into());
        if std::env::var_os("RESTIC_CACHE_DIR").is_none() {
            environment.entry("RESTIC_CACHE_DIR".into()).or_insert_with(|| CACHE.into());
        }
        Ok(Restic { repository: repository.clone(), environment })
    }

    fn prepare(&self, command: &mut Command) {
        command.env_remove("RESTIC_REPOSITORY_FILE").envs(&self.environment);
        command.env("PATH", build::PATH).env("LC_ALL", "C.UTF-8");
        command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    fn command(&self, words: &[&str]) -> Command {
        tracing::debug!(call = %words.join(" "), at = %self.repository, "restic");
        let mut command = Command::new("restic");
        self.prepare(&mut command);
        command.args(words);
        command
    }

    fn failed(&self, said: &str) -> ResticError {
        let at = self.repository.to_string();
        if said.contains("already locked") {
            return ResticError::Locked(at);
        }
        let missing = ["Is there a repository at the following location", "repository does not exist"];
        if missing.iter().any(|words| said.contains(words)) {
            return ResticError::NoRepository(at);
        }
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(4)..].join("; ");
        ResticError::Failed { at, said: last.replace(self.repository.as_str(), &self.repository.to_string()) }
    }

    /// Tries again as long as somebody else has the repository for himself: who deletes old backups does. What
    /// somebody has locked who was killed is unlocked, and only where it is in the way: each call of restic's makes
    /// the key of the password anew, which takes half a second on purpose.
    async fn patiently<T>(&self, one: impl AsyncFn() -> Result<T, ResticError>) -> Result<T, ResticError> {
        for tried in 1..LOCKED_TRIES {
            match one().await {
                Err(ResticError::Locked(_)) => {
                    let _ = self.ask_once(&["unlock"]).await;
                    if tried > 1 {
                        tokio::time::sleep(LOCKED_TIME).await;
                    }
                }
                done => return done,
            }
        }
        one().await
    }

    /// What it says to these words.
    async fn ask(&self, words: &[&str]) -> Result<String, ResticError> {
        self.patiently(async || self.ask_once(words).await).await
    }

    async fn ask_once(&self, words: &[&str]) -> Result<String, ResticError> {
        let output = self.command(words).output().await.map_err(ResticError::Run)?;
        if !output.status.success() {
            return Err(self.failed(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether there is a repository.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn is_there(&self) -> Result<bool, ResticError> {
        match self.ask(&["cat", "config", "--no-lock"]).await {
            Ok(_) => Ok(true),
            Err(ResticError::NoRepository(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When there is one, or it cannot be made.
    pub async fn init(&self) -> Result<(), ResticError> {
        self.ask(&["init"]).await.map(drop)
    }

    /// The backups in it, the oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn backups(&self, machine: Option<&MachineName>) -> Result<Vec<Backup>, ResticError> {
        // Tags with a comma between must all be there (restic-snapshots(1)).
        let tags = machine.map_or(TAG.to_owned(), |machine| format!("{TAG},{}", tag_of(machine)));
        let said = self.ask(&["snapshots", "--json", "--no-lock", "--tag", &tags]).await?;
        listed(&said).map_err(|error| ResticError::Nonsense(error.to_string()))
    }

    /// What lies beside the tree in a backup.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn contents(&self, id: &BackupId) -> Result<String, ResticError> {
        let mut child =
            self.command(&["dump", "--no-lock", id.as_str(), CONTENTS]).spawn().map_err(ResticError::Run)?;
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(CONTENTS_LIMIT).read_to_end(&mut text).await.map_err(ResticError::Run)?;
        }
        self.end(child).await?;
        String::from_utf8(text).map_err(|error| ResticError::Nonsense(error.to_string()))
    }

    async fn end(&self, child: Child) -> Result<(), ResticError> {
        let output = child.wait_with_output().await.map_err(ResticError::Run)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(self.failed(&String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// restic in a mount namespace of its own, where `tree` is at its place, to read or to be written.
    fn inside(
        &self,
        machine: &MachineName,
        tree: &Path,
        script: &str,
        words: &[&str],
    ) -> Result<Command, ResticError> {
        let place = Path::new(PLACE).join(machine.as_str());
        std::fs::create_dir_all(&place).map_err(|error| ResticError::Place(place.clone(), error))?;
        tracing::debug!(call = %words.join(" "), at = %self.repository, "restic");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
        command.arg(&place).arg(tree).args(words);
        self.prepare(&mut command);
        Ok(command)
    }

    /// Puts a tree, and what is known of it, into the repository; `hears` how much of it is done, from 0 to 1.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn save(&self, save: &Save<'_>, hears: impl Fn(f64)) -> Result<Saved, ResticError> {
        self.patiently(async || self.save_once(save, &hears).await).await
    }

    async fn save_once(&self, save: &Save<'_>, hears: &impl Fn(f64)) -> Result<Saved, ResticError> {
        let Save { machine, tree, contents, tags, .. } = save;
        const SCRIPT: &str = "mount -t tmpfs -o size=8m,mode=0700 tmpfs \"$1\"
             mkdir \"$1/tree\"; mount --bind \"$2\" \"$1/tree\"; mount -o remount,bind,ro \"$1/tree\"
             cat > \"$1/machine.toml\"; test \"$(wc -c < \"$1/machine.toml\")\" -eq \"$3\"
             cd \"$1\"; shift 3; exec setpriv --pdeathsig KILL restic \"$@\" < /dev/null";
        let tags = tags.join(",");
        // Its length: were we killed while we write it, half of it would look whole. And relative names: who
        // restores by hand finds them where he says.
        let (length, host) = (contents.len().to_string(), sys::kernel::hostname());
        let words = [&length, "--json", "backup", "--host", &host, "--tag", &tags, CONTENTS, "tree"];
        let mut command = self.inside(machine, tree, SCRIPT, &words)?;
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(ResticError::Run)?;
        let stdin = child.stdin.take();
        let give = async {
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(contents.as_bytes()).await;
            }
        };
        let ((), (said, saved)) = tokio::join!(give, self.follow(&mut child, hears));
        let status = child.wait().await.map_err(ResticError::Run)?;
        match saved {
            Some(saved) if status.success() => Ok(saved),
            // Some files could not be read: that is no backup to rely on, nor one to be found later.
            Some(saved) => {
                let forgotten = self.ask(&["forget", saved.id.as_str()]).await;
                Err(forgotten.err().unwrap_or_else(|| self.failed(&said)))
            }
            None => Err(self.failed(&said)),
        }
    }

    /// What it complained of at last, and what it came to.
    async fn follow(&self, child: &mut Child, hears: impl Fn(f64)) -> (String, Option<Saved>) {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let listen = async {
            let mut saved = None;
            let mut lines = BufReader::new(stdout?).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                line.percent_done.into_iter().for_each(&hears);
                if line.message_type == "summary"
                    && let Some(id) = line.snapshot_id
                {
                    saved = Some(Saved { id, added: line.data_added.unwrap_or_default() });
                }
            }
            saved
        };
        let complaints = async {
            let mut last = String::new();
            let Some(stderr) = stderr else { return last };
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Of many files the last few tell.
                if last.len() > 4096 {
                    last.drain(..last.floor_char_boundary(2048));
                }
                last.push_str(&line);
                last.push('\n');
            }
            last
        };
        let (saved, said) = tokio::join!(listen, complaints);
        (said, saved)
    }

    async fn knows_sparse(&self) -> bool {
        self.ask(&["restore", "--help"]).await.is_ok_and(|help| help.contains("--sparse"))
    }

    /// How many bytes a backup takes where it is restored; none where what was never written takes none, either.
    ///
    /// # Errors
    /// When that cannot be told.
    pub async fn room(&self, id: &BackupId) -> Result<Option<u64>, ResticError> {
        #[derive(Deserialize)]
        struct Stats {
            total_size: u64,
        }
        if self.knows_sparse().await {
            return Ok(None);
        }
        let said = self.ask(&["stats", "--mode", "restore-size", "--json", id.as_str()]).await?;
        let stats: Stats =
            serde_json::from_str(&said).map_err(|error| ResticError::Nonsense(error.to_string()))?;
        Ok(Some(stats.total_size))
    }

    /// Puts what was backed up of a tree into a folder that is there.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn restore(
        &self,
        machine: &MachineName,
        id: &BackupId,
        tree: &Path,
    ) -> Result<(), ResticError> {
        const SCRIPT: &str = "mount -t tmpfs -o size=8m,mode=0700 tmpfs \"$1\"
             mkdir \"$1/tree\"; mount --bind \"$2\" \"$1/tree\"; cd \"$1\"; shift 2
             exec setpriv --pdeathsig KILL restic \"$@\"";
        let place = Path::new(PLACE).join(machine.as_str());
        let place = place.to_string_lossy();
        let mut words = vec!["restore", id.as_str(), "--target", &place];
        // Restic 0.14 does not know it: what was never written takes room then.
        words.extend(self.knows_sparse().await.then_some("--sparse"));
        let restore = async || {
            let child = self.inside(machine, tree, SCRIPT, &words)?.spawn().map_err(ResticError::Run)?;
            self.end(child).await
        };
        self.patiently(restore).await
    }

    /// Forgets backups, and what only they had.
    ///
    /// # Errors
    /// When they cannot be forgotten.
    pub async fn forget(&self, ids: &[BackupId]) -> Result<(), ResticError> {
        let words = ["forget", "--prune"].into_iter().chain(ids.iter().map(BackupId::as_str));
        self.ask(&words.collect::<Vec<_>>()).await.map(drop)
    }
}
