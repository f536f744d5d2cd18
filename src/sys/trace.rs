//! Which way packets go, and how large: from a machine to the world, hop by hop, and
//! from the world to this host (RFC 4443 3.2, 3.3, 4; RFC 8201).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc::IPV6_MTU;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;

use super::icmp::{self, ECHO_REPLY, ECHO_REQUEST};

const TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const UNREACHABLE: u8 = 1;
/// How far, and how long each hop may take.
const HOPS: u32 = 30;
const PATIENCE: Duration = Duration::from_millis(700);
/// The bytes that each link must take (RFC 8200 5).
pub const LEAST_MTU: u32 = 1280;
const IPV6_HEADER: usize = 40;
/// How many large packets are sent: a way has hardly more than two narrow places.
const TRIES: u16 = 5;
/// How many hops in a row may be silent.
const SILENT: u32 = 4;

/// What was learned of the way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The address that packets leave with.
    pub source: Option<Ipv6Addr>,
    /// Who answered, hop by hop; none: nobody did.
    pub hops: Vec<Option<Ipv6Addr>>,
    pub reached: bool,
    pub packets: Packets,
}

/// How large a packet may be on the way, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// Nothing was reached, or nothing could be sent.
    Unknown,
    /// So large: what is larger is told to be too big.
    UpTo(u32),
    /// Small ones get through, and one of so many bytes is lost without a word.
    Vanish(u32),
}

/// The sockets for it, opened in the network namespace that we are in.
#[derive(Debug)]
pub struct Tracer {
    icmp: Socket,
    source: Option<Ipv6Addr>,
    /// The bytes that a packet may have on the first link, or as the kernel has learned of the way.
    mtu: u32,
    to: Ipv6Addr,
}

impl Tracer {
    /// Opens them; needs root.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn open(to: Ipv6Addr) -> io::Result<Tracer> {
        // A datagram socket that is connected sends nothing, but chooses its source.
        let asks = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        let source = match asks.connect((to, 9)).and_then(|()| asks.local_addr()) {
            Ok(std::net::SocketAddr::V6(own)) => Some(*own.ip()),
            _ => None,
        };
        let icmp = icmp::raw()?;
        setsockopt(&icmp, sockopt::Ipv6DontFrag, &true)?;
        let mtu = option(&asks, IPV6_MTU).ok().and_then(|mtu| u32::try_from(mtu).ok());
        Ok(Tracer { icmp, source, mtu: mtu.unwrap_or(LEAST_MTU), to })
    }

    /// Asks hop by hop until the address answers, or nobody does any more.
    ///
    /// # Errors
    /// When nothing can be sent or heard.
    pub async fn run(self) -> io::Result<Route> {
        let Tracer { icmp, source, mtu, to } = self;
        let id = (std::process::id() as u16).to_be_bytes();
        let socket = icmp::coat(icmp)?;
        let mut way = Route { source, hops: Vec::new(), reached: false, packets: Packets::Unknown };
        let mut silent = 0;
        for hop in 1..=HOPS {
            socket2::SockRef::from(&socket).set_unicast_hops_v6(hop)?;
            let sequence = (hop as u16).to_be_bytes();
            let request = [ECHO_REQUEST, 0, 0, 0, id[0], id[1], sequence[0], sequence[1]];
            if socket.send_to(&request, SocketAddrV6::new(to, 0, 0, 0)).await.is_err() {
                break;
            }
            let heard = tokio::time::timeout(PATIENCE, answer(&socket, id, sequence)).await.ok();
            let (from, ends) = heard.map_or((None, false), |(from, ends)| (Some(from), ends));
            way.hops.push(from);
            silent = if from.is_some() { 0 } else { silent + 1 };
            if ends || silent >= SILENT {
                way.reached = from == Some(to);
                break;
            }
        }
        while way.hops.last() == Some(&None) {
            way.hops.pop();
        }
        if way.reached {
            socket2::SockRef::from(&socket).set_unicast_hops_v6(64)?;
            // What the guest has done to its links is its own affair.
            way.packets = packets(&socket, id, to, mtu).await.unwrap_or(Packets::Unknown);
        }
        Ok(way)
    }
}

/// What the kernel says of a socket of IPv6 (ipv6(7)).
fn option(socket: &impl AsRawFd, name: nix::libc::c_int) -> io::Result<nix::libc::c_int> {
    use nix::libc::{IPPROTO_IPV6, c_int, getsockopt};
    let (mut value, mut length): (c_int, _) = (0, std::mem::size_of::<c_int>() as u32);
    // SAFETY: the option is an int; both places live as long as the call.
    let done = unsafe {
        getsockopt(socket.as_raw_fd(), IPPROTO_IPV6, name, (&raw mut value).cast(), &raw mut length)
    };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Sends ever smaller packets, as it is told to, until one is answered.
async fn packets(socket: &UdpSocket, id: [u8; 2], to: Ipv6Addr, mtu: u32) -> io::Result<Packets> {
    let mut size = mtu;
    for sequence in 0..TRIES {
        let sequence = (0x1000 + sequence).to_be_bytes();
        let mut request = vec![0; size.max(LEAST_MTU) as usize - IPV6_HEADER];
        request[0] = ECHO_REQUEST;
        request[4..8].copy_from_slice(&[id[0], id[1], sequence[0], sequence[1]]);
        socket.send_to(&request, SocketAddrV6::new(to, 0, 0, 0)).await?;
        match tokio::time::timeout(PATIENCE, told(socket, id, sequence)).await {
            Ok(None) => return Ok(Packets::UpTo(size)),
            // Nobody may ask for less than 1280 (RFC 8201 4).
            Ok(Some(less)) if (LEAST_MTU..size).contains(&less) => size = less,
            // One packet may well be lost by chance.
            Ok(Some(_)) | Err(_) => {}
        }
    }
    Ok(Packets::Vanish(size))
}

/// None: it was answered; else the bytes that are not too many for the next hop.
async fn told(socket: &UdpSocket, id: [u8; 2], sequence: [u8; 2]) -> Option<u32> {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        match Heard::of(&buffer[..length], id, sequence) {
            Some(Heard::Reply) => return None,
            Some(Heard::TooBig(bytes)) => return Some(bytes),
            _ => {}
        }
    }
}

