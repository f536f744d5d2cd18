//! Prefixes, subnets, leases: address arithmetic and the choice of the next /64.

mod lease;
mod leases;
mod planned;
mod prefix;

use std::fmt;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::Serialize;

pub use lease::Lease;
pub use leases::{Leases, Resting};
pub use planned::Planned;
pub use prefix::{Prefix, Subnet};

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
    #[error(
        "{0} is too long: machines get a /64 each, and a single on-link /64 cannot be routed to them \
         (NDP proxying is not worth the misery)"
    )]
    TooLong(Ipv6Net),
    #[error("{0} is too short: a pool is a /8 at the widest")]
    TooShort(Ipv6Net),
    #[error("{0} is not a unicast prefix that can be routed")]
    NotUnicast(Ipv6Net),
    #[error("{0} is not a /64")]
    NotSubnet(Ipv6Net),
    #[error("the pool {0} is full: all its /64 are leased")]
    Full(Pool),
    #[error("{lease} is not in the pool {pool}")]
    Outside { lease: Lease, pool: Pool },
    #[error("{0} is subnet 0 of the pool, which is the host's own")]
    HostsOwn(Lease),
    #[error("{lease} is leased to '{holder}'")]
    Taken { lease: Lease, holder: MachineName },
}

impl Hint for PoolError {
    fn hint(&self) -> Option<String> {
        match self {
            PoolError::NotPrefix(_) | PoolError::Ipv4(_) => {
                Some("write it as an address and a length, such as 2001:db8:a::/48".into())
            }
            PoolError::HostBits(net) => Some(format!("did you mean {}?", net.trunc())),
            PoolError::TooLong(_) => {
                Some("ask your provider for a routed /56 or /48, or take one from a tunnel broker".into())
            }
            PoolError::Full(_) => {
                Some("`nsctl pool` shows who holds what; `nsctl remove` frees a subnet".into())
            }
            _ => None,
        }
    }
}

/// How many /64 a prefix of this length has.
fn size(length: u8) -> u64 {
    1 << (64 - length)
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
            64.. => Err(PoolError::TooLong(net)),
            ..32 => Err(PoolError::TooShort(net)),
            _ => Ok(Pool::Delegated(length)),
        }
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

    /// How many /64 there are, the host's own included.
    pub fn size(self) -> u64 {
        match self {
            Pool::Fixed(prefix) => prefix.size(),
            Pool::Delegated(length) => size(length),
        }
    }

    /// What a machine may hold of it: the one with this number, if the pool reaches so far.
    pub fn lease(self, number: u64) -> Option<Lease> {
        match self {
            Pool::Fixed(prefix) => prefix.subnet(number).map(Lease::Subnet),
            Pool::Delegated(_) if number >= self.size() => None,
            Pool::Delegated(_) => u32::try_from(number).ok().map(Lease::Number),
        }
    }

    pub fn contains(self, lease: Lease) -> bool {
        match (self, lease) {
            (Pool::Fixed(prefix), Lease::Subnet(subnet)) => prefix.contains(subnet),
            (Pool::Delegated(_), Lease::Number(number)) => u64::from(number) < self.size(),
            _ => false,
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
        assert!(matches!(error("2001:db8::/64"), PoolError::TooLong(_)));
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
        let is_of = |planned: Planned, text: &str| planned.is_of(text.parse().unwrap());
        assert!(is_of(fixed, "2001:db8:a:7::9") && !is_of(fixed, "2001:db8:a:8::2"));
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
