//! `nsctl init` alone: what this host has, and which line fits. Changes nothing.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::Path;

use ipnet::{IpNet, Ipv6Net};

use super::upstream;
use serde::Serialize;

use crate::cli::fault::{argument, live_only};
use crate::cli::session::{is_live, must_be_root};
use crate::cli::text::{out, sanitize};
use crate::cli::{Fault, Global};
use crate::emit::LAST_RESORT;
use crate::name::IfName;
use crate::observe;
use crate::observed::{Link, Route, v6};
use crate::plan::spec_of;
use crate::pool::Prefix;
use crate::sys::router::Delivery;
use crate::sys::{Disk, Net};

/// A way to the world.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Way {
    interface: String,
    router: Option<Ipv6Addr>,
    /// The prefixes that are all this host's.
    given: Vec<Ipv6Net>,
    /// The prefixes that this host has addresses of there, and what the router does with them.
    prefixes: Vec<(Ipv6Net, Option<Delivery>)>,
}

pub async fn run(global: &Global, uplink: Option<String>) -> Result<u8, Fault> {
    let uplink: Option<IfName> = uplink.map(|word| argument(&word)).transpose()?;
    if !is_live(global) {
        return Err(live_only("what a host has is seen")
            .hint("what is known is told: `nsctl --root DIR init --pool PREFIX --uplink IFACE`"));
    }
    must_be_root(global)?;
    let files = observe::host(&Disk::new(Path::new("/")), None).await?;
    if let Some(pool) = spec_of(&files)?.host.pool() {
        global.report.say(format!(
            "this host has a pool, {pool}; `nsctl pool` tells of it, `nsctl init --pool PREFIX` names another"
        ));
        return Ok(0);
    }
    let net = Net::host()?;
    let (links, routes) = (net.links().await?, net.main_routes().await?);
    let observed = crate::observed::Observed {
        addresses: net.addresses().await?,
        default_routes: net.default_routes().await?,
        links,
        ..Default::default()
    };
    let leads = |link: &&Link| match &uplink {
        Some(name) => link.is_called(name.as_str()),
        None => upstream::router_on(link, &observed).is_some(),
    };
    let given = given(&routes);
    let mut ways = Vec::new();
    for link in observed.links.iter().filter(leads) {
        let mut prefixes = Vec::new();
        let others = on_the_link(link, &routes);
        for net in others.into_iter().filter(|net| !given.iter().any(|whole| whole.contains(net))) {
            let told = match Prefix::try_from(net) {
                Ok(prefix) => upstream::delivery(link, &observed, prefix).await?,
                Err(_) => continue,
            };
            prefixes.push((net, told));
        }
        ways.push(Way {
            interface: link.name.clone(),
            router: upstream::router_on(link, &observed),
            given: given.clone(),
            prefixes,
        });
    }
    let taken: BTreeSet<Ipv6Addr> = v6(observed.own_addresses()).collect();
    if global.json {
        global.report.answer(&ways)?;
    } else {
        out!("{}", sanitize(&sheet(&ways, &observed.routers(), &taken)));
    }
    Ok(0)
}

/// The prefixes of at most a /64 that an interface has routes for.
fn on_the_link(link: &Link, routes: &[Route]) -> BTreeSet<Ipv6Net> {
    let own = routes.iter().filter(|route| route.interface == Some(link.index) && !route.unreachable);
    let nets = own.filter_map(|route| match route.destination {
        IpNet::V6(net) if (64..=112).contains(&net.prefix_len()) => Some(net),
        _ => None,
    });
    nets.collect()
}

/// The prefixes that are this machine's, as the nsctl of its host has told it.
fn given(routes: &[Route]) -> Vec<Ipv6Net> {
    let marked = routes.iter().filter(|route| route.unreachable && route.metric == LAST_RESORT);
    let nets = marked.filter_map(|route| match route.destination {
        IpNet::V6(net) if net.prefix_len() < 64 && Prefix::try_from(net).is_ok() => Some(net),
        _ => None,
    });
    nets.collect::<BTreeSet<_>>().into_iter().collect()
}

