//! machines.d/NAME.toml: what one machine is to be.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Problem;
use super::expose::Expose;
use super::port::OpenPort;
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
    /// Ports that a routed machine's firewall lets in.
    pub open: Vec<OpenPort>,
    /// Ways in to services that speak IPv4 alone.
    pub expose: Vec<Expose>,
    /// Whether a routed machine gets a private IPv4 address; none: as the defaults say.
    pub ipv4: Option<Ipv4>,
    /// Whether a routed machine is behind nsctl's firewall.
    pub firewall: bool,
    /// Folders of the host that the machine sees: `/path` or `/host/path:/machine/path`.
    pub bind: Vec<String>,
    /// The same, but only to read.
    pub bind_read_only: Vec<String>,
    /// Environment variables of the machine's PID 1.
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    /// Settings handed through to the .nspawn file unchanged: section, key, values.
    pub nspawn: NspawnTable,
    /// Settings handed through to the .network file of the host's end.
    pub networkd: NetworkdTable,
}

/// What the machine may take (systemd.resource-control(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes, with a suffix K, M, G or T; or percent of the host's; or "infinity".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Percent of one processor: "150%".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
}

impl Limits {
    /// What nobody has said anything about: one guest alone takes neither all memory of the
    /// host nor all process numbers of the kernel (32,768 where nobody raised them).
    pub fn usual() -> Limits {
        Limits { memory: Some("80%".into()), cpu: None, tasks: Some(8192) }
    }

    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(&self, others: &Limits) -> Limits {
        Limits {
            memory: self.memory.clone().or_else(|| others.memory.clone()),
            cpu: self.cpu.clone().or_else(|| others.cpu.clone()),
            tasks: self.tasks.or(others.tasks),
        }
    }

    pub fn faults(&self) -> Vec<String> {
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        let mut faults = Vec::new();
        if let Some(memory) = &self.memory
            && memory != "infinity"
            && !digits(memory.strip_suffix(['K', 'M', 'G', 'T', '%']).unwrap_or(memory))
        {
            faults.push(format!("limits.memory: {memory:?} is not a size such as \"2G\""));
        }
        if let Some(cpu) = &self.cpu
            && !cpu.strip_suffix('%').is_some_and(digits)
        {
            faults.push(format!("limits.cpu: {cpu:?} is not a share such as \"150%\""));
        }
        faults
    }
}

/// What a routed machine has of IPv4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ipv4 {
    /// A private address from networkd's DHCP server; out through the host's own.
    Nat,
    /// Nothing.
    #[default]
    None,
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
    /// The host part that its guest gives itself, where that reads no file of networkd's and no
    /// token is asked for. Nobody writes it: it follows from the tree and the machine's name.
    pub chosen: Option<u64>,
}

impl Routed {
    /// The machine's address in `subnet`.
    pub fn address(&self, subnet: Subnet) -> Ipv6Addr {
        self.host_part().map_or(subnet.machine_end(), |part| subnet.address(part))
    }

    /// The host part of its address; none: the usual one.
    pub fn host_part(&self) -> Option<u64> {
        self.token.map(|token| u128::from(token) as u64).or(self.chosen)
    }
}

/// Sections, keys and values of a .nspawn file (systemd.nspawn(5)).
pub type NspawnTable = BTreeMap<String, BTreeMap<String, Values>>;

/// Sections, keys and values of a .network file (systemd.network(5)); a section
/// may stand several times: `[[networkd.Route]]`.
pub type NetworkdTable = BTreeMap<String, Sections>;

/// One section, or several of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sections {
    One(BTreeMap<String, Values>),
    Many(Vec<BTreeMap<String, Values>>),
}

impl Sections {
    pub fn all(&self) -> &[BTreeMap<String, Values>] {
        match self {
            Sections::One(keys) => std::slice::from_ref(keys),
            Sections::Many(all) => all,
        }
    }
}

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
    open: Vec<OpenPort>,
    #[serde(default)]
    expose: Vec<Expose>,
    ipv4: Option<Ipv4>,
    firewall: Option<bool>,
    #[serde(default)]
    bind: Vec<String>,
    #[serde(default, rename = "bind-read-only")]
    bind_read_only: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    nspawn: NspawnTable,
    #[serde(default)]
    networkd: NetworkdTable,
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
        MachineSpec {
            image: None,
            description: None,
            autostart: true,
            network,
            open: Vec::new(),
            expose: Vec::new(),
            ipv4: None,
            firewall: true,
            bind: Vec::new(),
            bind_read_only: Vec::new(),
            environment: BTreeMap::new(),
            limits: Limits::default(),
            nspawn: NspawnTable::new(),
            networkd: NetworkdTable::new(),
        }
    }

    /// Whether nsctl's firewall stands before it.
    pub fn is_filtered(&self) -> bool {
        self.firewall && matches!(self.network, Network::Routed(_))
    }

    /// Parses one definition.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &Path, text: &str) -> Result<MachineSpec, Vec<Problem>> {
        let file: File = toml::from_str(text).map_err(|e| vec![Problem::from_toml(path, text, &e)])?;
        let mut problems: Vec<Problem> =
            file.faults().into_iter().map(|message| Problem::whole(path, message)).collect();
        match network(file.network) {
            Ok(network) if problems.is_empty() => Ok(MachineSpec {
                image: file.image,
                description: file.description,
                autostart: file.autostart.unwrap_or(true),
                network,
                open: file.open,
                expose: file.expose,
                ipv4: file.ipv4,
                firewall: file.firewall.unwrap_or(true),
                bind: file.bind,
                bind_read_only: file.bind_read_only,
                environment: file.environment,
                limits: file.limits,
                nspawn: file.nspawn,
                networkd: file.networkd,
            }),
            Ok(_) => Err(problems),
            Err((key, message)) => {
                problems.push(Problem::at_value(path, text, key, message));
                Err(problems)
            }
        }
    }
}

