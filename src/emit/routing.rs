//! What the host's routing daemon is told: which prefixes are here, for as long as their machines run, and what is
//! taken from others.

use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::{MachineName, kernel_name};
use crate::pool::{Lease, Leases, Prefix};
use crate::spec::{Daemon, Routing, RoutingProtocol as Protocol, Spec};

/// BIRD's table of what concerns the pool, and the protocols that BIRD runs by our file.
pub const TABLE: &str = "nsctl";
pub const MACHINES: &str = "nsctl_machines";
pub const LEARNED: &str = "nsctl_learned";

/// The files of a host that has a routing daemon announce its machines.
pub fn files(spec: &Spec, leases: &Leases) -> Vec<(ManagedFile, String)> {
    let host = &spec.host;
    let (Some(routing), Some(prefix)) = (&host.routing, host.prefix()) else { return Vec::new() };
    let whole = host.whole.unwrap_or(prefix);
    // networkd would take what the daemon has learned off a link that it configures anew (networkd.conf(5)).
    let foreign = Ini::new().section("Network").set("ManageForeignRoutes", "no").render();
    let config = match routing.daemon {
        Daemon::Bird => (ManagedFile::BirdConfig, bird(spec, leases, routing, (whole, prefix))),
        Daemon::Frr => (ManagedFile::FrrConfig, frr(spec, leases, routing, (whole, prefix))),
    };
    vec![config, (ManagedFile::NetworkdDropIn, foreign)]
}

/// The names of BIRD's protocols that speak to others.
pub fn speakers(routing: &Routing) -> Vec<String> {
    match routing.protocol {
        Protocol::Ospf => vec!["nsctl_ospf".to_owned()],
        Protocol::Babel => vec!["nsctl_babel".to_owned()],
        Protocol::Bgp => (1..=routing.neighbor.len()).map(|number| format!("nsctl_bgp{number}")).collect(),
    }
}

/// What is routed to a machine, and the host's end of the way.
fn machines(spec: &Spec, leases: &Leases) -> Vec<(Ipv6Net, String)> {
    let mut all = Vec::new();
    for (name, machine) in &spec.machines {
        let Some(routed) = machine.network.routed() else { continue };
        let link = kernel_name(&machine.network.host_end(name));
        let all_of_it = leased(leases, name).into_iter().chain(routed.routes.iter().copied());
        all.extend(all_of_it.map(|net| (net, link.clone())));
    }
    // Whose definition cannot be read stays as it is: what holds a lease is routed to it.
    for name in spec.broken.keys() {
        let kept = spec.kept_routes.get(name).into_iter().flatten().copied();
        all.extend(
            leased(leases, name).into_iter().chain(kept).map(|net| (net, kernel_name(&name.routed_link()))),
        );
    }
    all.sort();
    all
}

fn leased(leases: &Leases, name: &MachineName) -> Option<Ipv6Net> {
    match leases.get(name)? {
        Lease::Subnet(subnet) => Some(subnet.net()),
        Lease::Address(address) => Some(address.into()),
        Lease::Number(_) => None,
    }
}

/// Below a folder that no host is looked at in there is no machine-id.
fn router_id(spec: &Spec, routing: &Routing) -> Ipv4Addr {
    routing.router_id.or(spec.router_id).unwrap_or(Ipv4Addr::new(192, 0, 2, 1))
}

/// What a prefix of the pool may be as long as that somebody announces.
fn longest(whole: Prefix) -> u8 {
    if whole.is_single() { 128 } else { 64 }
}

/// What is this host's own, and nobody else's to announce: the prefix that is routed here, or, where hosts agree on
/// each lease, what it has.
fn own(spec: &Spec, leases: &Leases, prefix: Prefix) -> Vec<Ipv6Net> {
    let Some(fleet) = &spec.host.fleet else { return vec![prefix.net()] };
    let held = leases.held().values().filter_map(|lease| Some(lease.subnet()?.net()));
    std::iter::once(fleet.own.net()).chain(held).collect()
}

