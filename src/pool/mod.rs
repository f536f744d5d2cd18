//! Prefixes, subnets, leases: address arithmetic and the choice of the next /64.

mod leases;

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

pub use leases::{Leases, Resting};

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
    #[error("{subnet} is not in the pool {pool}")]
    Outside { subnet: Subnet, pool: Pool },
    #[error("{0} is subnet 0 of the pool, which is the host's own")]
    HostsOwn(Subnet),
    #[error("{subnet} is leased to '{holder}'")]
    Taken { subnet: Subnet, holder: MachineName },
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

fn parse_net(text: &str) -> Result<Ipv6Net, PoolError> {
    let shown = || text.escape_debug().to_string();
    match text.parse::<ipnet::IpNet>() {
        Ok(ipnet::IpNet::V6(net)) if net.addr() == net.network() => Ok(net),
        Ok(ipnet::IpNet::V6(net)) => Err(PoolError::HostBits(net)),
        Ok(ipnet::IpNet::V4(_)) => Err(PoolError::Ipv4(shown())),
        Err(_) => Err(PoolError::NotPrefix(shown())),
    }
}

/// The prefix that is routed to this host, a /63 at the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pool(Ipv6Net);

impl Pool {
    pub fn net(self) -> Ipv6Net {
        self.0
    }

    /// The subnets of a prefix that an ISP delegates, and may change: numbers in
    /// `::/LENGTH`, which are put behind the current prefix.
    ///
    /// # Errors
    /// When there is no /64 for a machine in a prefix of that length.
    pub fn delegated(length: u8) -> Result<Pool, PoolError> {
        let net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, length.min(128));
        match length {
            64.. => Err(PoolError::TooLong(net)),
            ..32 => Err(PoolError::TooShort(net)),
            _ => Ok(Pool(net)),
        }
    }

    /// Whether it only numbers the subnets of a prefix that changes.
    pub fn is_delegated(self) -> bool {
        self.0.network().is_unspecified()
    }

    /// The number of a subnet in it.
    pub fn number(self, subnet: Subnet) -> u64 {
        subnet.0 & (self.size() - 1)
    }

    /// How many /64 there are, subnet 0 included.
    pub fn size(self) -> u64 {
        1 << (64 - self.0.prefix_len())
    }

    /// Subnet `index`, if the pool reaches so far.
    pub fn subnet(self, index: u64) -> Option<Subnet> {
        let base = u128::from(self.0.network());
        (index < self.size()).then(|| Subnet((base >> 64) as u64 + index))
    }

    /// The host's own address: the first of subnet 0.
    pub fn host_address(self) -> Ipv6Addr {
        Subnet((u128::from(self.0.network()) >> 64) as u64).address(1)
    }

    pub fn contains(self, subnet: Subnet) -> bool {
        self.0.contains(&subnet.net())
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Pool, PoolError> {
        let net = parse_net(text)?;
        let first = net.network().segments()[0];
        match net.prefix_len() {
            64.. => Err(PoolError::TooLong(net)),
            ..8 => Err(PoolError::TooShort(net)),
            // ::/8 holds loopback and mapped addresses, fe80::/9 link-local ones, ff00::/8 multicast.
            _ if !(0x100..0xfe00).contains(&first) => Err(PoolError::NotUnicast(net)),
            _ => Ok(Pool(net)),
        }
    }
}

/// One /64, held as its upper 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(u64);

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

    /// The machine's end, where the definition names no other token.
    pub fn machine_end(self) -> Ipv6Addr {
        self.address(2)
    }

    pub fn net(self) -> Ipv6Net {
        Ipv6Net::new_assert(self.address(0), 64)
    }

    /// The /64 that an address is in.
    pub fn of(address: Ipv6Addr) -> Subnet {
        Subnet((u128::from(address) >> 64) as u64)
    }

    /// Whether it is only a number, which a delegated prefix will stand before.
    pub fn is_delegated(self) -> bool {
        self.0 >> 32 == 0
    }

    /// Its number, if it is only that.
    pub fn id(self) -> Option<u64> {
        self.is_delegated().then_some(self.0)
    }

    pub fn contains(self, address: Ipv6Addr) -> bool {
        (u128::from(address) >> 64) as u64 == self.0
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

text_type!(Pool, |pool| pool.0.to_string());
text_type!(Subnet, |subnet| subnet.net().to_string());

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Pool {
        text.parse().unwrap()
    }

    #[test]
    fn pools_that_cannot_be() {
        let error = |text: &str| text.parse::<Pool>().unwrap_err();
        assert!(matches!(error("2001:db8::/64"), PoolError::TooLong(_)));
        assert!(matches!(error("2001:db8::/128"), PoolError::TooLong(_)));
        assert!(matches!(error("2001:db8::1/48"), PoolError::HostBits(_)));
        assert!(matches!(error("10.0.0.0/8"), PoolError::Ipv4(_)));
        assert!(matches!(error("fe80::/16"), PoolError::NotUnicast(_)));
        assert!(matches!(error("::/8"), PoolError::NotUnicast(_)));
        assert!(matches!(error("2000::/3"), PoolError::TooShort(_)));
        assert!(matches!(error("2001:db8::"), PoolError::NotPrefix(_)));
        assert_eq!(error("2001:db8::1/48").hint().unwrap(), "did you mean 2001:db8::/48?");
        assert!("2001:db8::/63".parse::<Pool>().is_ok() && "fd12::/32".parse::<Pool>().is_ok());
    }

    #[test]
    fn the_address_plan() {
        let pool = pool("2001:db8:a::/48");
        assert_eq!(pool.size(), 65536);
        assert_eq!(pool.host_address().to_string(), "2001:db8:a::1");
        let subnet = pool.subnet(0x2a).unwrap();
        assert_eq!(subnet.to_string(), "2001:db8:a:2a::/64");
        assert_eq!(subnet.host_end().to_string(), "2001:db8:a:2a::1");
        assert_eq!(subnet.machine_end().to_string(), "2001:db8:a:2a::2");
        assert_eq!(pool.subnet(65536), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Pool>();
            let _ = text.parse::<Subnet>();
        }
    }
}
