//! The pool: routed to this host, not looping, and nobody else's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Facts, Finding, Trap};
use crate::emit::nat64::LINK;
use crate::observed::{Route, proxy_ndp};
use crate::pool::{Lease, Prefix};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let Some(pool) = facts.spec.host.fixed_pool() else { return Vec::new() };
    let checks = [unreachable(facts, pool), address(facts, pool), on_link(facts, pool), proxied(facts, pool)];
    let all = checks.into_iter().flatten().chain(overlaps(facts, pool));
    all.chain(taken(facts)).chain(unanswered(facts)).collect()
}

/// An address of a machine that this host, or its router, has as well.
fn taken(facts: &Facts) -> Vec<Finding> {
    let own: BTreeSet<IpAddr> = facts.observed.own_addresses().collect();
    let held = facts.state.leases.held().iter();
    let twice = held
        .filter(|(_, lease)| matches!(lease, Lease::Address(address) if own.contains(&IpAddr::V6(*address))));
    let findings = twice.map(|(name, lease)| {
        Finding::error(
            Trap::AddressTaken,
            name.as_str(),
            format!("has {lease}, and so has this host, or its router"),
            "the machine is not reached",
        )
        .fix(format!("nsctl stop {name}; write another one below [network] of its definition, as `subnet = \"ADDRESS/128\"`; nsctl apply"))
    });
    findings.collect()
}

/// A machine that runs, and for which this host does not answer on the link.
fn unanswered(facts: &Facts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink() else { return Vec::new() };
    let running = facts.spec.machines.iter().filter(|(name, _)| facts.observed.is_running(name));
    let asked = running.flat_map(|(name, machine)| {
        let lease = machine.network.routed().and_then(|_| facts.state.leases.get(name));
        facts.spec.host.answered_for(machine, lease).into_iter().map(move |address| (name, address))
    });
    let missing = asked.filter(|(_, address)| !facts.proxies.contains(&(uplink.index, *address)));
    let findings = missing.map(|(name, address)| {
        let what = format!("is not answered for on {}: nobody there is told where {address} is", uplink.name);
        let fix = format!("ip neigh replace proxy {address} dev {}", uplink.name);
        let causes = "the machine is not reached, where its address is looked for";
        Finding::error(Trap::NotAnsweredFor, name.as_str(), what, causes).fix_safely(fix)
    });
    findings.collect()
}

/// Without it, packets for an unused /64 go back out the default route: a loop (RFC 7084 L-14).
fn unreachable(facts: &Facts, pool: Prefix) -> Option<Finding> {
    let net = IpNet::V6(pool.net());
    let there = facts.routes.iter().any(|route| route.destination == net && route.unreachable);
    (!there && facts.spec.host.answers_on().is_none()).then(|| {
        let causes = "packets for what is unused of it go round between this host and the router, and leak";
        Finding::error(Trap::PoolLoops, pool.to_string(), "has no unreachable route", causes)
            .fix_safely("networkctl reconfigure lo || systemctl restart systemd-networkd")
    })
}

fn address(facts: &Facts, pool: Prefix) -> Option<Finding> {
    let own = IpAddr::V6(facts.spec.host.own_address().unwrap_or(pool.host_address()));
    let there = facts.observed.addresses.iter().any(|address| address.address == own);
    (!there).then(|| {
        let what = format!("this host has no address of it: {own} is missing");
        let causes =
            "machines cannot ask this host for names, and its own packets to them have a foreign sender";
        Finding::error(Trap::PoolAddressMissing, pool.to_string(), what, causes)
            .fix_safely(format!("ip addr add {own}/128 dev lo"))
    })
}