fn sheet(ways: &[Way], routers: &BTreeSet<Ipv6Addr>, taken: &BTreeSet<Ipv6Addr>) -> String {
    if ways.is_empty() {
        return "this host has no IPv6 router. A tunnel broker routes it a prefix over IPv4:\n    \
                nsctl init --tunnel he --server ADDRESS --client-address ADDRESS/64 --pool PREFIX\n\
                Or somebody gives you one through WireGuard, and a file for it:\n    \
                nsctl init --wireguard wg0.conf --pool PREFIX"
            .to_owned();
    }
    ways.iter().map(|way| of_way(way, routers, taken)).collect::<Vec<_>>().join("\n\n")
}

fn of_way(way: &Way, routers: &BTreeSet<Ipv6Addr>, taken: &BTreeSet<Ipv6Addr>) -> String {
    let Way { interface, router, given, prefixes } = way;
    let router = router.map_or("no IPv6 router".to_owned(), |router| format!("the router {router}"));
    let mut lines = vec![format!("{interface} leads to {router}.")];
    for net in given {
        lines.push(format!("{net} is all this machine's, as its host says."));
        lines.push(format!("    nsctl init --pool {net} --uplink {interface}"));
    }
    for (net, told) in prefixes {
        lines.extend(of_prefix(interface, *net, *told, routers, taken));
    }
    if !given.is_empty() {
        return lines.join("\n");
    }
    lines.extend([
        "If your provider has given you a prefix of its own for this host, a /48 to /63, that is better:"
            .to_owned(),
        format!("    nsctl init --pool PREFIX --uplink {interface}"),
        "If it delegates one by DHCPv6, as many do to homes:".to_owned(),
        format!("    nsctl init --delegated {interface}"),
    ]);
    lines.join("\n")
}

fn of_prefix(
    interface: &str,
    net: Ipv6Net,
    told: Option<Delivery>,
    routers: &BTreeSet<Ipv6Addr>,
    taken: &BTreeSet<Ipv6Addr>,
) -> Vec<String> {
    let holds_router = routers.iter().any(|router| net.contains(router));
    let part = Prefix::try_from(net).ok().and_then(|prefix| prefix.part_without(taken));
    let pool = part.filter(|_| holds_router).map_or(net, Prefix::net);
    if holds_router && part.is_none() {
        return vec![format!("Of {net}, which the router is in, no part is free.")];
    }
    let line = |on_link: &str| format!("    nsctl init --pool {pool} --uplink {interface}{on_link}");
    match told {
        Some(Delivery::Routed) => vec![
            format!("It sends here what is for any address of {net}: that is routed to this host."),
            line(""),
        ],
        Some(Delivery::OnLink) => vec![
            format!(
                "It looks for the addresses of {net} on the link: this host can answer for its machines."
            ),
            line(" --on-link"),
        ],
        None => vec![
            format!("It does not let see what it does with {net}. If it is routed to this host:"),
            line(""),
            "If not, and its addresses are looked for on the link:".to_owned(),
            line(" --on-link"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_and_the_line_for_it() {
        let router = Some("fe80::1".parse().unwrap());
        let way = |prefixes| Way { interface: "wan0".into(), router, given: Vec::new(), prefixes };
        let given = || vec!["2001:db8:a:10::/60".parse().unwrap()];
        let net: Ipv6Net = "2001:db8:b::/64".parse().unwrap();
        let inside: BTreeSet<Ipv6Addr> = ["2001:db8:b::1".parse().unwrap()].into();
        let none = BTreeSet::new();
        let sheets = [
            sheet(&[], &none, &none),
            sheet(&[way(vec![])], &none, &none),
            sheet(&[way(vec![(net, Some(Delivery::Routed))])], &none, &inside),
            sheet(&[way(vec![(net, Some(Delivery::OnLink))])], &inside, &inside),
            sheet(&[way(vec![(net, None)])], &none, &none),
            sheet(&[Way { given: given(), ..way(vec![]) }], &none, &none),
        ];
        insta::assert_snapshot!(sheets.join("\n----\n"));
    }
}
