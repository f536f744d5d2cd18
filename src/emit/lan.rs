//! A machine as a host of the LAN: the host's end of its port, and what its guest reads where that is
//! its second interface.

use super::bridge;
use super::ini::Ini;
use super::machine::MachineFiles;
use crate::spec::{BridgePort, BridgeSpec};

/// The second interface of a machine, inside it.
pub const LAN: &str = "lan0";
pub(super) const LAN_TARGET: &str = "/etc/systemd/network/05-nsctl-lan.network";
/// Behind networkd's usual 1024 (systemd.network(5)).
const LAN_METRIC: u32 = 2048;

impl MachineFiles<'_> {
    /// Of its only veth, or of its second.
    pub(super) fn bridged_end(&self, links: &str, BridgePort { bridge, vlan }: &BridgePort) -> Ini {
        let ours = self.host.bridges.get(bridge);
        let ini = Ini::new()
            .section("Match")
            .set("Name", links)
            .section("Link")
            .set("RequiredForOnline", "no")
            .section("Network");
        // networkd joins ports only to bridges that it made; from others it must not take them off.
        let ini = if ours.is_some() { ini.set("Bridge", bridge) } else { ini.set("KeepMaster", "yes") };
        let ini = ini.set("LinkLocalAddressing", "no").set("IPv6AcceptRA", "no");
        // Those of the user add up to ours (systemd.network(5)).
        let theirs = self.machine.networkd.contains_key("BridgeVLAN");
        if ours.is_some_and(BridgeSpec::filters) && !theirs { bridge::member(ini, *vlan) } else { ini }
    }
}

/// The LAN's addresses, and not its way to the world: what the machine sends there has an address of
/// its prefix. IPv4 goes there where it has no other way.
pub(super) fn guest_lan() -> String {
    Ini::new()
        .section("Match")
        .set("Name", LAN)
        .section("Link")
        .set("RequiredForOnline", "no")
        .section("Network")
        .set("DHCP", "yes")
        .set("IPv6AcceptRA", "yes")
        .section("DHCPv4")
        .set("RouteMetric", LAN_METRIC)
        .section("IPv6AcceptRA")
        .set("UseGateway", "no")
        .render()
}
