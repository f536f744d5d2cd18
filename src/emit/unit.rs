//! A machine's unit: what it waits for, its limits, and what its start and its end do.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::file::{FIREWALL_UNIT, ManagedFile, host_unit};
use super::ini::Ini;
use super::machine::{Attachment, GATEWAY, MachineFiles, words};
use super::{firewall, nat64};
use crate::name::{IfName, MachineName};
use crate::pool::Lease;
use crate::spec::{BridgePort, Limits, Restart, SecretId};
use crate::visible::joined;

/// The settings of a unit that limit what it takes, or have that counted (systemd.resource-control(5)).
pub const LIMITS: [&str; 11] = [
    "IOAccounting",
    "MemoryMax",
    "MemoryHigh",
    "MemorySwapMax",
    "CPUQuota",
    "CPUWeight",
    "AllowedCPUs",
    "IOWeight",
    "IOReadBandwidthMax",
    "IOWriteBandwidthMax",
    "TasksMax",
];

/// What a setting of these is where a file says nothing of it.
pub fn unset(key: &str) -> &'static str {
    if key == "IOAccounting" { "no" } else { "" }
}

/// Seconds until a machine that has ended is started again: one that cannot start at all is not to keep
/// the host busy.
const RESTART_AFTER: u32 = 5;

/// A section that systemd passes over (systemd.unit(5)), and what it holds: what the machine's tree may take of the
/// disk. It is no matter of the unit's, and is written down where the other limits are.
pub const OWN: &str = "X-nsctl";
pub const DISK: &str = "Disk";

/// The setting of a unit that lets it use a device beside the usual ones.
pub const DEVICES: &str = "DeviceAllow";

/// The setting of a unit that decrypts a credential for it.
pub const CREDENTIALS: &str = "LoadCredentialEncrypted";

/// What starts a machine, as systemd-nspawn@.service has it from systemd 252 to 262: it hands on no credential
/// unless told to.
const NSPAWN: &str = "systemd-nspawn --quiet --keep-unit --boot --link-journal=try-guest --network-veth -U \
                      --settings=override --machine=%i";

/// What a machine's limits are for each of them.
fn settings(name: &MachineName, limits: &Limits) -> [Option<String>; 11] {
    // systemd finds the disk on which the tree is.
    let of_disk = |rate: Option<&String>| rate.map(|rate| format!("/var/lib/machines/{name} {rate}"));
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let Limits {
        memory,
        memory_high,
        swap,
        cpu,
        cpu_weight,
        cpus,
        io_weight,
        io_read,
        io_write,
        tasks,
        disk: _,
    } = limits.clone();
    [
        // What is not counted nobody sees (`nsctl top`); the rest systemd counts unasked.
        Some("yes".to_owned()),
        memory,
        memory_high,
        swap,
        cpu,
        number(cpu_weight),
        cpus,
        number(io_weight),
        of_disk(io_read.as_ref()),
        of_disk(io_write.as_ref()),
        number(tasks),
    ]
}

/// The settings of a unit that these limits make.
pub fn limit_settings(name: &MachineName, limits: &Limits) -> impl Iterator<Item = (&'static str, String)> {
    LIMITS.into_iter().zip(settings(name, limits)).filter_map(|(key, value)| Some((key, value?)))
}

