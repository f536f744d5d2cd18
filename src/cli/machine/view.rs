//! Machines as they are shown: planned beside live. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;
use serde::Serialize;

use crate::backup::History;
use crate::cli::report::CheckView;
use crate::emit::ini::Ini;
use crate::emit::{self, ManagedFile, Origin, Rendered};
use crate::identity;
use crate::name::MachineName;
use crate::observed::{Address, Observed};
use crate::plan::{bridge_of, vlan_of, wrong_link};
use crate::pool::{Lease, Leases, Subnet};
use crate::spec::{Expose, Limits, MachineSpec, Network, OpenPort, Restart, SecretId, Spec};
use crate::sys::usage::Usage;

/// One machine, in the words of `list --json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    pub name: String,
    pub state: String,
    pub network: NetworkView,
    /// What it really has, global ones first.
    pub addresses: Vec<IpAddr>,
    /// Those of them that are of a delegated prefix of yesterday.
    pub old_addresses: Vec<IpAddr>,
    pub host_interface: Option<String>,
    /// What the firewall lets in; none where nsctl does not filter.
    pub open: Option<Vec<OpenPort>>,
    /// Listeners for services that speak IPv4 alone.
    pub exposed: Vec<Expose>,
    pub uid_shift: Option<u32>,
    /// What the LAN's DHCP server knows it by.
    pub mac: Option<String>,
    pub duid: Option<String>,
    /// What its definition says it was made of.
    pub image: Option<String>,
    pub description: Option<String>,
    /// Whether it starts with the host; none of machines that are not nsctl's.
    pub autostart: Option<bool>,
    /// What it may take, those of the host's defaults too.
    pub limits: Option<Limits>,
    /// Whether it is started again where it ends.
    pub restart: Option<Restart>,
    /// Machines that start before it.
    pub after: Vec<MachineName>,
    /// Whether it does what its definition asks; none where that asks nothing, and of one that does not run.
    pub check: Option<CheckView>,
    /// What its tree takes of the disk; none where nobody asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Usage>,
    /// Folders of the host that it sees.
    pub bind: Vec<String>,
    pub bind_read_only: Vec<String>,
    /// Devices of the host that it may use.
    pub device: Vec<String>,
    /// What is known here of its backups.
    pub backup: History,
    /// What its services get as credentials.
    pub secret: Vec<SecretId>,
    /// Its first process, seen from the host.
    pub pid: Option<u32>,
    /// Seconds since its start.
    pub uptime: Option<u64>,
    /// Where planned, configured and live are apart, in sentences.
    pub drift: Vec<String>,
    /// The address that a guest which reads no file of networkd's gave itself in its /64, where
    /// that is not what follows from its MAC address (RFC 7217, RFC 8981): nobody can plan it.
    pub own_choice: Option<IpAddr>,
}

/// How it meets the world, as far as nsctl knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeView {
    Routed,
    Bridge,
    #[default]
    Unmanaged,
}

