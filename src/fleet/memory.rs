//! What a host remembers of what it has agreed on, so that it needs nobody for what it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Host, Machines, View};
use crate::name::MachineName;
use crate::pool::{Lease, Subnet};

/// Where it stands.
pub const FLEET_FILE: &str = "/var/lib/nsctl/fleet.toml";
const VERSION: u32 = 1;
const HEADER: &str = "# Written by nsctl: what etcd knows of this host's machines. Do not edit.\n";

/// What etcd has said, and was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    version: u32,
    /// The cluster, and the latest of its revisions that was seen: one that has an older one has forgotten something.
    cluster: String,
    revision: u64,
    pub epoch: u64,
    /// etcd may have more for this host's than it has: who was killed, or heard no answer, cannot know.
    pub may_have_more: bool,
    /// What this host has for itself there.
    pub own: Option<Subnet>,
    /// The hosts that were there: one that etcd has forgotten is waited for, too.
    #[serde(default)]
    pub hosts: BTreeMap<String, Host>,
    /// The machines that etcd has said yes to.
    #[serde(default)]
    agreed: BTreeMap<MachineName, String>,
}

fn text(lease: Option<Lease>) -> String {
    lease.map(String::from).unwrap_or_default()
}

impl Memory {
    /// One that cannot be read remembers nothing, but that there may be more.
    pub fn parse(text: Option<&str>) -> Memory {
        let Some(text) = text else { return Memory::default() };
        let lost = Memory { may_have_more: true, ..Memory::default() };
        toml::from_str(text).ok().filter(|memory: &Memory| memory.version == VERSION).unwrap_or(lost)
    }

    pub fn render(&self) -> String {
        let memory = Memory { version: VERSION, ..self.clone() };
        format!("{HEADER}{}", toml::to_string(&memory).unwrap_or_default())
    }

    /// Whether etcd has said yes to a machine and its lease. Who gives a lease up needs nobody.
    pub fn knows(&self, name: &MachineName, lease: Option<Lease>) -> bool {
        self.agreed.get(name).is_some_and(|agreed| lease.is_none() || *agreed == text(lease))
    }

    /// Whether that, and nothing else, is what etcd has for this host.
    pub fn is(&self, machines: &Machines) -> bool {
        let texts = machines.iter().map(|(name, lease)| (name.clone(), text(*lease)));
        !self.may_have_more && self.agreed == texts.collect()
    }

    /// These, and no others, were agreed to.
    pub fn agree<'m>(&mut self, machines: impl Iterator<Item = (&'m MachineName, &'m Option<Lease>)>) {
        self.agreed = machines.map(|(name, lease)| (name.clone(), text(*lease))).collect();
    }

    /// Before what is gone is freed: who hears no answer must not take for his what may be another's by then.
    pub fn give_up(&mut self, machines: &Machines) {
        self.agreed.retain(|name, lease| machines.get(name).is_some_and(|held| text(*held) == *lease));
        self.may_have_more = true;
    }

    /// Whether etcd is another one than it was, as it was before, or has forgotten what this host has.
    pub fn is_ahead_of(&self, view: &View, me: &str) -> bool {
        let is_lost = |name: &MachineName| view.machines.get(name).is_none_or(|known| known.host != me);
        let is_older = self.cluster != format!("{:x}", view.cluster) || view.revision < self.revision;
        let has_forgotten = !view.gone.contains(me) && self.agreed.keys().any(is_lost);
        !self.cluster.is_empty() && (is_older || has_forgotten)
    }

    /// The hosts that etcd has forgotten: they are known again, and have not said what they have.
    pub fn lost<'m>(&'m self, view: &'m View) -> impl Iterator<Item = (&'m String, Host)> {
        let lost =
            self.hosts.iter().filter(|(id, _)| !view.hosts.contains_key(*id) && !view.gone.contains(*id));
        lost.map(|(id, host)| (id, Host { epoch: 0, ..host.clone() }))
    }

    pub fn saw(&mut self, view: &View) {
        (self.cluster, self.revision, self.epoch) =
            (format!("{:x}", view.cluster), view.revision, view.epoch);
        self.hosts.retain(|id, _| !view.gone.contains(id));
        self.hosts.extend(view.hosts.iter().map(|(id, host)| (id.clone(), host.clone())));
    }

    /// The hosts that have not said what they have since etcd forgot something, those that it has forgotten, too.
    pub fn silent(&self, view: &View) -> Vec<String> {
        let behind = view.hosts.values().filter(|host| host.epoch < view.epoch).map(|host| host.name.clone());
        behind.chain(self.lost(view).map(|(_, host)| host.name)).collect()
    }
}