/// A table of its own, from which only what others have announced goes to the kernel by way of master6: the
/// machines' routes are networkd's. A route by way of an interface is there for as long as that is up (BIRD's
/// user's guide, "Static"). Of what others say nothing goes there that is of this host's own prefix.
fn bird(spec: &Spec, leases: &Leases, routing: &Routing, (whole, prefix): (Prefix, Prefix)) -> String {
    let address = spec.host.own_address().unwrap_or(prefix.host_address());
    let mut routes = format!("\troute {address}/128 unreachable;\n");
    for (net, link) in machines(spec, leases) {
        let _ = writeln!(routes, "\troute {net} via \"{link}\";");
    }
    let own = own(spec, leases, prefix).iter().map(|part| format!("{part}+")).collect::<Vec<_>>().join(", ");
    let (id, net) = (router_id(spec, routing), whole.net());
    let channel = format!(
        "\trouter id {id};
	ipv6 {{
		table {TABLE};
		import where net ~ [ {net}{{{},{}}} ];
		export where proto = \"{MACHINES}\";
	}};
",
        net.prefix_len(),
        longest(whole)
    );
    format!(
        "# Read by what bird.conf says: include \"/etc/bird/nsctl*.conf\"; what /etc/bird/nsctl.interface says is of each interface.
ipv6 table {TABLE};

protocol static {MACHINES} {{
	ipv6 {{ table {TABLE}; }};
{routes}}}

protocol pipe {LEARNED} {{
	table {TABLE};
	peer table master6;
	import none;
	export where source != RTS_STATIC && !(net ~ [ {own} ]);
}}

{}",
        bird_speakers(spec, routing, &channel)
    )
}

fn interfaces(spec: &Spec, routing: &Routing) -> Vec<String> {
    let uplink = spec.host.uplink.iter().map(|uplink| uplink.interface.to_string());
    if routing.interface.is_empty() {
        uplink.collect()
    } else {
        routing.interface.iter().map(ToString::to_string).collect()
    }
}

fn bird_speakers(spec: &Spec, routing: &Routing, channel: &str) -> String {
    let names = interfaces(spec, routing);
    let blocks = |indent: &str, kind: &str| {
        let block = |name: &String| {
            format!(
                "{indent}interface \"{name}\" {{\n{kind}{indent}\tinclude \"/etc/bird/nsctl.interface*\";\n{indent}}};\n"
            )
        };
        names.iter().map(block).collect::<String>()
    };
    let name = &speakers(routing)[0];
    match routing.protocol {
        Protocol::Ospf => {
            format!("protocol ospf v3 {name} {{\n{channel}\tarea 0 {{\n{}\t}};\n}}\n", blocks("\t\t", ""))
        }
        Protocol::Babel => {
            format!("protocol babel {name} {{\n{channel}{}}}\n", blocks("\t", "\t\ttype wired;\n"))
        }
        Protocol::Bgp => {
            let own = routing.own_as.unwrap_or_default();
            let all = routing.neighbor.iter().zip(speakers(routing)).map(|(other, name)| {
                let link = names.first().filter(|_| other.address.is_unicast_link_local());
                let link = link.map(|link| format!(" % '{link}'")).unwrap_or_default();
                let (address, other_as) = (other.address, other.other_as);
                let next_hop = channel.replace("\t};\n", "\t\tnext hop self;\n\t};\n");
                format!(
                    "protocol bgp {name} {{\n{next_hop}\tlocal as {own};\n\tneighbor {address}{link} as {other_as};\n}}\n"
                )
            });
            all.collect::<Vec<_>>().join("\n")
        }
    }
}

