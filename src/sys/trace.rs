//! Which way packets go: from a machine to the world, hop by hop, and from the
//! world to this host (RFC 4443 3.3, 4).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

const TIME_EXCEEDED: u8 = 3;
const UNREACHABLE: u8 = 1;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// How far, and how long each hop may take.
const HOPS: u32 = 30;
const PATIENCE: Duration = Duration::from_millis(700);
/// How many hops in a row may be silent.
const SILENT: u32 = 4;

/// What was learned of the way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The address that packets leave with.
    pub source: Option<Ipv6Addr>,
    /// Who answered, hop by hop; none: nobody did.
    pub hops: Vec<Option<Ipv6Addr>>,
    pub reached: bool,
}

/// The sockets for it, opened in the network namespace that we are in.
#[derive(Debug)]
pub struct Tracer {
    icmp: Socket,
    source: Option<Ipv6Addr>,
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
        let icmp = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        icmp.set_nonblocking(true)?;
        Ok(Tracer { icmp, source, to })
    }

    /// Asks hop by hop until the address answers, or nobody does any more.
    ///
    /// # Errors
    /// When nothing can be sent or heard.
    pub async fn run(self) -> io::Result<Way> {
        let Tracer { icmp, source, to } = self;
        let id = (std::process::id() as u16).to_be_bytes();
        let socket =
            tokio::net::UdpSocket::from_std(std::net::UdpSocket::from(std::os::fd::OwnedFd::from(icmp)))?;
        let mut way = Way { source, hops: Vec::new(), reached: false };
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
        Ok(way)
    }
}

/// Who answers one request, and whether that is the end.
async fn answer(socket: &tokio::net::UdpSocket, id: [u8; 2], sequence: [u8; 2]) -> (Ipv6Addr, bool) {
    let mut buffer = [0; 256];
    loop {
        let Ok((length, std::net::SocketAddr::V6(from))) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let own = |at: usize| buffer.get(at..at + 4) == Some(&[id[0], id[1], sequence[0], sequence[1]]);
        match buffer[0] {
            ECHO_REPLY if length >= 8 && own(4) => return (*from.ip(), true),
            // What it is about follows 8 bytes of its own and 40 of the header of IPv6.
            TIME_EXCEEDED if length >= 56 && own(52) => return (*from.ip(), false),
            UNREACHABLE if length >= 56 && own(52) => return (*from.ip(), true),
            _ => {}
        }
    }
}

/// Waits until an echo request to this address of ours comes in; who sent it.
///
/// # Errors
/// When it cannot be listened for.
pub async fn arrives(at: Ipv6Addr, limit: Duration) -> io::Result<Option<Ipv6Addr>> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
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
