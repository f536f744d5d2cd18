//! Machines from inside: one without an address, and a service that listens where
//! nobody can reach it.

use std::net::IpAddr;

use super::facts::GuestFacts;
use super::{Facts, Finding, Trap};
use crate::name::MachineName;
use crate::observed::Address;
use crate::pool::Lease;
use crate::provision::Init;
use crate::spec::{MachineSpec, Network};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let ours =
        facts.guests.iter().filter_map(|(name, guest)| Some((name, facts.spec.machines.get(name)?, guest)));
    ours.flat_map(|(name, machine, guest)| {
        let waits = waits(name, guest);
        let without = waits.or_else(|| addressless(facts, name, machine, guest));
        let without = without.or_else(|| failing(name, machine, guest));
        without.into_iter().chain(unheard(name, machine, guest))
    })
    .collect()
}

/// It may well have its address already, from nsctl.
fn waits(name: &MachineName, guest: &GuestFacts) -> Option<Finding> {
    guest.processes.contains("systemd-firstboot").then(|| {
        let what = "waits in its first boot for answers on a console that nobody reads";
        let tree = format!("/var/lib/machines/{name}");
        let fix = format!("systemd-firstboot --root={tree} --setup-machine-id; nsctl restart {name}");
        Finding::error(Trap::FirstBoot, name.as_str(), what, "none of its services start").fix(fix)
    })
}

/// A machine that is where it should be, and does not do what it is for.
fn failing(name: &MachineName, machine: &MachineSpec, guest: &GuestFacts) -> Option<Finding> {
    let (check, why) = (machine.check.as_ref()?, guest.fails.as_ref()?);
    let finding =
        Finding::error(Trap::CheckFails, name.as_str(), format!("fails its check, {check}"), why.clone());
    Some(finding.fix(format!("nsctl logs {name}")))
}

/// Why a machine has no address, the likeliest first.
fn addressless(
    facts: &Facts,
    name: &MachineName,
    machine: &MachineSpec,
    guest: &GuestFacts,
) -> Option<Finding> {
    if let Some(Address { address, .. }) = guest.addresses.iter().find(|address| address.duplicate) {
        let what = format!("{address} is a duplicate: somebody else on its link has it");
        let finding =
            Finding::error(Trap::AddressTaken, name.as_str(), what, "it is not used (RFC 4862 5.4.5)");
        return Some(finding.fix(format!("nsctl restart {name}")));
    }
    let has = match &machine.network {
        Network::Routed(_) => {
            let lease = facts.state.leases.get(name)?;
            guest.addresses.iter().any(|a| match a.address {
                IpAddr::V6(address) => a.global && lease.is_on_link(address),
                IpAddr::V4(_) => false,
            })
        }
        Network::Bridge(_) => guest.addresses.iter().any(|a| a.global),
    };
    if has {
        return None;
    }
    let causes = "nobody reaches it, and it reaches nobody";
    let finding =
        |trap, what: &str| Finding::error(trap, name.as_str(), format!("has no address: {what}"), causes);
    let networkd = |what| finding(Trap::GuestWithoutNetworkd, what);
    let itself = |what| finding(Trap::GuestWithoutSystemd, what);
    let runs = |process: &str| guest.processes.contains(process);
    let systemd = guest.tree.as_ref().is_some_and(|tree| matches!(tree.init, Init::Systemd(_)));
    let shell = |command: &str| format!("nsctl shell {name} {command}");
    let single = matches!(facts.state.leases.get(name), Some(Lease::Address(_)));
    if single && !systemd && machine.network.routed().is_some() {
        // No router advertisement tells of a single address: its unit gives it, at its start.
        return Some(itself("what its start gave it is gone").fix(format!("nsctl restart {name}")));
    }
    Some(if runs("NetworkManager") {
        networkd("NetworkManager runs in it, which leaves host0 alone, and networkd does not")
            .fix(shell("systemctl enable --now systemd-networkd"))
    } else if systemd && !runs("systemd-networkd") {
        networkd("systemd-networkd does not run in it").fix(shell("systemctl enable --now systemd-networkd"))
    } else if systemd {
        networkd("systemd-networkd runs in it, and does not configure host0")
            .fix(shell("networkctl reconfigure host0"))
    } else {
        itself("it takes no router advertisements on host0").fix(format!(
            "nsenter --net=/proc/$(machinectl show {name} -p Leader --value)/ns/net sysctl -w \
             net.ipv6.conf.host0.accept_ra=1 net.ipv6.conf.host0.disable_ipv6=0"
        ))
    })
}

/// Ports that are open, and on which the service listens on IPv4 or loopback alone.
fn unheard(name: &MachineName, machine: &MachineSpec, guest: &GuestFacts) -> Vec<Finding> {
    let exposed =
        |port: u16| machine.expose.iter().any(|expose| expose.port.first == port && expose.to.is_some());
    let listens = |port: u16| guest.listening.iter().filter(move |(_, other)| *other == port);
    let has_ipv4 = machine.ipv4.is_some_and(|ipv4| ipv4.address().is_some());
    let heard = |address: &IpAddr| (address.is_ipv6() || has_ipv4) && !address.is_loopback();
    let reached = |port: u16| listens(port).any(|(address, _)| heard(address));
    let mut findings = Vec::new();
    for open in machine.open.iter().filter(|open| open.protocol == crate::spec::Protocol::Tcp) {
        for port in open.first..=open.last.min(open.first.saturating_add(100)) {
            let Some((address, _)) = listens(port).next().filter(|_| !reached(port) && !exposed(port)) else {
                continue;
            };
            let to = if address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { *address };
            let what = format!("listens on {address} port {port} alone, which is open for IPv6");
            let to = std::net::SocketAddr::new(to, port);
            findings.push(
                Finding::error(Trap::UnheardService, name.as_str(), what, "who connects is refused")
                    .fix(format!("nsctl expose {name} tcp/{port} --to {to}")),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_ipv4_alone_is_found() {
        let mut facts = Facts::default();
        let name: MachineName = "web".parse().unwrap();
        let text = "open = [\"tcp/8080\"]\n[network]\nmode = \"bridge\"\nbridge = \"b\"\n"
            .replace("open = [\"tcp/8080\"]\n", "");
        let mut machine = MachineSpec::parse(std::path::Path::new("x"), &text).unwrap();
        machine.open = vec!["tcp/8080".parse().unwrap()];
        let guest = |listening: &[&str]| GuestFacts {
            addresses: vec![Address {
                interface: 1,
                address: "2001:db8::2".parse().unwrap(),
                tentative: false,
                deprecated: false,
                duplicate: false,
                global: true,
            }],
            listening: listening.iter().map(|text| (text.parse().unwrap(), 8080)).collect(),
            ..GuestFacts::default()
        };
        facts.spec.machines.insert(name.clone(), machine);
        facts.guests.insert(name.clone(), guest(&["0.0.0.0"]));
        assert_eq!(check(&facts)[0].fix, "nsctl expose web tcp/8080 --to 127.0.0.1:8080");
        facts.guests.insert(name.clone(), guest(&["::1"]));
        assert_eq!(check(&facts)[0].fix, "nsctl expose web tcp/8080 --to [::1]:8080");
        facts.guests.insert(name.clone(), guest(&["::"]));
        assert_eq!(check(&facts), []);
        facts.guests.insert(name, GuestFacts::default());
        assert!(check(&facts)[0].what.contains("no address"));
    }
}