/// For `vtysh -f`: what networkd has put into the kernel is announced, for as long as it is there.
fn frr(spec: &Spec, leases: &Leases, routing: &Routing, (whole, prefix): (Prefix, Prefix)) -> String {
    let (net, longest, id) = (whole.net(), longest(whole), router_id(spec, routing));
    let prefix = prefix.net();
    // The same whatever is leased: `vtysh -f` takes nothing away.
    let own = spec.host.fleet.as_ref().map_or(prefix, |fleet| fleet.own.net());
    // The whole of it is unreachable here, and no machine's.
    let mut text = format!(
        "! Read by `vtysh -f`, again where it changes.
ipv6 prefix-list nsctl-machines seq 5 deny {prefix}
ipv6 prefix-list nsctl-machines seq 10 permit {prefix} le 128
ipv6 prefix-list nsctl-learned seq 5 deny {own} le 128
ipv6 prefix-list nsctl-learned seq 10 permit {net} le {longest}
route-map nsctl-machines permit 10
 match ipv6 address prefix-list nsctl-machines
exit
route-map nsctl-learned permit 10
 match ipv6 address prefix-list nsctl-learned
exit
"
    );
    let beside = machines(spec, leases).into_iter().filter(|(route, _)| !prefix.contains(route));
    for (at, (route, _)) in beside.enumerate() {
        let _ = writeln!(text, "ipv6 prefix-list nsctl-machines seq {} permit {route}", 20 + at);
    }
    let from = ["connected", "kernel"]
        .map(|kind| format!(" redistribute {kind} route-map nsctl-machines\n"))
        .concat();
    let names = interfaces(spec, routing);
    match routing.protocol {
        Protocol::Ospf => {
            let _ = write!(text, "router ospf6\n ospf6 router-id {id}\n{from}exit\n");
            text.push_str("ipv6 protocol ospf6 route-map nsctl-learned\n");
            for name in names {
                let _ = write!(text, "interface {name}\n ipv6 ospf6 area 0\nexit\n");
            }
        }
        Protocol::Babel => {
            let from = from
                .replace(" redistribute ", " redistribute ipv6 ")
                .replace(" route-map nsctl-machines", "");
            let _ = write!(text, "router babel\n{from}");
            names.iter().for_each(|name| _ = writeln!(text, " network {name}"));
            for name in &names {
                let _ = write!(
                    text,
                    " ipv6 distribute-list prefix nsctl-machines out {name}\n ipv6 distribute-list prefix nsctl-learned in {name}\n"
                );
            }
            text.push_str("exit\n");
        }
        Protocol::Bgp => {
            let own = routing.own_as.unwrap_or_default();
            let _ = write!(
                text,
                "router bgp {own}\n bgp router-id {id}\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n"
            );
            for other in &routing.neighbor {
                let _ = writeln!(text, " neighbor {} remote-as {}", other.address, other.other_as);
                if let Some(link) = names.first().filter(|_| other.address.is_unicast_link_local()) {
                    let _ = writeln!(text, " neighbor {} interface {link}", other.address);
                }
            }
            let _ = write!(
                text,
                " address-family ipv6 unicast\n{}",
                from.replace(" redistribute", "  redistribute")
            );
            for other in &routing.neighbor {
                let address = other.address;
                let _ = write!(
                    text,
                    "  neighbor {address} activate\n  neighbor {address} route-map nsctl-learned in\n  neighbor {address} route-map nsctl-machines out\n"
                );
            }
            text.push_str(" exit-address-family\nexit\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::readable;

    fn rendered(share: &str, routing: &str) -> String {
        let host = format!(
            "pool = \"2001:db8:a::/48\"\n{share}[uplink]\ninterface = \"wan0\"\n[routing]\n{routing}"
        );
        let texts = [
            ("broken", "nonsense"),
            ("web", "[network]\nmode = \"routed\"\n"),
            ("router", "[network]\nmode = \"routed\"\nprefix = 60\nroutes = [\"2001:db8:c::/56\"]\n"),
            ("lan", "[network]\nmode = \"bridge\"\nbridge = \"br0\"\n"),
        ];
        let texts = texts.map(|(name, text)| {
            let name = name.parse().unwrap();
            (crate::spec::definition_path(&name), text.to_owned())
        });
        let mut spec = Spec::read(Some(&host), &readable(&texts.into())).0;
        spec.router_id = Some(Ipv4Addr::new(192, 0, 2, 7));
        let mut leases = Leases::default();
        for (name, machine) in &spec.machines {
            if let Some(routed) = machine.network.routed() {
                leases.lease(spec.host.pool().unwrap(), name, routed.ask()).unwrap();
            }
        }
        spec.kept_routes = [("broken".parse().unwrap(), vec!["2001:db8:d::/56".parse().unwrap()])].into();
        leases.lease(spec.host.pool().unwrap(), &"broken".parse().unwrap(), None).unwrap();
        files(&spec, &leases)
            .into_iter()
            .map(|(file, text)| format!("==> {}\n{text}\n", file.path().display()))
            .collect()
    }

    #[test]
    fn all_daemons_and_protocols() {
        let bgp = "as = 65001\nneighbor = [{ address = \"2001:db8:ffff::1\", as = 65000 }, { address = \"fe80::7\", as = 65001 }]\n";
        let mut all = String::new();
        for daemon in ["bird", "frr"] {
            for protocol in ["ospf", "babel", "bgp"] {
                let more = if protocol == "bgp" { bgp } else { "interface = [\"wan0\", \"wg0\"]\n" };
                all += &rendered(
                    "share = \"2001:db8:a:100::/56\"\n",
                    &format!("daemon = \"{daemon}\"\nprotocol = \"{protocol}\"\n{more}"),
                );
            }
        }
        insta::assert_snapshot!(all);
        // Without a share all of the pool is its own.
        let whole = rendered("", "protocol = \"ospf\"\n");
        assert!(
            whole.contains("export where source != RTS_STATIC && !(net ~ [ 2001:db8:a::/48+ ]);"),
            "{whole}"
        );
    }
}
