//! A bridge, its own network, and its port to the LAN.

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::IfName;
use crate::spec::BridgeSpec;

pub fn files(name: &IfName, bridge: &BridgeSpec) -> Vec<(ManagedFile, String)> {
    vec![
        (ManagedFile::BridgeNetdev(name.clone()), netdev(name)),
        (ManagedFile::BridgeNetwork(name.clone()), network(name, bridge)),
        (ManagedFile::Port(bridge.uplink.clone()), port(name, &bridge.uplink)),
    ]
}

fn netdev(name: &IfName) -> String {
    Ini::new().section("NetDev").set("Name", name).set("Kind", "bridge").render()
}

/// RA is pinned: a host that forwards would ignore it otherwise.
fn network(name: &IfName, bridge: &BridgeSpec) -> String {
    let BridgeSpec { address, gateway, .. } = bridge;
    let static_v6 = address.iter().any(|net| net.addr().is_ipv6());
    let mut ini = Ini::new()
        .section("Match")
        .set("Name", name)
        .section("Network")
        .set("DHCP", if address.is_empty() { "yes" } else { "no" })
        .set("IPv6AcceptRA", if static_v6 { "no" } else { "yes" });
    for net in address {
        ini = ini.set("Address", net);
    }
    for router in gateway {
        ini = ini.set("Gateway", router);
    }
    ini.render()
}

/// The port takes nothing for itself: were it configured beside its bridge, a
/// second route to the LAN's /64 would beat the bridge's, and IPv6 would die in
/// a way that looks healthy.
fn port(bridge: &IfName, uplink: &IfName) -> String {
    Ini::new()
        .section("Match")
        .set("Name", uplink)
        .section("Network")
        .set("Bridge", bridge)
        .set("LinkLocalAddressing", "no")
        .set("IPv6AcceptRA", "no")
        .render()
}
