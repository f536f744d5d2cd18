//! How the router on the uplink brings a prefix here.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::cli::session::must_be_root;
use crate::cli::text::err;
use crate::cli::{Fault, Global};
use crate::observe;
use crate::observed::{Link, Observed, v6};
use crate::plan::spec_of;
use crate::pool::Prefix;
use crate::spec::HostSpec;
use crate::sys::kernel::random;
use crate::sys::router::{self, Delivery};
use crate::sys::{Disk, Net, trace};

/// How long an uplink may be without a router.
const ROUTER_TIME: Duration = Duration::from_secs(3);

/// Asks it, from an address of the prefix that nobody has.
pub async fn delivery(link: &Link, observed: &Observed, prefix: Prefix) -> Result<Option<Delivery>, Fault> {
    let Some(router) = router_on(link, observed) else { return Ok(None) };
    Ok(router::delivery(link, router, nobody(prefix, random()?)).await?)
}

/// The IPv6 router that is reached by an interface.
pub fn router_on(link: &Link, observed: &Observed) -> Option<Ipv6Addr> {
    let routes = observed.default_routes.iter().filter(|route| route.interface == link.index);
    v6(routes.filter_map(|route| route.gateway)).next()
}

/// An address of a prefix that nobody gave to anybody: of its last 64 bits, or as many as there
/// are, the first is set, and chance chooses the others.
fn nobody(prefix: Prefix, chance: u128) -> Ipv6Addr {
    let free = 128 - u32::from(prefix.net().prefix_len().max(64));
    let bits = chance & ((1 << free) - 1) | 1 << (free - 1);
    Ipv6Addr::from(u128::from(prefix.net().network()) | bits)
}

/// How packets for the pool come in from the world, if they do.
pub async fn probe(global: &Global, seconds: u64) -> Result<u8, Fault> {
    must_be_root(global)?;
    let observed = observe::host(&Disk::new(&global.root), None).await?;
    let host = spec_of(&observed)?.host;
    let Some(pool) = host.prefix() else {
        return Err(Fault::new("this host has no pool of its own that could be routed to it")
            .hint("`nsctl init --pool PREFIX --uplink INTERFACE`"));
    };
    let told = match &host.uplink {
        Some(uplink) => ask_router(uplink.interface.as_str(), pool).await?,
        None => None,
    };
    if let Some(delivery) = told {
        return verdict(global, delivery, pool, &host);
    }
    if host.answers_on().is_some() {
        return Err(Fault::new(format!("the router does not let see what it does with {pool}"))
            .hint("ping a machine from somewhere else in the world"));
    }
    let address = host.own_address().unwrap_or(pool.host_address());
    err!("ping {address} from somewhere else in the world; waiting for {seconds} s");
    if let Some(from) = trace::arrives(address, Duration::from_secs(seconds)).await? {
        global.report.say(format!("{from} has reached {address}: {pool} is routed to this host"));
        return Ok(0);
    }
    Err(Fault::new(format!("no ping to {address} came in within {seconds} s"))
        .hint(format!("was it sent? Then the provider does not route {pool} here: ask for a route to this host's own address")))
}

/// What the router on the uplink does with the pool, where it lets that be seen. An uplink that
/// networkd has just set up anew has no router for a moment.
async fn ask_router(uplink: &str, pool: Prefix) -> Result<Option<Delivery>, Fault> {
    let mut net = Net::watch_host()?;
    let seen = async |net: &Net| {
        let (links, default_routes) = (net.links().await?, net.default_routes().await?);
        let observed = Observed { links, default_routes, ..Observed::default() };
        let link = observed.link(uplink).cloned();
        Ok(link.filter(|link| router_on(link, &observed).is_some()).map(|link| (link, observed)))
    };
    match net.wait(ROUTER_TIME, seen).await? {
        Some((link, observed)) => delivery(&link, &observed, pool).await,
        None => Ok(None),
    }
}

/// Whether that is as the host is set up.
fn verdict(global: &Global, delivery: Delivery, pool: Prefix, host: &HostSpec) -> Result<u8, Fault> {
    match (delivery, host.answers_on()) {
        (Delivery::Routed, None) => global.report.say(format!("{pool} is routed to this host")),
        (Delivery::OnLink, Some(link)) => {
            global.report.say(format!(
                "{pool} is on the link: its addresses are looked for on {link}, where this host answers for its machines"
            ));
        }
        (Delivery::Routed, Some(link)) => {
            return Err(Fault::new(format!("{pool} is routed to this host, and not looked for on {link}"))
                .hint(format!("`nsctl init --pool {pool}` without --on-link")));
        }
        (Delivery::OnLink, None) => {
            let what = format!("{pool} is not routed to this host: its addresses are looked for on the link");
            let answer = format!(
                "`nsctl init --pool {pool} --on-link`, or ask your provider for a route to this host"
            );
            let route = "ask your provider for a route to this host's own address".to_owned();
            return Err(Fault::new(what).hint(if pool.is_single() { answer } else { route }));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_in_the_prefix() {
        for (net, address) in [
            ("2001:db8:a::/48", "2001:db8:a:0:ffff:ffff:ffff:ffff"),
            ("2001:db8:b::/64", "2001:db8:b:0:ffff:ffff:ffff:ffff"),
            ("2001:db8:b::5:0/112", "2001:db8:b::5:ffff"),
        ] {
            assert_eq!(nobody(net.parse().unwrap(), u128::MAX).to_string(), address);
        }
        assert_eq!(nobody("2001:db8:b::/64".parse().unwrap(), 7).to_string(), "2001:db8:b:0:8000::7");
    }
}
