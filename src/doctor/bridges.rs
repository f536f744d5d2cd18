//! Bridges and their ports: a port that has something of its own, one that was
//! taken off, a bridge without ports.

use super::{Facts, Finding, Trap};
use crate::emit::UNTAGGED;
use crate::emit::ini::Ini;
use crate::name::MachineName;
use crate::observed::Link;
use crate::spec::BridgePort;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ports(facts).flat_map(|port| beside(facts, port)).collect();
    findings.extend(empty(facts));
    findings.extend(taken_off(facts));
    findings.extend(mixed(facts));
    findings.extend(astray(facts));
    findings.extend(tapped(facts));
    findings.extend(configured_beside(facts));
    findings
}

/// The ports of bridges but for machines' own.
fn ports(facts: &Facts) -> impl Iterator<Item = &Link> {
    let is_bridge = |index: u32| {
        facts.observed.links.iter().any(|link| link.index == index && link.kind.as_deref() == Some("bridge"))
    };
    facts.observed.links.iter().filter(move |link| link.master.is_some_and(is_bridge))
}

/// Addresses and routes that the port has beside its bridge.
fn beside(facts: &Facts, port: &Link) -> Vec<Finding> {
    let own = facts.observed.addresses.iter().filter(|address| address.interface == port.index);
    let mut findings: Vec<Finding> = own
        .filter(|address| address.global)
        .map(|address| {
            let what = format!("is the port of a bridge and has {} of its own", address.address);
            let causes = "answers come in on the bridge, and are not taken for this address";
            Finding::error(Trap::PortWithAddresses, &port.name, what, causes)
                .fix(format!("ip addr flush dev {}", port.name))
        })
        .collect();
    let stale = facts.routes.iter().filter(|route| {
        let far = route.destination.prefix_len() > 0 && !is_local(&route.destination);
        route.interface == Some(port.index) && far
    });
    findings.extend(stale.map(|route| {
        let what = format!("is the port of a bridge and has a route to {}", route.destination);
        let causes =
            "it beats the bridge's own: the LAN is not reached over IPv6, which looks healthy otherwise";
        let fix = format!("ip route flush dev {0} && ip -6 route flush dev {0}", port.name);
        Finding::error(Trap::PortWithAddresses, &port.name, what, causes).fix_safely(fix)
    }));
    findings
}

fn is_local(net: &ipnet::IpNet) -> bool {
    match net {
        ipnet::IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
        ipnet::IpNet::V4(_) => false,
    }
}

/// A bridge that machines are on, or that nsctl makes, without a way to the LAN.
fn empty(facts: &Facts) -> Vec<Finding> {
    let ours = facts.spec.host.bridges.iter();
    let found = ours.filter_map(|(name, bridge)| {
        let link = facts.observed.link(name.as_str())?;
        let port = facts.observed.link(bridge.uplink.as_str());
        let joined = port.is_some_and(|port| port.master == Some(link.index));
        let what = format!("{} is not its port any more", bridge.uplink);
        let finding = Finding::error(
            Trap::PortTakenOff,
            name.as_str(),
            what,
            "machines on it are cut off from the LAN",
        );
        let usual = || format!("ip link set {0} up && networkctl reconfigure {0}", bridge.uplink);
        (!joined).then(|| finding.fix(port.and_then(|port| facts.let_ours_win(port)).unwrap_or_else(usual)))
    });
    found.collect()
}

/// A bridge that no longer keeps apart what it is to.
fn mixed(facts: &Facts) -> Vec<Finding> {
    let filtering = facts.spec.host.bridges.iter().filter(|(_, bridge)| bridge.filters());
    let found = filtering.filter_map(|(name, _)| {
        let link = facts.observed.link(name.as_str())?;
        let causes = "machines in a VLAN are in what is untagged on its port, or do not start";
        let finding = Finding::error(Trap::VlansNotApart, name.as_str(), "does not keep VLANs apart", causes);
        (!link.keeps_vlans_apart()).then(|| finding.fix("nsctl apply"))
    });
    found.collect()
}

/// Ports of such a bridge that are in no VLAN, or in another than a machine's definition says.
fn astray(facts: &Facts) -> Vec<Finding> {
    let filtering = facts.spec.host.bridges.iter().filter(|(_, bridge)| bridge.filters());
    let there = filtering.filter_map(|(name, _)| facts.observed.link(name.as_str()));
    let apart = there.filter(|link| link.keeps_vlans_apart());
    let found = apart.flat_map(|bridge| {
        let ports = facts.observed.links.iter().filter(|port| port.master == Some(bridge.index));
        ports.chain([bridge]).filter_map(|port| misplaced(facts, &bridge.name, port))
    });
    found.collect()
}

