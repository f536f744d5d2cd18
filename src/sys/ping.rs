//! Whether an IPv6 address answers: ICMPv6 echo (RFC 4443 4).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::icmp::{ECHO_REPLY, ECHO_REQUEST, coat, raw};

/// How long an answer may take before the next request goes out.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long until it is tried again where the way there is only just being made.
const NO_WAY_YET: Duration = Duration::from_millis(5);

/// Sends echo requests until the first answer; `false` when none came in time.
///
/// # Errors
/// When we may not open a raw socket; EINVAL when the kernel has no room for another
/// neighbour (ip6_output.c).
pub async fn answers(address: Ipv6Addr, limit: Duration) -> io::Result<bool> {
    let socket = coat(raw()?)?;
    let to = SocketAddrV6::new(address, 0, 0, 0);
    let id = (std::process::id() as u16).to_be_bytes();
    let end = Instant::now() + limit;
    for sequence in 0u16.. {
        let s = sequence.to_be_bytes();
        // The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
        let request = [ECHO_REQUEST, 0, 0, 0, id[0], id[1], s[0], s[1]];
        let mut fault = None;
        let patience = match socket.send_to(&request, to).await {
            Ok(_) => PATIENCE,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                fault = Some(error);
                PATIENCE
            }
            Err(error) => later(error).map(|()| NO_WAY_YET)?,
        };
        let wait = (Instant::now() + patience).min(end);
        if timeout_at(wait, reply(&socket, address, id)).await.is_ok() {
            return Ok(true);
        }
        if Instant::now() >= end {
            return fault.map_or(Ok(false), Err);
        }
    }
    Ok(false)
}

/// Faults that mean "not there yet": no route, no neighbour, a link that is down.
fn later(error: io::Error) -> io::Result<()> {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable, WouldBlock};
    match error.kind() {
        HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable | WouldBlock => Ok(()),
        _ => Err(error),
    }
}

/// Waits for the answer to one of our requests among all ICMPv6 that comes in.
async fn reply(socket: &UdpSocket, address: Ipv6Addr, id: [u8; 2]) {
    let mut buffer = [0; 64];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if is_reply(&buffer[..length], id) && from.ip() == address {
            return;
        }
    }
}

/// Whether a message of ICMPv6 answers one of our requests.
pub fn is_reply(message: &[u8], id: [u8; 2]) -> bool {
    message.len() >= 8 && message[0] == ECHO_REPLY && message[4..6] == id
}
