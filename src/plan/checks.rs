//! Reasons not to begin, found before anything is touched.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::files::FileChange;
use super::naming;
use super::{NewImage, Scope, Source, Wanted};
use crate::emit::{FIREWALL_FILE, ManagedFile, Owner};
use crate::hint::Hint;
use crate::name::{IfName, MachineName};
use crate::observed::Observed;
use crate::pool::{PoolError, Prefix};
use crate::spec::{BridgeSpec, HOST_FILE, Problem, Spec, definition_path};

/// Why a plan cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{path} was edited by hand since nsctl wrote it:\n{diff}")]
    Edited { path: PathBuf, diff: String },
    #[error("{path} is in the way and was not written by nsctl:\n{diff}")]
    Foreign { path: PathBuf, diff: String },
    #[error("'{0}' cannot be routed: this host has no pool")]
    NoPool(MachineName),
    #[error("'{0}' gets no subnet: {1}")]
    NoLease(MachineName, PoolError),
    #[error("{}", .place.as_ref().map_or_else(|| no_bridge(.machine, .bridge), ToString::to_string))]
    NoBridge {
        machine: MachineName,
        bridge: IfName,
        /// Whether the plan is to delete it: then the host waits for the machine.
        goes: bool,
        there_are: Vec<String>,
        /// Where a definition says so.
        place: Option<Box<Problem>>,
    },
    #[error("there is no interface '{0}' to be the port of {1}")]
    NoUplink(IfName, IfName),
    #[error("{uplink} cannot be the port of {bridge}: it is already a port of {other}")]
    PortTaken { uplink: IfName, bridge: IfName, other: String },
    #[error("there is already an interface '{0}', and nsctl did not make it")]
    BridgeTaken(IfName),
    #[error("{0} cannot be a port: it is a bridge itself")]
    PortIsBridge(IfName),
    #[error("there is already a tree or image named '{0}'")]
    TreeTaken(MachineName),
    #[error("'{0}' cannot start: it has no tree in /var/lib/machines, and its definition names no image")]
    NoTree(MachineName),
    #[error("'{machine}' waits until `nsctl {command}` is undone:\n{}", .why.join("\n"))]
    Held { machine: MachineName, command: String, why: Vec<String> },
    #[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Broken { machine: MachineName, problems: Vec<Problem> },
    #[error("{0}")]
    Stray(Problem),
    #[error("'{machine}' cannot be made: {why}")]
    NoSource { machine: MachineName, why: String },
    #[error("'{name}' cannot be a machine's name: {why}")]
    Reserved { name: MachineName, why: String, hint: String },
    #[error("{place}")]
    Definition {
        machine: MachineName,
        /// Where the definition says what cannot be.
        place: Box<Problem>,
        hint: String,
    },
    #[error("the pool {0} holds {1}, which is this host's router")]
    PoolHoldsRouter(Prefix, Ipv6Addr),
    #[error("routed machines need nftables for their firewall, and there is no nft")]
    NoNft,
    #[error("{HOST_FILE} names no pool any more, and these are routed by it: {}", listed(&words(.0)))]
    PoolGoes(Vec<MachineName>),
    #[error("there is no image '{image}'; there are: {}", listed(.there_are))]
    NoImage { machine: MachineName, image: String, there_are: Vec<String> },
}

fn no_bridge(machine: &MachineName, bridge: &IfName) -> String {
    format!("'{machine}' cannot be on {bridge}: there is no such bridge")
}

