//! What lets machines without IPv4 reach it: tayga(8) translates (RFC 7915), unbound(8) gives names
//! addresses that are translated (RFC 6147), and both run while a machine needs them.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::IfName;
use crate::pool::Prefix;
use crate::spec::{HostSpec, Spec};

/// The well-known one, for the world; private IPv4 addresses are not behind it (RFC 6052 3.1).
pub const PREFIX: &str = "64:ff9b::/96";
/// The interface between the kernel and tayga.
pub const LINK: &str = "nsctl-nat64";
pub const TRANSLATOR: &str = "nsctl-nat64.service";
pub const RESOLVER: &str = "nsctl-dns64.service";
/// What they need.
pub const PROGRAMS: [&str; 2] = ["/usr/sbin/tayga", "/usr/sbin/unbound"];

/// Of the range for benchmarks (RFC 2544), which hardly a LAN has: this host, tayga, and one for each
/// address of a machine.
pub const RANGE: &str = "198.19.224.0/19";
const HOST_V4: &str = "198.19.224.1/19";
const TAYGA_V4: &str = "198.19.224.2";
const MACHINES_V4: &str = "198.19.240.0/20";

/// Whether an address is of that range.
pub fn is_in_range(address: IpAddr) -> bool {
    RANGE.parse::<IpNet>().is_ok_and(|range| range.contains(&address))
}

/// Whether a machine of this host needs it.
pub fn is_used(spec: &Spec) -> bool {
    let wants = spec.machines.values().any(|machine| spec.host.is_translated(machine));
    spec.host.prefix().is_some() && (wants || spec.still_translated)
}

/// The files that all such machines share.
pub fn files(spec: &Spec) -> Vec<(ManagedFile, String)> {
    let Some(pool) = spec.host.prefix().filter(|_| is_used(spec)) else { return Vec::new() };
    let listener = spec.host.dns64_listener();
    let mut files = vec![
        (ManagedFile::Nat64Netdev, device()),
        (ManagedFile::Nat64Network, network(listener, translator_address(&spec.host, pool))),
        (ManagedFile::Nat64Unit, translator()),
        (ManagedFile::Nat64Config, tayga(translator_address(&spec.host, pool))),
    ];
    if let Some(listener) = listener {
        files.push((ManagedFile::Dns64Config, unbound(&spec.host, pool, listener)));
        files.push((ManagedFile::Dns64Unit, resolver()));
    }
    files
}

/// The interface.
pub fn link() -> Option<IfName> {
    LINK.parse().ok()
}

fn device() -> String {
    Ini::new().section("NetDev").set("Name", LINK).set("Kind", "tun").render()
}

/// Its routes stay while tayga does not run: what comes then is lost, and goes nowhere else.
fn network(listener: Option<Ipv6Addr>, translator: Ipv6Addr) -> String {
    Ini::new()
        .section("Match")
        .set("Name", LINK)
        .section("Link")
        .set("RequiredForOnline", "no")
        .section("Network")
        .set("ConfigureWithoutCarrier", "yes")
        .set("LinkLocalAddressing", "no")
        .set("LLMNR", "no")
        .set("MulticastDNS", "no")
        .set("IPv6AcceptRA", "no")
        .set("Address", HOST_V4)
        .set_some("Address", listener.map(|address| format!("{address}/128")))
        .set("IPMasquerade", "ipv4")
        .section("Route")
        .set("Destination", PREFIX)
        // Its errors come from there, and are believed where the way back is that way.
        .section("Route")
        .set("Destination", format_args!("{translator}/128"))
        .render()
}

/// The address after that of the name server.
fn translator_address(host: &HostSpec, pool: Prefix) -> Ipv6Addr {
    let before = host.dns64_address().unwrap_or(pool.dns64_address());
    Ipv6Addr::from(u128::from(before) + 1)
}

fn tayga(own: Ipv6Addr) -> String {
    format!(
        "tun-device {LINK}\nipv4-addr {TAYGA_V4}\nipv6-addr {own}\nprefix {PREFIX}\ndynamic-pool {MACHINES_V4}\n"
    )
}

