//! Reasons not to begin, found before anything is touched.

use std::net::Ipv6Addr;
use std::path::Path;

use super::files::FileChange;
use super::{NewImage, Refusal, Scope, Source, Wanted};
use super::{naming, vlans};
use crate::emit::{FIREWALL_FILE, ManagedFile, Owner, nat64};
use crate::name::{IfName, MachineName};
use crate::observed::Observed;
use crate::pool::Prefix;
use crate::snapshot::is_snapshot;
use crate::spec::{BridgeSpec, HOST_FILE, Problem, Spec, definition_path};

/// Everything on the host that is in the way.
pub fn refusals(wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let mut refusals = naming::refusals(wanted, observed);
    refusals.extend(pool_goes(wanted, observed));
    refusals.extend(vlans::refusals(wanted, observed));
    if !observed.live {
        return refusals;
    }
    let mine = wanted.spec.bridge_ports().filter(|(name, _)| wanted.holds_machine(name));
    refusals.extend(mine.filter_map(|(name, port)| bridge_missing(wanted, observed, name, &port.bridge)));
    let bridges = wanted.spec.host.bridges.iter();
    let bridges = bridges.filter(|(name, _)| wanted.holds(&Owner::Bridge((*name).clone())));
    refusals.extend(bridges.filter_map(|(name, bridge)| port_refused(observed, name, bridge)));
    refusals.extend(router_in_pool(wanted, observed));
    refusals.extend(no_nft(wanted, observed));
    refusals.extend(no_translator(wanted, observed));
    refusals.extend(wanted.images.iter().filter_map(|image| image_refused(wanted, observed, image)));
    refusals.extend(wanted.start.iter().filter_map(|name| no_tree(wanted, observed, name)));
    refusals
}

fn bridge_missing(
    wanted: &Wanted,
    observed: &Observed,
    name: &MachineName,
    bridge: &IfName,
) -> Option<Refusal> {
    let ours = wanted.spec.host.bridges.contains_key(bridge);
    let leaves = !ours && wanted.scope == Scope::All && is_ours(observed, bridge);
    if ours || (observed.is_bridge(bridge) && !leaves) {
        return None;
    }
    let bridges = observed.links.iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    let names = bridges.map(|link| link.name.as_str()).filter(|name| *name != bridge.as_str() || !leaves);
    let there_are: Vec<&str> = names.collect();
    let makes = format!("`nsctl bridge create {bridge} --uplink INTERFACE`");
    let hint = match there_are.as_slice() {
        [] => format!("{makes} makes it"),
        some => format!("there are: {}; or {makes}", some.join(", ")),
    };
    let what = format!("'{name}' cannot be on {bridge}: there is no such bridge");
    let path = definition_path(name);
    // What a verb is only about to write has no line yet.
    let written = observed.file(&path).filter(|_| !wanted.inputs.contains_key(&path));
    let what = match written {
        Some(text) => Problem::at_value(&path, text, "bridge", what).to_string(),
        None => what,
    };
    // The host waits with the bridge for who is on it.
    Some(if leaves { Refusal::of_host(what, hint) } else { Refusal::of(name, what, hint) })
}

/// Whether nsctl made the bridge.
fn is_ours(observed: &Observed, bridge: &IfName) -> bool {
    observed.file(&ManagedFile::BridgeNetdev(bridge.clone()).path()).is_some()
}

fn port_refused(observed: &Observed, name: &IfName, bridge: &BridgeSpec) -> Option<Refusal> {
    let uplink = &bridge.uplink;
    let ours = is_ours(observed, name);
    if observed.link(name.as_str()).is_some() && !ours {
        let what = format!("there is already an interface '{name}', and nsctl did not make it");
        let hint = format!("if {name} is a bridge, use it as it is: `nsctl attach NAME --bridge {name}`");
        return Some(Refusal::of_host(what, hint));
    }
    let Some(port) = observed.link(uplink.as_str()) else {
        // A port that is unplugged for a while is no reason to refuse what is configured already.
        let what = format!("there is no interface '{uplink}' to be the port of {name}");
        return (!ours).then(|| Refusal::of_host(what, "`ip -br link` lists the interfaces"));
    };
    if observed.is_bridge(uplink) {
        let hint = format!("put the machines on it as it is: `nsctl attach NAME --bridge {uplink}`");
        return Some(Refusal::of_host(format!("{uplink} cannot be a port: it is a bridge itself"), hint));
    }
    let other = &observed.master_of(port).filter(|master| !master.is_called(name.as_str()))?.name;
    let what = format!("{uplink} cannot be the port of {name}: it is already a port of {other}");
    Some(Refusal::of_host(what, format!("put the machines on {other} instead")))
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
    let names = machines.keys().chain(broken.keys()).filter(|name| is_routed(name) && has_files(name));
    let routed: Vec<&str> = names.map(MachineName::as_str).collect();
    let what =
        format!("{HOST_FILE} names no pool any more, and these are routed by it: {}", routed.join(", "));
    let hint = format!(
        "their firewall and routes would go from under them: put `pool = \"…\"` back into {HOST_FILE}, or \
         `nsctl remove` them first"
    );
    (!routed.is_empty()).then(|| Refusal::of_host(what, hint))
}