/// Who answers one request, and whether that is the end.
async fn answer(socket: &UdpSocket, id: [u8; 2], sequence: [u8; 2]) -> (Ipv6Addr, bool) {
    let mut buffer = [0; 256];
    loop {
        let Ok((length, std::net::SocketAddr::V6(from))) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        match Heard::of(&buffer[..length], id, sequence) {
            Some(Heard::Reply | Heard::Unreachable) => return (*from.ip(), true),
            Some(Heard::TimeExceeded) => return (*from.ip(), false),
            Some(Heard::TooBig(_)) | None => {}
        }
    }
}

/// What a message of ICMPv6 says of one of our requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    Reply,
    Unreachable,
    TimeExceeded,
    /// So many bytes are not too many for the next hop.
    TooBig(u32),
}

impl Heard {
    /// None: it is about something else.
    pub fn of(message: &[u8], id: [u8; 2], sequence: [u8; 2]) -> Option<Heard> {
        let own = [id[0], id[1], sequence[0], sequence[1]];
        let (head, rest) = message.split_at_checked(4)?;
        if head[0] == ECHO_REPLY {
            return rest.starts_with(&own).then_some(Heard::Reply);
        }
        // What it is about follows 8 bytes of its own and 40 of the header of IPv6.
        let about = message.get(52..56)?;
        if about != own {
            return None;
        }
        match head[0] {
            UNREACHABLE => Some(Heard::Unreachable),
            TIME_EXCEEDED => Some(Heard::TimeExceeded),
            TOO_BIG => Some(Heard::TooBig(u32::from_be_bytes(rest.first_chunk().copied()?))),
            _ => None,
        }
    }
}

/// Waits until an echo request to this address of ours comes in; who sent it.
///
/// # Errors
/// When it cannot be listened for.
pub async fn arrives(at: Ipv6Addr, limit: Duration) -> io::Result<Option<Ipv6Addr>> {
    let socket = icmp::raw()?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    // SAFETY: the socket is owned by what is registered, and closed after it.
    let socket = unsafe { AsyncFd::register(socket)? };
    let watch = async {
        loop {
            let mut guard = socket.readable().await?;
            match sender(socket.get_ref(), at) {
                Ok(Some(from)) => return Ok(from),
                Ok(None) => {}
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(error) => return Err(io::Error::from(error)),
            }
        }
    };
    match tokio::time::timeout(limit, watch).await {
        Ok(found) => found.map(Some),
        Err(_) => Ok(None),
    }
}

/// The sender of the next message, if it is an echo request to this address.
fn sender(socket: &Socket, at: Ipv6Addr) -> nix::Result<Option<Ipv6Addr>> {
    let mut buffer = [0u8; 256];
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut pieces = [io::IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut pieces, Some(&mut control), MsgFlags::empty())?;
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let from = message.address.map(|address| address.ip());
    let is_request = message.bytes > 0 && message.iovs().next().is_some_and(|piece| piece[0] == ECHO_REQUEST);
    Ok(from.filter(|_| is_request && to == Some(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_our_request_is_heard() {
        let heard = |message: &[u8]| Heard::of(message, [1, 2], [3, 4]);
        assert_eq!(heard(&[ECHO_REPLY, 0, 0, 0, 1, 2, 3, 4, 9]), Some(Heard::Reply));
        assert_eq!(heard(&[ECHO_REPLY, 0, 0, 0, 1, 2, 3, 5]), None);
        assert_eq!(heard(&[ECHO_REPLY, 0, 0, 0, 1, 2, 3]), None);
        let about = |kind: u8, own: [u8; 4]| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 5, 0];
            message.resize(52, 0);
            message.extend(own);
            message
        };
        assert_eq!(heard(&about(TOO_BIG, [1, 2, 3, 4])), Some(Heard::TooBig(1280)));
        assert_eq!(heard(&about(TIME_EXCEEDED, [1, 2, 3, 4])), Some(Heard::TimeExceeded));
        assert_eq!(heard(&about(UNREACHABLE, [1, 2, 3, 4])), Some(Heard::Unreachable));
        for message in
            [&about(TOO_BIG, [1, 2, 3, 5])[..], &about(TOO_BIG, [1, 2, 3, 4])[..55], &[], &[TOO_BIG]]
        {
            assert_eq!(heard(message), None);
        }
    }
}