fn misplaced(facts: &Facts, bridge: &str, port: &Link) -> Option<Finding> {
    let Some(is) = facts.pvids.get(&port.index) else {
        let what = format!("is in no VLAN of {bridge}");
        let fix = format!("networkctl reconfigure {}", port.name);
        return Some(
            Finding::error(Trap::WrongVlan, &port.name, what, "nobody reaches it, and it reaches nobody")
                .fix(fix),
        );
    };
    let is_end = |name: &MachineName| {
        [name.routed_link(), name.bridged_link(), name.lan_link()].iter().any(|end| port.is_called(end))
    };
    let (name, place) = facts.spec.bridge_ports().find(|(name, _)| is_end(name))?;
    let vlan = place.vlan.unwrap_or(UNTAGGED);
    let theirs = facts.spec.machines.get(name)?.networkd.contains_key("BridgeVLAN");
    let what = format!("is in VLAN {is} of {bridge}, and '{name}' is to be in {vlan}");
    (*is != vlan && !theirs).then(|| {
        Finding::error(Trap::WrongVlan, &port.name, what, "it is in another network")
            .fix(format!("nsctl restart {name}"))
    })
}

/// VLAN interfaces beside such a bridge: the kernel gives them their frames first.
fn tapped(facts: &Facts) -> Vec<Finding> {
    let filtering = facts.spec.host.bridges.iter().filter(|(_, bridge)| bridge.filters());
    let found = filtering.flat_map(|(name, bridge)| {
        let port = facts.observed.link(bridge.uplink.as_str()).map(|link| link.index);
        let taps =
            facts.observed.links.iter().filter(move |link| {
                link.kind.as_deref() == Some("vlan") && link.peer == port && port.is_some()
            });
        taps.map(move |tap| {
            let what = format!("is a VLAN of {}, the port of {name}", bridge.uplink);
            let causes = "frames of that VLAN come in there, and no machine gets them";
            Finding::warning(Trap::VlanBesideBridge, &tap.name, what, causes)
                .fix(format!("ip link del {}", tap.name))
        })
    });
    found.collect()
}

/// A machine whose veth is on no bridge: some file without KeepMaster= matched it.
fn taken_off(facts: &Facts) -> Vec<Finding> {
    let found = facts.spec.bridge_ports().filter_map(|(name, BridgePort { bridge, .. })| {
        let routed = facts.spec.machines.get(name).is_some_and(|machine| machine.network.routed().is_some());
        let second = facts.observed.link(&name.lan_link()).filter(|_| routed);
        let link = if routed { second } else { facts.observed.host_end(name) }?;
        let master = facts.observed.master_of(link).map(|master| master.name.as_str());
        let what = format!("{} is not a port of {bridge}", link.name);
        let causes =
            "it is cut off from the LAN; a .network file without KeepMaster=yes takes ports off their bridge";
        let usual = || match facts.spec.host.bridges.get(bridge) {
            Some(_) => format!("networkctl reconfigure {}", link.name),
            None => format!("ip link set {} master {bridge}", link.name),
        };
        let fix = facts.let_ours_win(link).unwrap_or_else(usual);
        (master != Some(bridge.as_str()))
            .then(|| Finding::error(Trap::PortTakenOff, name.as_str(), what, causes).fix(fix))
    });
    found.collect()
}

/// Files that give a port a life of its own beside its bridge.
fn configured_beside(facts: &Facts) -> Vec<Finding> {
    let files =
        facts.settings.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "network"));
    let found = files.flat_map(|(path, text)| {
        let ini = Ini::parse(text);
        let is_port = ini.get("Network", "Bridge").is_some();
        let harmful = ["DHCP", "IPv6AcceptRA", "LinkLocalAddressing"].into_iter().filter(move |key| {
            is_port
                && ini.get("Network", key).is_some_and(|value| !["no", "false", "0", "off"].contains(&value))
        });
        harmful.map(|key| {
            let line =
                text.lines().position(|line| line.trim_start().starts_with(key)).map_or(0, |at| at + 1);
            let (path, what) = (path.display(), format!("{key}= for the port of a bridge"));
            let causes =
                "the port stays 'configuring', or gets addresses beside its bridge that nobody reaches";
            Finding::warning(Trap::PortWithAddresses, format!("{path}:{line}"), what, causes)
                .fix(format!("sed -i '{line}d' {path} && networkctl reload"))
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Address;

    fn link(index: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            mtu: 1500,
            kind: kind.map(Into::into),
            master,
            up: true,
            ..Link::default()
        }
    }

    #[test]
    fn a_port_has_nothing_of_its_own() {
        let mut facts = Facts::default();
        facts.observed.links = vec![link(1, "vbr0", Some("bridge"), None), link(2, "enp6s0", None, Some(1))];
        assert_eq!(check(&facts), []);
        facts.observed.addresses.push(Address {
            interface: 2,
            address: "2001:db8:5::7".parse().unwrap(),
            tentative: false,
            deprecated: false,
            duplicate: false,
            global: true,
        });
        assert!(check(&facts)[0].what.contains("2001:db8:5::7 of its own"));
    }

    #[test]
    fn the_file_of_a_port_says_nothing_but_its_bridge() {
        let mut facts = Facts::default();
        let text = "[Match]\nName=a\n[Network]\nBridge=vbr0\nDHCP=yes\nIPv6AcceptRA=no\n";
        facts.settings.insert("/etc/systemd/network/a.network".into(), text.into());
        let found = check(&facts);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].object, "/etc/systemd/network/a.network:5");
    }
}
