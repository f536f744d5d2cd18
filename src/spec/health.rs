//! `[check]`: how a machine is known to do what it is for.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is asked of a machine that runs; where it says several things, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct HealthCheck {
    /// A TCP port at which an address of the machine accepts connections.
    pub tcp: Option<u16>,
    /// A command of the guest's sh(1), run as its root, that ends with 0.
    pub command: Option<String>,
    /// Seconds that it may take after a start until all is well; none: [`HealthCheck::USUAL`].
    pub within: Option<u16>,
}

impl HealthCheck {
    /// Seconds that a guest may take to boot and to begin its services.
    pub const USUAL: u16 = 60;
    /// The longest that anybody waits for a command to return.
    const LONGEST: u16 = 3600;

    pub fn within(&self) -> Duration {
        Duration::from_secs(self.within.unwrap_or(HealthCheck::USUAL).into())
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.tcp.is_none() && self.command.is_none() {
            faults.push("check: it asks nothing; `tcp = 25565` or `command = \"…\"` is asked".to_owned());
        }
        faults.extend((self.tcp == Some(0)).then(|| "check.tcp: 0 is no port".to_owned()));
        let is_text = |command: &str| !command.trim().is_empty() && !command.contains('\0');
        let no_command = self.command.as_deref().filter(|command| !is_text(command));
        faults.extend(no_command.map(|command| format!("check.command: {command:?} is no command")));
        let range = 1..=HealthCheck::LONGEST;
        let odd = self.within.filter(|seconds| !range.contains(seconds));
        faults.extend(odd.map(|odd| format!("check.within: {odd} is no number of seconds from 1 to 3600")));
        faults
    }
}

/// What it asks, in words.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tcp, &self.command) {
            (Some(port), None) => write!(f, "tcp/{port}"),
            (Some(port), Some(command)) => write!(f, "tcp/{port} and `{command}`"),
            (None, command) => write!(f, "`{}`", command.as_deref().unwrap_or_default()),
        }
    }
}

/// Whether a machine that ends is started again (systemd.service(5), `Restart=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    No,
    /// Where it did not end by itself in good order, nor was stopped.
    OnFailure,
    /// Unless it was stopped.
    Always,
}

impl Restart {
    /// As systemd has it.
    pub fn word(self) -> &'static str {
        match self {
            Restart::No => "no",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
        }
    }
}
