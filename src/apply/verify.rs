//! Sees that a machine is where it should be.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Verified;
use super::error::{ANSWER_TIME, StepError};
use crate::emit::LAN;
use crate::name::MachineName;
use crate::pool::Planned;
use crate::spec::HealthCheck;
use crate::sys::{self, Bus, Net, health, now, ping};

/// How long a bridged machine is watched for addresses: DHCP takes 0.6 to 6 s.
const LAN_TIME: Duration = Duration::from_secs(15);

/// The first process of a machine that has been started.
///
/// # Errors
/// When it has ended, with what it said at last.
pub async fn leader(bus: &Bus, machine: &MachineName) -> Result<u32, StepError> {
    match bus.leader(machine).await? {
        Some(leader) => Ok(leader),
        None => Err(ended(machine).await),
    }
}

async fn ended(machine: &MachineName) -> StepError {
    let said = sys::bus::last_words(&machine.unit(), ANSWER_TIME).await;
    StepError::Ended { machine: machine.clone(), said }
}

/// Waits in the machine's own namespace until its address is there, then asks
/// it. A neighbour that is asked before it is there costs a second (RFC 4861
/// 7.2.2). A guest that goes by RA chooses another address in its /64.
pub async fn answer(
    bus: &Bus,
    machine: &MachineName,
    planned: Planned,
    started: Option<Instant>,
) -> Result<Verified, StepError> {
    let begin = now();
    let leader = leader(bus, machine).await?;
    let mut net = Net::watch_machine(leader)?;
    let mut crowded = false;
    while begin.elapsed() < ANSWER_TIME {
        let found = net.wait(Duration::from_secs(1), async |net| own_address(net, planned).await).await?;
        if let Some(address) = found {
            match ping::answers(address, Duration::from_secs(2)).await {
                Ok(true) => {
                    let after = started.map(|started| started.elapsed());
                    return Ok(Verified::Answers { machine: machine.clone(), address, planned, after });
                }
                Err(error) if error.kind() != ErrorKind::InvalidInput => return Err(error.into()),
                answer => crowded = answer.is_err(),
            }
        }
        if bus.leader(machine).await? != Some(leader) {
            return Err(ended(machine).await);
        }
    }
    if crowded {
        return Err(StepError::Crowded);
    }
    let seen = net.addresses().await?.iter().map(|a| a.address.to_string()).collect::<Vec<_>>();
    let seen = if seen.is_empty() { "no address at all".into() } else { seen.join(", ") };
    Err(StepError::NoAnswer { machine: machine.clone(), address: planned, seen })
}

/// The machine's address in its /64: the planned one, or else the first. Of a
/// delegated prefix just the host part is planned.
async fn own_address(net: &Net, planned: Planned) -> Result<Option<Ipv6Addr>, sys::Error> {
    let mut addresses = net.addresses().await?;
    // What the LAN gives a second interface is of another prefix.
    let second = net.links().await?.into_iter().find(|link| link.is_called(LAN)).map(|link| link.index);
    addresses.retain(|address| Some(address.interface) != second);
    let mut own = addresses.iter().filter(|a| a.global && !a.tentative).filter_map(|a| match a.address {
        IpAddr::V6(address) if planned.is_of(address) => Some(address),
        _ => None,
    });
    let first = own.clone().next();
    Ok(own.find(|address| u128::from(*address) as u64 == planned.host_part()).or(first))
}

/// Asks until the answer is good, or as long as the definition says. A machine may start again meanwhile, and one
/// that fails goes on: nothing is undone for it.
pub async fn works(
    bus: &Bus,
    machine: &MachineName,
    check: &HealthCheck,
    started: Option<Instant>,
) -> Verified {
    let begin = now();
    let mut seen = begin;
    loop {
        let left = check.within().saturating_sub(begin.elapsed()).max(AGAIN);
        let why = match bus.leader(machine).await {
            Ok(Some(leader)) => {
                seen = now();
                match health::ask(bus, machine, leader, check, left).await {
                    Ok(()) => {
                        let after = started.map(|started| started.elapsed());
                        return Verified::Works { machine: machine.clone(), check: check.clone(), after };
                    }
                    Err(why) => why.to_string(),
                }
            }
            Ok(None) => "it has ended".to_owned(),
            Err(error) => error.to_string(),
        };
        if begin.elapsed() + AGAIN >= check.within() || seen.elapsed() > GONE {
            return Verified::Fails { machine: machine.clone(), check: check.clone(), why };
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// How long one that has ended may take to come back: systemd starts it again after five seconds.
const GONE: Duration = Duration::from_secs(15);

/// How long a machine that is not well yet is left alone. Nothing tells when its services are.
const AGAIN: Duration = Duration::from_millis(250);

/// Those of one of its links alone, where that is named. A machine that moved has its old addresses
/// for a moment: they do not count, unless nothing else comes.
pub async fn lan_address(
    bus: &Bus,
    machine: &MachineName,
    link: Option<&str>,
    moved: bool,
) -> Result<Verified, StepError> {
    let leader = leader(bus, machine).await?;
    let mut net = Net::watch_machine(leader)?;
    let old = if moved { global(&net, link).await? } else { Vec::new() };
    let seen = async |net: &Net| {
        let mut addresses = global(net, link).await?;
        addresses.retain(|address| !old.contains(address));
        Ok((!addresses.is_empty()).then_some(addresses))
    };
    let addresses = match net.wait(LAN_TIME, seen).await? {
        Some(addresses) => addresses,
        None => global(&net, link).await?,
    };
    Ok(Verified::OnLan { machine: machine.clone(), addresses })
}

async fn global(net: &Net, link: Option<&str>) -> Result<Vec<IpAddr>, sys::Error> {
    let mut addresses = net.addresses().await?;
    if let Some(link) = link {
        let links = net.links().await?;
        let index = links.iter().find(|other| other.is_called(link)).map(|link| link.index);
        addresses.retain(|address| Some(address.interface) == index);
    }
    let addresses = addresses.into_iter().filter(|a| a.global && !a.tentative);
    Ok(addresses.map(|a| a.address).collect())
}
