//! `nsctl bridge create|list|remove`: a bridge, its network, and its port to the LAN.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::fault::argument;
use crate::cli::planned::brief;
use crate::cli::session::{About, Session, bus};
use crate::cli::{Fault, Global, text};
use crate::emit::Origin;
use crate::emit::ini::Ini;
use crate::name::{IfName, MachineName};
use crate::observe;
use crate::observed::{Address, Observed};
use crate::plan::{Scope, spec_of};
use crate::spec::{BridgeSpec, HOST_FILE, Spec};
use crate::sys::Disk;
use crate::visible::few;

/// Bridges that put machines on the LAN
#[derive(Debug, Clone, Subcommand)]
pub enum Bridge {
    /// Make a bridge of an interface, so that machines can be on its LAN
    Create(Create),
    /// Show all bridges of nsctl's
    List,
    /// Take a bridge away: its port is an interface of its own again
    Remove(Remove),
}

#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The bridge's name
    #[arg(add = crate::cli::complete::bridges())]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The bridge's name, 15 characters at the most
    name: String,
    /// The interface that becomes its port
    #[arg(long, value_name = "IFACE")]
    uplink: String,
    /// A static address of this host on the bridge, such as 192.168.5.9/24, instead of DHCP and
    /// RA; may be given several times
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    address: Vec<String>,
    /// The default router that goes with a static address; may be given several times
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    gateway: Vec<String>,
    /// A VLAN that the interface carries tagged, for machines in it; may be given several times
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(2..=4094))]
    vlan: Vec<u16>,
    /// Do not ask before this host's own default route moves to the bridge
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, verb: Bridge) -> Result<u8, Fault> {
    match verb {
        Bridge::Create(args) => create(global, args).await,
        Bridge::List => list(global).await,
        Bridge::Remove(args) => remove(global, args).await,
    }
}

/// A bridge, in the words of `bridge list --json`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a IfName,
    uplink: &'a IfName,
    vlans: &'a BTreeSet<u16>,
    /// What this host has on it.
    addresses: Vec<IpAddr>,
    machines: Vec<&'a MachineName>,
    /// Whether it is there, and its port on it.
    up: bool,
}

async fn list(global: &Global) -> Result<u8, Fault> {
    let (disk, bus) = (Disk::new(&global.root), bus(global).await?);
    let observed = observe::host(&disk, bus.as_ref()).await?;
    let spec = spec_of(&observed)?;
    let rows: Vec<Row> =
        spec.host.bridges.iter().map(|(name, bridge)| row(name, bridge, &spec, &observed)).collect();
    if global.json {
        global.report.answer(&rows)?;
    } else if rows.is_empty() {
        global.report.say("no bridges; `nsctl bridge create BR --uplink IFACE` makes one");
    } else {
        let header = ["NAME", "UPLINK", "STATE", "VLANS", "ADDRESSES", "MACHINES"];
        text::out!("{}", text::table(&header, &rows.iter().map(cells).collect::<Vec<_>>()));
    }
    Ok(0)
}

fn row<'a>(name: &'a IfName, bridge: &'a BridgeSpec, spec: &'a Spec, observed: &Observed) -> Row<'a> {
    let link = observed.link(name.as_str());
    let port = observed.link(bridge.uplink.as_str());
    let up = link.is_some_and(|link| port.is_some_and(|port| port.master == Some(link.index)));
    let on_it =
        |address: &&Address| link.is_some_and(|link| address.interface == link.index) && address.global;
    let ports = spec.machines.iter().filter_map(|(machine, spec)| Some((machine, spec.network.port()?)));
    Row {
        name,
        uplink: &bridge.uplink,
        vlans: &bridge.vlans,
        addresses: observed.addresses.iter().filter(on_it).map(|address| address.address).collect(),
        machines: ports.filter(|(_, port)| port.bridge == *name).map(|(machine, _)| machine).collect(),
        up,
    }
}

fn cells(row: &Row) -> Vec<String> {
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        row.name.to_string(),
        row.uplink.to_string(),
        if row.up { "up" } else { "down" }.to_owned(),
        or_none(text::joined(row.vlans, ", ")),
        or_none(text::joined(&row.addresses, "\n")),
        or_none(text::joined(&row.machines, "\n")),
    ]
}

