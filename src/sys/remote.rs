//! nsctl on another host, by ssh(1), and files on their way to it and back.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::FutureExt;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::carry::CarryError;
use super::ssh::{as_root, remote};
use crate::hint::Hint;

#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("{0} cannot be run: {1}")]
    Run(&'static str, std::io::Error),
    #[error("'{0}' cannot be reached by ssh")]
    Away(String),
    #[error("there is no nsctl on '{0}'")]
    NoNsctl(String),
    #[error("{file}: {said}")]
    File { file: String, said: String },
}

impl Hint for SshError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            SshError::Run(..) => "it needs ssh and tar: on Debian openssh-client and tar".to_owned(),
            SshError::Away(host) => format!("does `ssh {host} id` work?"),
            SshError::NoNsctl(host) => {
                format!("install the same package there; `ssh {host} nsctl --version`")
            }
            SshError::File { .. } => "nothing was done with it".to_owned(),
        };
        Some(hint)
    }
}

/// Another host, on which root runs nsctl: one connection, over which files go, too.
#[derive(Debug)]
pub struct Remote {
    host: String,
    /// The socket of the connection, where several commands share it.
    control: Option<tempfile::TempDir>,
}

/// How what nsctl says there is shown here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'w> {
    AsIs,
    /// With the name that somebody has used here for one there.
    With {
        instead: &'w str,
        of: &'w str,
    },
}

/// What ssh(1) and sh(1) end with where ssh fails, and where there is no such program.
const AWAY: i32 = 255;
const NO_PROGRAM: i32 = 127;
/// What a shell says of who was interrupted.
const INTERRUPTED: u8 = 130;

impl Remote {
    /// `several`: whether more than one command follows, for which nobody is to be asked twice.
    ///
    /// # Errors
    /// When there is no place for the connection.
    pub fn new(host: &str, several: bool) -> Result<Remote, SshError> {
        let run = |error| SshError::Run("ssh", error);
        // Its own name is short: a socket's has 107 bytes at the most (unix(7)).
        let place = || tempfile::Builder::new().prefix("nsctl-").tempdir_in("/tmp").map_err(run);
        Ok(Remote { host: host.to_owned(), control: several.then(place).transpose()? })
    }

    fn command(&self, options: &[&str], line: &str) -> Command {
        // It ends with us, however we end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "ssh"]).args(options).args([
            "-o",
            "ConnectTimeout=30",
            "-o",
            "ServerAliveInterval=15",
        ]);
        command.args(["-o", "ServerAliveCountMax=4"]);
        if let Some(control) = &self.control {
            let path = format!("ControlPath={}/ssh", control.path().display());
            command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=30", "-o", &path]);
        }
        command.args(["--", &self.host, line]);
        command
    }

    /// Runs nsctl there with these words, its three streams ours: in a terminal where we have one, and else so that
    /// it is interrupted when we are; its exit status.
    ///
    /// # Errors
    /// When the host cannot be reached, or has no nsctl.
    pub async fn nsctl(&self, words: &[String], shown: Shown<'_>) -> Result<u8, SshError> {
        let is_terminal =
            shown == Shown::AsIs && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let mut all = vec!["nsctl"];
        if std::env::var_os("NO_COLOR").is_some() {
            all = vec!["env", "NO_COLOR=1", "nsctl"];
        }
        all.extend(words.iter().map(String::as_str));
        // The server's process that has begun it ends with the connection.
        let line = if is_terminal {
            as_root("sudo", "", &all)
        } else {
            as_root("sudo -n", "setpriv --pdeathsig INT ", &all)
        };
        let options = if is_terminal { ["-t", "-q"] } else { ["-T", "-q"] };
        let run = |error| SshError::Run("ssh", error);
        // Ctrl-C reaches ssh as well, which ends as if the host were away.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(run)?;
        let mut command = self.command(&options, &line);
        if let Shown::With { .. } = shown {
            command.stdout(Stdio::piped());
        }
        let mut child = command.kill_on_drop(true).spawn().map_err(run)?;
        if let (Shown::With { instead, of }, Some(mut stdout)) = (shown, child.stdout.take()) {
            let mut said = String::new();
            stdout.read_to_string(&mut said).await.map_err(run)?;
            print!("{}", said.replace(of, instead));
        }
        let status = child.wait().await.map_err(run)?;
        let interrupted = interrupt.recv().now_or_never().is_some();
        match (status.code(), status.signal()) {
            _ if interrupted && !is_terminal => Ok(INTERRUPTED),
            (Some(AWAY), _) => Err(SshError::Away(self.host.clone())),
            (Some(NO_PROGRAM), _) => Err(SshError::NoNsctl(self.host.clone())),
            (Some(code), _) => Ok(u8::try_from(code).unwrap_or(1)),
            (None, signal) => Ok(128 + u8::try_from(signal.unwrap_or_default()).unwrap_or_default()),
        }
    }

    /// A folder there for what goes there or comes from there.
    ///
    /// # Errors
    /// When there is no room, or the host cannot be reached.
    pub async fn folder(&self) -> Result<String, SshError> {
        let line = remote("mktemp -d /var/tmp/nsctl-XXXXXXXX", &[]);
        let output = self.command(&["-T"], &line).stderr(Stdio::inherit()).output().await;
        let output = output.map_err(|error| SshError::Run("ssh", error))?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let is_one = output.status.success() && path.starts_with("/var/tmp/nsctl-") && !path.contains('\n');
        if is_one { Ok(path) } else { Err(SshError::Away(self.host.clone())) }
    }

    /// Puts a file or folder of ours into a folder there; its path there.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn put(&self, file: &Path, folder: &str) -> Result<String, SshError> {
        const LINES: &str =
            "cd \"$1\"; tar -xf - --no-same-owner; test \"$2\" = \"$3\" || mv -T -- \"./$2\" \"./$3\"";
        let fails = |said: String| SshError::File { file: file.display().to_string(), said };
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let shown = std::path::absolute(file).map_err(|error| fails(error.to_string()))?;
        let real = std::fs::canonicalize(file).map_err(|error| fails(error.to_string()))?;
        let (Some(own), Some(wanted)) = (name(&real), name(&shown)) else {
            return Err(fails("has no name of its own".to_owned()));
        };
        let mut pack = Command::new("tar");
        pack.arg("-C")
            .arg(real.parent().unwrap_or(Path::new("/")))
            .args(["-cf", "-", "--"])
            .arg(format!("./{own}"));
        let line = remote(LINES, &[folder, &own, &wanted]);
        self.pipe(pack, self.command(&["-T"], &line), fails).await?;
        Ok(format!("{folder}/{wanted}"))
    }

    /// Fetches what is in a folder there into a folder here, which is empty.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn fetch(&self, folder: &str, into: &Path) -> Result<(), SshError> {
        let fails = |said: String| SshError::File { file: format!("{}:{folder}", self.host), said };
        let mut unpack = Command::new("tar");
        unpack.arg("-C").arg(into).args(["-xf", "-", "--no-same-owner"]);
        let line = remote("cd \"$1\"; exec tar -cf - .", &[folder]);
        self.pipe(self.command(&["-T"], &line), unpack, fails).await
    }

    async fn pipe(
        &self,
        from: Command,
        to: Command,
        fails: impl Fn(String) -> SshError,
    ) -> Result<(), SshError> {
        let run = |error| SshError::Run("ssh, or tar,", error);
        let (reader, writer) = std::io::pipe().map_err(run)?;
        let mut from = begun(from, Stdio::null(), writer.into()).map_err(run)?;
        let mut to = begun(to, reader.into(), Stdio::null()).map_err(run)?;
        let (from, to) = (from.wait().await.map_err(run)?, to.wait().await.map_err(run)?);
        if from.success() && to.success() {
            Ok(())
        } else {
            Err(fails("it was not carried whole".to_owned()))
        }
    }

    /// Deletes a folder that [`Remote::folder`] made, and ends the connection.
    pub async fn end(self, folder: &str) {
        let line = remote("rm -rf -- \"$1\"", &[folder]);
        let _ = self.command(&["-T"], &line).status().await;
        let _ = self.command(&["-q", "-O", "exit"], "").stderr(Stdio::null()).status().await;
    }
}

