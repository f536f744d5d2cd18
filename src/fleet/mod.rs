//! What the hosts of a pool agree on: who has which machine, and which subnet. It stands in etcd, below `/nsctl/`:
//!
//! - `pool`: the prefix that all of them share;
//! - `machines/NAME`: whose the machine is, and its lease;
//! - `leases/PREFIX`: whose it is; each made where there is none, in one transaction with the machine's;
//! - `resting/PREFIX`: what was freed, and when;
//! - `hosts/ID`: a host, its own subnet, and up to which epoch it has said what it has; `gone/ID`: one that has left;
//! - `epoch`: counts how often etcd was found to have forgotten something;
//! - `generation`: changed by each transaction, which compares it: what was decided by has not changed since.
//!
//! Each host keeps what it has in its own files, and needs etcd for what is new alone. Pure.

mod agree;
mod differences;
mod memory;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use agree::{AT_ONCE, Conflict, Op, agree, freed, known_again, leave, next_epoch, script};
pub use differences::{Differences, losers};
pub use memory::{FLEET_FILE, Memory};

use crate::name::MachineName;
use crate::pool::{Lease, Prefix, Resting, Subnet};

/// Where all of it is.
pub const PREFIX: &str = "/nsctl/";
/// Changed by each transaction.
pub const GENERATION: &str = "/nsctl/generation";
const POOL: &str = "/nsctl/pool";
const EPOCH: &str = "/nsctl/epoch";
/// TOML's numbers end there.
const LAST_EPOCH: u64 = 1 << 62;

/// The machines of a host, and what each has of the pool.
pub type Machines = BTreeMap<MachineName, Option<Lease>>;

/// What a host wants to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// This host.
    pub id: String,
    pub name: String,
    pub own: Subnet,
    pub pool: Prefix,
    pub machines: Machines,
}

/// A host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// As it calls itself.
    pub name: String,
    pub own: Subnet,
    /// Up to which epoch it has said what it has.
    pub epoch: u64,
}

impl Host {
    /// What it calls itself gets to terminals, and into commands that people copy.
    fn parse(id: &str, text: &str) -> Option<Host> {
        let host: Host = serde_json::from_str(text).ok()?;
        let is_plain = !host.name.is_empty() && is_host_name(&host.name) && host.epoch < LAST_EPOCH;
        Some(Host { name: if is_plain { host.name } else { id.to_owned() }, ..host })
    }
}

/// Letters, digits, hyphens and dots (hostname(7)).
pub fn is_host_name(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// Whose a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// A host's id.
    pub host: String,
    pub lease: Option<Lease>,
}

/// Whose a subnet is; no machine's: the host's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub machine: Option<MachineName>,
}

/// What was freed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rested {
    pub machine: Option<MachineName>,
    /// Seconds since 1970.
    pub since: u64,
}

/// What etcd knows at an instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub cluster: u64,
    pub revision: u64,
    /// The revision in which the generation changed; 0: never.
    pub generation: u64,
    pub epoch: u64,
    pub pool: Option<Prefix>,
    pub hosts: BTreeMap<String, Host>,
    /// The ids of those that have left, or were said to be gone for good.
    pub gone: BTreeSet<String>,
    pub machines: BTreeMap<MachineName, Holding>,
    pub leases: BTreeMap<Lease, Holder>,
    pub resting: BTreeMap<Lease, Rested>,
}

/// What is in etcd, and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    #[error("etcdctl answers with something that cannot be read")]
    Nonsense,
    #[error("{0} in etcd is none of nsctl's, or of a newer one")]
    Foreign(String),
}

impl View {
    /// Reads what `etcdctl get --prefix /nsctl/ -w json` answers.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(text: &str) -> Result<View, ViewError> {
        let answer: Value = serde_json::from_str(text).map_err(|_| ViewError::Nonsense)?;
        let number = |value: &Value| value.as_u64().ok_or(ViewError::Nonsense);
        let mut view = View {
            cluster: number(&answer["header"]["cluster_id"])?,
            revision: number(&answer["header"]["revision"])?,
            ..View::default()
        };
        for pair in answer["kvs"].as_array().into_iter().flatten() {
            let text = |field: &str| -> Result<String, ViewError> {
                let bytes = STANDARD.decode(pair[field].as_str().unwrap_or_default());
                String::from_utf8(bytes.map_err(|_| ViewError::Nonsense)?).map_err(|_| ViewError::Nonsense)
            };
            let (key, value) = (text("key")?, text("value")?);
            let known = view.take(&key, &value, number(&pair["mod_revision"])?);
            known.ok_or_else(|| ViewError::Foreign(key.escape_debug().to_string()))?;
        }
        Ok(view)
    }

    fn take(&mut self, key: &str, value: &str, revision: u64) -> Option<()> {
        match key {
            GENERATION => self.generation = revision,
            EPOCH => self.epoch = value.parse().ok().filter(|epoch| *epoch < LAST_EPOCH)?,
            POOL => self.pool = Some(value.parse().ok()?),
            _ => {
                let (kind, name) = key.strip_prefix(PREFIX)?.split_once('/')?;
                match kind {
                    "hosts" => drop(self.hosts.insert(host_id(name)?, Host::parse(name, value)?)),
                    "gone" => drop(self.gone.insert(host_id(name)?)),
                    "machines" => {
                        self.machines.insert(name.parse().ok()?, serde_json::from_str(value).ok()?);
                    }
                    "leases" => {
                        drop(self.leases.insert(name.parse().ok()?, serde_json::from_str(value).ok()?))
                    }
                    "resting" => {
                        self.resting.insert(name.parse().ok()?, serde_json::from_str(value).ok()?);
                    }
                    _ => return None,
                }
            }
        }
        Some(())
    }

    /// What a host is called; one that is not known, by its id.
    pub fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        self.hosts.get(id).map_or(id, |host| &host.name)
    }

    /// What others have, and who, in words.
    pub fn elsewhere(&self, me: &str) -> Vec<(Lease, String)> {
        let others = self.leases.iter().filter(|(_, holder)| holder.host != me);
        others.map(|(lease, holder)| (*lease, self.words(holder))).collect()
    }

    /// Who holds something.
    pub fn words(&self, holder: &Holder) -> String {
        let host = self.name_of(&holder.host);
        holder
            .machine
            .as_ref()
            .map_or(format!("the host {host} itself"), |machine| format!("'{machine}' on {host}"))
    }

    /// What rests, the one freed longest ago first.
    pub fn resting(&self) -> Vec<Resting> {
        let mut all: Vec<_> = self.resting.iter().collect();
        all.sort_by_key(|(lease, rested)| (rested.since, **lease));
        let rests =
            |(lease, rested): (&Lease, &Rested)| Resting { lease: *lease, machine: rested.machine.clone() };
        all.into_iter().map(rests).collect()
    }

    /// The first subnet that nobody has, for a host itself: the first one of all, or else one as machines get them.
    pub fn free_for_host(&self, pool: Prefix, taken: &[Lease]) -> Option<Subnet> {
        let is_free = |lease: &Lease| {
            let mut all = self.leases.keys().chain(self.resting.keys()).chain(taken);
            all.all(|other| !other.overlaps(*lease))
        };
        // Beyond a million somebody has so many machines that he may say which.
        (0..1 << 20).map_while(|number| pool.lease(number)).find(is_free)?.subnet()
    }
}

/// The ids of hosts are sixteen hexadecimal digits.
fn host_id(text: &str) -> Option<String> {
    (text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
