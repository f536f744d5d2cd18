//! The host's own files: the kernel's switches, the pool's unreachable route,
//! the uplink's router advertisements.

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::IfName;
use crate::observed::{
    FORWARDING, INOTIFY_INSTANCES, NEIGHBOURS, SRC_VALID_MARK, accept_ra, evict_nocarrier, proxy_delay,
    proxy_ndp,
};
use crate::pool::Prefix;
use crate::spec::{AcceptRa, Delegated, HostSpec, OnLink, Tunnel, Uplink, UplinkKind};

pub fn files(host: &HostSpec) -> Vec<(ManagedFile, String)> {
    if *host == HostSpec::default() {
        return Vec::new();
    }
    let mut files = vec![(ManagedFile::Sysctl, sysctl(host))];
    files
        .extend(MODULES.map(|(module, sign)| (ManagedFile::ModuleDropIn(module.to_owned()), needless(sign))));
    files.push((ManagedFile::ImportdDropIn, importd()));
    files.extend(host.fixed_pool().map(|pool| (ManagedFile::PoolNetwork, pool_network(host, pool))));
    files.extend(host.uplink.iter().flat_map(|uplink| of_uplink(uplink, host.fixed_pool())));
    files
}

fn of_uplink(Uplink { interface, mtu, kind }: &Uplink, pool: Option<Prefix>) -> Vec<(ManagedFile, String)> {
    match kind {
        UplinkKind::Native(AcceptRa::Unchanged | AcceptRa::Kernel) => Vec::new(),
        UplinkKind::Native(AcceptRa::Networkd(file)) => {
            vec![(ManagedFile::UplinkDropIn(file.clone()), takes_ra().render())]
        }
        UplinkKind::OnLink(on_link) => {
            let file = on_link.network_file.clone().map(ManagedFile::UplinkDropIn);
            file.map(|file| (file, answers(on_link))).into_iter().collect()
        }
        UplinkKind::Delegated(delegated) => {
            let file = ManagedFile::UplinkDropIn(delegated.network_file.clone());
            vec![(file, asks_for_prefix(delegated))]
        }
        UplinkKind::Tunnel(tunnel) => vec![
            (ManagedFile::TunnelNetdev(interface.clone()), tunnel_device(interface, tunnel, *mtu)),
            (ManagedFile::TunnelNetwork(interface.clone()), tunnel_network(interface, tunnel)),
        ],
        UplinkKind::WireGuard(wireguard) => super::wireguard::files(interface, wireguard, *mtu, pool),
    }
}

/// The modules that systemd's unit of a machine has loaded before each start, and what
/// the kernel shows where it has them.
const MODULES: [(&str, &str); 3] = [("tun", "tun"), ("loop", "loop-control"), ("dm_mod", "device-mapper")];

/// Each start waits for three modprobe(8) that have nothing to do: what is there need not be
/// loaded, and a kernel without modules has none (systemd 258 and later look by themselves).
fn needless(sign: &str) -> String {
    Ini::new()
        .section("Unit")
        .set("ConditionPathExists", format_args!("!/sys/class/misc/{sign}"))
        .set("ConditionPathExists", "/lib/modules/%v")
        .render()
}

/// importd would turn on btrfs's quota groups with the first image, for which nsctl has no use:
/// the first write to each clone is then counted against all that share its blocks, which takes
/// a fifth of a second and more (systemd's ENVIRONMENT.md, btrfs-quota(8)).
fn importd() -> String {
    Ini::new().section("Service").set("Environment", "SYSTEMD_IMPORT_BTRFS_QUOTA=0").render()
}

/// The kernel's switches that the host needs, in the order in which they must
/// be set: key with slashes (sysctl.d(5)), and value.
///
/// - A machine with systemd takes about ten inotify instances. The kernel's 128
///   for root and all its machines are used up by the fourteenth: its networkd
///   then ends with "Too many open files".
/// - A routed machine and its host know each other by three or four addresses: with the
///   kernel's 1024, packets to some get lost from about three hundred machines on. A host
///   that is a container itself has no such switch.
/// - A host that answers for its machines would let the router wait for up to 0.8 s with each answer;
///   and would forget them all when its cable is out for a moment (kernel, ip-sysctl.rst).
/// - The kernel forwards by `all.forwarding` alone, and drops the uplink's
///   router advertisements then, unless it was told before to keep them.
pub fn switches(host: &HostSpec) -> Vec<(String, u32)> {
    let mut switches = Vec::new();
    if *host != HostSpec::default() {
        switches.push((INOTIFY_INSTANCES.to_owned(), 65_536));
    }
    let uplink = host.uplink.as_ref().filter(|uplink| uplink.accept_ra() == Some(&AcceptRa::Kernel));
    switches.extend(uplink.map(|uplink| (accept_ra(uplink.interface.as_str()), 2)));
    if let Some(uplink) = host.answers_on() {
        switches.push((proxy_ndp(uplink.as_str()), 1));
        switches.push((proxy_delay(uplink.as_str()), 0));
        switches.push((evict_nocarrier(uplink.as_str()), 0));
    }
    // Answers of the peer come by another way than marked packets leave (wg-quick(8)).
    let wireguard = host.uplink.as_ref().and_then(Uplink::wireguard);
    let over_v4 = wireguard.is_some_and(|wireguard| wireguard.takes_over(false));
    switches.extend(over_v4.then(|| (SRC_VALID_MARK.to_owned(), 1)));
    if host.pool().is_some() {
        switches.push((NEIGHBOURS.to_owned(), 8192));
        switches.push((FORWARDING.to_owned(), 1));
    }
    switches
}

