//! Whether somebody on a link has an address: asked for as neighbours are (RFC 4861 7.2.2), or by
//! an ARP probe (RFC 5227 2.1.1).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::{self, ETH_P_ARP};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::router::solicited_node;
use crate::observed::{Link, v6};

const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Who has an address answers at once; one question may be lost.
const LIMIT: Duration = Duration::from_millis(300);
const TRIES: u32 = 3;

/// Those of the addresses that somebody else on the link has.
///
/// # Errors
/// When we may not open raw sockets.
pub async fn in_use(link: &Link, addresses: &BTreeSet<IpAddr>) -> io::Result<BTreeSet<IpAddr>> {
    let of_v6: Vec<Ipv6Addr> = v6(addresses.iter().copied()).collect();
    let of_v4: Vec<Ipv4Addr> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect();
    let (six, four) = tokio::join!(solicited(link, &of_v6), probed(link, &of_v4));
    Ok(six?.into_iter().map(IpAddr::V6).chain(four?.into_iter().map(IpAddr::V4)).collect())
}

/// Asks three times, and hears who answers.
async fn ask<A>(
    socket: &Socket,
    questions: &[(Vec<u8>, SockAddr)],
    heard: impl Fn(&[u8]) -> Option<A>,
) -> io::Result<Vec<A>> {
    let hears = UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket.try_clone()?)))?;
    let mut found = Vec::new();
    let mut buffer = [0; 256];
    for _ in 0..TRIES {
        for (message, to) in questions {
            // A link that is down has no neighbours.
            if socket.send_to(message, to).is_err() {
                return Ok(found);
            }
        }
        let end = Instant::now() + LIMIT / TRIES;
        while let Ok(length) = timeout_at(end, hears.recv(&mut buffer)).await {
            found.extend(heard(&buffer[..length?]));
        }
    }
    Ok(found)
}

async fn solicited(link: &Link, addresses: &[Ipv6Addr]) -> io::Result<Vec<Ipv6Addr>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(link.name.as_bytes()))?;
    // From farther away it would not be believed (RFC 4861 7.1.1).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(link.index)?;
    let questions = addresses.iter().map(|address| {
        // The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
        let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(address.octets());
        let to = SocketAddrV6::new(solicited_node(*address), 0, 0, link.index);
        (message, SockAddr::from(to))
    });
    let questions: Vec<_> = questions.collect();
    ask(&socket, &questions, |message| advertised(message, addresses)).await
}

/// The address that a message says somebody has.
fn advertised(message: &[u8], asked: &[Ipv6Addr]) -> Option<Ipv6Addr> {
    let target: &[u8; 16] = message.get(8..)?.first_chunk()?;
    let target = Ipv6Addr::from(*target);
    (message[0] == NEIGHBOR_ADVERTISEMENT && asked.contains(&target)).then_some(target)
}

/// Ethernet and IPv4 (RFC 826).
const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

async fn probed(link: &Link, addresses: &[Ipv4Addr]) -> io::Result<Vec<Ipv4Addr>> {
    let Some(mac) = link.mac.filter(|_| !addresses.is_empty()) else { return Ok(Vec::new()) };
    let protocol = (ETH_P_ARP as u16).to_be();
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(protocol))))?;
    socket.set_nonblocking(true)?;
    let everybody = packet_address(link, protocol);
    socket.bind(&everybody)?;
    let questions = addresses.iter().map(|address| {
        // From nobody: it would change what others know of who has the address.
        let message = [&ARP[..], &REQUEST, &mac, &[0; 4], &[0; 6], &address.octets()].concat();
        (message, everybody.clone())
    });
    let questions: Vec<_> = questions.collect();
    ask(&socket, &questions, |message| owned(message, mac, addresses)).await
}

/// The address that the sender of a message says it has.
fn owned(message: &[u8], own: [u8; 6], asked: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let sender: &[u8; 10] = message.strip_prefix(&ARP)?.get(2..)?.first_chunk()?;
    let address = Ipv4Addr::new(sender[6], sender[7], sender[8], sender[9]);
    (sender[..6] != own && asked.contains(&address)).then_some(address)
}

/// All on a link (packet(7)).
fn packet_address(link: &Link, protocol: u16) -> SockAddr {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: link.index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    };
    address.sll_addr[6..].fill(0);
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll is a socket address, and the storage is as large as any.
    unsafe { *storage.view_as::<libc::sockaddr_ll>() = address };
    // SAFETY: it is as long as that, and just filled in.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_has_an_address_says_so() {
        let asked: Ipv6Addr = "2001:db8:c::100".parse().unwrap();
        let message =
            |kind: u8, target: Ipv6Addr| [&[kind, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets()].concat();
        assert_eq!(advertised(&message(136, asked), &[asked]), Some(asked));
        assert_eq!(advertised(&message(135, asked), &[asked]), None);
        assert_eq!(advertised(&message(136, Ipv6Addr::LOCALHOST), &[asked]), None);
        let asked = Ipv4Addr::new(192, 0, 2, 9);
        let reply =
            |mac: [u8; 6], from: Ipv4Addr| [&ARP[..], &[0, 2], &mac, &from.octets(), &[0; 10]].concat();
        assert_eq!(owned(&reply([2; 6], asked), [1; 6], &[asked]), Some(asked));
        // Our own question, and others' affairs.
        assert_eq!(owned(&reply([1; 6], asked), [1; 6], &[asked]), None);
        assert_eq!(owned(&reply([2; 6], Ipv4Addr::UNSPECIFIED), [1; 6], &[asked]), None);
    }

    proptest! {
        #[test]
        fn any_message_may_come(message in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = advertised(&message, &[Ipv6Addr::LOCALHOST]);
            let _ = owned(&message, [1; 6], &[Ipv4Addr::LOCALHOST]);
        }
    }
}
