//! Where a machine is to be found.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::Serialize;
use serde_with::DeserializeFromStr;

use super::{Lease, Subnet};

/// A machine's own address, as it is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, DeserializeFromStr)]
#[serde(into = "String")]
pub enum Planned {
    Address(Ipv6Addr),
    /// The only one of its own: the machine has no /64.
    Single(Ipv6Addr),
    /// The host part alone, behind a prefix that may change (`Token=` of systemd.network(5)).
    Token(u64),
}

impl Planned {
    /// What is planned for who holds this, and has this host part.
    pub fn new(lease: Lease, host_part: u64) -> Planned {
        match lease {
            Lease::Subnet(subnet) => Planned::Address(subnet.address(host_part)),
            Lease::Address(address) => Planned::Single(address),
            Lease::Number(_) => Planned::Token(host_part),
        }
    }

    pub fn address(self) -> Option<Ipv6Addr> {
        match self {
            Planned::Address(address) | Planned::Single(address) => Some(address),
            Planned::Token(_) => None,
        }
    }

    pub fn host_part(self) -> u64 {
        match self {
            Planned::Address(address) | Planned::Single(address) => u128::from(address) as u64,
            Planned::Token(part) => part,
        }
    }

    /// Whether an address may be a machine's own, whatever its host part.
    pub fn is_of(self, address: Ipv6Addr) -> bool {
        match self {
            Planned::Address(planned) => Subnet::of(planned).contains(address),
            Planned::Single(planned) => planned == address,
            Planned::Token(_) => !address.is_unique_local(),
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Planned::Address(address) | Planned::Single(address) => address.fmt(f),
            Planned::Token(part) => Ipv6Addr::from(u128::from(*part)).fmt(f),
        }
    }
}

/// In files a single address has its length, `2001:db8:b::7/128`, and a token stands as `::2`; an
/// earlier nsctl wrote the number of the subnet before it.
impl FromStr for Planned {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Planned, Self::Err> {
        if let Some(single) = text.strip_suffix("/128") {
            return single.parse().map(Planned::Single);
        }
        let address: Ipv6Addr = text.parse()?;
        let bits = u128::from(address);
        Ok(if bits >> 96 == 0 { Planned::Token(bits as u64) } else { Planned::Address(address) })
    }
}

impl From<Planned> for String {
    fn from(planned: Planned) -> String {
        match planned {
            Planned::Single(address) => format!("{address}/128"),
            Planned::Address(_) | Planned::Token(_) => planned.to_string(),
        }
    }
}
