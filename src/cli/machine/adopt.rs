//! `nsctl adopt`: a machine made by hand becomes one of nsctl's, with the
//! settings that it has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::machine::attach::must_be_there;
use crate::cli::machine::handmade::{Handwritten, absorb, checked, push, taken_over};
use crate::cli::session::{About, Session};
use crate::cli::text;
use crate::cli::{Fault, Global};
use crate::emit::ini::Ini;
use crate::emit::{ManagedFile, Origin};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Plan, Scope, Step, diff};
use crate::pool::{Lease, Prefix, Subnet};
use crate::spec::{Ipv4, MachineSpec, Network, NetworkdTable, Routed, Sections, Values, definition_path};

/// Make a machine that was set up by hand one of nsctl's, as it is
#[derive(Debug, Args)]
pub struct Adopt {
    /// The machine's name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Adopt) -> Result<u8, Fault> {
    let name: MachineName = args.name.parse()?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    if session.spec.machines.contains_key(&name) || session.spec.broken.contains_key(&name) {
        return Err(Fault::new(format!("'{name}' is one of nsctl's machines already"))
            .hint(format!("`nsctl show {name}` shows it")));
    }
    must_be_there(&session, &name)?;
    let handwritten = Handwritten::find(&session, name.as_str())?;
    let host_end = HostEnd::find(&session, &name)?;
    refuse_first(host_end.as_ref(), &name)?;
    let machine = definition(&session, &name, handwritten.as_ref(), host_end.as_ref()).await?;

    let change = session.change(Scope::Machine(name.clone())).define(&name, &machine)?;
    let settings = handwritten.as_ref().map(|file| file.text().to_owned());
    let wanted = taken_over(checked(change, &machine, &name)?, handwritten).settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    text::err!("{}", sheet(&name, &plan, settings.as_deref(), host_end.as_ref()));
    if !args.yes && !text::agree("Do that?")? {
        return Err(Fault::new("nothing was changed"));
    }
    session.perform(&plan).await?;
    session.say(format!("{name} is one of nsctl's machines now"));
    Ok(0)
}

/// The .network file that networkd uses for the host's end of a machine's veth.
struct HostEnd {
    path: PathBuf,
    text: String,
    settings: Ini,
}