/// The keys that only a routed machine can have.
pub const ROUTED_ONLY: [&str; 3] = ["open", "ipv4", "firewall"];

impl File {
    /// A bridged machine is a host of the LAN.
    fn routed_only(&self) -> Option<String> {
        let said = [!self.open.is_empty(), self.ipv4.is_some(), self.firewall.is_some()];
        let bridged = matches!(self.network.mode, Mode::Bridge);
        let (key, _) = ROUTED_ONLY.into_iter().zip(said).find(|(_, said)| *said && bridged)?;
        Some(format!(
            "{key}: a bridged machine is a host of the LAN; nsctl filters and translates routed ones only"
        ))
    }

    fn expose_faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.expose.iter().filter_map(Expose::fault).collect();
        let bridged = matches!(self.network.mode, Mode::Bridge);
        if bridged && self.expose.iter().any(|expose| expose.host.is_some()) {
            faults.push("expose: `host` leads to a fixed address, which a bridged machine has not".into());
        }
        let ports: std::collections::BTreeSet<OpenPort> =
            self.expose.iter().map(|expose| expose.port).collect();
        if ports.len() < self.expose.len() {
            faults.push("expose: a port stands in it twice".into());
        }
        faults
    }

    /// What is wrong beside the network.
    fn faults(&self) -> Vec<String> {
        let mut faults = table_faults(&self.nspawn);
        faults.extend(networkd_faults(&self.networkd));
        faults.extend(self.routed_only());
        faults.extend(self.expose_faults());
        faults.extend(self.limits.faults());
        if let Some(text) = self.description.as_deref().filter(|text| text.contains(char::is_control)) {
            faults.push(format!("the description {text:?} is not one plain line"));
        }
        let plain = |text: &str| !text.contains(char::is_control) && !text.ends_with('\\');
        for bind in self.bind.iter().chain(&self.bind_read_only) {
            if !bind.split(':').take(2).all(|path| path.starts_with('/')) || !plain(bind) {
                faults.push(format!("{bind:?} is not a path such as \"/srv\" or \"/srv/world:/world\""));
            }
        }
        for (key, value) in &self.environment {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let quotable = !(value.contains('"') && value.contains('\''));
            if key.is_empty()
                || !key.chars().all(word)
                || key.starts_with(|c: char| c.is_ascii_digit())
                || !plain(value)
                || !quotable
            {
                faults.push(format!("environment: {key:?} = {value:?} cannot be a variable"));
            }
        }
        faults
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
            token => Ok(Network::Routed(Routed { subnet, token, chosen: None })),
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

fn networkd_faults(table: &NetworkdTable) -> Vec<String> {
    let keys =
        table.iter().flat_map(|(section, all)| all.all().iter().flatten().map(move |(k, v)| (section, k, v)));
    keys.filter_map(|(section, key, values)| {
        let shown = format!("[networkd.{}] {}", section.escape_debug(), key.escape_debug());
        let decided =
            section == "Match" || (section == "Network" && ["Bridge", "KeepMaster"].contains(&key.as_str()));
        if decided {
            return Some(format!("{shown}: the machine's name and the table [network] decide that"));
        }
        let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        if !word(section) {
            return Some(format!("{shown}: that is no name of a section"));
        }
        plain_setting(&shown, key, values)
    })
    .collect()
}

fn setting_fault(section: &str, key: &str, values: &Values) -> Option<String> {
    let shown = format!("[nspawn.{}] {}", section.escape_debug(), key.escape_debug());
    if !["Exec", "Files", "Network"].contains(&section) {
        return Some(format!("{shown}: a .nspawn file has the sections Exec, Files and Network"));
    }
    if decided_by_network(section, key) {
        return Some(format!("{shown}: the table [network] decides that"));
    }
    plain_setting(&shown, key, values)
}

fn plain_setting(shown: &str, key: &str, values: &Values) -> Option<String> {
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) || key.is_empty() {
        return Some(format!("{shown}: that is no name of a setting"));
    }
    let torn = values.texts().iter().any(|value| value.contains(char::is_control) || value.ends_with('\\'));
    torn.then(|| format!("{shown}: a value is one line of text"))
}
