//! Commands of the machine we run on: run, check, capture.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// What a command left behind; the texts are lossy UTF-8.
#[derive(Debug, Clone)]
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn ok(&self) -> bool {
        self.status == 0
    }

    /// Both streams, for messages.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end without judging it.
pub fn capture(command: &mut Command) -> Result<Done> {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(Done {
        status: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// Runs a command that must succeed and gives its standard output.
pub fn check(command: &mut Command) -> Result<String> {
    let done = capture(command)?;
    if !done.ok() {
        bail!("{command:?} ended with {}:\n{}", done.status, done.all());
    }
    Ok(done.stdout)
}

/// A command from its words.
pub fn words(all: &[&str]) -> Command {
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    command
}
