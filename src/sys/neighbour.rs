//! Whether somebody on a link has an address: asked for as neighbours are (RFC 4861 7.2.2), or by
//! an ARP probe (RFC 5227 2.1.1).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use nix::libc::{self, ETH_P_ARP, ETH_P_IPV6};
use socket2::{SockAddr, Socket};
use tokio::time::{Instant, timeout_at};

use super::icmp::{self, ICMPV6, NEIGHBOR_SOLICITATION};
use super::router::solicited_node;
use crate::observed::{Link, v6};

const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Who has an address answers at once; one question may be lost.
const LIMIT: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_millis(400);
const TRIES: u32 = 3;

/// Those of the addresses that somebody else on the link has. Where an address is answered for that
/// nobody has, somebody answers for all of them (a gateway with local proxies, say), and that tells nothing: none.
/// `own` is this host's IPv4 address there.
///
/// # Errors
/// When we may not open raw sockets.
pub async fn in_use(
    link: &Link,
    own: Option<Ipv4Addr>,
    addresses: &BTreeSet<IpAddr>,
) -> io::Result<BTreeSet<IpAddr>> {
    let random = super::kernel::random()?;
    let mut of_v6: Vec<Ipv6Addr> = v6(addresses.iter().copied()).collect();
    let nobody6 = of_v6.first().map(|first| {
        let bits = u128::from(*first) >> 64 << 64 | u128::from(random as u64);
        Ipv6Addr::from(bits)
    });
    of_v6.extend(nobody6);
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let mut of_v4: Vec<Ipv4Addr> = v4.collect();
    // For documents (RFC 5737).
    let nobody4 = (!of_v4.is_empty()).then(|| Ipv4Addr::new(198, 51, 100, random as u8));
    of_v4.extend(nobody4);
    let (six, four) = tokio::join!(solicited(link, &of_v6), probed(link, own, &of_v4));
    let six = told(six?, nobody6).into_iter().map(IpAddr::V6);
    Ok(six.chain(told(four?, nobody4).into_iter().map(IpAddr::V4)).collect())
}

/// What was heard, unless it tells nothing.
fn told<A: PartialEq>(heard: Vec<A>, nobody: Option<A>) -> Vec<A> {
    if nobody.is_some_and(|nobody| heard.contains(&nobody)) { Vec::new() } else { heard }
}

/// Asks three times, and hears who answers on the link itself (packet(7)): of a message that came
/// from farther away, no other socket tells.
async fn ask<A>(
    link: &Link,
    kind: i32,
    asks: &Socket,
    questions: &[(Vec<u8>, SockAddr)],
    heard: impl Fn(&[u8]) -> Option<A>,
) -> io::Result<Vec<A>> {
    let wire = icmp::wire(kind)?;
    wire.bind(&packet_address(link, kind))?;
    let hears = icmp::coat(wire)?;
    let mut found = Vec::new();
    let mut buffer = [0; 256];
    for turn in 1..=TRIES {
        for (message, to) in questions {
            if !sent(asks, message, to).await? {
                return Ok(found);
            }
        }
        // Who answers for others takes his time (kernel, proxy_delay).
        let patience = if turn == TRIES { LAST } else { LIMIT };
        let end = Instant::now() + patience;
        while let Ok(length) = timeout_at(end, hears.recv(&mut buffer)).await {
            found.extend(heard(&buffer[..length?]));
        }
    }
    Ok(found)
}

/// Whether there is a link to send it on; one whose queue is full is waited for.
async fn sent(socket: &Socket, message: &[u8], to: &SockAddr) -> io::Result<bool> {
    loop {
        match socket.send_to(message, to) {
            Ok(_) => return Ok(true),
            Err(error) => match error.raw_os_error().unwrap_or_default() {
                libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                libc::ENETDOWN | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV => return Ok(false),
                _ => return Err(error),
            },
        }
    }
}

async fn solicited(link: &Link, addresses: &[Ipv6Addr]) -> io::Result<Vec<Ipv6Addr>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let socket = icmp::raw()?;
    socket.bind_device(Some(link.name.as_bytes()))?;
    // From farther away it would not be believed (RFC 4861 7.1.1).
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(link.index)?;
    let questions = addresses.iter().map(|address| {
        // The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
        let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(address.octets());
        // Where to answer (RFC 4861 4.3): Linux knows no other way to somebody new.
        message.extend(link.mac.iter().flat_map(|mac| [SOURCE, 1].into_iter().chain(*mac)));
        let to = SocketAddrV6::new(solicited_node(*address), 0, 0, link.index);
        (message, SockAddr::from(to))
    });
    let questions: Vec<_> = questions.collect();
    // So that a network card does not pass over the answer, which may be for all nodes.
    ask(link, ETH_P_IPV6, &socket, &questions, |packet| advertised(packet, link.mac, addresses)).await
}

