//! nsctl.toml: the host's pool, its uplink, its bridges and the defaults.

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Ipv4, Problem};
use crate::name::IfName;
use crate::pool::Pool;

/// The host as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSpec {
    /// The routed prefix that machines get their /64 from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    #[serde(skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
    /// The bridges that nsctl makes.
    #[serde(rename = "bridge", skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<IfName, BridgeSpec>,
}

/// Where the pool's packets come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Uplink {
    pub interface: IfName,
    /// Bytes; given to both ends of every veth where it is not the usual 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How the host keeps its own default route once it forwards.
    #[serde(default)]
    pub accept_ra: AcceptRa,
    /// The name of the .network file that networkd uses for the uplink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_file: Option<String>,
}

/// Forwarding makes a host ignore router advertisements, unless it is told otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceptRa {
    /// Left as it is: the uplink is static, or its manager does not mind.
    #[default]
    Unchanged,
    /// The kernel takes them: `accept_ra=2` (kernel, ip-sysctl.rst).
    Kernel,
    /// networkd takes them: `IPv6AcceptRA=yes` in a drop-in (systemd.network(5)).
    Networkd,
}

/// What a machine gets where its definition says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The image of a machine that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What a routed machine has of IPv4 where its definition says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4>,
}

impl Defaults {
    fn is_empty(&self) -> bool {
        *self == Defaults::default()
    }
}

/// One bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// The interface that becomes the bridge's port to the LAN.
    pub uplink: IfName,
    /// Static addresses of the host on the bridge; none: DHCP and RA.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpNet>,
    /// The default routers that go with static addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<std::net::IpAddr>,
}

impl HostSpec {
    /// Parses nsctl.toml.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &Path, text: &str) -> Result<HostSpec, Vec<Problem>> {
        let host: HostSpec = toml::from_str(text).map_err(|e| vec![Problem::from_toml(path, text, &e)])?;
        let problems: Vec<Problem> =
            host.faults().into_iter().map(|message| Problem::whole(path, message)).collect();
        if problems.is_empty() { Ok(host) } else { Err(problems) }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(uplink) = &self.uplink {
            faults.extend(uplink.fault());
        }
        let mut ports = BTreeMap::new();
        for (name, bridge) in &self.bridges {
            if let Some(other) = ports.insert(&bridge.uplink, name) {
                faults.push(format!("{} is the port of both '{other}' and '{name}'", bridge.uplink));
            }
            if &bridge.uplink == name {
                faults.push(format!("the bridge '{name}' cannot be its own port"));
            }
        }
        faults
    }
}

impl Uplink {
    fn fault(&self) -> Option<String> {
        if self.mtu.is_some_and(|mtu| !(1280..=65535).contains(&mtu)) {
            return Some(
                "uplink.mtu: IPv6 needs 1280 bytes at least (RFC 8200 5), and 65535 is the most".into(),
            );
        }
        match (self.accept_ra, &self.network_file) {
            (AcceptRa::Networkd, None) => {
                Some("uplink.accept-ra = \"networkd\" needs uplink.network-file".into())
            }
            (_, Some(file)) if !safe_network_file(file) => {
                Some("uplink.network-file is the name of a .network file, without its folder".into())
            }
            _ => None,
        }
    }
}

/// The name becomes part of a path: one component, of the right kind.
pub fn safe_network_file(file: &str) -> bool {
    file.len() > ".network".len()
        && file.ends_with(".network")
        && !file.starts_with('.')
        && !file.contains(['/', '\0', '\n'])
}
