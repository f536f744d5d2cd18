//! Ports that a machine's firewall lets in: "tcp/25565", "udp/19132-19133
//! from 2001:db8:5::/48".

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::wireguard::net;
use crate::hint::Hint;

/// A port or a range of ports that is open, to everybody or to one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, SerializeDisplay, DeserializeFromStr)]
pub struct OpenPort {
    pub protocol: Protocol,
    pub first: u16,
    /// The same as `first` where it is one port.
    pub last: u16,
    /// Who may come in; none: everybody.
    pub from: Option<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl OpenPort {
    /// Whether all of another port is in this one, for everybody.
    pub fn lets_in(&self, other: OpenPort) -> bool {
        self.protocol == other.protocol
            && self.first <= other.first
            && other.last <= self.last
            && self.from.is_none()
    }
}

/// Why a word names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no port: it is written tcp/8080, udp/5000-5010, or tcp/22 from 2001:db8::/32")]
pub struct PortError(String);

impl Hint for PortError {
    fn hint(&self) -> Option<String> {
        Some("for example `nsctl open web tcp/443`, or `nsctl open web tcp/22 --from 2001:db8:5::/48`".into())
    }
}

fn parse(text: &str) -> Option<OpenPort> {
    let (port, from) = match text.split_once(" from ") {
        // Bits beyond the prefix do not count.
        Some((port, from)) => (port, Some(net(from.trim())?.trunc())),
        None => (text, None),
    };
    let (protocol, numbers) = port.trim().split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?;
    let (first, last) = (number(first)?, number(last)?);
    (first > 0 && first <= last).then_some(OpenPort { protocol, first, last, from })
}

impl FromStr for OpenPort {
    type Err = PortError;

    fn from_str(text: &str) -> Result<OpenPort, PortError> {
        parse(text).ok_or_else(|| PortError(text.escape_debug().to_string()))
    }
}

impl fmt::Display for OpenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.word(), self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        self.from.map_or(Ok(()), |from| write!(f, " from {from}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_ports_and_refuses_the_rest() {
        for (text, same) in [
            ("tcp/25565", "tcp/25565"),
            ("udp/5000-5010", "udp/5000-5010"),
            ("tcp/22 from 2001:db8:5::1/48", "tcp/22 from 2001:db8:5::/48"),
            ("tcp/22 from 192.0.2.7", "tcp/22 from 192.0.2.7/32"),
            ("tcp/7-7", "tcp/7"),
        ] {
            assert_eq!(text.parse::<OpenPort>().unwrap().to_string(), same);
        }
        for bad in
            ["", "80", "tcp/", "tcp/0", "tcp/70000", "tcp/9-8", "icmp/1", "tcp/+1", "tcp/1 from x", "tcp/1-"]
        {
            assert!(bad.parse::<OpenPort>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_is_shown_is_read(text in "(tcp|udp|x)?/?[0-9-]{0,8}( from )?[0-9a-f:./]{0,12}") {
            if let Ok(port) = text.parse::<OpenPort>() {
                prop_assert_eq!(port.to_string().parse::<OpenPort>(), Ok(port));
            }
        }
    }
}
