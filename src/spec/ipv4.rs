//! What a routed machine has of IPv4: "nat", "nat64", "none", or an address of its own.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// What a routed machine has of IPv4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub enum Ipv4 {
    /// A private address from networkd's DHCP server; out through the host's own.
    Nat,
    /// No address, but the host translates (RFC 6146).
    Nat64,
    /// Nothing.
    #[default]
    None,
    /// One that is routed to this host, or looked for on its uplink.
    Address(Ipv4Addr),
}

/// Why a word says nothing of IPv4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4Error {
    #[error("'{0}' is neither nat, nat64 nor none, nor an IPv4 address such as 192.0.2.9")]
    Word(String),
    #[error("{0} is no address that a machine can have in the world")]
    NotUnicast(Ipv4Addr),
}

impl Ipv4 {
    /// The address that is the machine's own.
    pub fn address(self) -> Option<Ipv4Addr> {
        match self {
            Ipv4::Address(address) => Some(address),
            Ipv4::Nat | Ipv4::Nat64 | Ipv4::None => None,
        }
    }
}

impl fmt::Display for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ipv4::Nat => f.write_str("nat"),
            Ipv4::Nat64 => f.write_str("nat64"),
            Ipv4::None => f.write_str("none"),
            Ipv4::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for Ipv4 {
    type Err = Ipv4Error;

    fn from_str(text: &str) -> Result<Ipv4, Ipv4Error> {
        match text {
            "nat" => return Ok(Ipv4::Nat),
            "nat64" => return Ok(Ipv4::Nat64),
            "none" => return Ok(Ipv4::None),
            _ => {}
        }
        let address: Ipv4Addr = text.parse().map_err(|_| Ipv4Error::Word(text.escape_debug().to_string()))?;
        if is_unicast(address) { Ok(Ipv4::Address(address)) } else { Err(Ipv4Error::NotUnicast(address)) }
    }
}

/// 0/8 is this network, 240/4 is for later (RFC 6890 2.2.2).
fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0
        || address.octets()[0] >= 240
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_addresses() {
        for text in ["nat", "nat64", "none", "192.0.2.9", "10.1.2.3"] {
            assert_eq!(text.parse::<Ipv4>().unwrap().to_string(), text);
        }
        for text in ["", "NAT", "192.0.2", "192.0.2.9/32", "2001:db8::1", "\u{1b}[2J"] {
            assert!(matches!(text.parse::<Ipv4>(), Err(Ipv4Error::Word(_))), "{text}");
        }
        for text in ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"] {
            assert!(matches!(text.parse::<Ipv4>(), Err(Ipv4Error::NotUnicast(_))), "{text}");
        }
    }
}