/// Nobody else keeps its ends of pipes open.
fn begun(mut command: Command, stdin: Stdio, stdout: Stdio) -> std::io::Result<Child> {
    command.stdin(stdin).stdout(stdout).kill_on_drop(true).spawn()
}

/// Where something is to be that comes from there: ours, as we may be anybody.
#[derive(Debug)]
pub struct Arrival {
    place: PathBuf,
    name: OsString,
    /// Beside it, so that it gets there in one step.
    draft: tempfile::TempDir,
    force: bool,
}

impl Arrival {
    /// In a folder that is there it gets its own name.
    ///
    /// # Errors
    /// When there is no such folder, or something is there and is not to be replaced.
    pub fn at(word: &Path, name: &OsStr, force: bool) -> Result<Arrival, CarryError> {
        let shown = word.display().to_string();
        let place = match word.is_dir() {
            true => word.join(name),
            false if shown.ends_with('/') => return Err(CarryError::NoFolder(shown)),
            false => word.to_owned(),
        };
        if place.is_symlink() {
            return Err(CarryError::Link(shown));
        }
        if !force && place.exists() {
            return Err(CarryError::Taken(place.display().to_string()));
        }
        let absolute = std::path::absolute(&place).map_err(|error| CarryError::Io(shown.clone(), error))?;
        let folder = absolute.parent().filter(|folder| folder.is_dir());
        let folder = folder.ok_or_else(|| CarryError::NoFolder(shown.clone()))?;
        let draft = tempfile::Builder::new().prefix(".nsctl-").tempdir_in(folder);
        let draft = draft.map_err(|error| CarryError::Io(folder.display().to_string(), error))?;
        Ok(Arrival { place: absolute, name: name.to_owned(), draft, force })
    }

    /// An empty folder for it, under its own name.
    pub fn draft(&self) -> &Path {
        self.draft.path()
    }

    /// All of it is in the draft, and gets its place.
    ///
    /// # Errors
    /// When something is there that is not to be replaced, or of another kind.
    pub fn settle(self) -> Result<(), CarryError> {
        let from = self.draft.path().join(&self.name);
        if self.force {
            return fill(&from, &self.place);
        }
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(AT_FDCWD, &from, AT_FDCWD, &self.place, flags).map_err(|error| match error {
            Errno::EEXIST => CarryError::Taken(self.place.display().to_string()),
            error => CarryError::Io(self.place.display().to_string(), error.into()),
        })
    }
}

/// Files replace files, and folders are filled.
fn fill(from: &Path, to: &Path) -> Result<(), CarryError> {
    let io = |error| CarryError::Io(to.display().to_string(), error);
    let is_folder = |path: &Path| path.symlink_metadata().map(|meta| meta.is_dir());
    match (is_folder(from).map_err(io)?, is_folder(to)) {
        (true, Ok(true)) => {
            for entry in std::fs::read_dir(from).map_err(io)? {
                let entry = entry.map_err(io)?;
                fill(&entry.path(), &to.join(entry.file_name()))?;
            }
            Ok(())
        }
        (one, Ok(other)) if one != other => Err(CarryError::Unlike(to.display().to_string())),
        _ => std::fs::rename(from, to).map_err(io),
    }
}
