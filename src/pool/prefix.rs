//! Prefixes and their /64: address arithmetic.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::{Lease, PoolError, size};

pub(super) fn parse_net(text: &str) -> Result<Ipv6Net, PoolError> {
    let shown = || text.escape_debug().to_string();
    match text.parse::<ipnet::IpNet>() {
        Ok(ipnet::IpNet::V6(net)) if net.addr() == net.network() => Ok(net),
        Ok(ipnet::IpNet::V6(net)) => Err(PoolError::HostBits(net)),
        Ok(ipnet::IpNet::V4(_)) => Err(PoolError::Ipv4(shown())),
        Err(_) => Err(PoolError::NotPrefix(shown())),
    }
}

/// A prefix that can be routed to a machine, of any length that a route has: a /8 at the widest.
///
/// # Errors
/// When it is none.
pub fn route(text: &str) -> Result<Ipv6Net, PoolError> {
    let net = parse_net(text)?;
    match net.prefix_len() {
        ..8 => Err(PoolError::TooShort(net)),
        _ if !Prefix::is_unicast(net) => Err(PoolError::NotUnicast(net)),
        _ => Ok(net),
    }
}

/// Machines ask the host for names at its address of the pool.
const DNS_PORT: u128 = 0x53;

/// A prefix that comes to this host and stays. Machines get a /64 each of one that has several,
/// and of a /64 or less an address each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Prefix(Ipv6Net);

impl Prefix {
    pub fn net(self) -> Ipv6Net {
        self.0
    }

    /// Whether it can be routed: ::/8 holds loopback and mapped addresses, fe80::/9 link-local
    /// ones, ff00::/8 multicast (RFC 4291 2.4).
    pub(super) fn is_unicast(net: Ipv6Net) -> bool {
        (0x100..0xfe00).contains(&net.network().segments()[0])
    }

    /// The first part of a single one that holds none of these addresses, sixteen bits longer.
    #[must_use]
    pub fn part_without(self, taken: &BTreeSet<Ipv6Addr>) -> Option<Prefix> {
        let length = (self.0.prefix_len() + 16).min(112);
        let parts = self.0.subnets(length).ok()?.filter(|part| self.is_single() && *part != self.0);
        let mut free = parts.skip(1).filter(|part| !taken.iter().any(|address| part.contains(address)));
        free.next().map(Prefix)
    }

    /// Whether there is no /64 in it for each machine.
    pub fn is_single(self) -> bool {
        self.0.prefix_len() >= 64
    }

    /// How many machines it could serve, the host included.
    pub fn size(self) -> u128 {
        size(self.0.prefix_len())
    }

    /// Subnet `index`, if the prefix reaches so far.
    pub fn subnet(self, index: u64) -> Option<Subnet> {
        let there = !self.is_single() && u128::from(index) < self.size();
        let upper = u128::from(self.0.network()) >> 64;
        there.then(|| Subnet::of(((upper + u128::from(index)) << 64).into()))
    }

    /// What machine `index` gets of it, if it reaches so far: a /64, or an address.
    pub fn lease(self, index: u64) -> Option<Lease> {
        if !self.is_single() {
            return self.subnet(index).map(Lease::Subnet);
        }
        let address = u128::from(self.0.network()) + u128::from(index);
        (u128::from(index) < self.size()).then(|| Lease::Address(address.into()))
    }

    /// Where this host gives machines names with translated addresses; in subnet 0, or of a single
    /// prefix among the first 256, as its own address is.
    pub fn dns64_address(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.0.network()) + 0x64)
    }

    /// The host's own address: the first of subnet 0. Of a single prefix it is none that somebody
    /// may have given to the host or to a router before.
    pub fn host_address(self) -> Ipv6Addr {
        let host = if self.is_single() { DNS_PORT } else { 1 };
        Ipv6Addr::from(u128::from(self.0.network()) + host)
    }

    /// The number of the first that a machine gets unasked: subnet 0 is the host's, and of a
    /// single prefix the lowest addresses are whose they were before.
    pub fn first(self) -> u64 {
        if self.is_single() { 0x100 } else { 1 }
    }

    pub fn contains(self, lease: Lease) -> bool {
        match lease {
            Lease::Subnet(subnet) => !self.is_single() && self.0.contains(&subnet.net()),
            Lease::Address(address) => self.is_single() && self.0.contains(&address),
            Lease::Number(_) => false,
        }
    }
}

impl TryFrom<Ipv6Net> for Prefix {
    type Error = PoolError;

    fn try_from(net: Ipv6Net) -> Result<Prefix, PoolError> {
        match net.prefix_len() {
            113.. => Err(PoolError::TooLong(net)),
            ..8 => Err(PoolError::TooShort(net)),
            _ if !Prefix::is_unicast(net) => Err(PoolError::NotUnicast(net)),
            _ => Ok(Prefix(net)),
        }
    }
}

/// What a machine has of a prefix: a /64, or more than that for one that routes on, of which the
/// first /64 is the machine's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct Subnet(Ipv6Net);

impl Subnet {
    /// The address with this host part. Host part 0 is the subnet-router
    /// anycast address (RFC 4291 2.6.1): do not give it to anybody.
    pub fn address(self, host: u64) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.0.network()) | u128::from(host))
    }

    /// The host's end of the machine's veth.
    pub fn host_end(self) -> Ipv6Addr {
        self.address(1)
    }

    pub fn net(self) -> Ipv6Net {
        self.0
    }

    /// The /64 that an address is in.
    pub fn of(address: Ipv6Addr) -> Subnet {
        Subnet(Ipv6Net::new_assert(address, 64).trunc())
    }

    /// The /64 of the machine's link.
    pub fn link(self) -> Subnet {
        Subnet::of(self.0.network())
    }

    pub fn length(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether it is more than a link.
    pub fn is_wide(self) -> bool {
        self.length() < LINK
    }

    /// The one of this length that has the same beginning, or holds it.
    pub(super) fn resized(self, length: u8) -> Subnet {
        Subnet(Ipv6Net::new_assert(self.0.network(), length.min(LINK)).trunc())
    }

    /// The first and the last /64 of it, by their upper 64 bits.
    pub(super) fn range(self) -> (u64, u64) {
        let upper = |address: Ipv6Addr| (u128::from(address) >> 64) as u64;
        (upper(self.0.network()), upper(self.0.broadcast()))
    }

    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.0.contains(&address)
    }
}

/// What systemd takes for granted of a link (RFC 4862 5.5.3: 64 bits are left to the host).
const LINK: u8 = 64;

impl TryFrom<Ipv6Net> for Subnet {
    type Error = PoolError;

    fn try_from(net: Ipv6Net) -> Result<Subnet, PoolError> {
        match net.prefix_len() {
            LINK => Ok(Subnet(net)),
            8..LINK if Prefix::is_unicast(net) => Ok(Subnet(net)),
            _ => Err(PoolError::NotSubnet(net)),
        }
    }
}

macro_rules! text_type {
    ($type:ident) => {
        impl FromStr for $type {
            type Err = PoolError;

            fn from_str(text: &str) -> Result<$type, PoolError> {
                parse_net(text)?.try_into()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }
    };
}

text_type!(Prefix);
text_type!(Subnet);
