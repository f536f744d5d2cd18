//! A tunnel of WireGuard's: its device and network (systemd.netdev(5), systemd.network(5)), with the
//! ways that wg-quick(8) would make.

use ipnet::{IpNet, Ipv6Net};

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::IfName;
use crate::pool::Prefix;
use crate::spec::WireGuard;
use crate::spec::wireguard::{Peer, TABLE, Table};
use crate::visible::joined;

/// Before the rule for the main table, which has the priority 32766 (ip-rule(8)), and known by their numbers:
/// networkd of systemd 252 leaves them when their link goes.
pub const PRIORITIES: [u32; 2] = [SPECIFIC_FIRST, THEN];
const SPECIFIC_FIRST: u32 = 31820;
const THEN: u32 = 31821;

pub fn files(
    interface: &IfName,
    wireguard: &WireGuard,
    mtu: Option<u32>,
    pool: Option<Prefix>,
) -> Vec<(ManagedFile, String)> {
    vec![
        (ManagedFile::TunnelNetdev(interface.clone()), device(interface, wireguard, mtu)),
        (ManagedFile::TunnelNetwork(interface.clone()), network(interface, wireguard, pool)),
    ]
}

fn key_file(interface: &IfName, peer: Option<u32>) -> String {
    ManagedFile::TunnelKey(interface.clone(), peer).path().display().to_string()
}

/// Its own packets are marked, so that they do not go through it.
fn device(interface: &IfName, wireguard: &WireGuard, mtu: Option<u32>) -> String {
    let WireGuard { address: _, dns: _, listen_port, fwmark, table: _, peer } = wireguard;
    let takes_over = [true, false].into_iter().any(|is_v6| wireguard.takes_over(is_v6));
    let ini = Ini::new()
        .section("NetDev")
        .set("Name", interface)
        .set("Kind", "wireguard")
        .set_some("MTUBytes", mtu)
        .section("WireGuard")
        .set("PrivateKeyFile", key_file(interface, None))
        .set_some("ListenPort", *listen_port)
        .set_some("FirewallMark", fwmark.or_else(|| takes_over.then_some(TABLE)));
    let ini = peer.iter().fold(ini, |ini, peer| {
        let Peer { public_key, preshared, endpoint, allowed_ips, persistent_keepalive } = peer;
        ini.section("WireGuardPeer")
            .set("PublicKey", public_key)
            .set_some("PresharedKeyFile", preshared.then(|| key_file(interface, Some(public_key.number()))))
            .set("AllowedIPs", joined(allowed_ips, ","))
            .set_some("Endpoint", endpoint.as_ref())
            .set_some("PersistentKeepalive", *persistent_keepalive)
    });
    ini.render()
}

fn is_default(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

fn network(interface: &IfName, wireguard: &WireGuard, pool: Option<Prefix>) -> String {
    let ini = Ini::new().section("Match").set("Name", interface).section("Network");
    let ini = ini.set_some("Address", &wireguard.address).set_some("DNS", &wireguard.dns);
    let ini = ini.set("IPv6AcceptRA", "no");
    // None: the main one, but for what is all of a family.
    let table = match wireguard.table {
        Table::Auto => None,
        Table::Off => Some(TABLE),
        Table::Number(number) => Some(number),
    };
    let nets = wireguard.allowed().filter(|net| wireguard.table != Table::Off || matches!(net, IpNet::V6(_)));
    let nets: std::collections::BTreeSet<IpNet> = nets.collect();
    let ini = nets.iter().fold(ini, |ini, net| {
        let table = table.or(is_default(net).then_some(TABLE));
        ini.section("Route").set("Destination", net).set_some("Table", table)
    });
    match table {
        None => nets.iter().filter(|net| is_default(net)).fold(ini, |ini, net| all_of(ini, net, wireguard)),
        Some(table) => pool.map(Prefix::net).into_iter().fold(ini, |ini, pool| of_pool(ini, pool, table)),
    }
    .render()
}

/// All of a family, but for what the main table has more than a default route for, and for what
/// carries the tunnel (wg-quick(8), ip-rule(8)).
fn all_of(ini: Ini, net: &IpNet, wireguard: &WireGuard) -> Ini {
    let family = if matches!(net, IpNet::V6(_)) { "ipv6" } else { "ipv4" };
    specific_first(ini, family)
        .section("RoutingPolicyRule")
        .set("Family", family)
        .set("Priority", THEN)
        .set("FirewallMark", wireguard.fwmark.unwrap_or(TABLE))
        .set("InvertRule", "yes")
        .set("Table", TABLE)
}

/// What machines send, and what this host sends from the pool: elsewhere nobody would take it (RFC 2827).
fn of_pool(ini: Ini, pool: Ipv6Net, table: u32) -> Ini {
    specific_first(ini, "ipv6")
        .section("RoutingPolicyRule")
        .set("From", pool)
        .set("Priority", THEN)
        .set("Table", table)
}

fn specific_first(ini: Ini, family: &str) -> Ini {
    ini.section("RoutingPolicyRule")
        .set("Family", family)
        .set("Priority", SPECIFIC_FIRST)
        .set("Table", "254")
        .set("SuppressPrefixLength", "0")
}
