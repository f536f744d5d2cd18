//! machines.d/NAME.toml: what one machine is to be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Problem;
use super::backup::BackupSchedule;
use super::expose::Expose;
use super::health::{HealthCheck, Restart};
use super::ipv4::Ipv4;
use super::network::{BridgePort, Network, NetworkFault, network_fault};
use super::port::OpenPort;
use super::secret::SecretId;
use crate::name::MachineName;
use crate::snapshot::Schedule;

/// One machine, as its user wants it, and as it is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineSpec {
    /// Profiles whose settings it has, too: the later ones come first, and its own before all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<String>,
    /// The tree or archive that the machine was made from.
    pub image: Option<String>,
    pub description: Option<String>,
    /// Whether it starts with the host.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub autostart: bool,
    /// Whether it is started again where it ends; none: it is not.
    pub restart: Option<Restart>,
    /// Machines that start before it, and stop after it, where both are to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<MachineName>,
    /// Ports that a routed machine's firewall lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<OpenPort>,
    /// Whether a routed machine gets a private IPv4 address; none: as the defaults say.
    pub ipv4: Option<Ipv4>,
    /// Whether a routed machine is behind nsctl's firewall; none: it is.
    pub firewall: Option<bool>,
    /// Folders of the host that the machine sees: `/path` or `/host/path:/machine/path`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<String>,
    /// The same, but only to read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bind_read_only: Vec<String>,
    /// Devices of the host that it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<String>,
    /// What it gets as credentials, by what they are called; what is in them stands elsewhere, encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretId>,
    pub network: Network,
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub limits: Limits,
    /// How it is known to do what it is for.
    pub check: Option<HealthCheck>,
    /// Snapshots that are taken by themselves.
    pub snapshots: Option<Schedule>,
    /// Backups of it, off this host.
    pub backup: Option<BackupSchedule>,
    /// Environment variables of the machine's PID 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Ways in to services that speak IPv4 alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<Expose>,
    /// Settings handed through to the .nspawn file unchanged: section, key, values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nspawn: NspawnTable,
    /// Settings handed through to the .network file of the host's end.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networkd: NetworkdTable,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it so
fn is_yes(said: &bool) -> bool {
    *said
}

/// What the machine may take (systemd.resource-control(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Bytes, with a suffix K, M, G or T; or percent of the host's; or "infinity".
    pub memory: Option<String>,
    /// The same: from here on it is slowed down, and what it has is written out.
    pub memory_high: Option<String>,
    /// The same, of the host's swap.
    pub swap: Option<String>,
    /// Percent of one processor: "150%".
    pub cpu: Option<String>,
    /// Its share where others want the processors, too: 100 is the usual one.
    pub cpu_weight: Option<u64>,
    /// The processors that it may use: "0-3,8".
    pub cpus: Option<String>,
    /// Its share where others want the disk, too: 100 is the usual one.
    pub io_weight: Option<u64>,
    /// Bytes a second that it may read from the disk of its tree, with a suffix K, M, G or T.
    pub io_read: Option<String>,
    /// The same, written.
    pub io_write: Option<String>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Bytes that its tree may take of the disk, with a suffix K, M, G or T; or "infinity".
    pub disk: Option<String>,
}

impl Limits {
    /// What nobody has said anything about: one guest alone takes neither all memory of the
    /// host nor all process numbers of the kernel (32,768 where nobody raised them).
    pub fn usual() -> Limits {
        Limits { memory: Some("80%".into()), tasks: Some(8192), ..Limits::default() }
    }

    /// These, and where they say nothing, the others.
    #[must_use]
    pub fn or(&self, others: &Limits) -> Limits {
        let text = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
        Limits {
            memory: text(&self.memory, &others.memory),
            memory_high: text(&self.memory_high, &others.memory_high),
            swap: text(&self.swap, &others.swap),
            cpu: text(&self.cpu, &others.cpu),
            cpu_weight: self.cpu_weight.or(others.cpu_weight),
            cpus: text(&self.cpus, &others.cpus),
            io_weight: self.io_weight.or(others.io_weight),
            io_read: text(&self.io_read, &others.io_read),
            io_write: text(&self.io_write, &others.io_write),
            tasks: self.tasks.or(others.tasks),
            disk: text(&self.disk, &others.disk),
        }
    }

