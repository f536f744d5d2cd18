//! nsctl.toml: the host's pool, its uplink, its bridges and the defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    BackupTarget, Fleet, Ipv4, Limits, MachineSpec, Problem, Routed, Routing, Uplink, UplinkKind, VLANS,
};
use crate::name::IfName;
use crate::pool::{Lease, Pool, Prefix};

/// The host as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSpec {
    /// The prefix that machines get their /64 from; of one /64 or less, an address each.
    #[serde(rename = "pool")]
    pub whole: Option<Prefix>,
    /// Where several hosts have one pool: the part of it that is routed to this one, and that its machines get
    /// theirs from.
    pub share: Option<Prefix>,
    /// Where the ISP's prefix may change: one that stays, for this host and its machines
    /// alone (RFC 4193), by which they find each other.
    pub local: Option<Prefix>,
    pub uplink: Option<Uplink>,
    #[serde(skip_serializing_if = "super::is_default")]
    pub defaults: Defaults,
    #[serde(skip_serializing_if = "super::is_default")]
    pub images: Images,
    /// Where backups of machines go.
    pub backup: Option<BackupTarget>,
    /// How others learn where machines are.
    pub routing: Option<Routing>,
    /// Where hosts that share the pool agree on what each has of it.
    pub fleet: Option<Fleet>,
    /// How machines resolve names, and are resolved.
    pub dns: Option<Dns>,
    /// The bridges that nsctl makes.
    #[serde(rename = "bridge", skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<IfName, BridgeSpec>,
}

/// What a machine gets where its definition says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The image of a machine that names none.
    pub image: Option<String>,
    /// What a routed machine has of IPv4 where its definition says nothing.
    pub ipv4: Option<Ipv4>,
    /// What a machine may take where its definition says nothing.
    #[serde(skip_serializing_if = "super::is_default")]
    pub limits: Limits,
}

/// How images are made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// Where a distribution's packages come from: a URL, or a line of sources.list(5).
    pub mirror: Option<String>,
}

/// Names of machines, and the servers that they ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The domain of machines' names, which they search.
    pub zone: String,
    /// Whether machines ask this host's systemd-resolved, on the host's address of the pool.
    #[serde(default)]
    pub listen: bool,
    /// Somebody else's DNS64 (RFC 6147), which machines with `ipv4 = "nat64"` ask; it knows nsctl's prefix.
    pub dns64: Option<Ipv6Addr>,
    /// Where their names are published.
    pub push: Option<super::push::Push>,
    /// The servers that machines ask otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
}

impl Dns {
    /// The domain that is free for private use (ICANN resolution 2024.07.29.06).
    pub const ZONE: &str = "machines.internal";

    fn fault(&self) -> Option<String> {
        let wrong = zone_fault(&self.zone);
        let wrong = wrong.map(|wrong| format!("dns.zone: '{}' {wrong}", self.zone.escape_debug()));
        wrong.or_else(|| self.push.as_ref()?.fault())
    }
}

/// Why a word is no domain (RFC 1035 2.3.1).
pub fn zone_fault(zone: &str) -> Option<&'static str> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = zone.len() <= 180 && zone.split('.').all(label);
    (!fits).then_some("is not a domain such as example.org")
}

/// One bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// The interface that becomes the bridge's port to the LAN.
    pub uplink: IfName,
    /// Static addresses of the host on the bridge; none: DHCP and RA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpNet>,
    /// The default routers that go with static addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// The VLANs that its port to the LAN carries tagged (IEEE 802.1Q), for machines in them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vlans: BTreeSet<u16>,
}

impl BridgeSpec {
    /// Whether it keeps VLANs apart.
    pub fn filters(&self) -> bool {
        !self.vlans.is_empty()
    }
}

impl HostSpec {
    /// What machines get their /64 of: the prefix that is routed here, or what the ISP delegates.
    pub fn pool(&self) -> Option<Pool> {
        self.prefix().map(Pool::Fixed).or(self.delegated().map(Pool::Delegated))
    }

    /// The prefix that is routed here and stays: this host's share of the pool, or all of it.
    pub fn prefix(&self) -> Option<Prefix> {
        self.share.or(self.whole)
    }

    /// The prefix whose addresses stay: the pool, or else what is local.
    pub fn fixed_pool(&self) -> Option<Prefix> {
        self.prefix().or(self.local)
    }