/// It reads what hostile guests send: it may do nothing but that.
fn translator() -> String {
    let device = format!("sys-subsystem-net-devices-{}.device", LINK.replace('-', "\\x2d"));
    Ini::new()
        .section("Unit")
        .set("Description", "IPv4 for machines of nsctl that have none (NAT64)")
        .set("StopWhenUnneeded", "yes")
        .set("Wants", &device)
        .set("After", format_args!("{device} network.target"))
        .section("Service")
        .set(
            "ExecStart",
            format_args!("{} --nodetach --config {}", PROGRAMS[0], config(&ManagedFile::Nat64Config)),
        )
        .set("Restart", "on-failure")
        .set("DynamicUser", "yes")
        .set("AmbientCapabilities", "CAP_NET_ADMIN")
        .set("CapabilityBoundingSet", "CAP_NET_ADMIN")
        // No netlink: it changes no routes and no rules.
        .set("RestrictAddressFamilies", "AF_INET AF_UNIX")
        .set("SystemCallFilter", "@system-service")
        .set("RestrictNamespaces", "yes")
        .set("MemoryDenyWriteExecute", "yes")
        .set("MemoryMax", "256M")
        .set("ProtectHome", "yes")
        .render()
}

/// Machines alone ask it (the firewall sees to that), each so often in a second that all are heard; it asks
/// who knows machines, or else the world.
fn unbound(host: &HostSpec, pool: Prefix, listener: Ipv6Addr) -> String {
    let mut text = format!(
        "server:\n\tinterface: {listener}\n\tip-freebind: yes\n\taccess-control: {pool} allow\n\taccess-control: ::0/0 refuse\n\
         \tmodule-config: \"dns64 iterator\"\n\tdns64-prefix: {PREFIX}\n\tunblock-lan-zones: yes\n\tinsecure-lan-zones: yes\n\
         \tusername: \"\"\n\tchroot: \"\"\n\tpidfile: \"\"\n\tdirectory: \"\"\n\tuse-syslog: no\n\tlogfile: \"\"\n\
         \tnum-threads: 1\n\tip-ratelimit: 500\n"
    );
    let servers = host.dns_servers();
    if !servers.is_empty() {
        text += "forward-zone:\n\tname: \".\"\n";
        text.extend(servers.iter().map(|server| format!("\tforward-addr: {server}\n")));
    }
    text + "remote-control:\n\tcontrol-enable: no\n"
}

fn resolver() -> String {
    Ini::new()
        .section("Unit")
        .set("Description", "Names for machines of nsctl that have no IPv4 (DNS64)")
        .set("StopWhenUnneeded", "yes")
        .set("After", "network.target systemd-resolved.service")
        .section("Service")
        .set("ExecStart", format_args!("{} -d -c {}", PROGRAMS[1], config(&ManagedFile::Dns64Config)))
        .set("Restart", "on-failure")
        .set("DynamicUser", "yes")
        .set("AmbientCapabilities", "CAP_NET_BIND_SERVICE")
        .set("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE")
        .set("MemoryMax", "256M")
        .set("ProtectHome", "yes")
        .render()
}

fn config(file: &ManagedFile) -> String {
    file.path().display().to_string()
}

/// What the firewall has of it, for the chains forward and input. Only machines that are to be
/// translated are, by the one address that is planned for each: every other takes a place of the pool.
/// Nobody comes in this way who was not asked, not even to this host.
/// What is no part of the internet is not behind it either, whichever of it the translator knows (RFC 6890).
pub fn rules() -> (Vec<String>, Vec<String>) {
    const PRIVATE: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
                           192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3";
    let forward = vec![
        format!("ip6 daddr {PREFIX} iifname . ip6 saddr != @translated counter drop"),
        format!("iifname \"{LINK}\" ip daddr {{ {PRIVATE} }} counter drop"),
        format!("oifname \"{LINK}\" meta nfproto ipv4 ct state established,related accept"),
        format!("oifname \"{LINK}\" meta nfproto ipv4 counter drop"),
    ];
    let input = vec![format!("iifname \"{LINK}\" jump always"), format!("iifname \"{LINK}\" counter drop")];
    (forward, input)
}