    pub fn faults(&self) -> Vec<String> {
        let sizes = [("memory", &self.memory), ("memory-high", &self.memory_high), ("swap", &self.swap)];
        let rates = [("io-read", &self.io_read), ("io-write", &self.io_write)];
        let disk =
            self.disk.iter().filter(|disk| *disk != "infinity" && bytes(disk).is_none_or(|bytes| bytes == 0));
        let disk = disk.map(|disk| ("disk", format!("{disk:?}"), "a size such as \"20G\""));
        let sizes = sizes.into_iter().filter(|(_, said)| said.as_ref().is_some_and(|size| !is_size(size)));
        let sizes = sizes.map(|(key, said)| (key, shown(said), "a size such as \"2G\""));
        let rates = rates
            .into_iter()
            .filter(|(_, said)| said.as_ref().is_some_and(|rate| !is_size(rate) || rate.contains('%')));
        let rates = rates.map(|(key, said)| (key, shown(said), "bytes a second, such as \"50M\""));
        let cpu = self.cpu.iter().filter(|cpu| !cpu.strip_suffix('%').is_some_and(is_number));
        let cpu = cpu.map(|cpu| ("cpu", format!("{cpu:?}"), "a share such as \"150%\""));
        let cpus = self.cpus.iter().filter(|cpus| !are_processors(cpus));
        let cpus = cpus.map(|cpus| ("cpus", format!("{cpus:?}"), "processors such as \"0-3,8\""));
        let weights = [("cpu-weight", self.cpu_weight), ("io-weight", self.io_weight)];
        let weights = weights.into_iter().filter_map(|(key, said)| Some((key, said?)));
        let weights = weights.filter(|(_, weight)| !(1..=10_000).contains(weight));
        let weights = weights.map(|(key, weight)| (key, weight.to_string(), "a weight from 1 to 10000"));
        let all = sizes.chain(disk).chain(rates).chain(cpu).chain(cpus).chain(weights);
        all.map(|(key, said, what)| format!("limits.{key}: {said} is not {what}")).collect()
    }
}

fn shown(said: &Option<String>) -> String {
    format!("{:?}", said.as_deref().unwrap_or_default())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// Bytes, with or without a suffix (systemd.syntax(7), to the base 1024).
pub fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'K') => (&text[..at], 10),
        (at, 'M') => (&text[..at], 20),
        (at, 'G') => (&text[..at], 30),
        (at, 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    is_number(number).then(|| number.parse::<u64>().ok()?.checked_mul(1 << shift)).flatten()
}

/// Bytes or percent, or no end of them.
fn is_size(text: &str) -> bool {
    text == "infinity" || is_number(text.strip_suffix(['K', 'M', 'G', 'T', '%']).unwrap_or(text))
}

/// Numbers of processors, and ranges of them.
fn are_processors(text: &str) -> bool {
    text.split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= last)
    })
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

impl MachineSpec {
    /// A machine of which only its network is known.
    pub fn new(network: Network) -> MachineSpec {
        MachineSpec {
            profile: Vec::new(),
            image: None,
            description: None,
            autostart: true,
            restart: None,
            after: Vec::new(),
            open: Vec::new(),
            ipv4: None,
            firewall: None,
            bind: Vec::new(),
            bind_read_only: Vec::new(),
            device: Vec::new(),
            secret: Vec::new(),
            network,
            limits: Limits::default(),
            check: None,
            snapshots: None,
            backup: None,
            environment: BTreeMap::new(),
            expose: Vec::new(),
            nspawn: NspawnTable::new(),
            networkd: NetworkdTable::new(),
        }
    }

    /// Whether nsctl's firewall stands before it.
    pub fn is_filtered(&self) -> bool {
        self.has_firewall() && self.network.routed().is_some()
    }

    /// Whether it would, were it routed.
    pub fn has_firewall(&self) -> bool {
        self.firewall.unwrap_or(true)
    }

    /// Puts it on a bridge: it loses what only a routed machine can have. Gives what that was, as it
    /// was written.
    pub fn bridge(&mut self, port: BridgePort) -> Vec<String> {
        let routes = self.network.forget_routes();
        self.network = Network::Bridge(port);
        let open = std::mem::take(&mut self.open);
        let mut lost: Vec<String> = open.iter().map(|port| format!("open {port}")).collect();
        let ipv4 = self.ipv4.take().filter(|ipv4| *ipv4 != Ipv4::None);
        lost.extend(ipv4.map(|ipv4| format!("ipv4 = \"{ipv4}\"")));
        lost.extend(routes.iter().map(|route| format!("the route {route}")));
        lost.extend(self.firewall.take().map(|on| format!("firewall = {on}")));
        lost.extend(self.forget_host_ports().iter().map(|port| format!("port {port} of this host")));
        lost
    }

