//! The routing daemon: it runs, reads our file, somebody hears it, and what it learns reaches the kernel.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv6Net};

use super::{Facts, Finding, Trap};
use crate::emit::ManagedFile;
use crate::emit::routing::{MACHINES, speakers};
use crate::observed::Bird;
use crate::pool::Lease;
use crate::spec::{Daemon, Routing};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let routing = facts.spec.host.routing.as_ref().filter(|routing| routing.daemon == Daemon::Bird);
    let (Some(routing), Some(bird)) = (routing, &facts.bird) else { return Vec::new() };
    let mute = |what: &str, fix: &str| {
        let causes = "no router is told where machines are, and those of other hosts are not found";
        vec![Finding::error(Trap::RoutingSilent, "bird", what, causes).fix(fix)]
    };
    if !bird.runs {
        return mute("does not run", "systemctl enable --now bird");
    }
    if !bird.protocols.iter().any(|name| name == MACHINES) {
        let file = ManagedFile::BirdConfig.path();
        let what = format!("does not read {}", file.display());
        return mute(
            &what,
            "echo 'include \"/etc/bird/nsctl*.conf\";' >> /etc/bird/bird.conf && birdc configure",
        );
    }
    let speakers = speakers(routing);
    let alone = no_neighbor(routing, bird);
    alone.into_iter().chain(twice(facts, bird, &speakers)).chain(swallowed(facts, bird, &speakers)).collect()
}

fn no_neighbor(routing: &Routing, bird: &Bird) -> Option<Finding> {
    let asked = routing.neighbor.len().max(1);
    (bird.neighbors < asked).then(|| {
        let what = match bird.neighbors {
            0 => "has no neighbor".to_owned(),
            some => format!("has {some} of {asked} neighbors"),
        };
        let causes = "what they would tell, and be told, is not routed";
        Finding::error(Trap::RoutingNeighbor, "bird", what, causes).fix("birdc show protocols '\"nsctl_*\"'")
    })
}

/// Somebody else says that he has what a machine here has.
fn twice(facts: &Facts, bird: &Bird, speakers: &[String]) -> Vec<Finding> {
    let heard: BTreeSet<Ipv6Net> = learned(bird, speakers).collect();
    let held = facts.state.leases.held().iter().filter_map(|(name, lease)| match lease {
        Lease::Subnet(subnet) => Some((name, subnet.net())),
        Lease::Address(address) => Some((name, Ipv6Net::from(*address))),
        Lease::Number(_) => None,
    });
    let findings = held.filter(|(_, net)| heard.contains(net)).map(|(name, net)| {
        let what = format!("has {net}, and another host announces it, too");
        let causes = "routers choose one of the two, and the other is not reached";
        let fix = format!("birdc show route table nsctl all for {net}");
        Finding::error(Trap::AnnouncedTwice, name.as_str(), what, causes).fix(fix)
    });
    findings.collect()
}

/// What others have announced is not in the kernel: a filter of bird.conf keeps it away.
fn swallowed(facts: &Facts, bird: &Bird, speakers: &[String]) -> Option<Finding> {
    let own = facts.spec.host.prefix().map(|own| own.net());
    let there: BTreeSet<IpNet> = facts.routes.iter().map(|route| route.destination).collect();
    let foreign = learned(bird, speakers).filter(|net| own.is_none_or(|own| !own.contains(net)));
    let missing: BTreeSet<Ipv6Net> = foreign.filter(|net| !there.contains(&IpNet::V6(*net))).collect();
    let first = missing.first()?;
    let others = match missing.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    let what = format!("has learned {first}{others}, which the kernel does not have");
    let causes = "packets to those machines take another way, or none";
    Some(
        Finding::error(Trap::RoutingFiltered, "bird", what, causes)
            .fix("let the kernel protocol of bird.conf have all of table master6: `protocol kernel { ipv6 { export all; }; }`, and birdc configure"),
    )
}

fn learned<'b>(bird: &'b Bird, speakers: &'b [String]) -> impl Iterator<Item = Ipv6Net> + 'b {
    bird.routes.iter().filter(|route| speakers.contains(&route.protocol)).map(|route| route.destination)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{BirdRoute, Route};

    #[test]
    fn each_thing_that_goes_wrong_has_its_words() {
        let mut facts = Facts::default();
        let host = "pool = \"2001:db8:a::/48\"\nshare = \"2001:db8:a:100::/56\"\n[uplink]\ninterface = \"wan0\"\n[routing]\nprotocol = \"ospf\"\n";
        facts.spec.host = toml::from_str(host).unwrap();
        let pool = facts.spec.host.pool().unwrap();
        facts.state.leases.lease(pool, &"web".parse().unwrap(), None).unwrap();
        let traps = |facts: &Facts| check(facts).into_iter().map(|finding| finding.trap).collect::<Vec<_>>();
        assert_eq!(traps(&facts), []);
        facts.bird = Some(Bird::default());
        assert!(check(&facts)[0].what.contains("does not run"));
        facts.bird = Some(Bird { runs: true, ..Bird::default() });
        assert_eq!(traps(&facts), [Trap::RoutingSilent]);
        assert!(check(&facts)[0].what.contains("does not read /etc/bird/nsctl.conf"));
        let protocols = [MACHINES, "nsctl_ospf"].map(str::to_owned).to_vec();
        let route = |net: &str, protocol: &str| BirdRoute {
            destination: net.parse().unwrap(),
            protocol: protocol.to_owned(),
        };
        let own = route("2001:db8:a:101::/64", MACHINES);
        let mut bird = Bird { runs: true, protocols, neighbors: 0, routes: vec![own] };
        facts.bird = Some(bird.clone());
        assert_eq!(traps(&facts), [Trap::RoutingNeighbor]);
        bird.neighbors = 1;
        facts.bird = Some(bird.clone());
        assert_eq!(traps(&facts), []);
        bird.routes.push(route("2001:db8:a:7::/64", "nsctl_ospf"));
        facts.bird = Some(bird.clone());
        assert_eq!(traps(&facts), [Trap::RoutingFiltered]);
        let destination = "2001:db8:a:7::/64".parse().unwrap();
        facts.routes.push(Route { destination, ..Route::default() });
        assert_eq!(traps(&facts), []);
        bird.routes.push(route("2001:db8:a:101::/64", "nsctl_ospf"));
        facts.bird = Some(bird);
        facts.routes.push(Route { destination: "2001:db8:a:101::/64".parse().unwrap(), ..Route::default() });
        assert_eq!(traps(&facts), [Trap::AnnouncedTwice]);
    }
}
