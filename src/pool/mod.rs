//! Prefixes, subnets, leases: address arithmetic and the choice of the next /64.

mod lease;
mod leases;
mod planned;
mod prefix;
mod ranges;

use std::fmt;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::Serialize;

pub use lease::Lease;
pub use leases::{Ask, Leases, Resting};
pub use planned::Planned;
pub use prefix::{Prefix, Subnet, route};

use crate::hint::Hint;
use crate::name::MachineName;

/// What can be wrong with a pool or a subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("'{0}' is not an IPv6 prefix")]
    NotPrefix(String),
    #[error("'{0}' is an IPv4 prefix; the pool is an IPv6 prefix that is routed to this host")]
    Ipv4(String),
    #[error("{0} has host bits set")]
    HostBits(Ipv6Net),
    #[error("{0} is too long: a pool is a /112 at the longest")]
    TooLong(Ipv6Net),
    #[error("a /{0} is too long to be delegated: machines get a /64 each of it")]
    DelegatedTooLong(u8),
    #[error("{0} is too short: a /8 at the widest can be routed here")]
    TooShort(Ipv6Net),
    #[error("{0} is not a unicast prefix that can be routed")]
    NotUnicast(Ipv6Net),
    #[error("{0} is no /64, no shorter prefix that can be routed, and no single address, a /128")]
    NotSubnet(Ipv6Net),
    #[error("the pool {0} is full: all of it is leased")]
    Full(Pool),
    #[error("the pool {pool} has no /{length} left that is free from end to end")]
    NoRoom { pool: Pool, length: u8 },
    #[error("{lease} is not in the pool {pool}")]
    Outside { lease: Lease, pool: Pool },
    #[error("{0} is the host's own, or holds an address that it or its router has")]
    HostsOwn(Lease),
    #[error("{lease} is leased to '{holder}'")]
    Taken { lease: Lease, holder: MachineName },
    #[error("{lease} is leased to {holder}")]
    Elsewhere { lease: Lease, holder: String },
}

impl Hint for PoolError {
    fn hint(&self) -> Option<String> {
        match self {
            PoolError::NotPrefix(_) | PoolError::Ipv4(_) => {
                Some("write it as an address and a length, such as 2001:db8:a::/48".into())
            }
            PoolError::HostBits(net) => Some(format!("did you mean {}?", net.trunc())),
            PoolError::DelegatedTooLong(_) => Some(
                "ask your ISP for a /56; where its /64 stays the same, `nsctl init --pool PREFIX` gives machines an \
                 address each of it"
                    .into(),
            ),
            PoolError::TooLong(_) => {
                Some("ask your provider for a /64, or better a routed /56 or /48".into())
            }
            PoolError::Taken { .. } => {
                Some("leave `subnet` away, or name another: `nsctl pool` shows who holds what".into())
            }
            PoolError::Elsewhere { .. } => {
                Some("leave `subnet` away, or name another: `nsctl fleet list` shows who holds what".into())
            }
            PoolError::Full(_) | PoolError::NoRoom { .. } => {
                Some("`nsctl pool` shows who holds what; `nsctl remove` frees what a machine holds".into())
            }
            _ => None,
        }
    }
}

/// How many machines a prefix of this length could serve: with a /64 each, or an address.
fn size(length: u8) -> u128 {
    1 << (if length < 64 { 64 } else { 128 } - u32::from(length))
}

/// What machines get their /64 of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Pool {
    Fixed(Prefix),
    /// What an ISP delegates, and may change: as long as this, a /32 at the widest.
    Delegated(u8),
}

impl Pool {
    /// The pool of a prefix that is delegated.
    ///
    /// # Errors
    /// When there is no /64 for a machine in a prefix of that length.
    pub fn delegated(length: u8) -> Result<Pool, PoolError> {
        let net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, length.min(128));
        match length {
            64.. => Err(PoolError::DelegatedTooLong(length)),
            ..32 => Err(PoolError::TooShort(net)),
            _ => Ok(Pool::Delegated(length)),
        }
    }

    /// Whether its machines get an address each, and no /64.
    pub fn is_single(self) -> bool {
        self.fixed().is_some_and(Prefix::is_single)
    }

    /// What each of its machines gets, for people.
    pub fn share(self) -> &'static str {
        if self.is_single() { "an address" } else { "a /64" }
    }

    /// The prefix, where it stays.
    pub fn fixed(self) -> Option<Prefix> {
        match self {
            Pool::Fixed(prefix) => Some(prefix),
            Pool::Delegated(_) => None,
        }
    }

    pub fn is_delegated(self) -> bool {
        self.fixed().is_none()
    }

    /// How many machines it could serve, the host included.
    pub fn size(self) -> u128 {
        match self {
            Pool::Fixed(prefix) => prefix.size(),
            Pool::Delegated(length) => size(length),
        }
    }

    /// What a machine may hold of it: the one with this number, if the pool reaches so far.
    pub fn lease(self, number: u64) -> Option<Lease> {
        match self {
            Pool::Fixed(prefix) => prefix.lease(number),
            Pool::Delegated(_) if u128::from(number) >= self.size() => None,
            Pool::Delegated(_) => u32::try_from(number).ok().map(Lease::Number),
        }
    }

    /// Whether it is the host's: subnet 0; of single addresses one, and the first, which is every
    /// router's (the subnet-router anycast address, RFC 4291 2.6.1).
    pub fn is_hosts_own(self, lease: Lease) -> bool {
        let own = self.fixed().map(Prefix::host_address);
        let first = self.lease(0).is_some_and(|first| lease.overlaps(first));
        first || own.is_some_and(|own| lease == Lease::Address(own))
    }

    /// The number of the first that a machine gets unasked.
    pub fn first(self) -> u64 {
        self.fixed().map_or(1, Prefix::first)
    }

    pub fn contains(self, lease: Lease) -> bool {
        match (self, lease) {
            (Pool::Fixed(prefix), lease) => prefix.contains(lease),
            (Pool::Delegated(_), Lease::Number(number)) => u128::from(number) < self.size(),
            (Pool::Delegated(_), Lease::Subnet(_) | Lease::Address(_)) => false,
        }
    }
}