    /// The host's own address of what stays.
    pub fn own_address(&self) -> Option<Ipv6Addr> {
        let own = self.fleet.as_ref().map(|fleet| fleet.own.host_end());
        own.or_else(|| self.fixed_pool().map(Prefix::host_address))
    }

    /// Where this host gives machines names with translated addresses.
    pub fn dns64_address(&self) -> Option<Ipv6Addr> {
        let own = self.fleet.as_ref().map(|fleet| fleet.own.address(0x64));
        own.or_else(|| self.prefix().map(Prefix::dns64_address))
    }

    /// The address of a machine that stays: of the pool, or else the local one.
    pub fn fixed_address(&self, routed: &Routed, lease: Lease) -> Option<Ipv6Addr> {
        let fixed = match lease {
            Lease::Number(number) => self.local?.lease(number.into())?,
            Lease::Subnet(_) | Lease::Address(_) => lease,
        };
        routed.planned(fixed).address()
    }

    /// The interface on which this host answers for its machines, where their addresses are looked for.
    pub fn answers_on(&self) -> Option<&IfName> {
        self.uplink.as_ref().filter(|uplink| uplink.is_on_link()).map(|uplink| &uplink.interface)
    }

    /// What a machine may take: as its definition says, the defaults, or as is usual.
    pub fn limits(&self, machine: &MachineSpec) -> Limits {
        machine.limits.or(&self.defaults.limits).or(&Limits::usual())
    }

    /// Whether a routed machine has a private IPv4 address.
    pub fn gives_ipv4(&self, machine: &MachineSpec) -> bool {
        machine.ipv4.or(self.defaults.ipv4).unwrap_or_default() == Ipv4::Nat
    }

    /// Whether it reaches IPv4 by a translation of its IPv6.
    pub fn is_translated(&self, machine: &MachineSpec) -> bool {
        let routed = machine.network.routed().is_some();
        routed && machine.ipv4.or(self.defaults.ipv4).unwrap_or_default() == Ipv4::Nat64
    }

    /// The address on which this host gives machines names with translated addresses; none: they
    /// ask somebody else for them.
    pub fn dns64_listener(&self) -> Option<Ipv6Addr> {
        let own = self.dns.as_ref().is_none_or(|dns| dns.dns64.is_none());
        self.dns64_address().filter(|_| own)
    }

    /// The name servers of a machine.
    pub fn dns_servers_of(&self, machine: &MachineSpec) -> Vec<IpAddr> {
        let others = self.dns.as_ref().and_then(|dns| dns.dns64);
        let translated = others.or_else(|| self.dns64_listener()).filter(|_| self.is_translated(machine));
        translated.map_or_else(|| self.dns_servers(), |server| vec![server.into()])
    }

    /// Whether it has any.
    pub fn has_ipv4(&self, machine: &MachineSpec) -> bool {
        self.gives_ipv4(machine) || machine.ipv4.is_some_and(|ipv4| ipv4.address().is_some())
    }

    /// The addresses of a routed machine that are looked for on the uplink, where this host answers for them.
    /// Where an IPv4 address is routed to this host nobody looks for it, and an answer does no harm.
    pub fn answered_for(&self, machine: &MachineSpec, lease: Option<Lease>) -> Vec<IpAddr> {
        let v6 = match lease {
            Some(Lease::Address(address)) if self.answers_on().is_some() => Some(IpAddr::V6(address)),
            _ => None,
        };
        let v4 = machine.ipv4.and_then(Ipv4::address).filter(|_| self.may_answer_on().is_some());
        v6.into_iter().chain(v4.map(IpAddr::V4)).collect()
    }

    /// The interface on which addresses of machines may be looked for. Nobody looks for one in a tunnel.
    pub fn may_answer_on(&self) -> Option<&IfName> {
        self.uplink.as_ref().filter(|uplink| !uplink.is_tunnel()).map(|uplink| &uplink.interface)
    }

    /// The address on which machines ask this host's name server, if they do.
    pub fn dns_listener(&self) -> Option<Ipv6Addr> {
        self.dns.as_ref().filter(|dns| dns.listen)?;
        self.own_address()
    }

    /// The servers that machines ask.
    pub fn dns_servers(&self) -> Vec<IpAddr> {
        match (&self.dns, self.dns_listener()) {
            (_, Some(listener)) => vec![listener.into()],
            (Some(dns), _) => dns.servers.clone(),
            (None, _) => Vec::new(),
        }
    }

