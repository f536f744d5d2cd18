//! Why a step was not done, and how long some are waited for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::hint::Hint;
use crate::name::{IfName, MachineName};
use crate::pool::Planned;
use crate::provision::ProvisionError;
use crate::sys::{self, GuestError};

/// How long a machine may take to answer after its start.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long networkd may take to do what its files say.
pub const NETWORKD_TIME: Duration = Duration::from_secs(15);
/// How long an ISP's DHCP server may take to delegate a prefix.
pub const DELEGATION_TIME: Duration = Duration::from_secs(15);

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Sys(sys::Error),
    #[error("there is a tree named '{0}' by now")]
    TreeTaken(MachineName),
    #[error("the copy of '{from}' is not whole: {lost} files are missing, or too short")]
    Incomplete { from: String, lost: u64 },
    #[error("its package manager failed{}{}", if .0.is_empty() { "" } else { "; it said at last:\n" }, .0)]
    Packages(String),
    #[error("its package manager installed nothing of what there is; it said at last:\n{0}")]
    NothingInstalled(String),
    #[error("{}", .0.join("; "))]
    NotAsBefore(Vec<String>),
    #[error("it takes {needs} bytes, and there is room for {has} in /var/lib/machines")]
    NoRoom { needs: u64, has: u64 },
    #[error("the machine on trial: {0}")]
    NoTrial(String),
    /// What was tried does not do what it should.
    #[error(transparent)]
    NotProved(Box<StepError>),
    #[error("there is an image named '{0}' by now")]
    SnapshotTaken(String),
    #[error("'{0}' is a disk image: nothing can be put into it")]
    NoTree(MachineName),
    #[error("the tree named '{0}' is not the one that nsctl made: it is left alone")]
    AnotherTree(MachineName),
    #[error("the password cannot be hashed")]
    NoHash,
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error("it takes more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("'{machine}' ended right after its start{}{said}", if .said.is_empty() { "" } else { "; it said at last: " })]
    Ended { machine: MachineName, said: String },
    #[error("no answer from {address} within {} s; the machine has {seen}", ANSWER_TIME.as_secs())]
    NoAnswer { machine: MachineName, address: Planned, seen: String },
    #[error("somebody else on {link} has {address} already")]
    Elsewhere { machine: MachineName, address: IpAddr, link: IfName },
    #[error("networkd did not do that within {} s", NETWORKD_TIME.as_secs())]
    Networkd { look_at: String },
    #[error("the kernel does not keep VLANs apart on {0}")]
    NoVlans(IfName),
    #[error("no prefix was delegated within {} s", DELEGATION_TIME.as_secs())]
    NotDelegated,
    #[error("{0} was changed by somebody else meanwhile, and is left as it is")]
    Touched(PathBuf),
    #[error(transparent)]
    Journal(#[from] super::JournalError),
    #[error("the kernel has no room for another IPv6 neighbour")]
    Crowded,
    #[error("interrupted")]
    Interrupted,
    #[error("that needs a running host, not a folder of files")]
    Offline,
}

impl<E: Into<sys::Error>> From<E> for StepError {
    fn from(error: E) -> StepError {
        StepError::Sys(error.into())
    }
}

impl Hint for StepError {
    fn hint(&self) -> Option<String> {
        match self {
            StepError::Sys(error) => error.hint(),
            StepError::Journal(error) => error.hint(),
            StepError::Provision(error) => error.hint(),
            StepError::NotProved(error) => error.hint(),
            StepError::TooLarge { .. } => Some("if that is as it should be: --max-size 200G, say".into()),
            StepError::Ended { machine, .. } => Some(format!("`journalctl -u {} -n 50` says why", machine.unit())),
            StepError::NoAnswer { machine, .. } => Some(format!(
                "is systemd-networkd enabled in the image? `nsctl create {machine} … --no-start` makes the machine \
                 without waiting; `machinectl start {machine}` and `machinectl login {machine}` then show what it does"
            )),
            StepError::Elsewhere { machine, address: IpAddr::V6(_), .. } => Some(format!(
                "give '{machine}' another one, below [network] of its definition: subnet = \"ADDRESS/128\""
            )),
            StepError::Elsewhere { machine, .. } => {
                Some(format!("who has it must let go of it, or '{machine}' be given another one: ipv4 = \"ADDRESS\""))
            }
            StepError::Crowded => Some("`sysctl -w net.ipv6.neigh.default.gc_thresh3=8192`".into()),
            StepError::Incomplete { .. } => Some("is the disk full? `df -h /var/lib/machines` tells".into()),
            StepError::NoVlans(_) => Some("it must have been built with CONFIG_BRIDGE_VLAN_FILTERING, as Debian's is".into()),
            StepError::NotDelegated => Some(
                "does the ISP delegate one on this interface? `journalctl -u systemd-networkd -n 50` tells what it answered".into(),
            ),
            StepError::Networkd { look_at } => Some(format!(
                "`networkctl status {look_at}` and `journalctl -u systemd-networkd -n 50` say why"
            )),
            _ => None,
        }
    }
}

impl StepError {
    /// Whether the step that failed left nothing that must be undone, nor did what is taken
    /// together with it: only files are read again beside a tree that is made.
    pub fn left_nothing(&self) -> bool {
        let refused = matches!(self, StepError::Sys(sys::Error::Guest(GuestError::Refused(_))));
        refused
            || matches!(self, StepError::TreeTaken(_) | StepError::SnapshotTaken(_) | StepError::Journal(_))
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        if !text.contains(&cause.to_string()) {
            text += &format!(": {cause}");
        }
        next = cause.source();
    }
    text
}