/// A pool of which a machine could get the address of the host's router. That is looked at when
/// it becomes the pool: then the router is the one that it was given with.
fn router_in_pool(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let pool = wanted.spec.host.prefix().filter(|_| wanted.holds(&Owner::Host))?;
    let rendered = observed.file(&ManagedFile::PoolNetwork.path()).unwrap_or_default();
    let own = wanted.spec.host.own_address().unwrap_or(pool.host_address());
    let known = rendered.contains(&format!("Address={own}/128\n"));
    if known { None } else { holds_router(pool, observed) }
}

/// Whether the host's router has an address that a machine, or this host, would get of a pool. Of one
/// with a /64 for each machine no machine gets the router's, and the rest of subnet 0 is nobody's.
pub fn holds_router(pool: Prefix, observed: &Observed) -> Option<Refusal> {
    let routers = observed.routers();
    let given = |router: &Ipv6Addr| {
        if pool.is_single() { pool.net().contains(router) } else { *router == pool.host_address() }
    };
    let router = routers.iter().find(|router| given(router))?;
    let hint = match pool.part_without(&[*router].into()) {
        Some(part) => format!("name a part of it without the router, such as {part}"),
        None => "name a part of it that the router is not in".into(),
    };
    Some(Refusal::of_host(format!("the pool {pool} holds {router}, which is this host's router"), hint))
}

fn no_nft(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let needed = wanted.spec.host.pool().is_some() && wanted.holds(&Owner::Firewall);
    let what = "routed machines need nftables for their firewall, and there is no nft";
    (needed && observed.nftables.is_none())
        .then(|| Refusal::of_host(what, "on Debian: `apt install nftables`"))
}

/// Machines that are to be translated, where this host cannot.
fn no_translator(wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let Some((why, hint)) = untranslatable(wanted, observed) else { return Vec::new() };
    let machines = wanted
        .spec
        .machines
        .iter()
        .filter(|(name, machine)| wanted.spec.host.is_translated(machine) && wanted.holds_machine(name));
    let refused = machines.map(|(name, _)| {
        Refusal::of(name, format!("'{name}' is to reach IPv4 by nat64, and {why}"), hint.clone())
    });
    refused.collect()
}

/// Why it cannot, and what fixes that.
fn untranslatable(wanted: &Wanted, observed: &Observed) -> Option<(String, String)> {
    let programs = if wanted.spec.host.dns64_listener().is_some() { 2 } else { 1 };
    let missing =
        nat64::PROGRAMS.iter().take(programs).filter(|path| observed.missing.contains(Path::new(path)));
    let missing: Vec<&str> = missing.filter_map(|path| path.rsplit('/').next()).collect();
    if !missing.is_empty() {
        let hint = format!("on Debian: `apt install --no-install-recommends {}`", missing.join(" "));
        return Some((format!("this host has no {}", missing.join(" and no ")), hint));
    }
    let own = observed.link(nat64::LINK).map(|link| link.index);
    let mut others = observed.addresses.iter().filter(|address| Some(address.interface) != own);
    let other = others.find(|address| nat64::is_in_range(address.address))?.address;
    let why = format!("{other} is in the range that the translation uses, {}", nat64::RANGE);
    Some((why, "`ipv4 = \"nat\"` works beside that address".into()))
}

/// A machine that is to start has a tree, or gets one.
fn no_tree(wanted: &Wanted, observed: &Observed, name: &MachineName) -> Option<Refusal> {
    let made = |image: &NewImage| image.to == *name;
    let there = observed.images.contains(name.as_str()) || observed.is_running(name);
    (!there && !wanted.images.iter().any(made)).then(|| Refusal::no_tree(name))
}

fn image_refused(wanted: &Wanted, observed: &Observed, image: &NewImage) -> Option<Refusal> {
    let NewImage { source, to, .. } = image;
    if observed.images.contains(to.as_str()) {
        let hint = format!("leave --image away to use it, or delete it: `nsctl image remove {to}`");
        return Some(Refusal::of(to, format!("there is already a tree or image named '{to}'"), hint));
    }
    match source {
        Source::Clone(from)
            if !is_snapshot(from) && !observed.images.contains(from) && !wanted.made.contains(from) =>
        {
            Some(Refusal::no_image(to, from, &observed.images))
        }
        _ => None,
    }
}

/// Machines that are to start after one that is none of this host's: nothing waits for it.
pub fn after_nobody(wanted: &Wanted, observed: &Observed) -> Vec<String> {
    let is_there = |name: &MachineName| {
        let Spec { machines, broken, .. } = &wanted.spec;
        machines.contains_key(name) || broken.contains_key(name) || observed.images.contains(name.as_str())
    };
    let mut notes = Vec::new();
    for (name, machine) in &wanted.spec.machines {
        let holds = |other: &MachineName| wanted.holds_machine(name) || wanted.holds_machine(other);
        let missing = machine.after.iter().filter(|other| holds(other) && !is_there(other));
        notes.extend(
            missing.map(|other| format!("'{name}' starts after '{other}', and there is no such machine")),
        );
    }
    notes
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