    /// Parses nsctl.toml.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &Path, text: &str) -> Result<HostSpec, Vec<Problem>> {
        let host: HostSpec =
            toml::from_str(text).map_err(|e| vec![Problem::at(path, text, e.span(), e.message())])?;
        let problems: Vec<Problem> =
            host.faults().into_iter().map(|message| Problem::whole(path, message)).collect();
        if problems.is_empty() { Ok(host) } else { Err(problems) }
    }

    /// The length of the prefix that is asked for, where the ISP delegates one.
    pub fn delegated(&self) -> Option<u8> {
        Some(self.uplink.as_ref()?.delegated()?.length)
    }

    /// What is wrong with its part of the pool.
    pub fn share_fault(&self) -> Option<String> {
        let share = self.share?;
        let Some(whole) = self.whole else {
            return Some(format!("share: {share} is a part of which `pool`?"));
        };
        if !whole.net().contains(&share.net()) {
            return Some(format!("share: {share} is no part of the pool {whole}"));
        }
        (whole.is_single() != share.is_single()).then(|| {
            format!(
                "share: {share} has no /64 for each machine; of the pool {whole} it is a /63 at the longest"
            )
        })
    }

    fn routing_fault(&self, routing: &Routing) -> Option<String> {
        if self.prefix().is_none() || self.answers_on().is_some() {
            return Some("routing: a `pool` that is routed here is what can be announced".into());
        }
        let is_nowhere = routing.interface.is_empty() && self.uplink.is_none();
        let nowhere = is_nowhere.then(|| "routing.interface: on which interface are the others?".into());
        routing.fault().or(nowhere)
    }

    fn fleet_fault(&self, fleet: &Fleet) -> Option<String> {
        let fits = |pool: &Prefix| !pool.is_single() && pool.contains(Lease::Subnet(fleet.own));
        if self.share.is_some() {
            return Some("fleet: a host that has its `share` needs nobody to agree with".into());
        }
        if !self.whole.is_some_and(|pool| fits(&pool)) || fleet.own.is_wide() {
            return Some("fleet.own: a /64 of a `pool` that has one for each machine".into());
        }
        fleet.fault()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.share_fault().into_iter().collect();
        if self.delegated().is_some() && self.whole.is_some() {
            faults.push("uplink.delegated: the pool is what the ISP delegates; take `pool` out".into());
        }
        if self.answers_on().is_some() && !self.prefix().is_some_and(Prefix::is_single) {
            faults.push("uplink.on-link: for a pool that is one /64, or a part of it".into());
        }
        if let (Some(pool), Some(UplinkKind::Tunnel(tunnel))) =
            (self.whole, self.uplink.as_ref().map(|up| &up.kind))
            && pool.net().contains(&tunnel.client_address.addr())
        {
            let address = tunnel.client_address;
            faults.push(format!(
                "uplink.tunnel.client-address: {address} is in the pool {pool}; the broker routes that through the tunnel"
            ));
        }
        if self.local.is_some_and(Prefix::is_single) {
            faults.push("local: machines get a /64 each of it, so it is a /63 at the longest".into());
        }
        if self.local.is_some() && self.delegated().is_none() {
            faults.push("local: only where the ISP delegates a prefix; a pool of one's own stays".into());
        }
        if self.defaults.ipv4.is_some_and(|ipv4| ipv4.address().is_some()) {
            faults.push("defaults.ipv4: an address is one machine's own; it stands in its definition".into());
        }
        faults.extend(self.defaults.limits.faults().into_iter().map(|fault| format!("defaults.{fault}")));
        faults.extend(self.dns.as_ref().and_then(Dns::fault));
        faults.extend(self.routing.as_ref().and_then(|routing| self.routing_fault(routing)));
        faults.extend(self.fleet.as_ref().and_then(|fleet| self.fleet_fault(fleet)));
        let mut ports = BTreeMap::new();
        for (name, bridge) in &self.bridges {
            if let Some(other) = ports.insert(&bridge.uplink, name) {
                faults.push(format!("{} is the port of both '{other}' and '{name}'", bridge.uplink));
            }
            if let Some(vlan) = bridge.vlans.iter().find(|vlan| !VLANS.contains(vlan)) {
                faults.push(format!("bridge.{name}.vlans: {vlan} is no VLAN for machines: 2 to 4094 are"));
            }
            if &bridge.uplink == name {
                faults.push(format!("the bridge '{name}' cannot be its own port"));
            }
        }
        faults
    }
}
