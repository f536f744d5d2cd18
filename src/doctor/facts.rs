//! What doctor looks at, beyond what a plan needs. Plain data; `inspect` fills it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use crate::fleet::Differences;
use crate::name::MachineName;
use crate::observed::{Address, Bird, Link, Managed, Observed, Readers, Route, Service};
use crate::plan::Refusal;
use crate::provision::Guest;
use crate::spec::{SecretId, Spec};
use crate::state::State;

/// A host, looked at closely.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub spec: Spec,
    pub state: State,
    pub observed: Observed,
    /// networkd's and nspawn's files in /etc and /run, drop-ins too, by path.
    pub settings: BTreeMap<PathBuf, String>,
    /// systemd's own services, by name.
    pub services: BTreeMap<String, Service>,
    pub routes: Vec<Route>,
    /// For whom this host answers on a link (RFC 4861 7.2.8).
    pub proxies: BTreeSet<(u32, IpAddr)>,
    /// The VLANs of what bridges and their ports send without a tag, by their indexes.
    pub pvids: BTreeMap<u32, u16>,
    /// What networkd does with a link, by its index.
    pub managed: BTreeMap<u32, Managed>,
    /// The links that NetworkManager runs.
    pub network_managers: BTreeSet<String>,
    /// Switches of the kernel, as in [`Observed`], but of each interface.
    pub switches: BTreeMap<String, String>,
    /// Whether this host answers itself at ::1.
    pub loopback_answers: bool,
    /// Machines that run, looked at from inside.
    pub guests: BTreeMap<MachineName, GuestFacts>,
    /// What `apply` would do, one line a step; none where it cannot be planned.
    pub pending: Option<Vec<String>>,
    /// Machines that stay as they are, and why.
    pub left_out: Vec<Refusal>,
    /// The command that was cut short, if one was.
    pub cut_short: Option<String>,
    /// Seconds since 1970.
    pub now: u64,
    /// Secrets that this host cannot decrypt, and why.
    pub lost_secrets: BTreeMap<(MachineName, SecretId), String>,
    /// Who reads the keys of tunnels.
    pub keys: BTreeMap<PathBuf, Readers>,
    /// What the routing daemon knows; none where nobody may ask it.
    pub bird: Option<Bird>,
    /// How the fleet's etcd and this host differ, or why that is not known; none of a host that is in no fleet.
    pub fleet: Option<Result<Differences, String>>,
    /// Why a record of one cannot be read, and what fixes it.
    pub damaged_journal: Option<(String, String)>,
}

/// A machine from inside.
#[derive(Debug, Clone, Default)]
pub struct GuestFacts {
    pub addresses: Vec<Address>,
    /// TCP sockets that listen.
    pub listening: BTreeSet<(IpAddr, u16)>,
    /// The names of its processes.
    pub processes: BTreeSet<String>,
    /// What its tree is; none for a disk image.
    pub tree: Option<Guest>,
    /// Why it does not do what its definition asks; none where it does, or that asks nothing.
    pub fails: Option<String>,
}

impl Facts {
    /// The name of a link by its index.
    pub fn link_name(&self, index: u32) -> &str {
        self.observed.links.iter().find(|link| link.index == index).map_or("?", |link| link.name.as_str())
    }

    /// The interface that the pool's packets come in on.
    pub fn uplink(&self) -> Option<&Link> {
        let name = &self.spec.host.uplink.as_ref()?.interface;
        self.observed.link(name.as_str())
    }

    /// What moves the file of somebody else's that comes before nsctl's own for a link
    /// behind it (networkd takes the first by name); none where there is no such file.
    pub fn let_ours_win(&self, link: &Link) -> Option<String> {
        let file = self.managed.get(&link.index)?.file.as_deref()?;
        let name = file.strip_prefix("/etc/systemd/network/").filter(|name| !name.contains("-nsctl-"))?;
        Some(format!("mv {file} /etc/systemd/network/90-{name} && networkctl reload"))
    }

    pub fn switch(&self, key: &str) -> Option<&str> {
        self.switches.get(key).or_else(|| self.observed.sysctls.get(key)).map(String::as_str)
    }
}
