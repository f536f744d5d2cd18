//! machines.d/NAME.toml: what one machine is to be.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::name::IfName;
use crate::pool::Subnet;

/// One machine, as its user wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSpec {
    /// The tree or archive that the machine was made from.
    pub image: Option<String>,
    pub description: Option<String>,
    /// Whether it starts with the host.
    pub autostart: bool,
    pub network: Network,
    /// Settings handed through to the .nspawn file unchanged: section, key, values.
    pub nspawn: NspawnTable,
}

/// How the machine meets the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// A /64 of the pool, routed by this host.
    Routed(Routed),
    /// A port of this bridge; addresses come from the LAN.
    Bridge(IfName),
}

/// What a routed machine may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routed {
    /// A subnet of its choice, instead of the next free one.
    pub subnet: Option<Subnet>,
    /// The host part of its address, instead of `::2`.
    pub token: Option<Ipv6Addr>,
}

impl Routed {
    /// The machine's address in `subnet`.
    pub fn address(&self, subnet: Subnet) -> Ipv6Addr {
        self.token.map_or(subnet.machine_end(), |token| subnet.address(u128::from(token) as u64))
    }
}

/// Sections, keys and values of a .nspawn file (systemd.nspawn(5)).
pub type NspawnTable = BTreeMap<String, BTreeMap<String, Values>>;

/// A value, or several for a key that may stand several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    One(String),
    Many(Vec<String>),
    Flag(bool),
    Number(i64),
}

impl Values {
    pub fn texts(&self) -> Vec<String> {
        match self {
            Values::One(text) => vec![text.clone()],
            Values::Many(texts) => texts.clone(),
            Values::Flag(flag) => vec![if *flag { "yes" } else { "no" }.to_owned()],
            Values::Number(number) => vec![number.to_string()],
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    image: Option<String>,
    description: Option<String>,
    autostart: Option<bool>,
    network: NetworkTable,
    #[serde(default)]
    nspawn: NspawnTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkTable {
    mode: Mode,
    subnet: Option<Subnet>,
    token: Option<Ipv6Addr>,
    bridge: Option<IfName>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Routed,
    Bridge,
}

impl MachineSpec {
    /// A machine of which only its network is known.
    pub fn new(network: Network) -> MachineSpec {
        MachineSpec { image: None, description: None, autostart: true, network, nspawn: NspawnTable::new() }
    }

    /// Parses one definition.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &Path, text: &str) -> Result<MachineSpec, Vec<Problem>> {
        let file: File = toml::from_str(text).map_err(|e| vec![Problem::from_toml(path, text, &e)])?;
        let mut problems: Vec<Problem> =
            table_faults(&file.nspawn).into_iter().map(|message| Problem::whole(path, message)).collect();
        if let Some(text) = file.description.as_deref().filter(|text| text.contains(char::is_control)) {
            problems.push(Problem::whole(path, format!("the description {text:?} is not one plain line")));
        }
        match network(file.network) {
            Ok(network) if problems.is_empty() => Ok(MachineSpec {
                image: file.image,
                description: file.description,
                autostart: file.autostart.unwrap_or(true),
                network,
                nspawn: file.nspawn,
            }),
            Ok(_) => Err(problems),
            Err((key, message)) => {
                problems.push(Problem::at_value(path, text, key, message));
                Err(problems)
            }
        }
    }
}

fn network(table: NetworkTable) -> Result<Network, (&'static str, String)> {
    let NetworkTable { mode, subnet, token, bridge } = table;
    match (mode, bridge) {
        (Mode::Bridge, None) => Err(("mode", "a bridged machine names its bridge: bridge = \"…\"".into())),
        (Mode::Routed, Some(_)) => Err(("bridge", "a routed machine is on no bridge".into())),
        (Mode::Bridge, Some(_)) if subnet.is_some() || token.is_some() => {
            Err(("mode", "a bridged machine takes its addresses from the LAN: no subnet, no token".into()))
        }
        (Mode::Bridge, Some(bridge)) => Ok(Network::Bridge(bridge)),
        (Mode::Routed, None) => match token {
            Some(token) if !host_part(token) => Err((
                "token",
                format!("{token} is no host part for a machine: '::2' to '::ffff:ffff:ffff:ffff'"),
            )),
            token => Ok(Network::Routed(Routed { subnet, token })),
        },
    }
}

/// Only the lower 64 bits, not the anycast address and not the host's own end.
fn host_part(token: Ipv6Addr) -> bool {
    let bits = u128::from(token);
    bits >> 64 == 0 && bits > 1
}

/// The keys that `[network]` decides, or that nspawn must not be told twice.
const OURS: [(&str, &str); 5] = [
    ("Network", "Bridge"),
    ("Network", "VirtualEthernet"),
    ("Network", "Zone"),
    ("Network", "Private"),
    ("Network", "NamespacePath"),
];

/// Whether the network tables of the definition decide this .nspawn setting.
pub fn decided_by_network(section: &str, key: &str) -> bool {
    OURS.contains(&(section, key))
}

fn table_faults(table: &NspawnTable) -> Vec<String> {
    let settings =
        table.iter().flat_map(|(section, keys)| keys.iter().map(move |(key, v)| (section, key, v)));
    settings.filter_map(|(section, key, values)| setting_fault(section, key, values)).collect()
}

fn setting_fault(section: &str, key: &str, values: &Values) -> Option<String> {
    let shown = format!("[nspawn.{}] {}", section.escape_debug(), key.escape_debug());
    if !["Exec", "Files", "Network"].contains(&section) {
        return Some(format!("{shown}: a .nspawn file has the sections Exec, Files and Network"));
    }
    if decided_by_network(section, key) {
        return Some(format!("{shown}: the table [network] decides that"));
    }
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) || key.is_empty() {
        return Some(format!("{shown}: that is no name of a setting"));
    }
    let torn = values.texts().iter().any(|value| value.contains(char::is_control) || value.ends_with('\\'));
    torn.then(|| format!("{shown}: a value is one line of text"))
}
