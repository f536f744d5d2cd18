//! What networkd does after it has read its files is waited for; the rest is done here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::error::{DELEGATION_TIME, NETWORKD_TIME, StepError};
use super::verify;
use crate::name::{IfName, MachineName};
use crate::pool::Prefix;
use crate::sys::{self, Bus, Net, neighbour};

pub async fn pool_route(pool: Prefix) -> Result<(), StepError> {
    let seen = async |net: &Net| Ok(net.is_unreachable(pool.net()).await?.then_some(()));
    let found = Net::watch_host()?.wait(NETWORKD_TIME, seen).await?;
    found.ok_or_else(|| StepError::Networkd { look_at: "lo".into() })
}

/// networkd puts an unreachable route for what is delegated in place.
pub async fn delegation() -> Result<(), StepError> {
    let seen = async |net: &Net| Ok((!net.delegated().await?.is_empty()).then_some(()));
    Net::watch_host()?.wait(DELEGATION_TIME, seen).await?.ok_or(StepError::NotDelegated)
}

/// A tunnel has its address as soon as it is there.
pub async fn tunnel_up(link: &IfName) -> Result<(), StepError> {
    let seen = async |net: &Net| {
        let index =
            net.links().await?.into_iter().find(|other| other.is_called(link.as_str())).map(|l| l.index);
        let addresses = net.addresses().await?;
        Ok(addresses.iter().any(|a| Some(a.interface) == index && a.global && !a.tentative).then_some(()))
    };
    let found = Net::watch_host()?.wait(NETWORKD_TIME, seen).await?;
    found.ok_or_else(|| StepError::Networkd { look_at: link.to_string() })
}

/// An address that somebody else has would be his or the machine's, as it happens.
pub async fn probe(link: &IfName, addresses: &BTreeMap<MachineName, Vec<IpAddr>>) -> Result<(), StepError> {
    taken(link, addresses).await?.into_iter().next().map_or(Ok(()), Err)
}

/// What of these somebody else has.
///
/// # Errors
/// When nobody can be asked.
pub async fn taken(
    link: &IfName,
    addresses: &BTreeMap<MachineName, Vec<IpAddr>>,
) -> Result<Vec<StepError>, StepError> {
    let net = Net::host()?;
    let links = net.links().await?;
    // Nobody can be asked where there is no link yet.
    let Some(there) = links.iter().find(|other| other.is_called(link.as_str())) else {
        return Ok(Vec::new());
    };
    let all = addresses.values().flatten().copied().collect();
    let own = net.addresses().await?.into_iter().filter(|own| own.interface == there.index);
    let own = { own }.find_map(|own| match own.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let taken = neighbour::in_use(there, own, &all).await.map_err(sys::NetError::from)?;
    let whose = addresses.iter().flat_map(|(name, own)| own.iter().map(move |address| (name, *address)));
    let found = whose.filter(|(_, address)| taken.contains(address));
    let elsewhere = |(machine, address): (&MachineName, IpAddr)| {
        let (machine, link) = (machine.clone(), link.clone());
        StepError::Elsewhere { machine, address, link }
    };
    Ok(found.map(elsewhere).collect())
}

pub async fn bridge_up(bridge: &IfName, port: &IfName) -> Result<(), StepError> {
    let mut net = Net::watch_host()?;
    let joined = joined(&mut net, port.as_str(), bridge.as_str(), NETWORKD_TIME).await?;
    if joined { Ok(()) } else { Err(StepError::Networkd { look_at: format!("{bridge} {port}") }) }
}

/// networkd says where each port is to be, too, but not in one moment.
pub async fn filter_vlans(
    bridge: &IfName,
    on: bool,
    places: &BTreeMap<String, u16>,
) -> Result<(), StepError> {
    match Net::host()?.filter_vlans(bridge.as_str(), on, places).await {
        // It is taken back with its bridge.
        Err(sys::NetError::NoLink(_)) if !on => Ok(()),
        Ok(filters) if filters != on => Err(StepError::NoVlans(bridge.clone())),
        done => Ok(done.map(drop)?),
    }
}

async fn joined(net: &mut Net, port: &str, bridge: &str, limit: Duration) -> Result<bool, sys::Error> {
    let seen = async |net: &Net| {
        let links = net.links().await?;
        let index = links.iter().find(|link| link.is_called(bridge)).map(|link| link.index);
        let master = links.iter().find(|link| link.is_called(port)).and_then(|link| link.master);
        Ok((index.is_some() && index == master).then_some(()))
    };
    Ok(net.wait(limit, seen).await?.is_some())
}

/// networkd joins the link to a bridge that it made; to others we do. Then the
/// guest must see its cable pulled, or it keeps the lease of another network.
pub async fn replug(bus: &Bus, machine: &MachineName, link: &str, bridge: &IfName) -> Result<(), StepError> {
    let leader = verify::leader(bus, machine).await?;
    let mut guest = Net::watch_machine(leader)?;
    let mut net = Net::watch_host()?;
    let mut is_joined = joined(&mut net, link, bridge.as_str(), Duration::from_secs(1)).await?;
    if !is_joined {
        // It has read nothing new of a link that somebody took off; what it cannot do is done below.
        let _ = bus.reconfigure(net.index(link).await?).await;
        is_joined = joined(&mut net, link, bridge.as_str(), Duration::from_secs(3)).await?;
    }
    if !is_joined {
        net.join(link, bridge.as_str()).await?;
    }
    Ok(net.flap(link, &mut guest).await?)
}
