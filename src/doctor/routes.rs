//! Default routes: none, or two that fight.

use super::{Facts, Finding, Trap};
use crate::observed::Route;
use crate::spec::{Uplink, WireGuard};

pub fn check(facts: &Facts) -> Vec<Finding> {
    if facts.spec.host.pool().is_none() {
        return Vec::new();
    }
    let defaults: Vec<&Route> = facts
        .routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6())
        .filter(|route| !route.unreachable)
        .collect();
    // A tunnel of WireGuard's has its default route in a table of its own.
    let wireguard = facts.spec.host.uplink.as_ref().and_then(Uplink::wireguard);
    if wireguard.is_some_and(WireGuard::takes_all) && defaults.is_empty() {
        return Vec::new();
    }
    let Some(best) = defaults.iter().map(|route| route.metric).min() else {
        let uplink = facts.spec.host.uplink.as_ref().map_or("the uplink", |uplink| uplink.interface.as_str());
        let causes = "machines are reached by nobody beyond this host's own links";
        let finding = Finding::error(Trap::NoDefaultRoute, "the host", "has no IPv6 default route", causes);
        return vec![finding.fix(format!("networkctl reconfigure {uplink}"))];
    };
    let mut interfaces: Vec<u32> =
        defaults.iter().filter(|route| route.metric == best).filter_map(|route| route.interface).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    fight(facts, &interfaces).into_iter().collect()
}

/// Two interfaces with default routes of one metric: which is taken changes.
fn fight(facts: &Facts, interfaces: &[u32]) -> Option<Finding> {
    if interfaces.len() < 2 {
        return None;
    }
    let names: Vec<&str> = interfaces.iter().map(|index| facts.link_name(*index)).collect();
    let uplink = facts.uplink().map(|link| link.index);
    let other = *interfaces.iter().find(|index| Some(**index) != uplink)?;
    let what = "have IPv6 default routes of the same metric";
    let causes = "packets of machines leave now here, now there, and one of the two drops them";
    Some(Finding::error(Trap::TwoDefaultRoutes, names.join(", "), what, causes).fix(without(facts, other)))
}

/// What takes an interface its default route for good: the next advertisement
/// would bring it back.
fn without(facts: &Facts, interface: u32) -> String {
    let learned = facts.routes.iter().any(|route| {
        route.interface == Some(interface) && route.by_ra && route.destination.prefix_len() == 0
    });
    let file = facts.managed.get(&interface).and_then(|managed| managed.file.as_deref());
    match file.and_then(|file| file.rsplit('/').next()).filter(|_| learned) {
        Some(file) => format!(
            "mkdir -p /etc/systemd/network/{file}.d && printf '[IPv6AcceptRA]\\nUseGateway=no\\n' > \
             /etc/systemd/network/{file}.d/50-no-default-route.conf && networkctl reload"
        ),
        None => format!("ip -6 route del default dev {}", facts.link_name(interface)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Link;

    fn default_route(interface: u32, metric: u32) -> Route {
        let destination = "::/0".parse().unwrap();
        Route { destination, interface: Some(interface), metric, ..Route::default() }
    }

    #[test]
    fn one_default_route_is_right() {
        let mut facts = Facts::default();
        facts.spec.host.whole = "2001:db8:a::/48".parse().ok();
        assert!(check(&facts)[0].what.contains("no IPv6 default route"));
        facts.routes = vec![default_route(1, 1024), default_route(2, 2048)];
        assert_eq!(check(&facts), []);
        let link =
            |index, name: &str| Link { index, name: name.into(), mtu: 1500, up: true, ..Link::default() };
        facts.observed.links = vec![link(1, "wan0"), link(2, "enp6s0")];
        facts.routes[1].metric = 1024;
        assert!(check(&facts)[0].object.contains("wan0, enp6s0"));
    }
}
