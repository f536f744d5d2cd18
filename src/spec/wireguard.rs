//! `[uplink.wireguard]`: the tunnel that a prefix comes through, as wg-quick(8) would have it. Its
//! keys are in files of their own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A tunnel of WireGuard's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WireGuard {
    /// This host's addresses in the tunnel.
    pub address: Vec<IpNet>,
    /// The name servers that are reached through it.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub dns: Vec<IpAddr>,
    /// The UDP port that the peers send to; none: another each time.
    pub listen_port: Option<u16>,
    /// What marks the packets that carry the tunnel, so that they do not go through it themselves.
    pub fwmark: Option<u32>,
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub table: Table,
    pub peer: Vec<Peer>,
}

/// The other end of a tunnel, or one of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Peer {
    pub public_key: Key,
    /// Whether there is a key of it that both ends know, in a file of its own.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub preshared: bool,
    /// Where it is; none: it comes to us.
    pub endpoint: Option<Endpoint>,
    /// What is sent to it, and may come from it.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between packets that keep a NAT open.
    pub persistent_keepalive: Option<u16>,
}

/// Where the ways into the tunnel stand: `Table=` of wg-quick(8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub enum Table {
    /// What peers may be sent goes there, be it all there is.
    #[default]
    Auto,
    /// The host's own ways stay as they are.
    Off,
    /// They are in a table of this number, which somebody else leads to.
    Number(u32),
}

/// A key as wg(8) writes it: 32 bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Key(String);

/// A host, by its address or name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Endpoint(String);

/// A word that is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordError(&'static str);

impl crate::hint::Hint for WordError {}

/// The table, and the mark, where none is named; wg-quick(8) itself begins with 51820.
pub const TABLE: u32 = 31820;

impl WireGuard {
    /// What makes no tunnel.
    pub fn fault(&self) -> Option<&'static str> {
        if self.address.is_empty() {
            Some("this host needs an address in the tunnel")
        } else if self.peer.is_empty() {
            Some("a tunnel has another end: a peer")
        } else {
            None
        }
    }

    /// All that is sent into the tunnel.
    pub fn allowed(&self) -> impl Iterator<Item = IpNet> {
        self.peer.iter().flat_map(|peer| peer.allowed_ips.iter().copied())
    }

    /// Whether what machines send to anybody may go through it.
    pub fn takes_all(&self) -> bool {
        self.allowed().any(|net| net == IpNet::V6(Ipv6Net::default()))
    }

    /// Whether all that the host sends in this family goes through it.
    pub fn takes_over(&self, is_v6: bool) -> bool {
        let is_all = |net: IpNet| net.prefix_len() == 0 && matches!(net, IpNet::V6(_)) == is_v6;
        self.table == Table::Auto && self.allowed().any(is_all)
    }

    /// A part of the pool that would be led to a peer.
    pub fn leads_astray(&self, pool: Ipv6Net) -> Option<IpNet> {
        self.allowed().find(|net| matches!(net, IpNet::V6(net) if pool.contains(net)))
    }
}

impl FromStr for Table {
    type Err = WordError;

    fn from_str(word: &str) -> Result<Table, WordError> {
        match word {
            "auto" => Ok(Table::Auto),
            "off" => Ok(Table::Off),
            number => {
                let number =
                    number.parse().ok().filter(|number| !(253..=255).contains(number) && *number > 0);
                number.map(Table::Number).ok_or(WordError("'auto', 'off', or the number of a routing table"))
            }
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Table::Auto => f.write_str("auto"),
            Table::Off => f.write_str("off"),
            Table::Number(number) => write!(f, "{number}"),
        }
    }
}

impl Key {
    /// A number that it is known by among a few.
    pub fn number(&self) -> u32 {
        crc32fast::hash(self.0.as_bytes())
    }
}

impl FromStr for Key {
    type Err = WordError;

    fn from_str(word: &str) -> Result<Key, WordError> {
        let is_base64 = |c: u8| c.is_ascii_alphanumeric() || c == b'+' || c == b'/';
        // 32 bytes leave two bits of the 43rd character, which are 0 (RFC 4648 3.5).
        let ends = |c: &u8| b"AEIMQUYcgkosw048".contains(c);
        let bytes = word.strip_suffix('=').unwrap_or_default().as_bytes();
        let is_key =
            bytes.len() == 43 && bytes.iter().copied().all(is_base64) && bytes.last().is_some_and(ends);
        if is_key { Ok(Key(word.to_owned())) } else { Err(WordError("a key is 32 bytes in base64")) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = WordError;

    fn from_str(word: &str) -> Result<Endpoint, WordError> {
        let named = |(host, port): (&str, &str)| {
            let label = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (1..=253).contains(&host.len()) && host.chars().all(label) && is_port(port)
        };
        let is_endpoint = word.parse::<SocketAddr>().is_ok_and(|at| at.port() > 0)
            || word.rsplit_once(':').is_some_and(named);
        if is_endpoint {
            Ok(Endpoint(word.to_owned()))
        } else {
            Err(WordError("HOST:PORT, such as 192.0.2.1:51820, [2001:db8::1]:51820 or vpn.example.org:51820"))
        }
    }
}

fn is_port(word: &str) -> bool {
    word.bytes().all(|c| c.is_ascii_digit()) && word.parse::<u16>().is_ok_and(|port| port > 0)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A prefix, or a single address, as wg(8) takes them.
pub fn net(word: &str) -> Option<IpNet> {
    word.parse().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(key.parse::<Key>().unwrap().to_string(), key);
        for bad in ["", "=", &key[1..], &key.replace('8', "9"), &key.replace('A', "-"), &format!("A{key}")] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
        for good in ["192.0.2.1:51820", "[2001:db8::1]:1", "vpn.example.org:51820"] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        for bad in [
            "192.0.2.1",
            "2001:db8::1:51820",
            "a b:1",
            "a:0",
            "a:65536",
            ":1",
            "a:+1",
            "a\n[x]:1",
            "192.0.2.1:0",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
        for (word, table) in [("auto", Table::Auto), ("off", Table::Off), ("1234", Table::Number(1234))] {
            assert_eq!((word.parse(), table.to_string().as_str()), (Ok(table), word));
        }
        for bad in ["main", "254", "0", "-1", ""] {
            assert!(bad.parse::<Table>().is_err(), "{bad}");
        }
    }
}
