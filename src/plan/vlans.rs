//! VLANs: which a machine may be in, and when a bridge begins or ceases to keep them apart.

use std::collections::BTreeMap;

use super::files::FileChange;
use super::{Refusal, Step, Wanted};
use crate::emit::ini::Ini;
use crate::emit::{ManagedFile, Owner, UNTAGGED};
use crate::name::{IfName, MachineName, kernel_name};
use crate::observed::{Link, Observed};
use crate::spec::{BridgePort, BridgeSpec, HOST_FILE, definition_path};

/// The bridge that the file of a link makes it a port of.
pub fn bridge_of(text: &str) -> Option<String> {
    Ini::parse(text).get("Network", "Bridge").map(str::to_owned)
}

/// The VLAN that it puts it in, if it is not what is untagged on its bridge.
pub fn vlan_of(text: &str) -> Option<u16> {
    let vlan = Ini::parse(text).get("BridgeVLAN", "PVID")?.parse().ok();
    vlan.filter(|vlan| *vlan != UNTAGGED)
}

/// Whether the bridge's own file has it keep VLANs apart.
fn filters(text: &str) -> bool {
    Ini::parse(text).get("Bridge", "VLANFiltering") == Some("yes")
}

/// What is in the way of machines' VLANs.
pub fn refusals(wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let ports = wanted.spec.bridge_ports();
    let mine = ports.filter(|(name, _)| wanted.holds_machine(name));
    let missing = mine.filter_map(|(name, port)| missing(wanted, observed, name, port));
    missing.chain(left(wanted, observed)).collect()
}

/// A machine in a VLAN that its bridge does not keep apart would be somewhere else.
fn missing(
    wanted: &Wanted,
    observed: &Observed,
    machine: &MachineName,
    port: &BridgePort,
) -> Option<Refusal> {
    let BridgePort { bridge, vlan } = port;
    let vlan = (*vlan)?;
    let Some(ours) = wanted.spec.host.bridges.get(bridge) else {
        let what = format!("'{machine}' is to be in VLAN {vlan} of {bridge}, which nsctl did not make");
        let hint = format!(
            "only of its own bridges nsctl knows that they keep VLANs apart: `nsctl bridge create NAME \
             --uplink INTERFACE --vlan {vlan}`"
        );
        return Some(Refusal::of(machine, what, hint));
    };
    if !ours.vlans.contains(&vlan) {
        let what = format!("'{machine}' is to be in VLAN {vlan} of {bridge}, which does not carry that");
        let hint = format!("add {vlan} to `vlans` of [bridge.{bridge}] in {HOST_FILE}, and `nsctl apply`");
        // The host waits with the bridge for who is in the VLAN.
        let is_in_it = in_vlans(observed)
            .any(|(name, of, own)| name == *machine && of == bridge.as_str() && own == vlan);
        return Some(if is_in_it { Refusal::of_host(what, hint) } else { Refusal::of(machine, what, hint) });
    }
    let is_due = wanted.holds(&Owner::Bridge(bridge.clone())) || !observed.live;
    if is_due { None } else { mixed(machine, port, &observed.links) }
}

/// A machine in a VLAN whose bridge, as it is now, would put it into the LAN.
pub fn mixed(
    machine: &MachineName,
    BridgePort { bridge, vlan }: &BridgePort,
    links: &[Link],
) -> Option<Refusal> {
    let vlan = (*vlan)?;
    let apart = links.iter().any(|link| link.is_called(bridge.as_str()) && link.keeps_vlans_apart());
    let what = format!("'{machine}' is to be in VLAN {vlan}, and {bridge} does not keep VLANs apart");
    (!apart).then(|| Refusal::of(machine, what, "`nsctl apply` makes it do so"))
}