impl MachineFiles<'_> {
    /// The unit's own settings: what it waits for, its limits.
    pub(super) fn drop_in(&self, attachment: &Attachment) -> String {
        let description = self.machine.description.as_ref().map(|text| text.replace('%', "%%"));
        let guarded = matches!(attachment, Attachment::Routed { .. }) && self.machine.has_firewall();
        // nspawn fails where its bridge is not there yet.
        let port = self.machine.network.port();
        let waits = port.filter(|port| self.waits_for(port));
        let before = waits.map(|port| device_unit(&port.bridge)).into_iter();
        let before = words(before.chain(guarded.then(|| FIREWALL_UNIT.to_owned())));
        let ports = self.machine.expose.iter().filter_map(|expose| expose.host);
        let sockets = words(ports.map(|port| host_unit(self.name, port, "socket")));
        let first = words(self.machine.after.iter().map(MachineName::unit));
        let link = (!self.answered_for(attachment).is_empty()).then(|| self.host.may_answer_on()).flatten();
        let link = link.map(device_unit);
        let mut ini = Ini::new();
        let any = [&description, &before, &sockets, &link, &first].iter().any(|said| said.is_some());
        if any {
            ini = ini.section("Unit").set_some("Description", description);
            ini = ini.set_some("Wants", before.as_ref()).set_some("After", before.as_ref());
            ini = ini.set_some("Wants", link.as_ref()).set_some("After", link.as_ref());
            ini = ini.set_some("After", first);
            ini = ini.set_some("Wants", sockets);
        }
        if self.is_translated() {
            let both = format!("{} {}", nat64::TRANSLATOR, nat64::RESOLVER);
            let own = self.host.dns64_listener().is_some();
            let units = if own { both } else { nat64::TRANSLATOR.to_owned() };
            ini = ini.section("Unit").set("Wants", &units).set("After", &units);
        }
        let limits = self.host.limits(self.machine);
        // A guest that does not read the file bound into it would send what the host's narrower end
        // drops without a word: networkd's RA names no MTU.
        let narrow = self.mtu().filter(|_| matches!(attachment, Attachment::Routed { .. }));
        let narrow = narrow.map(|mtu| inside(self.name, &format!("ip link set host0 mtu {mtu}")));
        ini = ini.section("Service");
        for (key, value) in limit_settings(self.name, &limits) {
            ini = ini.set(key, value);
        }
        let devices = self.machine.device.iter().map(|device| format!("{device} rw"));
        ini = ini.set_some(DEVICES, devices);
        let secrets: BTreeSet<&SecretId> = self.machine.secret.iter().collect();
        if !secrets.is_empty() {
            let path = |id: &SecretId| ManagedFile::Secret(self.name.clone(), id.clone()).path();
            let loads = secrets.iter().map(|id| format!("{id}:{}", path(id).display()));
            ini = ini.set_some(CREDENTIALS, loads);
            let words = joined(secrets.iter().map(|id| passes_on(id)), " ");
            ini = ini.set("ExecStart", "").set("ExecStart", format!("{NSPAWN} {words}"));
        }
        if let Some(restart) = self.machine.restart {
            ini = ini.set("Restart", restart.word()).set("RestartSec", RESTART_AFTER);
            ini = ini.set_some("ExecStopPost", (restart != Restart::No).then(|| forgotten(self.name)));
        }
        // Rather not at all than without its firewall.
        ini = ini.set_some("ExecStartPre", guarded.then(|| firewall::guard(self.name)));
        ini = ini.set_some("ExecStartPre", port.and_then(apart));
        ini = ini.set_some("ExecStartPre", self.own_ipv4().map(|_| self.lets_ipv4_through()));
        ini = ini.set_some("ExecStartPre", self.answer(attachment, "replace"));
        ini = ini.set_some("ExecStartPost", narrow);
        ini = ini.set_some("ExecStartPost", self.address_guest_end(attachment));
        ini = ini.set_some("ExecStartPost", self.joins(attachment));
        ini = ini.set_some("ExecStopPost", self.answer(attachment, "del"));
        ini = ini.set("ExecStopPost", left_mounted(self.name));
        let disk = limits.disk.filter(|disk| disk != "infinity");
        if disk.is_some() {
            ini = ini.section(OWN).set_some(DISK, disk);
        }
        ini.render()
    }

    /// Whether its bridge must be there first: networkd joins a second interface whenever that comes.
    fn waits_for(&self, port: &BridgePort) -> bool {
        let second = self.machine.network.routed().is_some();
        !second || port.vlan.is_some() || !self.host.bridges.contains_key(&port.bridge)
    }

    /// nspawn joins no second veth to a bridge, and networkd only to those that it made.
    fn joins(&self, attachment: &Attachment) -> Option<String> {
        let Attachment::Routed { routed, .. } = attachment else { return None };
        let bridge = &routed.lan.as_ref()?.bridge;
        let others = !self.host.bridges.contains_key(bridge);
        others.then(|| format!("-ip link set {} master {bridge} up", self.name.lan_link()))
    }

    /// The addresses for which this host answers.
    fn answered_for(&self, attachment: &Attachment) -> Vec<IpAddr> {
        match attachment {
            Attachment::Routed { lease, .. } => self.host.answered_for(self.machine, Some(*lease)),
            Attachment::Bridge(_) => Vec::new(),
        }
    }

    /// networkd turns IPv4 forwarding on for those that share an address; and the kernel would let
    /// who asks on the uplink wait for up to 0.8 s, and forget whom to answer for without a carrier.
    fn lets_ipv4_through(&self) -> String {
        let mut switches = vec![("conf/all/forwarding".to_owned(), 1)];
        if let Some(uplink) = self.host.may_answer_on() {
            switches.push((format!("neigh/{uplink}/proxy_delay"), 0));
            switches.push((format!("conf/{uplink}/arp_evict_nocarrier"), 0));
        }
        let set = switches.iter().map(|(key, value)| format!("echo {value} > /proc/sys/net/ipv4/{key}"));
        format!("-/bin/sh -c '{}'", joined(set, "; "))
    }

    /// What begins or ends that this host answers for the machine (RFC 4861 7.2.8, RFC 1027).
    fn answer(&self, attachment: &Attachment, verb: &str) -> Vec<String> {
        let Some(uplink) = self.host.may_answer_on() else { return Vec::new() };
        let command = |address| format!("-ip neigh {verb} proxy {address} dev {uplink}");
        self.answered_for(attachment).into_iter().map(command).collect()
    }

    /// A guest that does not read the file bound into it cannot know single addresses: RA tells of
    /// prefixes, networkd serves no DHCPv6, and its DHCP tells of private addresses alone. Who asks
    /// for RAs does so when he sets his link up himself: that is waited for.
    fn address_guest_end(&self, attachment: &Attachment) -> Option<String> {
        let Attachment::Routed { lease, routed } = attachment else { return None };
        let mut commands = Vec::new();
        if let Lease::Address(address) = lease {
            commands.push("ip link set host0 up".to_owned());
            commands.push(format!("ip -6 addr replace {address}/128 dev host0 nodad"));
            commands.push(format!("ip -6 route replace default via {GATEWAY} dev host0"));
        }
        if let Some(address) = self.own_ipv4().filter(|_| routed.chosen.is_some()) {
            // Neither quotes nor variables: three shells and systemd read this.
            let tries = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20";
            let is_up = "ip -o link show host0 up | grep -q host0";
            commands.push(format!("for try in {tries}; do {is_up} && break; sleep 0.2; done"));
            commands.push("ip link set host0 up".to_owned());
            commands.push(format!("ip addr replace {address}/32 dev host0"));
            commands.push(format!("ip -4 route replace default via inet6 {GATEWAY} dev host0"));
        }
        (!commands.is_empty()).then(|| inside(self.name, &format!("sh -c \"{}\"", commands.join("; "))))
    }
}

