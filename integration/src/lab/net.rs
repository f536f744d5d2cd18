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

    /// A namespace behind this one, on a link of so many bytes: `PREFIX:1` is
    /// here, `PREFIX:2` there, and its default route leads here.
    pub fn beyond(&self, link: &str, mtu: u32, prefix: &str) -> Result<Namespace> {
        let far = Namespace::new()?;
        self.script(&format!(
            "ip link add {link} mtu {mtu} type veth peer name near0 mtu {mtu} netns {}
             ip addr add {prefix}:1/64 dev {link} nodad; ip link set {link} up
             sysctl -qw net.ipv6.conf.all.forwarding=1",
            far.pid()
        ))?;
        far.script(&format!(
            "ip addr add {prefix}:2/64 dev near0 nodad; ip link set near0 up; ip -6 route add default via {prefix}:1"
        ))?;
        Ok(far)
    }

    /// Counts, from now on, what comes in and matches a rule of nftables.
    pub fn watch(&self, family: &str, rule: &str) -> Result<()> {
        let table = format!("table {family} watch");
        self.script(&format!(
            "nft '{table}
             delete {table}
             {table} {{
                 chain c {{
                     type filter hook prerouting priority -300
                     {rule} counter
                 }}
             }}'"
        ))
        .map(drop)
    }

    /// How many packets have matched since.
    pub fn watched(&self, family: &str) -> Result<u64> {
        let text = self.script(&format!("nft list table {family} watch"))?;
        let number = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        number.and_then(|number| number.parse().ok()).with_context(|| text.clone())
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