/// In files as a prefix of which only the length is known, `::/56`.
impl From<Pool> for String {
    fn from(pool: Pool) -> String {
        match pool {
            Pool::Fixed(prefix) => prefix.to_string(),
            Pool::Delegated(length) => format!("::/{length}"),
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pool::Fixed(prefix) => prefix.fmt(f),
            Pool::Delegated(length) => write!(f, "::/{length} (delegated)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn pools_that_cannot_be() {
        let error = |text: &str| text.parse::<Prefix>().unwrap_err();
        assert!(matches!(error("2001:db8::/113"), PoolError::TooLong(_)));
        assert!(matches!(error("2001:db8::/128"), PoolError::TooLong(_)));
        assert!(matches!(error("2001:db8::1/48"), PoolError::HostBits(_)));
        assert!(matches!(error("10.0.0.0/8"), PoolError::Ipv4(_)));
        assert!(matches!(error("fe80::/16"), PoolError::NotUnicast(_)));
        assert!(matches!(error("::/8"), PoolError::NotUnicast(_)));
        assert!(matches!(error("2000::/3"), PoolError::TooShort(_)));
        assert!(matches!(error("2001:db8::"), PoolError::NotPrefix(_)));
        assert_eq!(error("2001:db8::1/48").hint().unwrap(), "did you mean 2001:db8::/48?");
        assert!("2001:db8::/63".parse::<Prefix>().is_ok() && "fd12::/32".parse::<Prefix>().is_ok());
    }

    #[test]
    fn the_address_plan() {
        let prefix = prefix("2001:db8:a::/48");
        assert_eq!(prefix.size(), 65536);
        assert_eq!(prefix.host_address().to_string(), "2001:db8:a::1");
        let subnet = prefix.subnet(0x2a).unwrap();
        assert_eq!(subnet.to_string(), "2001:db8:a:2a::/64");
        assert_eq!(subnet.host_end().to_string(), "2001:db8:a:2a::1");
        assert_eq!(prefix.subnet(65536), None);
    }

    #[test]
    fn a_part_without_the_router() {
        let part = |net: &str, taken: &[&str]| {
            let taken = taken.iter().map(|address| address.parse().unwrap()).collect();
            prefix(net).part_without(&taken).map(|part| part.to_string())
        };
        assert_eq!(part("2001:db8:b::/64", &["2001:db8:b::1"]).unwrap(), "2001:db8:b:0:1::/80");
        assert_eq!(part("2001:db8:b::/64", &["2001:db8:b:0:1::1"]).unwrap(), "2001:db8:b:0:2::/80");
        assert_eq!(part("2001:db8:b::/112", &["2001:db8:b::1"]), None);
        assert_eq!(part("2001:db8:b::/48", &["2001:db8:b::1"]), None);
    }

    #[test]
    fn a_number_keeps_its_place_in_files() {
        let number: Lease = "0:0:0:2a::/64".parse().unwrap();
        assert_eq!((number, String::from(number).as_str()), (Lease::Number(0x2a), "0:0:0:2a::/64"));
        assert_eq!(number.to_string(), "subnet 0x2a");
        let pool = Pool::delegated(56).unwrap();
        assert!(pool.contains(number) && pool.lease(0x2a) == Some(number));
        assert!(!pool.contains(Lease::Number(256)) && pool.lease(256).is_none());
        let subnet: Lease = "2001:db8:a:2a::/64".parse().unwrap();
        assert!(!pool.contains(subnet) && !Pool::Fixed(prefix("2001:db8:a::/48")).contains(number));
        assert!(Pool::delegated(64).is_err() && Pool::delegated(31).is_err());
    }

    #[test]
    fn what_is_planned_of_a_prefix_that_changes_is_a_host_part() {
        let planned = |text: &str| text.parse::<Planned>().unwrap();
        assert_eq!(planned("::2"), Planned::new(Lease::Number(7), 2));
        assert_eq!(planned("0:0:0:7::2"), Planned::Token(2), "as it stood in older journals");
        let fixed = planned("2001:db8:a:7::2");
        assert_eq!(fixed.address(), Some("2001:db8:a:7::2".parse().unwrap()));
        let single = planned("2001:db8:b::7/128");
        assert_eq!(String::from(single), "2001:db8:b::7/128");
        assert_eq!((single.to_string().as_str(), single.host_part()), ("2001:db8:b::7", 7));
        assert_eq!(single, Planned::new("2001:db8:b::7/128".parse().unwrap(), 2));
        let is_of = |planned: Planned, text: &str| planned.is_of(text.parse().unwrap());
        assert!(is_of(fixed, "2001:db8:a:7::9") && !is_of(fixed, "2001:db8:a:8::2"));
        assert!(is_of(single, "2001:db8:b::7") && !is_of(single, "2001:db8:b::8"));
        assert!(is_of(Planned::Token(2), "2001:db8:a:7::9") && !is_of(Planned::Token(2), "fd00::2"));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Prefix>();
            let _ = text.parse::<Lease>();
            let _ = text.parse::<Planned>();
        }
    }
}
