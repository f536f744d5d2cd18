//! Asks an address again and again, from inside a host, until it answers.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

const LIMIT: Duration = Duration::from_secs(60);

/// A thread that waits for the first answer.
#[derive(Debug)]
pub struct Probe(JoinHandle<Result<Duration>>);

impl Probe {
    /// The first answered echo request; one goes out every 5 ms.
    pub fn ping(host: u32, address: Ipv6Addr, begin: Instant) -> Probe {
        Probe(std::thread::spawn(move || {
            enter(host)?;
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.set_read_timeout(Some(Duration::from_millis(5)))?;
            let to = SocketAddrV6::new(address, 0, 0, 0).into();
            while begin.elapsed() < LIMIT {
                let _ = socket.send_to(&[128, 0, 0, 0, 7, 7, 0, 1], &to);
                let mut buffer = [MaybeUninit::<u8>::uninit(); 64];
                let answer = socket.recv_from(&mut buffer);
                // SAFETY: the first byte is read only where a packet came, and none is empty.
                let kind = answer.as_ref().ok().map(|_| unsafe { buffer[0].assume_init() });
                let from = answer.ok().and_then(|(_, from)| from.as_socket_ipv6()).map(|from| *from.ip());
                if from == Some(address) && kind == Some(129) {
                    return Ok(begin.elapsed());
                }
            }
            bail!("{address} does not answer")
        }))
    }

    /// The first byte of a TCP service.
    pub fn tcp(host: u32, address: Ipv6Addr, port: u16, begin: Instant) -> Probe {
        Probe(std::thread::spawn(move || {
            enter(host)?;
            let to = SocketAddr::from((address, port));
            while begin.elapsed() < LIMIT {
                // A lost SYN is sent again after a second: give up on it sooner.
                let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_millis(20)) else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                if stream.read(&mut [0; 16]).is_ok_and(|length| length > 0) {
                    return Ok(begin.elapsed());
                }
            }
            bail!("no byte from {to}")
        }))
    }

    /// Makes the kernel ask again after 20 ms, and not after a second, for a neighbour that did
    /// not answer on this link (RFC 4861 10, RETRANS_TIMER), as soon as the link is there.
    pub fn eager(host: u32, link: &str, begin: Instant) -> Probe {
        let link = link.to_owned();
        Probe(std::thread::spawn(move || {
            enter(host)?;
            let change = [
                "ntable",
                "change",
                "name",
                "ndisc_cache",
                "dev",
                &link,
                "retrans",
                "20",
                "mcast_probes",
                "1000",
            ];
            // What is in /proc/sys/net is of the network that this thread is in.
            let place = format!("/proc/thread-self/net/dev_snmp6/{link}");
            while begin.elapsed() < LIMIT {
                if Path::new(&place).exists() && Command::new("ip").args(change).status()?.success() {
                    return Ok(begin.elapsed());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            bail!("there is no {link}")
        }))
    }

    pub fn end(self) -> Result<Duration> {
        self.0.join().ok().context("a probe panicked")?
    }
}

/// This thread alone goes into the host's network.
fn enter(host: u32) -> Result<()> {
    setns(File::open(format!("/proc/{host}/ns/net"))?, CloneFlags::CLONE_NEWNET).context("setns")
}