/// What the kernel has for a switch where nobody sets it (ip-sysctl.rst); none of limits, which do no harm
/// until the next boot.
pub fn kernels_own(key: &str) -> Option<u32> {
    let last = key.rsplit('/').next()?;
    match last {
        "forwarding" | "proxy_ndp" | "src_valid_mark" => Some(0),
        "accept_ra" | "ndisc_evict_nocarrier" => Some(1),
        "proxy_delay" => Some(80),
        _ => None,
    }
}

/// The switches that a text of ours sets.
pub fn switches_of(sysctl: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = sysctl.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.trim_start_matches('-').split_once(" = "))
}

fn sysctl(host: &HostSpec) -> String {
    let may_be_missing = |key: &str| if key == NEIGHBOURS || key.ends_with("_nocarrier") { "-" } else { "" };
    let lines = switches(host).into_iter();
    lines.map(|(key, value)| format!("{}{key} = {value}\n", may_be_missing(&key))).collect()
}

/// Without the unreachable route (RFC 7084 L-14), a packet for a subnet that
/// nobody holds goes back out the default route, and comes in again: a loop. Where the uplink has
/// an address of the same /64 the kernel would look there, and keep an entry, for each that a
/// stranger sends to: so it is preferred to that route (metric 256). Not so on a link that others
/// have addresses on, too.
fn pool_network(host: &HostSpec, pool: Prefix) -> String {
    let ini = Ini::new()
        .section("Match")
        .set("Name", "lo")
        .section("Network")
        .set("Address", format_args!("{}/128", host.own_address().unwrap_or(pool.host_address())));
    if host.answers_on().is_some() {
        return ini.render();
    }
    let ini = ini.section("Route").set("Destination", pool).set("Type", "unreachable");
    ini.set_some("Metric", pool.is_single().then_some(128)).render()
}

/// The kind `sit` is 6in4 (systemd.netdev(5)). It stands by itself: no .network
/// file of an interface below it has to name it.
fn tunnel_device(interface: &IfName, tunnel: &Tunnel, mtu: Option<u32>) -> String {
    Ini::new()
        .section("NetDev")
        .set("Name", interface)
        .set("Kind", "sit")
        .set_some("MTUBytes", mtu)
        .section("Tunnel")
        .set("Independent", "yes")
        .set("Local", tunnel.local.map_or("any".to_owned(), |local| local.to_string()))
        .set("Remote", tunnel.server)
        .set("TTL", 255)
        .render()
}

fn tunnel_network(interface: &IfName, tunnel: &Tunnel) -> String {
    Ini::new()
        .section("Match")
        .set("Name", interface)
        .section("Network")
        .set("Address", tunnel.client_address)
        .set("IPv6AcceptRA", "no")
        .section("Route")
        .set("Destination", "::/0")
        .render()
}

/// networkd takes RAs where the host does not forward, unless told (systemd.network(5)).
fn takes_ra() -> Ini {
    Ini::new().section("Network").set("IPv6AcceptRA", "yes")
}

/// networkd turns the switch off again, with each link that it runs, unless told (its source,
/// networkd-sysctl.c). Whom the host answers for stands with each machine: networkd would set its
/// uplink up anew with each that comes, and would not forget those that go.
fn answers(on_link: &OnLink) -> String {
    let ini = match on_link.accept_ra {
        AcceptRa::Networkd(_) => takes_ra(),
        AcceptRa::Unchanged | AcceptRa::Kernel => Ini::new().section("Network"),
    };
    ini.set("IPv6ProxyNDP", "yes").render()
}

/// It asks for a prefix without waiting for an RA that says so.
fn asks_for_prefix(delegated: &Delegated) -> String {
    takes_ra()
        .set("DHCP", if delegated.dhcp4 { "yes" } else { "ipv6" })
        .section("DHCPv6")
        .set("PrefixDelegationHint", format_args!("::/{}", delegated.length))
        .set("WithoutRA", "solicit")
        .render()
}
