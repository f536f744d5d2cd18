//! `[routing]`: how other hosts and routers learn where machines are, by the routing daemon of this host.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::name::IfName;

/// What a routing daemon of this host announces of its machines, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Routing {
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub daemon: Daemon,
    /// Where the others are; none: on the uplink.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interface: Vec<IfName>,
    /// The number that no other router has, written as an IPv4 address; none: one that is made of this host's prefix.
    pub router_id: Option<Ipv4Addr>,
    /// Of BGP: this host's autonomous system.
    #[serde(rename = "as")]
    pub own_as: Option<u32>,
    /// Of BGP: who is spoken to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbor: Vec<Neighbor>,
}

/// How routers tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// OSPFv3 (RFC 5340).
    Ospf,
    /// Babel (RFC 8966).
    Babel,
    /// BGP (RFC 4271, RFC 2545).
    Bgp,
}

/// Who speaks for this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Daemon {
    #[default]
    Bird,
    Frr,
}

/// A router that BGP is spoken with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbor {
    pub address: Ipv6Addr,
    /// Its autonomous system.
    #[serde(rename = "as")]
    pub other_as: u32,
}

impl Routing {
    /// What cannot be as it is said.
    pub fn fault(&self) -> Option<String> {
        let speaks_bgp = self.protocol == Protocol::Bgp;
        if speaks_bgp && (self.own_as.is_none() || self.neighbor.is_empty()) {
            return Some(
                "routing: BGP needs `as = 65001`, and `neighbor = [{ address = \"2001:db8:ffff::1\", as = 65000 }]`".into(),
            );
        }
        if !speaks_bgp && (self.own_as.is_some() || !self.neighbor.is_empty()) {
            return Some(
                "routing: `as` and `neighbor` are of BGP; others find each other on an interface".into(),
            );
        }
        let is_no_number = |number: u32| number == 0 || number == u32::MAX;
        if self.own_as.into_iter().chain(self.neighbor.iter().map(|it| it.other_as)).any(is_no_number) {
            return Some("routing: the number of an autonomous system is 1 to 4294967294".into());
        }
        (self.router_id == Some(Ipv4Addr::UNSPECIFIED))
            .then(|| "routing.router-id: 0.0.0.0 is nobody's".into())
    }
}
