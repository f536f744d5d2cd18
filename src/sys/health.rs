//! Whether a machine does what its definition's [check] asks. Whatever the guest does, asking ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::guest::{self, GuestError};
use super::net::within;
use super::{Bus, Net, NetError};
use crate::name::MachineName;
use crate::spec::HealthCheck;

/// What a machine does not do.
#[derive(Debug, thiserror::Error)]
pub enum HealthFault {
    #[error("it has no address yet")]
    NoAddress,
    #[error("nothing accepts connections at tcp/{0}")]
    Deaf(u16),
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Late(Duration),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("its network cannot be entered: {0}")]
    Io(#[from] io::Error),
    #[error("`{command}` failed{}{said}", if .said.is_empty() { "" } else { ": " })]
    Failed { command: String, said: String },
    #[error(transparent)]
    Guest(GuestError),
}

/// Asks once, for so long at the most.
///
/// # Errors
/// What the machine does not do, or why it could not be asked.
pub async fn ask(
    bus: &Bus,
    name: &MachineName,
    leader: u32,
    check: &HealthCheck,
    limit: Duration,
) -> Result<(), HealthFault> {
    let all = async {
        if let Some(port) = check.tcp {
            accepts(leader, port).await?;
        }
        if let Some(command) = &check.command {
            succeeds(bus, name, command).await?;
        }
        Ok(())
    };
    timeout(limit, all).await.map_err(|_| HealthFault::Late(limit))?
}

/// From inside its network, at the addresses that others know it by: so no route and no firewall of this
/// host's, which other checks are about, has a part in the answer.
pub(super) async fn accepts(leader: u32, port: u16) -> Result<(), HealthFault> {
    let addresses = Net::machine(leader)?.addresses().await?;
    let all = addresses.iter().filter(|address| address.global && !address.tentative);
    let mut tries: FuturesUnordered<_> =
        all.map(|address| connect(leader, SocketAddr::new(address.address, port))).collect();
    if tries.is_empty() {
        return Err(HealthFault::NoAddress);
    }
    while let Some(done) = tries.next().await {
        if done.is_ok() {
            return Ok(());
        }
    }
    Err(HealthFault::Deaf(port))
}

/// A socket stays in the network that it was made in.
async fn connect(leader: u32, to: SocketAddr) -> io::Result<()> {
    let make = || match to.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = within(leader, make)??;
    socket.connect(to).await.map(drop)
}

async fn succeeds(bus: &Bus, name: &MachineName, command: &str) -> Result<(), HealthFault> {
    // Not by sh's option -e, which is for our own scripts: a command is as its writer tried it.
    let words = [command.to_owned()];
    match guest::run(bus, name, "exec /bin/sh -c \"$1\"", &words).await {
        Ok(_) => Ok(()),
        Err(GuestError::Failed { said, .. }) => {
            let last = said.lines().next_back().unwrap_or_default().trim().to_owned();
            Err(HealthFault::Failed { command: command.to_owned(), said: last })
        }
        Err(error) => Err(HealthFault::Guest(error)),
    }
}
