//! Network namespaces around a host: each is held by one process that dies
//! with the harness, so none is ever left behind.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::run::{Done, capture, check, words};

/// A process of ours that is killed when dropped, or when our thread ends.
#[derive(Debug)]
pub struct Daemon(pub Child);

impl Daemon {
    pub fn spawn(command: &mut Command) -> Result<Daemon> {
        // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let child =
            command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Daemon(child))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One network namespace.
#[derive(Debug)]
pub struct Namespace {
    holder: Daemon,
}

impl Namespace {
    pub fn new() -> Result<Namespace> {
        let script = "ip link set lo up && echo ready && exec sleep infinity";
        let mut holder = Daemon::spawn(
            words(&["unshare", "--net", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()),
        )?;
        let mut line = String::new();
        let stdout = holder.0.stdout.take().context("no pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "cannot make a network namespace");
        Ok(Namespace { holder })
    }

    /// The process whose namespace this is, for `ip link set … netns PID`.
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// A command inside the namespace, with the machine's own files.
    pub fn command(&self, all: &[&str]) -> Command {
        let mut command = words(&["nsenter", &format!("--net=/proc/{}/ns/net", self.pid())]);
        command.args(all);
        command
    }

    /// Runs a command that may fail.
    pub fn run(&self, all: &[&str]) -> Result<Done> {
        capture(&mut self.command(all))
    }

    /// Runs several command lines that must all succeed.
    pub fn script(&self, lines: &str) -> Result<String> {
        check(&mut self.command(&["sh", "-euc", lines]))
    }
}
