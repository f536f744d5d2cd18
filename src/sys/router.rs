//! What the router on a link does with a prefix: sends it here, or looks for its addresses there.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket as StdUdpSocket};
use std::time::Duration;

use nix::libc::ETH_P_IPV6;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::icmp::{self, ECHO_REPLY, ECHO_REQUEST, ICMPV6, NEIGHBOR_SOLICITATION, coat};
use crate::observed::Link;

/// How long it is waited for, and how long until it is asked again. A router that looks for a
/// neighbour does so at once, and again each second (RFC 4861 10).
const LIMIT: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_millis(400);

/// How a router brings packets for a prefix to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// They come here, whoever of the prefix they are for.
    Routed,
    /// It asks the link for each address, as for a neighbour (RFC 4861 7.2.2).
    OnLink,
}

/// Pings a router from an address that nobody has. The answer comes here where the router sends
/// the whole prefix here; or it is heard to ask who has that address. None: neither is heard.
///
/// # Errors
/// When we may not open raw sockets.
pub async fn delivery(link: &Link, router: Ipv6Addr, from: Ipv6Addr) -> io::Result<Option<Delivery>> {
    // What is for nobody here is seen on the link itself alone (packet(7)).
    let wire = coat(icmp::wire(ETH_P_IPV6)?)?;
    // So that a network card does not pass over the question.
    let group = StdUdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    group.join_multicast_v6(&solicited_node(from), link.index)?;
    let icmp = icmp::raw()?;
    icmp.bind_device(Some(link.name.as_bytes()))?;
    icmp.set_freebind_v6(true)?;
    icmp.bind(&SocketAddrV6::new(from, 0, 0, 0).into())?;
    let icmp = coat(icmp)?;
    let id = (std::process::id() as u16).to_be_bytes();
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        // The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
        let request = [ECHO_REQUEST, 0, 0, 0, id[0], id[1], 0, 1];
        // A firewall of the host's, or a link that is down, hides what the router does.
        if icmp.send_to(&request, SocketAddrV6::new(router, 0, 0, link.index)).await.is_err() {
            return Ok(None);
        }
        let wait = (Instant::now() + PATIENCE).min(end);
        if let Ok(heard) = timeout_at(wait, listen(&wire, from)).await {
            return heard.map(Some);
        }
    }
    Ok(None)
}

async fn listen(wire: &UdpSocket, from: Ipv6Addr) -> io::Result<Delivery> {
    let mut buffer = [0; 128];
    loop {
        let length = wire.recv(&mut buffer).await?;
        if let Some(heard) = heard(&buffer[..length], from) {
            return Ok(heard);
        }
    }
}

/// What a packet tells, header and all (RFC 8200 3).
fn heard(packet: &[u8], from: Ipv6Addr) -> Option<Delivery> {
    let (header, message) = packet.split_first_chunk::<40>()?;
    let address = |bytes: &[u8]| bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
    if header[6] != ICMPV6 {
        return None;
    }
    match *message.first()? {
        NEIGHBOR_SOLICITATION if address(message.get(8..)?)? == from => Some(Delivery::OnLink),
        ECHO_REPLY if address(&header[24..])? == from => Some(Delivery::Routed),
        _ => None,
    }
}

/// Where neighbours are asked for (RFC 4291 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: u8, target: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, ICMPV6, 255];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend(to.octets());
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        packet
    }

    #[test]
    fn what_is_heard_of_a_router() {
        let own: Ipv6Addr = "2001:db8:b::c0:ffee".parse().unwrap();
        let group = solicited_node(own);
        assert_eq!(group.to_string(), "ff02::1:ffc0:ffee");
        assert_eq!(heard(&packet(NEIGHBOR_SOLICITATION, own, group), own), Some(Delivery::OnLink));
        assert_eq!(heard(&packet(ECHO_REPLY, group, own), own), Some(Delivery::Routed));
        // Of others.
        assert_eq!(heard(&packet(NEIGHBOR_SOLICITATION, group, group), own), None);
        assert_eq!(heard(&packet(ECHO_REPLY, own, group), own), None);
        assert_eq!(heard(&packet(ECHO_REQUEST, own, own), own), None);
    }

    proptest! {
        #[test]
        fn any_packet_may_come(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = heard(&packet, Ipv6Addr::LOCALHOST);
        }
    }
}