impl ModeView {
    pub fn word(self) -> &'static str {
        match self {
            ModeView::Routed => "routed",
            ModeView::Bridge => "bridge",
            ModeView::Unmanaged => "unmanaged",
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct NetworkView {
    pub mode: ModeView,
    /// What was planned.
    pub prefix: Option<Lease>,
    /// The stable number of the subnet, where its prefix is delegated and may change.
    pub number: Option<u32>,
    pub address: Option<Ipv6Addr>,
    /// What is routed to it beside that.
    pub routes: Vec<Ipv6Net>,
    /// Where it is on the LAN, by its only interface or by its second.
    pub bridge: Option<String>,
    pub vlan: Option<u16>,
}

impl NetworkView {
    /// Where it is on the LAN, in words.
    pub fn lan(&self) -> Option<String> {
        let vlan = self.vlan.map_or(String::new(), |vlan| format!(", VLAN {vlan}"));
        self.bridge.as_ref().map(|bridge| format!("{bridge}{vlan}"))
    }
}

/// All machines by name: ours, those that run, and those with a unit or a .nspawn of their own.
pub fn rows(
    observed: &Observed,
    spec: &Spec,
    leases: &Leases,
    addresses: &BTreeMap<String, Vec<Address>>,
) -> Vec<Row> {
    let ours = spec.machines.keys().chain(spec.broken.keys()).map(ToString::to_string);
    let units = observed.units.keys().map(ToString::to_string);
    let enabled = observed.enabled.iter().map(ToString::to_string);
    let written = observed.files.keys().filter(|path| path.starts_with("/etc/systemd/nspawn"));
    let written = written.filter(|path| path.extension().is_some_and(|end| end == "nspawn"));
    let written = written.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let running = observed.machines.keys().cloned();
    // Trees of no machine, where somebody asked for them.
    let trees = observed.images.iter().cloned();
    let names: BTreeSet<String> =
        ours.chain(trees).chain(running).chain(units).chain(enabled).chain(written).collect();
    let files = by_machine(emit::render(spec, leases));
    let mut rows: Vec<Row> =
        names.into_iter().map(|name| row(name, observed, spec, leases, addresses)).collect();
    for row in &mut rows {
        row.old_addresses = old_addresses(row, observed, addresses);
        row.own_choice = own_choice(row, spec);
        row.drift = drift(row, observed, spec, &files, addresses.contains_key(&row.name));
    }
    rows
}

/// What is rendered for each machine.
type MachineFiles = BTreeMap<MachineName, Vec<(PathBuf, Rendered)>>;

fn by_machine(files: emit::Files) -> MachineFiles {
    let mut machines = MachineFiles::new();
    for (path, file) in files {
        if let Some(name) = file.file.machine() {
            machines.entry(name).or_default().push((path, file));
        }
    }
    machines
}

/// Where the machine is not as it was planned, or its files are not as they were configured.
fn drift(row: &Row, observed: &Observed, spec: &Spec, files: &MachineFiles, looked: bool) -> Vec<String> {
    let Ok(name) = row.name.parse::<MachineName>() else { return Vec::new() };
    if let Some(problems) = spec.broken.get(&name) {
        return problems.iter().map(|problem| format!("its definition cannot be used: {problem}")).collect();
    }
    let mine = files.get(&name).into_iter().flatten();
    let mut drift: Vec<String> = mine.filter_map(|(path, file)| file_drift(path, file, observed)).collect();
    let planned = row.network.address.map(IpAddr::V6).filter(|_| row.state == "running" && looked);
    if let Some(planned) =
        planned.filter(|planned| !row.addresses.contains(planned) && row.own_choice.is_none())
    {
        drift.push(format!("{planned} is planned, and not there"));
    }
    let by_unit = matches!(
        observed.units.get(&name).map(String::as_str),
        Some("active" | "activating" | "deactivating")
    );
    if observed.is_running(&name) && row.network.mode != ModeView::Unmanaged && !by_unit {
        drift.push(format!("it runs, but not by {}: somebody started it otherwise", name.unit()));
    }
    let definition = spec.machines.get(&name).filter(|_| observed.is_running(&name));
    drift.extend(definition.and_then(|machine| wrong_link(&name, machine, observed)));
    drift
}

fn file_drift(path: &Path, file: &Rendered, observed: &Observed) -> Option<String> {
    let path_text = path.display();
    match observed.file(path) {
        None => Some(format!("{path_text} is missing")),
        Some(text) if text == file.text => None,
        Some(text) => Some(match Origin::of(text) {
            Origin::Ours => format!("{path_text} is not yet what the definition says"),
            Origin::Edited => format!("{path_text} was edited by hand"),
            Origin::Foreign => format!("{path_text} was not written by nsctl"),
        }),
    }
}

fn row(
    name: String,
    observed: &Observed,
    spec: &Spec,
    leases: &Leases,
    addresses: &BTreeMap<String, Vec<Address>>,
) -> Row {
    let machine: Option<MachineName> = name.parse().ok();
    let definition = machine.as_ref().and_then(|machine| spec.machines.get(machine));
    let lease = machine.as_ref().and_then(|machine| leases.get(machine));
    let running = observed.machines.get(&name);
    let seen = addresses.get(&name).into_iter().flatten();
    Row {
        state: state(observed, machine.as_ref(), running.is_some()).to_owned(),
        network: match machine.as_ref().filter(|name| spec.broken.contains_key(*name)) {
            Some(name) => network_of_files(observed, name, lease),
            None => network(
                definition,
                lease.and_then(|lease| current_prefix(observed, machine.as_ref()?, lease)),
                lease,
            ),
        },
        addresses: seen.filter(|a| a.global).map(|a| a.address).collect(),
        host_interface: machine.as_ref().and_then(|m| observed.host_end(m)).map(|link| link.name.clone()),
        open: definition.filter(|m| m.is_filtered()).map(|m| m.open.clone()),
        exposed: definition.map(|m| m.expose.clone()).unwrap_or_default(),
        uid_shift: running.and_then(|running| running.uid_shift),
        image: definition.and_then(|m| m.image.clone()),
        description: definition.and_then(|m| m.description.clone()),
        autostart: definition.map(|m| m.autostart),
        limits: definition.map(|m| m.limits.or(&spec.host.defaults.limits).or(&Limits::usual())),
        restart: definition.and_then(|m| m.restart),
        after: definition.map(|m| m.after.clone()).unwrap_or_default(),
        bind: definition.map(|m| m.bind.clone()).unwrap_or_default(),
        bind_read_only: definition.map(|m| m.bind_read_only.clone()).unwrap_or_default(),
        device: definition.map(|m| m.device.clone()).unwrap_or_default(),
        backup: machine.as_ref().map(|machine| observed.history(machine)).unwrap_or_default(),
        secret: definition.map(|m| m.secret.clone()).unwrap_or_default(),
        pid: running.map(|running| running.leader),
        mac: mac(observed, machine.as_ref(), definition),
        name,
        ..Row::default()
    }
}

fn mac(
    observed: &Observed,
    machine: Option<&MachineName>,
    definition: Option<&MachineSpec>,
) -> Option<String> {
    let host = observed.machine_id.as_deref()?.parse().ok()?;
    let second = definition.is_some_and(|m| m.network.routed().is_some_and(|routed| routed.lan.is_some()));
    let of = if second { identity::lan_mac } else { identity::mac };
    Some(of(host, machine?).to_string())
}

fn state<'a>(observed: &'a Observed, machine: Option<&MachineName>, running: bool) -> &'a str {
    match machine.and_then(|machine| observed.units.get(machine)).map(String::as_str) {
        Some("active") => "running",
        Some("activating") => "starting",
        Some("deactivating") => "stopping",
        Some("failed") => "failed",
        _ if running => "running",
        _ => "stopped",
    }
}

