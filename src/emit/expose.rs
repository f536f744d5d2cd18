//! Listeners before a service that speaks IPv4 alone: one inside the machine, on
//! IPv6; one on the host, on IPv4. Each is a socket unit and
//! systemd-socket-proxyd(8).

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::DROPIN_DIR;
use super::ini::Ini;
use crate::name::MachineName;
use crate::spec::Expose;

/// Units that are bound into machines, a folder each.
pub const EXPOSE_DIR: &str = "/var/lib/nsctl/expose";
/// How the names of all these units begin.
pub const MARK: &str = "nsctl-expose-";
const PROXY: &str = "/usr/lib/systemd/systemd-socket-proxyd";

/// A file that is bound into the machine, and where it is seen there.
pub struct Bound {
    pub path: PathBuf,
    pub target: String,
    pub text: String,
}

/// The units inside a machine for one port.
pub fn inside(name: &MachineName, expose: &Expose) -> Vec<Bound> {
    let Some(to) = expose.to else { return Vec::new() };
    let unit = format!("{MARK}{}", expose.port.first);
    let bound = |file: String, target: String, ini: Ini| Bound {
        path: PathBuf::from(format!("{EXPOSE_DIR}/{name}.d/{file}")),
        target: format!("/etc/systemd/system/{target}"),
        text: ini.render(),
    };
    let socket = Ini::new()
        .section("Unit")
        .set("Description", format_args!("IPv6 for the service at {to}"))
        .section("Socket")
        .set("ListenStream", format_args!("[::]:{}", expose.port.first))
        .set("BindIPv6Only", "ipv6-only");
    let wanted = Ini::new().section("Unit").set("Wants", format_args!("{unit}.socket"));
    vec![
        bound(format!("{unit}.socket"), format!("{unit}.socket"), socket),
        bound(format!("{unit}.service"), format!("{unit}.service"), proxy(to.ip(), to.port())),
        // A link in sockets.target.wants cannot be bound; a drop-in says the same.
        bound(format!("{unit}.conf"), format!("sockets.target.d/{unit}.conf"), wanted),
    ]
}

/// It takes what stands before the last colon for the address, and knows no brackets.
fn proxy(address: IpAddr, port: u16) -> Ini {
    let to = format!("{address}:{port}");
    Ini::new()
        .section("Unit")
        .set("Description", format_args!("Hands connections on to {to}"))
        .section("Service")
        .set("ExecStart", format_args!("{PROXY} {to}"))
        .set("PrivateTmp", "yes")
}

/// The socket unit on the host for one port.
pub fn host_socket(name: &MachineName, port: u16) -> String {
    format!("{MARK}{name}-{port}.socket")
}

/// The units on the host, which listen while the machine runs.
pub fn on_host(name: &MachineName, expose: &Expose, address: Ipv6Addr) -> Vec<(PathBuf, String)> {
    let Some(port) = expose.host else { return Vec::new() };
    let socket = Ini::new()
        .section("Unit")
        .set("Description", format_args!("IPv4 for {} of the machine {name}", expose.port))
        .set("PartOf", name.unit())
        // A machine that powers itself off is not stopped by a job, which PartOf= would hear of.
        .set("StopWhenUnneeded", "yes")
        .section("Socket")
        .set("ListenStream", format_args!("0.0.0.0:{port}"));
    let unit = host_socket(name, port);
    let service = unit.replace(".socket", ".service");
    vec![
        (PathBuf::from(format!("{DROPIN_DIR}/{unit}")), socket.render()),
        (
            PathBuf::from(format!("{DROPIN_DIR}/{service}")),
            proxy(address.into(), expose.port.first).section("Unit").set("PartOf", name.unit()).render(),
        ),
    ]
}

/// The machine and unit of a host's file, told by its path.
pub fn machine_of(file: &str) -> Option<MachineName> {
    let stem = file.strip_prefix(MARK)?;
    let stem = stem.strip_suffix(".socket").or_else(|| stem.strip_suffix(".service"))?;
    stem.rsplit_once('-')?.0.parse().ok()
}