fn words(names: &[MachineName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

impl Hint for Refusal {
    fn hint(&self) -> Option<String> {
        match self {
            Refusal::Edited { path, .. } => Some(format!(
                "move the change into the definition named in its first line, delete {}, and try again",
                path.display()
            )),
            Refusal::Foreign { path, .. } => Some(format!("move {} away and try again", path.display())),
            Refusal::NoPool(_) => Some("`nsctl init --pool PREFIX --uplink INTERFACE`".into()),
            Refusal::NoLease(_, fault) => fault.hint(),
            Refusal::NoBridge { bridge, there_are, .. } => Some(match there_are.as_slice() {
                [] => format!("`nsctl bridge create {bridge} --uplink INTERFACE` makes it"),
                some => format!(
                    "there are: {}; or `nsctl bridge create {bridge} --uplink INTERFACE`",
                    some.join(", ")
                ),
            }),
            Refusal::NoUplink(..) => Some("`ip -br link` lists the interfaces".into()),
            Refusal::PortTaken { other, .. } => Some(format!("put the machines on {other} instead")),
            Refusal::BridgeTaken(name) => {
                Some(format!("if {name} is a bridge, use it as it is: `nsctl attach NAME --bridge {name}`"))
            }
            Refusal::TreeTaken(name) => {
                Some(format!("leave --image away to use it, or delete it: `nsctl image remove {name}`"))
            }
            Refusal::PoolHoldsRouter(pool, router) => Some(match pool.part_without(&[*router].into()) {
                Some(part) => format!("name a part of it without the router, such as {part}"),
                None => "name a part of it that the router is not in".into(),
            }),
            Refusal::NoNft => Some("on Debian: `apt install nftables`".into()),
            Refusal::PoolGoes(_) => Some(format!(
                "their firewall and routes would go from under them: put `pool = \"…\"` back into {HOST_FILE}, or \
                 `nsctl remove` them first"
            )),
            Refusal::NoImage { .. } => {
                Some("--image takes one of these, debian:trixie, or the path of a tar file".into())
            }
            Refusal::NoTree(name) => Some(format!(
                "name one in {}: image = \"…\"; `nsctl image list` lists them",
                definition_path(name).display()
            )),
            Refusal::Held { machine, .. } => Some(format!(
                "fix what is named there, or, where that is inside the machine, `nsctl stop {machine}`; each nsctl \
                 that changes the host tries it again"
            )),
            Refusal::Broken { .. } => Some("fix that in the file; the machine stays as it is".into()),
            Refusal::Stray(_) => Some("name the file after its machine, or move it away".into()),
            Refusal::NoSource { .. } => {
                Some("image = \"…\" takes a tar file, a disk image, a folder, or an image's name: `nsctl image list`".into())
            }
            Refusal::Reserved { hint, .. } | Refusal::Definition { hint, .. } => Some(hint.clone()),
            Refusal::PortIsBridge(_) => None,
        }
    }
}

impl Refusal {
    /// The machine that alone it is about; none: the host, or a bridge.
    pub fn machine(&self) -> Option<MachineName> {
        match self {
            Refusal::Edited { path, .. } | Refusal::Foreign { path, .. } => {
                ManagedFile::parse(path)?.machine()
            }
            Refusal::NoPool(machine)
            | Refusal::NoLease(machine, _)
            | Refusal::NoBridge { machine, goes: false, .. }
            | Refusal::TreeTaken(machine)
            | Refusal::NoTree(machine)
            | Refusal::NoImage { machine, .. }
            | Refusal::Held { machine, .. }
            | Refusal::Broken { machine, .. }
            | Refusal::Reserved { name: machine, .. }
            | Refusal::Definition { machine, .. }
            | Refusal::NoSource { machine, .. } => Some(machine.clone()),
            Refusal::NoBridge { goes: true, .. }
            | Refusal::NoUplink(..)
            | Refusal::PortTaken { .. }
            | Refusal::BridgeTaken(_)
            | Refusal::PortIsBridge(_)
            | Refusal::Stray(_)
            | Refusal::PoolGoes(_)
            | Refusal::PoolHoldsRouter(..)
            | Refusal::NoNft => None,
        }
    }
}

/// Everything on the host that is in the way.
pub fn refusals(wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let mut refusals = naming::refusals(wanted, observed);
    refusals.extend(pool_goes(wanted, observed));
    if !observed.live {
        return refusals;
    }
    for (name, bridge) in wanted.spec.bridges_in_use() {
        if wanted.holds(&Owner::Machine(name.clone())) {
            refusals.extend(bridge_missing(wanted, observed, name, bridge));
        }
    }
    for (name, bridge) in &wanted.spec.host.bridges {
        if wanted.holds(&Owner::Bridge(name.clone())) {
            refusals.extend(port_refused(observed, name, bridge));
        }
    }
    refusals.extend(router_in_pool(wanted, observed));
    refusals.extend(no_nft(wanted, observed));
    refusals.extend(wanted.images.iter().filter_map(|image| image_refused(wanted, observed, image)));
    refusals.extend(wanted.start.iter().filter_map(|name| no_tree(wanted, observed, name)));
    refusals
}

fn bridge_missing(
    wanted: &Wanted,
    observed: &Observed,
    machine: &MachineName,
    bridge: &IfName,
) -> Option<Refusal> {
    let ours = wanted.spec.host.bridges.contains_key(bridge);
    let leaves = !ours && wanted.scope == Scope::All && is_ours(observed, bridge);
    if ours || (observed.is_bridge(bridge) && !leaves) {
        return None;
    }
    let bridges = observed.links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let there_are =
        bridges.map(|link| link.name.clone()).filter(|name| name != bridge.as_str() || !leaves).collect();
    let path = definition_path(machine);
    // What a verb is only about to write has no line yet.
    let written = observed.file(&path).filter(|_| !wanted.inputs.contains_key(&path));
    let place =
        written.map(|text| Box::new(Problem::at_value(&path, text, "bridge", no_bridge(machine, bridge))));
    Some(Refusal::NoBridge {
        machine: machine.clone(),
        bridge: bridge.clone(),
        goes: leaves,
        there_are,
        place,
    })
}

/// Whether nsctl made the bridge.
fn is_ours(observed: &Observed, bridge: &IfName) -> bool {
    observed.file(&ManagedFile::BridgeNetdev(bridge.clone()).path()).is_some()
}

fn port_refused(observed: &Observed, name: &IfName, bridge: &BridgeSpec) -> Option<Refusal> {
    let uplink = &bridge.uplink;
    let ours = is_ours(observed, name);
    if observed.link(name.as_str()).is_some() && !ours {
        return Some(Refusal::BridgeTaken(name.clone()));
    }
    let Some(port) = observed.link(uplink.as_str()) else {
        // A port that is unplugged for a while is no reason to refuse what is configured already.
        return (!ours).then(|| Refusal::NoUplink(uplink.clone(), name.clone()));
    };
    if observed.is_bridge(uplink) {
        return Some(Refusal::PortIsBridge(uplink.clone()));
    }
    let other = observed.master_of(port).filter(|master| !master.is_called(name.as_str()))?;
    Some(Refusal::PortTaken { uplink: uplink.clone(), bridge: name.clone(), other: other.name.clone() })
}

/// Machines that would stay as they are while what they stand on goes.
fn pool_goes(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let goes = wanted.spec.host.pool().is_none() && observed.file(Path::new(FIREWALL_FILE)).is_some();
    if !goes || !wanted.holds(&Owner::Firewall) {
        return None;
    }
    let Spec { machines, broken, .. } = &wanted.spec;
    let is_routed = |name: &MachineName| match machines.get(name) {
        Some(machine) => machine.network.routed().is_some(),
        None => broken.contains_key(name),
    };
    let has_files = |name: &MachineName| observed.file(&ManagedFile::GuestEnd(name.clone()).path()).is_some();
    let routed: Vec<MachineName> = machines
        .keys()
        .chain(broken.keys())
        .filter(|name| is_routed(name) && has_files(name))
        .cloned()
        .collect();
    (!routed.is_empty()).then_some(Refusal::PoolGoes(routed))
}

/// A pool of which a machine could get the address of the host's router. That is looked at when
/// it becomes the pool: then the router is the one that it was given with.
fn router_in_pool(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let pool = wanted.spec.host.prefix.filter(|_| wanted.holds(&Owner::Host))?;
    let rendered = observed.file(&ManagedFile::PoolNetwork.path()).unwrap_or_default();
    let known = rendered.contains(&format!("Address={}/128\n", pool.host_address()));
    if known { None } else { holds_router(pool, observed) }
}

/// Whether a pool of single addresses holds the host's router.
pub fn holds_router(pool: Prefix, observed: &Observed) -> Option<Refusal> {
    let mut inside =
        observed.routers().into_iter().filter(|router| pool.is_single() && pool.net().contains(router));
    inside.next().map(|router| Refusal::PoolHoldsRouter(pool, router))
}

fn no_nft(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let needed = wanted.spec.host.pool().is_some() && wanted.holds(&Owner::Firewall);
    (needed && observed.nftables.is_none()).then_some(Refusal::NoNft)
}

/// A machine that is to start has a tree, or gets one.
fn no_tree(wanted: &Wanted, observed: &Observed, name: &MachineName) -> Option<Refusal> {
    let made = |image: &NewImage| image.to == *name;
    let there = observed.images.contains(name.as_str()) || observed.is_running(name);
    (!there && !wanted.images.iter().any(made)).then(|| Refusal::NoTree(name.clone()))
}

fn image_refused(wanted: &Wanted, observed: &Observed, image: &NewImage) -> Option<Refusal> {
    let NewImage { source, to, .. } = image;
    if observed.images.contains(to.as_str()) {
        return Some(Refusal::TreeTaken(to.clone()));
    }
    match source {
        Source::Clone(from) if !observed.images.contains(from) && !wanted.made.contains(from) => {
            let there_are = observed.images.iter().cloned().collect();
            Some(Refusal::NoImage { machine: to.clone(), image: from.clone(), there_are })
        }
        _ => None,
    }
}

/// What the user should know before the host's own network changes.
pub fn notes(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<String> {
    let (Scope::Bridge(_) | Scope::All) = &wanted.scope else { return Vec::new() };
    let bridges = wanted.spec.host.bridges.iter().filter(|(name, bridge)| {
        let changed = changes.iter().any(|change| change.is_of_bridge(name, bridge));
        let port = observed.link(bridge.uplink.as_str());
        changed && port.is_some_and(|port| observed.has_default_route(port))
    });
    bridges
        .map(|(name, bridge)| {
            format!(
                "{} carries this host's own default route; as a port of {name} it loses its addresses, and the \
                 host asks for new ones on {name}: its IPv4 address may change",
                bridge.uplink
            )
        })
        .collect()
}
