//! What a machine holds.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::Serialize;
use serde_with::DeserializeFromStr;

use super::prefix::parse_net;
use super::{PoolError, Prefix, Subnet};

/// What a machine holds: a /64 or more, its number in a prefix that is delegated and may change, or an
/// address of a pool that is but one /64, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, DeserializeFromStr)]
#[serde(into = "String")]
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

    /// Whether an address is one that the machine may have on its link.
    pub fn is_on_link(self, address: Ipv6Addr) -> bool {
        self.subnet().map_or_else(|| self.holds(address), |subnet| subnet.link().contains(address))
    }

    /// The prefix, if it is one.
    pub fn subnet(self) -> Option<Subnet> {
        match self {
            Lease::Subnet(subnet) => Some(subnet),
            Lease::Number(_) | Lease::Address(_) => None,
        }
    }

    /// What has this length instead, where it is a prefix.
    pub(super) fn resized(self, length: u8) -> Lease {
        self.subnet().map_or(self, |subnet| Lease::Subnet(subnet.resized(length)))
    }

    /// Its place among all that can be held, the first and the last. Unicast addresses have bits
    /// before their last 64, and unicast prefixes before their last 32, so no kind is taken for
    /// another.
    pub fn range(self) -> (u128, u128) {
        let single = |place: u128| (place, place);
        match self {
            Lease::Number(number) => single(number.into()),
            Lease::Subnet(subnet) => {
                let (first, last) = subnet.range();
                (first.into(), last.into())
            }
            Lease::Address(address) => single(address.into()),
        }
    }

    /// How many machines it could serve.
    pub fn size(self) -> u128 {
        let (first, last) = self.range();
        last - first + 1
    }

    /// Whether both cannot be held at once.
    pub fn overlaps(self, other: Lease) -> bool {
        let ((first, last), (begin, end)) = (self.range(), other.range());
        first <= end && begin <= last
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
            Lease::Number(number) => Subnet::of((u128::from(number) << 64).into()).to_string(),
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
        Ok(u32::try_from(subnet.range().0).map_or(Lease::Subnet(subnet), Lease::Number))
    }
}
