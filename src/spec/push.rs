//! `[dns.push]`: the zone in which machines are known to the world, and who may change it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::zone_fault;

/// Where the names of machines are published (RFC 2136).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The zone, such as example.org; machines are NAME.example.org.
    pub zone: String,
    /// Its primary server.
    pub server: IpAddr,
    /// The port that it listens on.
    #[serde(default = "port", skip_serializing_if = "is_port")]
    pub port: u16,
    /// A file with the key that the server knows us by (RFC 8945), as tsig-keygen(8) writes it.
    pub key: PathBuf,
    /// Seconds that others may remember an address.
    #[serde(default = "ttl", skip_serializing_if = "is_ttl")]
    pub ttl: u32,
}

fn port() -> u16 {
    53
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it so
fn is_port(said: &u16) -> bool {
    *said == port()
}

/// A prefix may change, and with it all addresses: within a minute nobody uses the old ones.
fn ttl() -> u32 {
    60
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it so
fn is_ttl(said: &u32) -> bool {
    *said == ttl()
}

impl Push {
    /// What cannot be as it is said.
    pub fn fault(&self) -> Option<String> {
        if let Some(wrong) = zone_fault(&self.zone) {
            return Some(format!("dns.push.zone: '{}' {wrong}", self.zone.escape_debug()));
        }
        if !self.key.is_absolute() {
            return Some("dns.push.key is a whole path, such as /etc/nsctl/tsig.key".into());
        }
        // RFC 2181 8.
        (self.port == 0 || self.ttl > 604_800)
            .then(|| "dns.push: no port is 0, and a ttl is a week at the most".into())
    }
}