/// Options of neighbour discovery: whose link-layer address it is (RFC 4861 4.6.1).
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

/// The address that a packet says somebody on the link has, who is not this host: others may tell
/// what they know of us.
fn advertised(packet: &[u8], own: Option<[u8; 6]>, asked: &[Ipv6Addr]) -> Option<Ipv6Addr> {
    let (header, message) = packet.split_first_chunk::<40>()?;
    let (fixed, options) = message.split_first_chunk::<24>()?;
    // RFC 4861 7.1.2: a router would have taken one off.
    let is_near = header[6] == ICMPV6 && header[7] == 255;
    let target: &[u8; 16] = fixed[8..].first_chunk()?;
    let target = Ipv6Addr::from(*target);
    let ours = own.is_some_and(|mac| options.starts_with(&[TARGET, 1]) && options[2..].starts_with(&mac));
    let found = is_near && fixed[0] == NEIGHBOR_ADVERTISEMENT && fixed[1] == 0 && !ours;
    (found && asked.contains(&target)).then_some(target)
}

/// Ethernet and IPv4 (RFC 826).
const ARP: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: [u8; 2] = [0, 1];

async fn probed(link: &Link, own: Option<Ipv4Addr>, addresses: &[Ipv4Addr]) -> io::Result<Vec<Ipv4Addr>> {
    let Some(mac) = link.mac.filter(|_| !addresses.is_empty()) else { return Ok(Vec::new()) };
    let socket = icmp::wire(ETH_P_ARP)?;
    let everybody = packet_address(link, ETH_P_ARP);
    // From nobody: it changes nothing of what others know of who has the address. And from this host:
    // Linux answers nobody for others (kernel, arp_process).
    let senders = [Some(Ipv4Addr::UNSPECIFIED), own].into_iter().flatten();
    let questions = senders.flat_map(|from| addresses.iter().map(move |address| (from, address)));
    let questions = questions.map(|(from, address)| {
        let message = [&ARP[..], &REQUEST, &mac, &from.octets(), &[0; 6], &address.octets()].concat();
        (message, everybody.clone())
    });
    let questions: Vec<_> = questions.collect();
    ask(link, ETH_P_ARP, &socket, &questions, |message| owned(message, mac, addresses)).await
}

/// The address that the sender of a message says it has.
fn owned(message: &[u8], own: [u8; 6], asked: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let sender: &[u8; 10] = message.strip_prefix(&ARP)?.get(2..)?.first_chunk()?;
    let address = Ipv4Addr::new(sender[6], sender[7], sender[8], sender[9]);
    (sender[..6] != own && asked.contains(&address)).then_some(address)
}

/// All on a link (packet(7)).
fn packet_address(link: &Link, protocol: i32) -> SockAddr {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
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
        let packet = |hops: u8, kind: u8, target: Ipv6Addr| {
            let header = [&[0x60, 0, 0, 0, 0, 32, ICMPV6, hops][..], &[0; 32]].concat();
            [&header[..], &[kind, 0, 0, 0, 0x60, 0, 0, 0], &target.octets(), &[TARGET, 1, 2, 2, 2, 2, 2, 2]]
                .concat()
        };
        let of = |packet: &[u8]| advertised(packet, Some([1; 6]), &[asked]);
        assert_eq!(of(&packet(255, 136, asked)), Some(asked));
        assert_eq!(of(&packet(255, 136, asked)[..64]), Some(asked), "without the option");
        assert_eq!(of(&packet(254, 136, asked)), None, "from farther away");
        assert_eq!(of(&packet(255, 135, asked)), None);
        assert_eq!(of(&packet(255, 136, Ipv6Addr::LOCALHOST)), None);
        assert_eq!(advertised(&packet(255, 136, asked), Some([2; 6]), &[asked]), None, "of this host itself");
        assert_eq!(told(vec![1, 2], Some(2)), Vec::<i32>::new(), "somebody answers for all");
        assert_eq!(told(vec![1], Some(2)), [1]);
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
        fn any_message_may_come(message in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = advertised(&message, Some([1; 6]), &[Ipv6Addr::LOCALHOST]);
            let _ = owned(&message, [1; 6], &[Ipv4Addr::LOCALHOST]);
        }
    }
}
