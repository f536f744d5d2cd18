//! What is said in ICMPv6 (RFC 4443, RFC 4861), and the sockets that hear it.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// The next header that it is (RFC 8200 3).
pub const ICMPV6: u8 = 58;
pub const ECHO_REQUEST: u8 = 128;
pub const ECHO_REPLY: u8 = 129;
pub const NEIGHBOR_SOLICITATION: u8 = 135;

/// A raw socket of it.
pub fn raw() -> io::Result<Socket> {
    open(Domain::IPV6, Type::RAW, Protocol::ICMPV6)
}

/// What sees packets of a protocol on the links themselves, whoever they are for (packet(7)).
pub fn wire(protocol: i32) -> io::Result<Socket> {
    open(Domain::PACKET, Type::DGRAM, Protocol::from(i32::from((protocol as u16).to_be())))
}

fn open(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket in the coat of one that tokio knows how to drive.
pub fn coat(socket: Socket) -> io::Result<UdpSocket> {
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}
