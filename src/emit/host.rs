//! The host's own files: forwarding, the pool's unreachable route, the uplink's RA.

use std::path::PathBuf;

use super::ini::Ini;
use super::{NETWORK_DIR, network_path};
use crate::pool::Pool;
use crate::spec::{AcceptRa, HostSpec, Uplink};

pub fn files(host: &HostSpec) -> Vec<(PathBuf, String)> {
    let Some(pool) = host.pool else { return Vec::new() };
    let mut files = vec![
        (network_path("pool", "lo", "network"), pool_network(pool)),
        (PathBuf::from("/etc/sysctl.d/60-nsctl.conf"), sysctl(host.uplink.as_ref())),
    ];
    if let Some(Uplink { accept_ra: AcceptRa::Networkd, network_file: Some(file), .. }) = &host.uplink {
        let path = format!("{NETWORK_DIR}/{file}.d/05-nsctl.conf");
        files.push((PathBuf::from(path), accept_ra()));
    }
    files
}

/// Without the unreachable route (RFC 7084 L-14), a packet for a subnet that
/// nobody holds goes back out the default route, and comes in again: a loop.
fn pool_network(pool: Pool) -> String {
    Ini::new()
        .section("Match")
        .set("Name", "lo")
        .section("Network")
        .set("Address", format_args!("{}/128", pool.host_address()))
        .section("Route")
        .set("Destination", pool)
        .set("Type", "unreachable")
        .render()
}

/// The kernel forwards by `all.forwarding` alone, and drops the uplink's router
/// advertisements then, unless told to keep them. Slashes, as the name of an
/// interface may hold dots (sysctl.d(5)).
fn sysctl(uplink: Option<&Uplink>) -> String {
    let mut text = String::new();
    if let Some(Uplink { interface, accept_ra: AcceptRa::Kernel, .. }) = uplink {
        text += &format!("net/ipv6/conf/{interface}/accept_ra = 2\n");
    }
    text + "net/ipv6/conf/all/forwarding = 1\n"
}

/// networkd takes RAs where the host does not forward, unless told (systemd.network(5)).
fn accept_ra() -> String {
    Ini::new().section("Network").set("IPv6AcceptRA", "yes").render()
}
