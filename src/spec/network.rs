//! How a machine meets the world. A new way is added here, and where the compiler asks.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use crate::name::{IfName, MachineName};
use crate::pool::{Ask, Lease, Planned, Subnet, route};

/// How the machine meets the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NetworkTable", into = "NetworkTable")]
pub enum Network {
    /// A /64 of the pool, or more, routed by this host.
    Routed(Routed),
    /// A port of a bridge; addresses come from the LAN.
    Bridge(BridgePort),
}

/// A port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePort {
    pub bridge: IfName,
    /// The VLAN that it is in (IEEE 802.1Q), of which the machine sees no tags; none: what is
    /// untagged on the bridge's own port.
    pub vlan: Option<u16>,
}

/// The VLANs that a bridge may carry. 1 is what is untagged on its port, 0 and 4095 are reserved.
pub const VLANS: std::ops::RangeInclusive<u16> = 2..=4094;

impl Network {
    /// What it asks of the pool, if it has a subnet of it.
    pub fn routed(&self) -> Option<&Routed> {
        match self {
            Network::Routed(routed) => Some(routed),
            Network::Bridge(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn routed_mut(&mut self) -> Option<&mut Routed> {
        match self {
            Network::Routed(routed) => Some(routed),
            Network::Bridge(_) => None,
        }
    }

    /// The port that makes it a host of the LAN alone, whose addresses it takes.
    pub fn bridge(&self) -> Option<&BridgePort> {
        match self {
            Network::Bridge(port) => Some(port),
            Network::Routed(_) => None,
        }
    }

    /// Its port of a bridge, if it has one: the only interface, or the second.
    pub fn port(&self) -> Option<&BridgePort> {
        match self {
            Network::Bridge(port) => Some(port),
            Network::Routed(routed) => routed.lan.as_ref(),
        }
    }

    /// What the host's end of its veth is called (systemd-nspawn(1), `--network-veth`, `--network-bridge`).
    pub fn host_end(&self, name: &MachineName) -> String {
        match self {
            Network::Routed(_) => name.routed_link(),
            Network::Bridge(_) => name.bridged_link(),
        }
    }

    /// Lets go of a subnet that it was pinned to, but not of its length; gives that.
    pub fn unpin(&mut self) -> Option<Lease> {
        let routed = self.routed_mut()?;
        routed.prefix = Some(routed.length()).filter(|length| *length < 64);
        routed.subnet.take()
    }

    /// Lets go of what is routed to it beside its part of the pool; gives that.
    pub fn forget_routes(&mut self) -> Vec<Ipv6Net> {
        self.routed_mut().map(|routed| std::mem::take(&mut routed.routes)).unwrap_or_default()
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
    /// The length of its prefix, where it is to be more than a /64, for a machine that routes on.
    pub prefix: Option<u8>,
    /// What is routed to it beside its part of the pool.
    pub routes: Vec<Ipv6Net>,
    /// The host part of its address, instead of `::2`.
    pub token: Option<Ipv6Addr>,
    /// Bytes that a packet on its veth may have; none: as on the uplink.
    pub mtu: Option<u32>,
    /// A second interface, which makes it a host of the LAN as well.
    pub lan: Option<BridgePort>,
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

    /// The length of its prefix, where the pool has prefixes.
    pub fn length(&self) -> u8 {
        let pinned = self.subnet.and_then(Lease::subnet).map(Subnet::length);
        pinned.or(self.prefix).unwrap_or(64)
    }

    /// What it asks of the pool.
    pub fn ask(&self) -> Ask {
        Ask { pinned: self.subnet, length: self.length() }
    }

    /// What goes to the machine by way of its address, and which it routes on.
    pub fn behind(&self, lease: Lease) -> Vec<Ipv6Net> {
        let wide = lease.subnet().filter(|subnet| subnet.is_wide()).map(Subnet::net);
        wide.into_iter().chain(self.routes.iter().copied()).collect()
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
    subnet: Option<Lease>,
    prefix: Option<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Ipv6Net>,
    token: Option<Ipv6Addr>,
    mtu: Option<u32>,
    bridge: Option<IfName>,
    vlan: Option<u16>,
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
        let NetworkTable { mode, subnet, prefix, routes, token, mtu, bridge, vlan } = table;
        if let Some(vlan) = vlan.filter(|vlan| bridge.is_none() || !VLANS.contains(vlan)) {
            return match bridge {
                Some(_) => fault("vlan", &format!("{vlan} is no VLAN for a machine: 2 to 4094 are")),
                None => fault("vlan", "a VLAN is a bridge's: bridge = \"…\" says which"),
            };
        }
        let routed = Routed { subnet, prefix, routes, token, mtu, lan: None, chosen: None };
        let port = bridge.map(|bridge| BridgePort { bridge, vlan });
        match (mode, port) {
            (Mode::Bridge, None) => fault("mode", "a bridged machine names its bridge: bridge = \"…\""),
            (Mode::Bridge, Some(_)) if routed != Routed::default() => fault(
                "mode",
                "a bridged machine takes its addresses from the LAN, and its bridge's MTU: no subnet, prefix, routes, token or mtu",
            ),
            (Mode::Bridge, Some(port)) => Ok(Network::Bridge(port)),
            (Mode::Routed, lan) => match routed.fault() {
                Some((key, message)) => fault(key, &message),
                None => Ok(Network::Routed(Routed { lan, ..routed })),
            },
        }
    }
}

impl Routed {
    /// The key that cannot be as it is said, and why.
    fn fault(&self) -> Option<(&'static str, String)> {
        if let Some(token) = self.token.filter(|token| !host_part(*token)) {
            let message = format!("{token} is no host part for a machine: '::2' to '::ffff:ffff:ffff:ffff'");
            return Some(("token", message));
        }
        if self.mtu.is_some_and(|mtu| !(1280..=65535).contains(&mtu)) {
            let message = "IPv6 needs 1280 bytes at least (RFC 8200 5), and 65535 is the most".to_owned();
            return Some(("mtu", message));
        }
        if let Some(prefix) = self.prefix {
            let pinned = self.subnet.filter(|pin| pin.subnet().is_none_or(|pin| pin.length() != prefix));
            let message = match pinned {
                Some(pin) => format!("prefix = {prefix}, but the subnet that is pinned is {pin}"),
                None if (9..=64).contains(&prefix) => return self.route_fault(),
                None => format!(
                    "{prefix} is no length for a machine's prefix: 64, or less for one that routes on"
                ),
            };
            return Some(("prefix", message));
        }
        self.route_fault()
    }

    fn route_fault(&self) -> Option<(&'static str, String)> {
        let message = self.routes.iter().find_map(|net| route(&net.to_string()).err())?.to_string();
        Some(("routes", message))
    }
}

impl From<Network> for NetworkTable {
    fn from(network: Network) -> NetworkTable {
        let (mode, routed) = match network {
            Network::Routed(routed) => (Mode::Routed, routed),
            Network::Bridge(port) => (Mode::Bridge, Routed { lan: Some(port), ..Routed::default() }),
        };
        let Routed { subnet, prefix, routes, token, mtu, lan, chosen: _ } = routed;
        let (bridge, vlan) = lan.map_or((None, None), |port| (Some(port.bridge), port.vlan));
        NetworkTable { mode, subnet, prefix, routes, token, mtu, bridge, vlan }
    }
}

/// Only the lower 64 bits, not the anycast address and not the host's own end.
fn host_part(token: Ipv6Addr) -> bool {
    let bits = u128::from(token);
    bits >> 64 == 0 && bits > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lets_go_of_its_pin_keeps_its_length() {
        let subnet = Some("2001:db8:a:10::/60".parse().unwrap());
        let mut network = Network::Routed(Routed { subnet, ..Routed::default() });
        assert_eq!(network.unpin(), subnet);
        assert_eq!(network.routed().map(Routed::length), Some(60));
        let mut usual = Network::Routed(Routed::default());
        usual.unpin();
        assert_eq!(usual, Network::Routed(Routed::default()));
    }
}