/// A bridge that is to drop a VLAN, while a machine stays as it is that is in it.
fn left(wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let drops = |bridge: &str, vlan: u16| {
        let spec = wanted.spec.host.bridges.iter().find(|(name, _)| name.as_str() == bridge);
        spec.is_some_and(|(name, spec)| {
            let was = observed.file(&ManagedFile::BridgeNetdev(name.clone()).path()).is_some_and(filters);
            was && !spec.vlans.contains(&vlan) && wanted.holds(&Owner::Bridge(name.clone()))
        })
    };
    let mut stay = in_vlans(observed).filter(|(name, ..)| !wanted.holds_machine(name));
    let (machine, bridge, vlan) = stay.find(|(_, bridge, vlan)| drops(bridge, *vlan))?;
    let what = format!("'{machine}' is in VLAN {vlan} of {bridge}, which is to carry that no longer");
    Some(Refusal::of_host(
        what,
        format!("mend its definition first: {}", definition_path(&machine).display()),
    ))
}

/// The machines that are in a VLAN by their files: of which bridge, and in which.
fn in_vlans(observed: &Observed) -> impl Iterator<Item = (MachineName, String, u16)> {
    // Of a thousand machines few are in a VLAN: only their files are parsed.
    let tagged = observed.files.iter().filter(|(_, text)| text.contains("BridgeVLAN"));
    tagged.filter_map(|(path, text)| {
        let machine = ManagedFile::parse(path).filter(ManagedFile::is_of_port)?.machine()?;
        Some((machine, bridge_of(text)?, vlan_of(text)?))
    })
}

/// Has a bridge keep VLANs apart, or not, where it does not do so yet. What the user has set up
/// by other files stays.
pub fn step(observed: &Observed, changes: &[FileChange], name: &IfName, bridge: &BridgeSpec) -> Option<Step> {
    let link = observed.link(name.as_str());
    let was = link.is_some_and(|link| link.vlan_filtering);
    let netdev = changes.iter().find(|change| change.file == ManagedFile::BridgeNetdev(name.clone()));
    let ours = netdev.and_then(|change| change.old.as_deref()).is_some_and(filters);
    let due = if bridge.filters() { !link.is_some_and(Link::keeps_vlans_apart) } else { was && ours };
    let places = places(observed, changes, name);
    due.then(|| Step::FilterVlans { bridge: name.clone(), on: bridge.filters(), was, places })
}

/// Where files put the ports of a bridge, as they will be: each by its name, and its VLAN.
fn places(observed: &Observed, changes: &[FileChange], bridge: &IfName) -> BTreeMap<String, u16> {
    let changed = |path: &std::path::Path| changes.iter().any(|change| change.file.path() == *path);
    let stay = observed.files.iter().filter(|(path, _)| !changed(path));
    let stay = stay.filter_map(|(path, text)| Some((ManagedFile::parse(path)?, text.as_str())));
    let come = changes.iter().filter_map(|change| Some((change.file.clone(), change.new.as_deref()?)));
    let mut places = BTreeMap::new();
    let ports = stay.chain(come).filter(|(file, _)| file.is_of_port());
    for (_, text) in ports.filter(|(_, text)| bridge_of(text).as_deref() == Some(bridge.as_str())) {
        let vlan = vlan_of(text).unwrap_or(UNTAGGED);
        let settings = Ini::parse(text);
        let names = settings.get("Match", "Name").unwrap_or_default().split_whitespace();
        places.extend(names.map(|name| (kernel_name(name), vlan)));
    }
    places
}

/// What the user should know: who stays where he is just until he comes anew.
pub fn notes(steps: &[Step], observed: &Observed) -> Vec<String> {
    let mut notes = Vec::new();
    for step in steps {
        let Step::FilterVlans { bridge, on: true, places, .. } = step else { continue };
        let Some(index) = observed.link(bridge.as_str()).map(|link| link.index) else { continue };
        let ports = observed.links.iter().filter(|link| link.master == Some(index));
        let unknown = ports.filter(|port| !places.contains_key(&port.name));
        notes.extend(unknown.map(|port| {
            format!(
                "{0} is a port of {bridge} by none of nsctl's files: it stays in what is untagged, and is in no VLAN \
                 once it comes anew; [BridgeVLAN] in its .network file, or `bridge vlan add dev {0} vid 1 pvid \
                 untagged`, says otherwise",
                port.name
            )
        }));
    }
    notes
}
