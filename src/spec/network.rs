//! How a machine meets the world. A new way is added here, and where the compiler asks.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::name::{IfName, MachineName};
use crate::pool::{Lease, Planned, Subnet};

/// How the machine meets the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NetworkTable", into = "NetworkTable")]
pub enum Network {
    /// A /64 of the pool, routed by this host.
    Routed(Routed),
    /// A port of this bridge; addresses come from the LAN.
    Bridge(IfName),
}

impl Network {
    /// What it asks of the pool, if it has a subnet of it.
    pub fn routed(&self) -> Option<&Routed> {
        match self {
            Network::Routed(routed) => Some(routed),
            Network::Bridge(_) => None,
        }
    }

    /// The bridge that makes it a host of the LAN, whose addresses it takes.
    pub fn bridge(&self) -> Option<&IfName> {
        match self {
            Network::Bridge(bridge) => Some(bridge),
            Network::Routed(_) => None,
        }
    }

    /// What the host's end of its veth is called (systemd-nspawn(1), `--network-veth`, `--network-bridge`).
    pub fn host_end(&self, name: &MachineName) -> String {
        match self {
            Network::Routed(_) => name.routed_link(),
            Network::Bridge(_) => name.bridged_link(),
        }
    }

    pub fn mode(&self) -> Mode {
        match self {
            Network::Routed(_) => Mode::Routed,
            Network::Bridge(_) => Mode::Bridge,
        }
    }

    /// Lets go of a subnet that it was pinned to; gives that.
    pub fn unpin(&mut self) -> Option<Lease> {
        match self {
            Network::Routed(routed) => routed.subnet.take(),
            Network::Bridge(_) => None,
        }
    }

    /// Lets go of a host part of its choice; gives that.
    pub fn without_token(&mut self) -> Option<Ipv6Addr> {
        match self {
            Network::Routed(routed) => routed.token.take(),
            Network::Bridge(_) => None,
        }
    }

    /// Where its guest will be, where that takes its address from the router's prefix alone.
    pub fn choose(&mut self, host_part: Option<u64>) {
        if let Network::Routed(routed) = self {
            routed.chosen = host_part;
        }
    }
}

/// The host part of a machine where nobody says another; the host's end has 1.
const MACHINE_END: u64 = 2;

/// What a routed machine may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routed {
    /// A subnet of its choice, instead of the next free one.
    pub subnet: Option<Lease>,
    /// The host part of its address, instead of `::2`.
    pub token: Option<Ipv6Addr>,
    /// The host part that its guest gives itself, where that reads no file of networkd's and no
    /// token is asked for. Nobody writes it: it follows from the tree and the machine's name.
    pub chosen: Option<u64>,
}

impl Routed {
    /// The machine's address in `subnet`.
    pub fn address(&self, subnet: Subnet) -> Ipv6Addr {
        subnet.address(self.host_part())
    }

    /// Where it is to be found, as long as it holds this.
    pub fn planned(&self, lease: Lease) -> Planned {
        Planned::new(lease, self.host_part())
    }

    /// The host part of its address.
    pub fn host_part(&self) -> u64 {
        self.token.map(|token| u128::from(token) as u64).or(self.chosen).unwrap_or(MACHINE_END)
    }
}

/// The table `[network]` as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkTable {
    mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<IfName>,
}

/// The word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Routed,
    Bridge,
}

/// What is wrong with a table `[network]`, and at which key.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NetworkFault {
    pub key: &'static str,
    pub message: String,
}

/// Of a text that may have other faults as well.
pub fn network_fault(text: &str) -> Option<NetworkFault> {
    #[derive(Deserialize)]
    struct File {
        network: NetworkTable,
    }
    Network::try_from(toml::from_str::<File>(text).ok()?.network).err()
}

impl TryFrom<NetworkTable> for Network {
    type Error = NetworkFault;

    fn try_from(table: NetworkTable) -> Result<Network, NetworkFault> {
        let fault = |key, message: &str| Err(NetworkFault { key, message: message.to_owned() });
        let NetworkTable { mode, subnet, token, bridge } = table;
        match (mode, bridge) {
            (Mode::Bridge, None) => fault("mode", "a bridged machine names its bridge: bridge = \"…\""),
            (Mode::Routed, Some(_)) => fault("bridge", "a routed machine is on no bridge"),
            (Mode::Bridge, Some(_)) if subnet.is_some() || token.is_some() => {
                fault("mode", "a bridged machine takes its addresses from the LAN: no subnet, no token")
            }
            (Mode::Bridge, Some(bridge)) => Ok(Network::Bridge(bridge)),
            (Mode::Routed, None) => match token {
                Some(token) if !host_part(token) => fault(
                    "token",
                    &format!("{token} is no host part for a machine: '::2' to '::ffff:ffff:ffff:ffff'"),
                ),
                token => Ok(Network::Routed(Routed { subnet, token, chosen: None })),
            },
        }
    }
}

impl From<Network> for NetworkTable {
    fn from(network: Network) -> NetworkTable {
        match network {
            Network::Routed(Routed { subnet, token, chosen: _ }) => {
                NetworkTable { mode: Mode::Routed, subnet, token, bridge: None }
            }
            Network::Bridge(bridge) => {
                NetworkTable { mode: Mode::Bridge, subnet: None, token: None, bridge: Some(bridge) }
            }
        }
    }
}

/// Only the lower 64 bits, not the anycast address and not the host's own end.
fn host_part(token: Ipv6Addr) -> bool {
    let bits = u128::from(token);
    bits >> 64 == 0 && bits > 1
}