/// A machine's subnet as it is now: that of the lease, or what networkd cut out
/// of the delegated prefix for the host's end.
fn current_prefix(observed: &Observed, machine: &MachineName, lease: Lease) -> Option<Lease> {
    if lease.number().is_none() {
        return Some(lease);
    }
    let link = observed.host_end(machine)?;
    let mine = observed.addresses.iter().filter(|a| a.interface == link.index && a.global && !a.deprecated);
    let mut global = mine.filter_map(|a| match a.address {
        IpAddr::V6(address) if !address.is_unique_local() => Some(Lease::Subnet(Subnet::of(address))),
        _ => None,
    });
    global.next_back()
}

fn own_choice(row: &Row, spec: &Spec) -> Option<IpAddr> {
    let name: MachineName = row.name.parse().ok()?;
    let routed = spec.machines.get(&name)?.network.routed()?;
    let planned = row.network.address.filter(|_| routed.token.is_none() && routed.chosen.is_some())?;
    let prefix = row.network.prefix?;
    let mut own = row.addresses.iter().filter(|address| match address {
        IpAddr::V6(address) => prefix.is_on_link(*address),
        IpAddr::V4(_) => false,
    });
    if row.addresses.contains(&IpAddr::V6(planned)) { None } else { own.next().copied() }
}

/// What a machine still has of a prefix that is delegated no more.
fn old_addresses(row: &Row, observed: &Observed, addresses: &BTreeMap<String, Vec<Address>>) -> Vec<IpAddr> {
    let (Some(today), Some(_)) = (row.network.prefix, row.network.number) else { return Vec::new() };
    // Not those of a second interface.
    let host0 = row.host_interface.as_ref().and_then(|end| observed.link(end)?.peer);
    let own = addresses.get(&row.name).into_iter().flatten();
    let own = own.filter(|a| a.global && host0.is_none_or(|host0| a.interface == host0));
    let old = own.map(|own| own.address).filter(|address| match address {
        IpAddr::V6(address) => !today.holds(*address) && !address.is_unique_local(),
        IpAddr::V4(_) => false,
    });
    old.collect()
}

/// Of a machine whose definition cannot be used: what it has been given.
fn network_of_files(observed: &Observed, name: &MachineName, lease: Option<Lease>) -> NetworkView {
    let file = |file: ManagedFile| observed.file(&file.path());
    let settings = file(ManagedFile::Nspawn(name.clone())).map(Ini::parse);
    let bridge = settings.as_ref().and_then(|ini| ini.get("Network", "Bridge")).map(str::to_owned);
    match (bridge, lease) {
        (Some(bridge), _) => NetworkView {
            mode: ModeView::Bridge,
            bridge: Some(bridge),
            vlan: file(ManagedFile::HostEnd(name.clone())).and_then(vlan_of),
            ..NetworkView::default()
        },
        (None, Some(lease)) => {
            let second = file(ManagedFile::LanEnd(name.clone()));
            NetworkView {
                mode: ModeView::Routed,
                prefix: current_prefix(observed, name, lease),
                number: lease.number(),
                bridge: second.and_then(bridge_of),
                vlan: second.and_then(vlan_of),
                ..NetworkView::default()
            }
        }
        (None, None) => NetworkView::default(),
    }
}

fn network(definition: Option<&MachineSpec>, prefix: Option<Lease>, lease: Option<Lease>) -> NetworkView {
    let Some(network) = definition.map(|machine| &machine.network) else { return NetworkView::default() };
    let port = network.port();
    let (bridge, vlan) = (port.map(|port| port.bridge.to_string()), port.and_then(|port| port.vlan));
    match network {
        Network::Bridge(_) => NetworkView { mode: ModeView::Bridge, bridge, vlan, ..NetworkView::default() },
        Network::Routed(routed) => NetworkView {
            mode: ModeView::Routed,
            prefix,
            number: lease.and_then(Lease::number),
            address: prefix.and_then(|prefix| routed.planned(prefix).address()),
            routes: routed.routes.clone(),
            bridge,
            vlan,
        },
    }
}
