//! nsctl on another host, by ssh(1), and files on their way to it and back.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

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
/// How long it may take to delete what was carried.
const END_TIME: Duration = Duration::from_secs(20);

impl Remote {
    /// `several`: whether more than one command follows, for which nobody is to be asked twice.
    ///
    /// # Errors
    /// When there is no place for the connection.
    pub fn new(host: &str, several: bool) -> Result<Remote, SshError> {
        let run = |error| SshError::Run("ssh", error);
        // What runs it ends with the same status as a host without nsctl.
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("ssh").exists()) {
            return Err(run(std::io::ErrorKind::NotFound.into()));
        }
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
    /// it is interrupted when we are, as `ended` tells; its exit status.
    ///
    /// # Errors
    /// When the host cannot be reached, or has no nsctl.
    pub async fn nsctl(
        &self,
        words: &[String],
        shown: Shown<'_>,
        ended: impl Future<Output = ()>,
    ) -> Result<u8, SshError> {
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
        // That a session in a terminal has ended is no news; that a connection was lost is.
        let options = [if is_terminal { "-t" } else { "-T" }, "-o", "LogLevel=ERROR"];
        let run = |error| SshError::Run("ssh", error);
        let mut command = self.command(&options, &line);
        if let Shown::With { .. } = shown {
            command.stdout(Stdio::piped());
        }
        let mut child = command.kill_on_drop(true).spawn().map_err(run)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let ends = async {
            if let (Shown::With { instead, of }, Some(mut stdout)) = (shown, child.stdout.take()) {
                let mut said = String::new();
                stdout.read_to_string(&mut said).await?;
                print!("{}", said.replace(of, instead));
            }
            child.wait().await
        };
        tokio::pin!(ends, ended);
        let status = tokio::select! {
            biased;
            () = &mut ended => {
                // Ctrl-C may have reached ssh as well. It leaves the terminal as it was.
                let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
                let _ = tokio::time::timeout(END_TIME, ends).await;
                return Ok(INTERRUPTED);
            }
            status = &mut ends => status.map_err(run)?,
        };
        // It may have heard of that before us.
        tokio::select! {
            biased;
            () = ended => Ok(INTERRUPTED),
            judged = self.judge(status) => judged,
        }
    }

    /// What ssh ends with for itself may also be what nsctl, or a command in a machine, ended with.
    async fn judge(&self, status: ExitStatus) -> Result<u8, SshError> {
        let works = async |line: &str| {
            let mut command = self.command(&["-T", "-q"], line);
            let status =
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
            status.is_ok_and(|status| status.success())
        };
        match (status.code(), status.signal()) {
            (Some(AWAY), _) if !works("exec true").await => Err(SshError::Away(self.host.clone())),
            (Some(NO_PROGRAM), _) if !works("command -v nsctl").await => {
                Err(SshError::NoNsctl(self.host.clone()))
            }
            (Some(code), _) => Ok(u8::try_from(code).unwrap_or(1)),
            (None, signal) => Ok(128 + u8::try_from(signal.unwrap_or_default()).unwrap_or_default()),
        }
    }

    /// A folder there for what goes there or comes from there; whoever made it there deletes it when we end, or the
    /// connection does.
    ///
    /// # Errors
    /// When there is no room, or the host cannot be reached.
    pub async fn folder(&self) -> Result<Folder, SshError> {
        const LINES: &str = "d=$(mktemp -d /var/tmp/nsctl-XXXXXXXX); echo \"$d\"; cat > /dev/null || :
            until rm -rf -- \"$d\" 2> /dev/null && test ! -e \"$d\"; do sleep 1; done";
        let run = |error| SshError::Run("ssh", error);
        let mut command = self.command(&["-T", "-q"], &remote(LINES, &[]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut keeper = command.spawn().map_err(run)?;
        let mut path = String::new();
        if let Some(stdout) = &mut keeper.stdout {
            BufReader::new(stdout).read_line(&mut path).await.map_err(run)?;
        }
        let path = path.trim().to_owned();
        if path.starts_with("/var/tmp/nsctl-") {
            return Ok(Folder { path, keeper });
        }
        match keeper.wait().await.map_err(run)?.code() {
            Some(AWAY) | None => Err(SshError::Away(self.host.clone())),
            Some(_) => Err(SshError::File {
                file: format!("{}:/var/tmp", self.host),
                said: "no folder can be made there".to_owned(),
            }),
        }
    }

    /// Puts a file or folder of ours into a folder there; its path there.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn put(&self, file: &Path, folder: &str) -> Result<String, SshError> {
        const LINES: &str = "mkdir -p \"$1\"; cd \"$1\"; tar -xf - --no-same-owner; test \"$2\" = \"$3\" || mv -T -- \"./$2\" \"./$3\"";
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
        // Whatever is sent, it opens no folder of ours, and nothing runs as its owner, not for a moment.
        unpack.arg("-C").arg(into).args(["-xf", "-"]);
        unpack.args(["--no-same-owner", "--no-same-permissions", "--no-overwrite-dir"]);
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

    /// Has a folder deleted there, and ends the connection; at once where nobody waits for what still runs there.
    pub async fn end(self, folder: Folder, at_once: bool) {
        let Folder { mut keeper, .. } = folder;
        if !at_once {
            drop(keeper.stdin.take());
            let _ = tokio::time::timeout(END_TIME, keeper.wait()).await;
        }
        let mut exit = self.command(&["-q", "-O", "exit"], "");
        let _ = exit.stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    }
}

/// A folder on the other host.
#[derive(Debug)]
pub struct Folder {
    pub path: String,
    /// What deletes it when it hears no more of us.
    keeper: Child,
}

/// Nobody else keeps its ends of pipes open.
fn begun(mut command: Command, stdin: Stdio, stdout: Stdio) -> std::io::Result<Child> {
    command.stdin(stdin).stdout(stdout).kill_on_drop(true).spawn()
}
