//! Prefixes and their /64: address arithmetic.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::{PoolError, size};

fn parse_net(text: &str) -> Result<Ipv6Net, PoolError> {
    let shown = || text.escape_debug().to_string();
    match text.parse::<ipnet::IpNet>() {
        Ok(ipnet::IpNet::V6(net)) if net.addr() == net.network() => Ok(net),
        Ok(ipnet::IpNet::V6(net)) => Err(PoolError::HostBits(net)),
        Ok(ipnet::IpNet::V4(_)) => Err(PoolError::Ipv4(shown())),
        Err(_) => Err(PoolError::NotPrefix(shown())),
    }
}

/// A prefix that is routed to this host and stays, a /63 at the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(Ipv6Net);

impl Prefix {
    pub fn net(self) -> Ipv6Net {
        self.0
    }

    /// How many /64 there are, subnet 0 included.
    pub fn size(self) -> u64 {
        size(self.0.prefix_len())
    }

    /// Subnet `index`, if the prefix reaches so far.
    pub fn subnet(self, index: u64) -> Option<Subnet> {
        (index < self.size()).then(|| Subnet(Subnet::of(self.0.network()).0 + index))
    }

    /// The host's own address: the first of subnet 0.
    pub fn host_address(self) -> Ipv6Addr {
        Subnet::of(self.0.network()).address(1)
    }

    pub fn contains(self, subnet: Subnet) -> bool {
        self.0.contains(&subnet.net())
    }
}

impl FromStr for Prefix {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Prefix, PoolError> {
        let net = parse_net(text)?;
        let first = net.network().segments()[0];
        match net.prefix_len() {
            64.. => Err(PoolError::TooLong(net)),
            ..8 => Err(PoolError::TooShort(net)),
            // ::/8 holds loopback and mapped addresses, fe80::/9 link-local ones, ff00::/8 multicast.
            _ if !(0x100..0xfe00).contains(&first) => Err(PoolError::NotUnicast(net)),
            _ => Ok(Prefix(net)),
        }
    }
}

/// One /64, held as its upper 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(pub(super) u64);

impl Subnet {
    /// The address with this host part. Host part 0 is the subnet-router
    /// anycast address (RFC 4291 2.6.1): do not give it to anybody.
    pub fn address(self, host: u64) -> Ipv6Addr {
        Ipv6Addr::from((u128::from(self.0) << 64) | u128::from(host))
    }

    /// The host's end of the machine's veth.
    pub fn host_end(self) -> Ipv6Addr {
        self.address(1)
    }

    pub fn net(self) -> Ipv6Net {
        Ipv6Net::new_assert(self.address(0), 64)
    }

    /// The /64 that an address is in.
    pub fn of(address: Ipv6Addr) -> Subnet {
        Subnet((u128::from(address) >> 64) as u64)
    }

    pub fn contains(self, address: Ipv6Addr) -> bool {
        Subnet::of(address) == self
    }
}

impl FromStr for Subnet {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Subnet, PoolError> {
        let net = parse_net(text)?;
        if net.prefix_len() != 64 {
            return Err(PoolError::NotSubnet(net));
        }
        Ok(Subnet((u128::from(net.network()) >> 64) as u64))
    }
}

macro_rules! text_type {
    ($type:ident, $show:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let show: fn(&$type) -> String = $show;
                f.pad(&show(self))
            }
        }

        impl TryFrom<String> for $type {
            type Error = PoolError;

            fn try_from(text: String) -> Result<Self, PoolError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

text_type!(Prefix, |prefix| prefix.0.to_string());
text_type!(Subnet, |subnet| subnet.net().to_string());