    /// Takes away the IPv4 address that is its own alone; gives that.
    pub fn forget_own_ipv4(&mut self) -> Option<Ipv4Addr> {
        let own = self.ipv4.and_then(Ipv4::address)?;
        self.ipv4 = None;
        Some(own)
    }

    /// Lets no port of the host lead to it any more; gives those that did.
    pub fn forget_host_ports(&mut self) -> Vec<u16> {
        let ports = self.expose.iter_mut().filter_map(|expose| expose.host.take()).collect();
        self.expose.retain(|expose| expose.to.is_some());
        ports
    }

    /// Parses one definition.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn parse(path: &Path, text: &str) -> Result<MachineSpec, Vec<Problem>> {
        let machine: MachineSpec = toml::from_str(text).map_err(|error| {
            vec![match network_fault(text) {
                Some(NetworkFault { key, message }) => Problem::at_value(path, text, key, message),
                None => Problem::at(path, text, error.span(), error.message()),
            }]
        })?;
        let faults = machine.faults();
        if faults.is_empty() {
            return Ok(machine);
        }
        Err(faults.into_iter().map(|message| Problem::whole(path, message)).collect())
    }

    /// A bridged machine is a host of the LAN.
    fn routed_only(&self) -> Option<String> {
        let said = [
            ("open", !self.open.is_empty()),
            ("ipv4", self.ipv4.is_some()),
            ("firewall", self.firewall.is_some()),
        ];
        let bridged = self.network.bridge().is_some();
        let (key, _) = said.into_iter().find(|(_, said)| *said && bridged)?;
        Some(format!(
            "{key}: a bridged machine is a host of the LAN; nsctl filters and translates routed ones only"
        ))
    }

    fn expose_faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.expose.iter().filter_map(Expose::fault).collect();
        let bridged = self.network.bridge().is_some();
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
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = table_faults(&self.nspawn);
        faults.extend(networkd_faults(&self.networkd));
        faults.extend(self.routed_only());
        let two = self.networkd.contains_key("BridgeVLAN")
            && self.network.port().is_some_and(|port| port.vlan.is_some() || self.network.routed().is_some());
        faults.extend(
            two.then(|| "[networkd.BridgeVLAN]: the VLAN is what `vlan` in [network] says".to_owned()),
        );
        faults.extend(self.expose_faults());
        faults.extend(self.limits.faults());
        faults.extend(self.check.iter().flat_map(HealthCheck::faults));
        let keep = self.snapshots.iter().filter_map(|schedule| schedule.keep.as_ref());
        faults.extend(keep.flat_map(|keep| keep.faults("snapshots")));
        let keep = self.backup.iter().filter_map(|schedule| schedule.keep.as_ref());
        faults.extend(keep.flat_map(|keep| keep.faults("backup")));
        if let Some(text) = self.description.as_deref().filter(|text| text.contains(char::is_control)) {
            faults.push(format!("the description {text:?} is not one plain line"));
        }
        let plain = |text: &str| !text.contains(char::is_control) && !text.ends_with('\\');
        for bind in self.bind.iter().chain(&self.bind_read_only) {
            if !bind.split(':').take(2).all(|path| path.starts_with('/')) || !plain(bind) {
                faults.push(format!("{bind:?} is not a path such as \"/srv\" or \"/srv/world:/world\""));
            }
        }
        let is_device = |path: &&String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.+,".contains(c);
            path.strip_prefix("/dev/").is_some_and(|rest| !rest.is_empty())
                && path.chars().all(plain)
                && !path.contains("..")
        };
        let none = self.device.iter().filter(|path| !is_device(path));
        faults.extend(none.map(|path| format!("{path:?} is no device such as \"/dev/dri/renderD128\"")));
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

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_to_the_base_1024() {
        assert_eq!([bytes("7"), bytes("2K"), bytes("1T")], [Some(7), Some(2048), Some(1 << 40)]);
        for none in ["", "K", "1k", "50%", "-1", "1.5G", "18446744073709551616", "17179869184G", "é"] {
            assert_eq!(bytes(none), None, "{none}");
        }
    }
}