/// The word that has nspawn hand a credential of its own on to its guest (systemd-nspawn(1)).
pub fn passes_on(id: &SecretId) -> String {
    format!("--load-credential={id}:{id}")
}

/// Rather not at all than in another network: a bridge that does not filter looks at no VLAN.
fn apart(port: &BridgePort) -> Option<String> {
    let BridgePort { bridge, vlan } = port;
    let place = format!("/sys/class/net/{bridge}/bridge");
    let why = format!("{bridge} does not keep VLANs apart: nsctl apply");
    let apart = format!("grep -qx 1 {place}/vlan_filtering && grep -qx 0 {place}/default_pvid");
    vlan.map(|_| format!("/bin/sh -c '{apart} || {{ echo {why} >&2; exit 1; }}'"))
}

/// A command of the host's in a machine's network.
fn inside(name: &MachineName, command: &str) -> String {
    let leader = format!("$$(machinectl show {name} -p Leader --value)");
    format!("-/bin/sh -c 'exec nsenter --net=/proc/{leader}/ns/net {command}'")
}

/// machined takes a machine whose nspawn was killed for one that runs as long as its unit is about to start again,
/// and lets no other have its name.
pub fn forgotten(name: &MachineName) -> String {
    let unit = name.unit();
    format!(
        "-/bin/sh -c 'machinectl show {name} -p Unit --value 2>/dev/null | grep -qxF {unit} || exit 0; \
         busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager UnregisterMachine s {name}'"
    )
}

/// nspawn that is killed, for want of memory say, leaves the mount in which a guest's sockets are handed out, and
/// that of systemd 256 to 261 starts no machine whose mount is there.
fn left_mounted(name: &MachineName) -> String {
    format!("-umount --quiet --lazy /run/systemd/nspawn/unix-export/{name}")
}

/// The unit of an interface, escaped as systemd-escape(1) does.
fn device_unit(interface: &IfName) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':');
    let escaped: String = interface
        .as_str()
        .chars()
        .map(|c| if plain(c) { c.to_string() } else { format!("\\x{:02x}", u32::from(c)) })
        .collect();
    format!("sys-subsystem-net-devices-{escaped}.device")
}
