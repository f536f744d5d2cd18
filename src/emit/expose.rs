//! Listeners before a service that speaks IPv4 alone: one inside the machine, on
//! IPv6; one on the host, on IPv4. Each is a socket unit and
//! systemd-socket-proxyd(8).

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::file::{EXPOSE_DIR, ManagedFile};
use super::ini::Ini;
use crate::name::MachineName;
use crate::spec::Expose;

/// How the names of all these units begin.
pub const MARK: &str = "nsctl-expose-";
const PROXY: &str = "/usr/lib/systemd/systemd-socket-proxyd";

/// A socket or service unit inside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub text: String,
}

impl Unit {
    /// The unit of a bound file; what only says that it is wanted at boot is none.
    pub fn of(file: &ManagedFile, text: Option<&str>) -> Option<Unit> {
        match file {
            ManagedFile::BoundUnit(_, name) if !name.ends_with(".conf") => {
                Some(Unit { name: name.clone(), text: text?.to_owned() })
            }
            _ => None,
        }
    }
}

/// What sh(1) in a machine that runs is given to exchange its listeners: the
/// script, and its words. The folder wins over what was bound in at the start
/// (systemd.unit(5)), and goes when the machine stops.
pub fn exchange(old: &[Unit], new: &[Unit]) -> (&'static str, Vec<String>) {
    const SCRIPT: &str = "\
dir=/run/systemd/system.control
mkdir -p $dir
count=$1
shift
while [ $count -gt 0 ]; do
    if systemctl is-active -q \"$1\"; then systemctl stop \"$1\"; fi
    rm -f \"$dir/$1\"
    count=$((count - 1))
    shift
done
sockets=
while [ $# -gt 0 ]; do
    printf %s \"$2\" > \"$dir/$1\"
    case $1 in *.socket) sockets=\"$sockets $1\" ;; esac
    shift 2
done
systemctl daemon-reload
[ -z \"$sockets\" ] || systemctl start $sockets";
    let mut words = vec![old.len().to_string()];
    words.extend(old.iter().map(|unit| unit.name.clone()));
    words.extend(new.iter().flat_map(|unit| [unit.name.clone(), unit.text.clone()]));
    (SCRIPT, words)
}

/// A machine's settings without the listeners that are bound into it: those can
/// change while it runs.
pub fn without_bound(nspawn: &str) -> Ini {
    Ini::parse(nspawn).without(|key, value| key == "BindReadOnly" && value.starts_with(EXPOSE_DIR))
}

/// A file that is bound into the machine, and where it is seen there.
pub struct Bound {
    pub file: ManagedFile,
    pub target: String,
    pub text: String,
}

/// The units inside a machine for one port.
pub fn inside(name: &MachineName, expose: &Expose) -> Vec<Bound> {
    let Some(to) = expose.to else { return Vec::new() };
    let unit = format!("{MARK}{}", expose.port.first);
    let bound = |file: String, target: String, ini: Ini| Bound {
        file: ManagedFile::BoundUnit(name.clone(), file),
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

/// The units on the host, which listen while the machine runs.
pub fn on_host(name: &MachineName, expose: &Expose, address: Ipv6Addr) -> Vec<(ManagedFile, String)> {
    let Some(port) = expose.host else { return Vec::new() };
    let socket = Ini::new()
        .section("Unit")
        .set("Description", format_args!("IPv4 for {} of the machine {name}", expose.port))
        .set("PartOf", name.unit())
        // A machine that powers itself off is not stopped by a job, which PartOf= would hear of.
        .set("StopWhenUnneeded", "yes")
        .section("Socket")
        .set("ListenStream", format_args!("0.0.0.0:{port}"));
    let service = proxy(address.into(), expose.port.first).section("Unit").set("PartOf", name.unit());
    vec![
        (ManagedFile::HostUnit(name.clone(), port, "socket"), socket.render()),
        (ManagedFile::HostUnit(name.clone(), port, "service"), service.render()),
    ]
}
