//! Starts machines, and gives each its address before its guest has even begun.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use crate::emit::GATEWAY;
use crate::name::{MachineName, kernel_name};
use crate::sys::bus::Verb;
use crate::sys::tree::Tree;
use crate::sys::{Bus, BusError, Net, NetError, net};

/// Queues all start jobs at once and waits for their ends; meanwhile, each machine
/// is plugged in as soon as its veth is there. The guest's networkd finds what the
/// file bound into it says, and leaves it. What fails of that comes from the file.
pub async fn start(
    bus: &Bus,
    machines: &[MachineName],
    addresses: &BTreeMap<MachineName, Ipv6Addr>,
) -> Result<(), BusError> {
    let units: Vec<String> = machines.iter().map(MachineName::unit).collect();
    let jobs = bus.run(Verb::Start, &units);
    let reads_file = |name: &MachineName| Tree::of(name.as_str()).is_some_and(|tree| tree.runs_networkd());
    let early = addresses.iter().filter(|(name, _)| reads_file(name));
    let early: BTreeMap<String, (&MachineName, Ipv6Addr)> =
        early.map(|(name, address)| (kernel_name(&name.routed_link()), (name, *address))).collect();
    let Some(watch) = Net::watch_host().ok().filter(|_| !early.is_empty()) else { return jobs.await };
    let plugged = plug_in(bus, watch, early);
    let (mut jobs, mut plugged) = (std::pin::pin!(jobs), std::pin::pin!(plugged));
    tokio::select! {
        biased;
        () = &mut plugged => jobs.await,
        done = &mut jobs => done,
    }
}

/// Until every machine has been plugged in, or nothing more is heard.
async fn plug_in(bus: &Bus, mut watch: Net, mut early: BTreeMap<String, (&MachineName, Ipv6Addr)>) {
    while !early.is_empty() {
        let Some(link) = watch.next_link().await else { return };
        let Some((name, address)) = early.get(&link.name).copied() else { continue };
        if plug(bus, name, link.index, address).await.is_ok() {
            early.remove(&link.name);
        }
    }
}

/// machined does not know the machine yet; systemd knows its processes.
async fn plug(bus: &Bus, name: &MachineName, near: u32, address: Ipv6Addr) -> Result<(), NetError> {
    let processes = bus.processes(&name.unit()).await;
    let inside = net::secluded(&processes).ok_or_else(|| NetError::NoLink(name.routed_link()))?;
    Net::machine(inside)?.plug(near, address, GATEWAY).await
}
