//! What a machine holds.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::prefix::parse_net;
use super::{PoolError, Prefix, Subnet};

/// What a machine holds: a /64, its number in a prefix that is delegated and may change, or an
/// address of a pool that is but one /64, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lease {
    Number(u32),
    Subnet(Subnet),
    Address(Ipv6Addr),
}

impl Lease {
    /// The number, where it is only that.
    pub fn number(self) -> Option<u32> {
        match self {
            Lease::Number(number) => Some(number),
            Lease::Subnet(_) | Lease::Address(_) => None,
        }
    }

    /// Whether an address is of it, as far as that is known.
    pub fn holds(self, address: Ipv6Addr) -> bool {
        match self {
            Lease::Number(_) => true,
            Lease::Subnet(subnet) => subnet.contains(address),
            Lease::Address(own) => own == address,
        }
    }

    /// Its place among all that can be held. Unicast addresses have bits before their last 64,
    /// and unicast prefixes before their last 32, so no kind is taken for another.
    pub(super) fn place(self) -> u128 {
        match self {
            Lease::Number(number) => number.into(),
            Lease::Subnet(subnet) => subnet.0.into(),
            Lease::Address(address) => address.into(),
        }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lease::Subnet(subnet) => subnet.fmt(f),
            Lease::Address(address) => f.pad(&format!("{address}/128")),
            Lease::Number(number) => f.pad(&format!("subnet {number:#x}")),
        }
    }
}

/// In files a number stands where it has its place behind a prefix: `0:0:0:2a::/64`.
impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        match lease {
            Lease::Number(number) => Subnet(number.into()).to_string(),
            Lease::Subnet(_) | Lease::Address(_) => lease.to_string(),
        }
    }
}

impl FromStr for Lease {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Lease, PoolError> {
        let net = parse_net(text)?;
        if net.prefix_len() == 128 && !Prefix::is_unicast(net) {
            return Err(PoolError::NotUnicast(net));
        }
        if net.prefix_len() == 128 {
            return Ok(Lease::Address(net.addr()));
        }
        let subnet = Subnet::try_from(net)?;
        Ok(u32::try_from(subnet.0).map_or(Lease::Subnet(subnet), Lease::Number))
    }
}

impl TryFrom<String> for Lease {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Lease, PoolError> {
        text.parse()
    }
}