/// The uplink has an address whose prefix holds the pool: routers ask for neighbours there. A
/// single /64 is often routed to a host that has an address of it on its uplink.
fn on_link(facts: &Facts, pool: Prefix) -> Option<Finding> {
    let uplink = facts.uplink().filter(|_| !pool.is_single())?;
    let mut held = facts.routes.iter().filter(|route| {
        route.interface == Some(uplink.index)
            && route.by_kernel
            && !route.unreachable
            && route.destination.prefix_len() > 0
            && route.destination.contains(&IpNet::V6(pool.net()))
    });
    let route = held.next()?;
    let mine =
        facts.observed.addresses.iter().find(|address| {
            address.interface == uplink.index && route.destination.contains(&address.address)
        });
    let fix = mine.map_or_else(
        || format!("ip -6 route del {} dev {}", route.destination, uplink.name),
        |mine| format!("ip addr del {}/{} dev {}", mine.address, route.destination.prefix_len(), uplink.name),
    );
    let what = format!("is on-link on {}: {} is a route of that interface", uplink.name, route.destination);
    let causes = "the provider does not route it to this host, but looks for each address as a neighbour";
    Some(Finding::error(Trap::PoolNotRouted, pool.to_string(), what, causes).fix(fix))
}

/// Whether the host answers for neighbours of the pool: a sign that it is not routed.
fn proxied(facts: &Facts, pool: Prefix) -> Option<Finding> {
    let uplink = facts.uplink().filter(|_| facts.spec.host.answers_on().is_none())?;
    let key = proxy_ndp(&uplink.name);
    (facts.switch(&key) == Some("1")).then(|| {
        Finding::warning(
            Trap::PoolNotRouted,
            pool.to_string(),
            format!("{} proxies neighbour discovery", uplink.name),
            "a pool that answers only so is not routed: each machine costs the router a neighbour entry, and breaks at its limits",
        )
        .fix(format!("sysctl -w net.ipv6.conf.{}.proxy_ndp=0", uplink.name))
    })
}

/// A route into the pool that is none of our machines'.
fn overlaps(facts: &Facts, pool: Prefix) -> Vec<Finding> {
    let foreign = facts.routes.iter().filter(|route| match route.destination {
        IpNet::V6(net) => {
            // Who routes for this host may have given it an address of the pool's beginning.
            let first = pool.subnet(0).is_some_and(|first| first.net().contains(&net));
            let own = route.by_kernel && net.prefix_len() == 128 || first && (route.by_kernel || route.by_ra);
            net != pool.net()
                && pool.net().contains(&net)
                && !route.unreachable
                && !own
                && !is_ours(facts, route)
        }
        IpNet::V4(_) => false,
    });
    let findings = foreign.filter_map(|route| {
        let name = facts.link_name(route.interface?);
        let what = format!("of the pool is routed to {name}, which is no machine of nsctl's");
        let (net, causes) = (route.destination, "the machine that gets this subnet is not reached");
        Some(
            Finding::error(Trap::RouteIntoPool, net.to_string(), what, causes)
                .fix(format!("ip -6 route del {net} dev {name}")),
        )
    });
    findings.collect()
}

fn is_ours(facts: &Facts, route: &Route) -> bool {
    let Some(index) = route.interface else { return false };
    let ours = facts.spec.machines.keys().filter_map(|name| facts.observed.host_end(name));
    let shared = ["lo", LINK].contains(&facts.link_name(index));
    shared || ours.map(|link| link.index).any(|own| own == index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Address;

    #[test]
    fn a_pool_needs_its_route_and_its_address() {
        let mut facts = Facts::default();
        facts.spec.host.whole = "2001:db8:a::/48".parse().ok();
        let found = check(&facts);
        assert!(found.iter().any(|f| f.what.contains("no unreachable route")));
        assert!(found.iter().any(|f| f.what.contains("2001:db8:a::1 is missing")));
        let destination: IpNet = "2001:db8:a::/48".parse().unwrap();
        let route = Route { destination, unreachable: true, metric: 1024, ..Route::default() };
        facts.routes.push(route.clone());
        facts.observed.addresses.push(Address {
            interface: 1,
            address: "2001:db8:a::1".parse().unwrap(),
            tentative: false,
            deprecated: false,
            duplicate: false,
            global: true,
        });
        assert_eq!(check(&facts), []);
        let destination = "2001:db8:a:7::/64".parse().unwrap();
        facts.routes.push(Route { destination, interface: Some(9), unreachable: false, ..route });
        assert!(check(&facts)[0].what.contains("no machine of nsctl's"));
    }
}
