//! Ways in to a service that speaks IPv4 alone.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::port::{OpenPort, Protocol};

/// One port, as it is written in a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expose {
    /// The port on the machine's IPv6 address: "tcp/8080".
    pub port: OpenPort,
    /// Where the service listens inside the machine; none: it has IPv6 itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// The port of the host, on all its IPv4 addresses, that leads to it; none: no such way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<u16>,
}

impl Expose {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let OpenPort { protocol, first, last, from } = self.port;
        let wrong = if protocol != Protocol::Tcp {
            "only TCP can be handed on (systemd-socket-proxyd(8))"
        } else if first != last || from.is_some() {
            "one port, such as tcp/8080; `open` says who may come in"
        } else if self.to.is_none() && self.host.is_none() {
            "it names neither `to`, where the service listens, nor `host`, a port"
        } else if self.host == Some(0) {
            "0 is no port"
        } else {
            return None;
        };
        Some(format!("expose: {}: {wrong}", self.port))
    }
}
