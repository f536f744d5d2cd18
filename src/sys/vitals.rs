//! What a machine does, as far as it can be seen from here. Whatever the guest does, looking ends.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::health::{HealthFault, accepts};
use super::{Bus, Net, guest, sockets, together};
use crate::name::MachineName;
use crate::upgrade::{FAILED_UNITS, Vitals};

/// How long a port may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Looks once, at ports that these let through.
///
/// # Errors
/// When its network cannot be looked into: it has just ended.
pub async fn look(
    bus: &Bus,
    name: &MachineName,
    leader: u32,
    at: impl Fn(Vitals) -> Vitals,
) -> Result<Vitals, HealthFault> {
    // First, as it waits until the guest has booted. One without systemd tells nothing.
    let failed = guest::run(bus, name, FAILED_UNITS, &[]).await.ok();
    let failed = failed.map(|list| list.lines().map(|unit| unit.trim().to_owned()).collect());
    let ports = |all: BTreeSet<(_, u16)>| all.into_iter().map(|(_, port)| port).collect();
    let (tcp, udp) = (ports(sockets::listening(leader)?), ports(sockets::hearing(leader)?));
    let addresses = Net::machine(leader)?.addresses().await?;
    let has_address = addresses.iter().any(|address| address.global && !address.tentative);
    let mut vitals = at(Vitals { failed, tcp, udp, has_address });
    let asked = vitals.tcp.iter().map(async |port| {
        let answer = timeout(CONNECT_TIME, accepts(leader, *port)).await;
        matches!(answer, Ok(Ok(()))).then_some(*port)
    });
    vitals.tcp = together(asked).await.into_iter().flatten().collect();
    Ok(vitals)
}
