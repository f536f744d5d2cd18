//! Starts machines, and gives each its address before its guest has even begun.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use crate::emit::GATEWAY;
use crate::name::{MachineName, kernel_name};
use crate::observed::Link;
use crate::sys::bus::Verb;
use crate::sys::tree::Tree;
use crate::sys::{self, Bus, Net, NetError, kernel, net};

/// The machines that are waited for, by their links on this host.
type Early<'a> = BTreeMap<String, (&'a MachineName, Ipv6Addr)>;

/// Queues the start jobs and waits for their ends; meanwhile, each machine
/// is plugged in as soon as its veth is there. What fails of that comes a little later
/// from the guest itself.
pub async fn start(
    bus: &Bus,
    machines: &[MachineName],
    addresses: &BTreeMap<MachineName, Ipv6Addr>,
) -> Result<(), sys::Error> {
    let units: Vec<String> = machines.iter().map(MachineName::unit).collect();
    let jobs = bus.run(Verb::Start, &units);
    let mut early: Early<'_> =
        addresses.iter().map(|(name, at)| (kernel_name(&name.routed_link()), (name, *at))).collect();
    let Some(mut watch) = Net::watch_host().ok().filter(|_| !early.is_empty()) else {
        return Ok(jobs.await?);
    };
    let mut jobs = std::pin::pin!(jobs);
    let done = tokio::select! {
        biased;
        () = plug_in(bus, &mut watch, &mut early) => None,
        done = &mut jobs => Some(done),
    };
    let done = match done {
        None => jobs.await,
        done => done.unwrap_or(Ok(())),
    };
    // Those that were just being plugged in when the last job ended.
    for link in watch.links().await.unwrap_or_default() {
        plug_if_waited_for(bus, &link, &mut early).await;
    }
    Ok(done?)
}

/// Until every machine has been plugged in, or nothing more is heard.
async fn plug_in(bus: &Bus, watch: &mut Net, early: &mut Early<'_>) {
    while !early.is_empty() {
        let Some(link) = watch.next_link().await else { return };
        plug_if_waited_for(bus, &link, early).await;
    }
}

async fn plug_if_waited_for(bus: &Bus, link: &Link, early: &mut Early<'_>) {
    let Some((name, address)) = early.get(&link.name).copied() else { return };
    if plug(bus, name, link.index, address).await.is_ok() {
        early.remove(&link.name);
    }
}

/// A guest whose networkd reads the file bound into it finds what that says, and leaves
/// it. Any other goes by RA, and is spared what makes that slow. machined does not know the
/// machine yet; systemd knows its processes.
async fn plug(bus: &Bus, name: &MachineName, near: u32, address: Ipv6Addr) -> Result<(), sys::Error> {
    let processes = bus.processes(&name.unit()).await;
    let inside = net::secluded(&processes).ok_or_else(|| NetError::NoLink(name.routed_link()))?;
    let net = Net::at(&inside)?;
    // Without it all is the same, only a second later now and then.
    let _ = net::inside(&inside, || kernel::set(RETRANSMIT.0, RETRANSMIT.1));
    if Tree::of(name.as_str()).is_some_and(|tree| tree.runs_networkd()) {
        let _ = net::inside(&inside, || kernel::set(DEAF_TO_RA.0, DEAF_TO_RA.1));
        return Ok(net.plug(near, address, GATEWAY).await?);
    }
    net.far_end(near).await?;
    Ok(net::inside(&inside, || HASTE.iter().try_for_each(|(key, value)| kernel::set(key, value)))??)
}

/// It may have somebody to answer a moment before its router is there, and would ask for that
/// again after a second (RFC 4861 10, RETRANS_TIMER).
const RETRANSMIT: (&str, &str) = ("net/ipv6/neigh/host0/retrans_time_ms", "50");

/// networkd takes router advertisements itself, where its files say so, and tells the kernel not to. On a
/// busy host one may come before networkd does: the guest would have a second address by it.
const DEAF_TO_RA: (&str, &str) = ("net/ipv6/conf/host0/accept_ra", "0");

/// Nobody else is on its link, so nobody has its address already (RFC 4862 5.4), and no router
/// is asked by many at once (RFC 4861 6.3.7): a second each.
const HASTE: [(&str, &str); 2] =
    [("net/ipv6/conf/host0/accept_dad", "0"), ("net/ipv6/conf/host0/router_solicitation_delay", "0")];