impl HostEnd {
    /// The first by name whose `[Match] Name=` fits, as networkd chooses it
    /// (systemd.network(5)), of those in /etc; with its drop-ins.
    fn find(session: &Session, name: &MachineName) -> Result<Option<HostEnd>, Fault> {
        let folder = Path::new("/etc/systemd/network");
        for (path, text) in session.disk.folder(folder, |file| file.ends_with(".network"))? {
            if Origin::of(&text) != Origin::Foreign || !matches(&Ini::parse(&text), name) {
                continue;
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let drop_ins =
                session.disk.folder(&folder.join(format!("{file}.d")), |file| file.ends_with(".conf"))?;
            let whole =
                std::iter::once(text.clone()).chain(drop_ins.into_values()).collect::<Vec<_>>().join("\n");
            return Ok(Some(HostEnd { path, text, settings: Ini::parse(&whole) }));
        }
        Ok(None)
    }
}

/// networkd takes the first file by name: it must be nsctl's.
fn refuse_first(host_end: Option<&HostEnd>, name: &MachineName) -> Result<(), Fault> {
    let ours = format!("05-nsctl-ve-{name}.network");
    let Some(file) = host_end.and_then(|end| end.path.file_name()).filter(|file| **file < *ours) else {
        return Ok(());
    };
    let file = file.to_string_lossy();
    Err(Fault::new(format!("{file} would still come before nsctl's own {ours}, and win"))
        .hint(format!("rename it, such as to 20-{name}.network, run `networkctl reload`, and try again")))
}

/// Whether a .network file is for the machine's veth; a pattern may be a shell's (glob(7)).
fn matches(settings: &Ini, name: &MachineName) -> bool {
    let words = settings.get("Match", "Name").unwrap_or_default().split_whitespace();
    let mut patterns = words.filter_map(|word| glob::Pattern::new(word).ok());
    patterns.any(|pattern| pattern.matches(&name.routed_link()) || pattern.matches(&name.bridged_link()))
}

/// What the machine's files say, as a definition.
async fn definition(
    session: &Session,
    name: &MachineName,
    handwritten: Option<&Handwritten>,
    host_end: Option<&HostEnd>,
) -> Result<MachineSpec, Fault> {
    let nspawn = handwritten.map_or_else(Ini::new, |file| Ini::parse(file.text()));
    let none = Ini::new();
    let settings = host_end.map_or(&none, |file| &file.settings);
    let bridge = nspawn.get("Network", "Bridge").or_else(|| settings.get("Network", "Bridge"));
    let (network, ipv4, networkd) = match bridge {
        Some(bridge) => (Network::Bridge(bridge.parse()?), None, rest(settings, None)),
        None => {
            let pool = session.spec.host.prefix;
            let subnet =
                pool.and_then(|pool| subnet(settings, pool)).ok_or_else(|| not_routed(name, pool))?;
            let usual = Routed::default().address(subnet);
            let token = own_address(session, name, subnet).await.filter(|own| *own != usual);
            let token = token.map(|own| Ipv6Addr::from(u128::from(own) & u128::from(u64::MAX)));
            let routed = Routed { subnet: Some(Lease::Subnet(subnet)), token, chosen: None };
            (Network::Routed(routed), ipv4(settings), rest(settings, Some(subnet)))
        }
    };
    let autostart = session.observed.enabled.contains(name);
    // It had no firewall, and goes on without: `firewall = false` says so.
    let firewall = network.routed().map(|_| false);
    let mut machine = MachineSpec { autostart, ipv4, networkd, firewall, ..MachineSpec::new(network) };
    absorb(&mut machine, handwritten);
    Ok(machine)
}

fn not_routed(name: &MachineName, pool: Option<Prefix>) -> Fault {
    let Some(pool) = pool else {
        return Fault::new(format!(
            "'{name}' is on no bridge, and this host has no pool to route it a subnet of"
        ))
        .hint("`nsctl init --pool PREFIX --uplink INTERFACE` first");
    };
    Fault::new(format!(
        "'{name}' is on no bridge, and no file in /etc/systemd/network gives its veth a /64 of {pool}"
    ))
    .hint(format!(
        "`nsctl attach {name} --routed` gives it the next free one, or --bridge BR puts it on a bridge"
    ))
}

/// The /64 of the pool that the host's end has.
fn subnet(settings: &Ini, pool: Prefix) -> Option<Subnet> {
    let values = settings.sections().flat_map(|(_, keys)| keys);
    let mut prefixes =
        values.filter(|(key, _)| key == "Address" || key == "Prefix").filter_map(|(_, value)| {
            let net = value.parse::<ipnet::Ipv6Net>().ok()?.trunc();
            net.to_string().parse::<Subnet>().ok()
        });
    prefixes.find(|subnet| pool.contains(*subnet))
}

/// The address of the pool that the machine has now, if it runs: it keeps it.
async fn own_address(session: &Session, name: &MachineName, subnet: Subnet) -> Option<Ipv6Addr> {
    let running = session.observed.machines.get(name.as_str())?;
    let asked = BTreeMap::from([(name.to_string(), running.clone())]);
    let found = observe::addresses(&asked).await.remove(name.as_str())?;
    let mut own = found.into_iter().filter_map(|a| match a.address {
        IpAddr::V6(address) if subnet.contains(address) => Some(address),
        _ => None,
    });
    own.next()
}

/// A host's end that serves DHCP gives its guest IPv4, which the guest must go on asking for.
fn ipv4(settings: &Ini) -> Option<Ipv4> {
    let serves = settings.get("Network", "DHCPServer").map(str::to_ascii_lowercase);
    serves.is_some_and(|word| ["yes", "true", "1", "on"].contains(&word.as_str())).then_some(Ipv4::Nat)
}

/// What nsctl renders by itself, or decides.
fn is_ours(section: &str, key: &str, value: &str, subnet: Option<Subnet>) -> bool {
    let same = |net: Option<Subnet>| net.is_some_and(|subnet| value == format!("{}/64", subnet.host_end()));
    match (section, key) {
        ("Match", _) | ("Network", "Bridge" | "KeepMaster" | "DHCPServer") => true,
        ("Network", "IPMasquerade") => value == "ipv4",
        ("Network" | "Address", "Address") => same(subnet) || value == "0.0.0.0/28",
        ("IPv6Prefix", "Prefix") => subnet.is_some_and(|subnet| value == subnet.to_string()),
        _ => false,
    }
}

/// The settings that a definition hands through.
fn rest(settings: &Ini, subnet: Option<Subnet>) -> NetworkdTable {
    let mut sections: BTreeMap<String, Vec<BTreeMap<String, Values>>> = BTreeMap::new();
    for (section, pairs) in settings.sections() {
        let kept = pairs.iter().filter(|(key, value)| !is_ours(section, key, value, subnet));
        let mut keys = BTreeMap::new();
        kept.for_each(|(key, value)| push(&mut keys, key, value));
        if !keys.is_empty() {
            sections.entry(section.to_owned()).or_default().push(keys);
        }
    }
    if ipv4(settings).is_some() && settings.get("Network", "IPMasquerade").is_none() {
        // It serves addresses that are not translated.
        let network = sections.entry("Network".to_owned()).or_default();
        network.push(BTreeMap::from([("IPMasquerade".to_owned(), Values::Flag(false))]));
    }
    let one_or_many = |mut all: Vec<BTreeMap<String, Values>>| match all.len() {
        1 => Sections::One(all.remove(0)),
        _ => Sections::Many(all),
    };
    sections.into_iter().map(|(name, all)| (name, one_or_many(all))).collect()
}

/// What becomes of the hand-made files, as a diff; and what else happens.
fn sheet(name: &MachineName, plan: &Plan, nspawn: Option<&str>, host_end: Option<&HostEnd>) -> String {
    let mut lines: Vec<String> = plan.notes.iter().map(|note| format!("note: {note}")).collect();
    for step in &plan.steps {
        let Step::Write { path, new: Some(new), .. } = step else { continue };
        let old = if *path == ManagedFile::Nspawn(name.clone()).path() {
            nspawn
        } else if path.to_string_lossy().ends_with(&format!("-nsctl-ve-{name}.network")) {
            host_end.map(|file| file.text.as_str())
        } else if *path == definition_path(name) {
            None
        } else {
            continue;
        };
        lines.push(diff(path, old.unwrap_or_default(), new).trim_end().to_owned());
    }
    if let Some(HostEnd { path, .. }) = host_end {
        lines.push(format!("{} stays; nsctl's own file comes before it", path.display()));
    }
    text::sanitize(&lines.join("\n"))
}
