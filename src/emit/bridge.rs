//! A bridge, its own network, and its port to the LAN.

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::IfName;
use crate::spec::BridgeSpec;

pub fn files(name: &IfName, bridge: &BridgeSpec) -> Vec<(ManagedFile, String)> {
    vec![
        (ManagedFile::BridgeNetdev(name.clone()), netdev(name, bridge)),
        (ManagedFile::BridgeNetwork(name.clone()), network(name, bridge)),
        (ManagedFile::Port(bridge.uplink.clone()), port(name, bridge)),
    ]
}

/// What is untagged on the port to the LAN (IEEE 802.1Q's default).
pub const UNTAGGED: u16 = 1;

/// A port of a bridge that keeps VLANs apart is in none before networkd says in which: the kernel
/// puts it into the LAN otherwise, and networkd of systemd 252 never takes it out.
fn netdev(name: &IfName, bridge: &BridgeSpec) -> String {
    let ini = Ini::new().section("NetDev").set("Name", name).set("Kind", "bridge");
    if !bridge.filters() {
        return ini.render();
    }
    ini.section("Bridge").set("VLANFiltering", "yes").set("DefaultPVID", "none").render()
}

/// In this VLAN, without seeing its tags.
pub fn member(ini: Ini, vlan: Option<u16>) -> Ini {
    let vlan = vlan.unwrap_or(UNTAGGED);
    ini.section("BridgeVLAN").set("PVID", vlan).set("EgressUntagged", vlan)
}

/// RA is pinned: a host that forwards would ignore it otherwise.
fn network(name: &IfName, bridge: &BridgeSpec) -> String {
    let BridgeSpec { address, gateway, .. } = bridge;
    let static_v6 = address.iter().any(|net| net.addr().is_ipv6());
    let ini = Ini::new()
        .section("Match")
        .set("Name", name)
        .section("Network")
        .set("DHCP", if address.is_empty() { "yes" } else { "no" })
        .set("IPv6AcceptRA", if static_v6 { "no" } else { "yes" })
        .set_some("Address", address)
        .set_some("Gateway", gateway);
    if bridge.filters() { member(ini, None).render() } else { ini.render() }
}

/// The port takes nothing for itself: were it configured beside its bridge, a
/// second route to the LAN's /64 would beat the bridge's, and IPv6 would die in
/// a way that looks healthy.
fn port(name: &IfName, bridge: &BridgeSpec) -> String {
    let ini = Ini::new()
        .section("Match")
        .set("Name", &bridge.uplink)
        .section("Network")
        .set("Bridge", name)
        .set("LinkLocalAddressing", "no")
        .set("IPv6AcceptRA", "no");
    if !bridge.filters() {
        return ini.render();
    }
    member(ini, None).set_some("VLAN", &bridge.vlans).render()
}