async fn remove(global: &Global, args: Remove) -> Result<u8, Fault> {
    let name: IfName = argument(&args.name)?;
    let session = Session::begin(global, About::Nobody).await?;
    let mut host = session.spec.host.clone();
    let Some(bridge) = host.bridges.remove(&name) else {
        let known = text::joined(session.spec.host.bridges.keys(), ", ");
        let hint = if known.is_empty() { "there is none".to_owned() } else { format!("there are: {known}") };
        return Err(Fault::new(format!("nsctl has no bridge named {name}")).hint(hint));
    };
    let ports =
        session.spec.machines.iter().filter_map(|(machine, spec)| Some((machine, spec.network.port()?)));
    let on_it: Vec<&MachineName> =
        ports.filter(|(_, port)| port.bridge == name).map(|(machine, _)| machine).collect();
    if !on_it.is_empty() {
        return Err(Fault::new(format!("machines are on {name}: {}", few(&on_it)))
            .hint("`nsctl attach NAME --routed`, or to another bridge, or `nsctl remove NAME`, first"));
    }
    must_be_left_by_others(&session, &name, &bridge)?;
    must_have_a_file(&session, &bridge)?;
    let wanted = session.change(Scope::Bridge(name.clone())).host(&host)?.settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    plan.notes.iter().for_each(|note| session.report.note(note));
    text::err!("{}", brief(&plan));
    let uplink = &bridge.uplink;
    text::agree(
        args.yes,
        &format!("This host has its addresses on {uplink} then, as its own files say. Go on?"),
    )?;
    session.perform(&plan).await?;
    session.say(format!("{name} is gone; {uplink} is an interface of its own again"));
    Ok(0)
}

/// Nobody but its uplink is a port of it: machines of others, virtual machines.
fn must_be_left_by_others(session: &Session, name: &IfName, bridge: &BridgeSpec) -> Result<(), Fault> {
    let observed = &session.observed;
    let Some(link) = observed.link(name.as_str()) else { return Ok(()) };
    let ports = observed.links.iter().filter(|port| port.master == Some(link.index));
    let others: Vec<&str> =
        ports.map(|port| port.name.as_str()).filter(|port| *port != bridge.uplink.as_str()).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Fault::new(format!("others are ports of {name}: {}", few(&others)))
        .hint(format!("take them off it first: `ip link show master {name}` lists them")))
}

/// What sets the uplink up when it is no port any more: without that, this host would have no address there.
fn must_have_a_file(session: &Session, bridge: &BridgeSpec) -> Result<(), Fault> {
    let uplink = bridge.uplink.as_str();
    let is_for_it = |text: &String| {
        let ini = Ini::parse(text);
        let names = ini.get("Match", "Name").unwrap_or_default().to_owned();
        let fits = |word: &str| glob::Pattern::new(word).is_ok_and(|pattern| pattern.matches(uplink));
        Origin::of(text) == Origin::Foreign && names.split_whitespace().any(fits)
    };
    for folder in ["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network"] {
        let files = session.disk.folder(Path::new(folder), |name| name.ends_with(".network"))?;
        if files.values().any(is_for_it) {
            return Ok(());
        }
    }
    let file = format!("/etc/systemd/network/20-{uplink}.network");
    let how = match bridge.address.first() {
        Some(address) => format!("[Match] Name={uplink} [Network] Address={address} and its Gateway="),
        None => format!("[Match] Name={uplink} [Network] DHCP=yes"),
    };
    Err(Fault::new(format!(
        "no file of networkd's is for {uplink}: without its bridge this host would have no address there"
    ))
    .hint(format!("give it one first, {file}: {how}")))
}

async fn create(global: &Global, args: Create) -> Result<u8, Fault> {
    let name: IfName = argument(&args.name)?;
    let address = |word: &String| parsed(word, "an address with its length", "192.168.5.9/24");
    let gateway = |word: &String| parsed(word, "an address", "192.168.5.1 or fe80::1");
    let bridge = BridgeSpec {
        uplink: argument(&args.uplink)?,
        address: args.address.iter().map(address).collect::<Result<_, _>>()?,
        gateway: args.gateway.iter().map(gateway).collect::<Result<_, _>>()?,
        vlans: args.vlan.iter().copied().collect(),
    };
    let session = Session::begin(global, About::Nobody).await?;
    let there = session.spec.host.bridges.get(&name);
    if there.is_some_and(|there| *there != bridge) {
        return Err(Fault::new(format!("there is already a bridge named {name}, made otherwise"))
            .hint(format!("edit [bridge.{name}] in {HOST_FILE} and run `nsctl apply`")));
    }
    let others =
        session.spec.host.bridges.iter().find(|(other, b)| **other != name && b.uplink == bridge.uplink);
    if let Some((other, _)) = others {
        return Err(Fault::new(format!("{} is already the port of {other}", bridge.uplink))
            .hint(format!("put the machines on {other} instead")));
    }
    let uplink = bridge.uplink.clone();
    let mut host = session.spec.host.clone();
    host.bridges.insert(name.clone(), bridge);
    let wanted = session.change(Scope::Bridge(name.clone())).host(&host)?.settle()?;
    let plan = session.plan(&wanted)?;
    for note in &plan.notes {
        session.progress.end();
        session.report.note(note);
        text::err!("note: {}", text::sanitize(note));
    }
    text::agree(args.yes || plan.notes.is_empty(), "Go on?")?;
    session.perform(&plan).await?;
    session.say(format!("{name} is a bridge to the LAN of {uplink}"));
    Ok(0)
}

/// What a word means that is this.
fn parsed<T: FromStr>(word: &str, what: &str, example: &str) -> Result<T, Fault> {
    let wrong = || Fault::wrong(format!("'{}' is not {what}", word.escape_debug()));
    word.parse().map_err(|_| wrong().hint(format!("write it as {example}")))
}
