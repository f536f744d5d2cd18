//! The sockets that listen in a machine (sock_diag(7)). /proc/net/tcp would tell the
//! same, but the kernel goes through all connections of the host for it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// The TCP sockets that listen in the network of a process.
///
/// # Errors
/// When it has ended, or we are not root.
pub fn listening(pid: u32) -> io::Result<BTreeSet<(IpAddr, u16)>> {
    of(pid, IPPROTO_TCP, StateFlags::LISTEN)
}

/// The UDP sockets there that hear everybody.
///
/// # Errors
/// When it has ended, or we are not root.
pub fn hearing(pid: u32) -> io::Result<BTreeSet<(IpAddr, u16)>> {
    // One that is connected is as if established (sock_diag(7)).
    of(pid, IPPROTO_UDP, StateFlags::CLOSE)
}

fn of(pid: u32, protocol: u8, states: StateFlags) -> io::Result<BTreeSet<(IpAddr, u16)>> {
    super::net::within(pid, || {
        let mut found = dump(AF_INET, SocketId::new_v4(), protocol, states.clone())?;
        found.append(&mut dump(AF_INET6, SocketId::new_v6(), protocol, states)?);
        Ok(found)
    })?
}

fn dump(
    family: u8,
    socket_id: SocketId,
    protocol: u8,
    states: StateFlags,
) -> io::Result<BTreeSet<(IpAddr, u16)>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = BTreeSet::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        if !read(&bytes, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads the messages of one answer; whether more will come.
///
/// # Errors
/// When it is no such answer, or says that there is none.
pub fn read(mut bytes: &[u8], found: &mut BTreeSet<(IpAddr, u16)>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let id = response.header.socket_id;
                found.insert((id.source_address, id.source_port));
            }
            NetlinkPayload::Done(_) => return Ok(false),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        if length == 0 {
            return Ok(false);
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(true)
}
