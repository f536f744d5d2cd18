//! Traffic between two network namespaces, made and measured by threads of our own: each of the
//! two ends is kept on a processor of its own, so that all sides have the same.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::figures::Figures;

/// The port of all servers, of TCP and UDP.
pub const PORT: u16 = 5201;
/// Packets of UDP beside which round trips are measured, in thousands a second.
const LOAD: f64 = 40.0;
/// How long each measurement of a rate takes, and how long it runs before that.
const TIME: Duration = Duration::from_millis(250);
const WARM: Duration = Duration::from_millis(50);

/// Where traffic begins or ends.
#[derive(Debug, Clone)]
pub struct End {
    /// Its network namespace.
    pub net: PathBuf,
    pub address: Ipv6Addr,
}

impl End {
    /// A thread in its network, on the processor of this number.
    fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        processor: usize,
        work: impl FnOnce() -> Result<T> + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, Result<T>> {
        let net = self.net.clone();
        scope.spawn(move || {
            let net = File::open(&net).with_context(|| net.display().to_string())?;
            setns(net, CloneFlags::CLONE_NEWNET).context("setns")?;
            let mut set = CpuSet::new();
            set.set(processor % std::thread::available_parallelism()?.get())?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            work()
        })
    }

    fn socket(&self, kind: Type) -> Result<Socket> {
        let socket = Socket::new(Domain::IPV6, kind, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((self.address, PORT)).into())?;
        Ok(socket)
    }

    fn listen(&self) -> Result<TcpListener> {
        let socket = self.socket(Type::STREAM)?;
        socket.listen(1024)?;
        Ok(socket.into())
    }

    fn connect(&self) -> Result<TcpStream> {
        Ok(TcpStream::connect_timeout(&SocketAddr::from((self.address, PORT)), Duration::from_secs(5))?)
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().ok().context("a thread panicked")?
}

/// A server in a thread of its own, which has begun to listen.
fn serving<'scope, S: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    end: &End,
    open: impl FnOnce() -> Result<S> + Send + 'scope,
    serve: impl FnOnce(S) -> Result<()> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<()>>> {
    let (tell, told) = std::sync::mpsc::channel();
    let server = end.spawn(scope, 1, move || {
        let server = open()?;
        tell.send(())?;
        serve(server)
    });
    match told.recv() {
        Ok(()) => Ok(server),
        Err(_) => bail!("no server: {:#}", joined(server).err().context("it ended")?),
    }
}

/// What TCP carries, in gigabits a second, over so many connections.
pub fn throughput(from: &End, to: &End, streams: usize) -> Result<f64> {
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|threads| {
        let serve = |listener: TcpListener| {
            // Who was refused does not come.
            SockRef::from(&listener).set_read_timeout(Some(Duration::from_secs(6)))?;
            scope(|threads| {
                for _ in 0..streams {
                    let (mut stream, _) = listener.accept()?;
                    let bytes = &bytes;
                    threads.spawn(move || {
                        let mut buffer = vec![0; 128 << 10];
                        while let Ok(length @ 1..) = stream.read(&mut buffer) {
                            bytes.fetch_add(length as u64, Relaxed);
                        }
                    });
                }
                Ok(())
            })
        };
        let server = serving(threads, to, || to.listen(), serve)?;
        let senders: Vec<_> = (0..streams)
            .map(|_| {
                from.spawn(threads, 0, || {
                    let (mut stream, buffer) = (to.connect()?, vec![0; 128 << 10]);
                    while !stop.load(Relaxed) {
                        stream.write_all(&buffer)?;
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(WARM);
        let (before, begin) = (bytes.load(Relaxed), Instant::now());
        std::thread::sleep(TIME);
        let (after, time) = (bytes.load(Relaxed), begin.elapsed());
        stop.store(true, Relaxed);
        senders.into_iter().try_for_each(joined)?;
        joined(server)?;
        Ok((after - before) as f64 * 8.0 / 1e9 / time.as_secs_f64())
    })
}

/// New connections of TCP a second, one after the other. Each is reset at its end: half a million
/// that wait for their last packet are more than the kernel keeps track of.
pub fn connections(from: &End, to: &End) -> Result<f64> {
    let stop = AtomicBool::new(false);
    scope(|threads| {
        let serve = |listener: TcpListener| {
            SockRef::from(&listener).set_read_timeout(Some(WARM))?;
            while !stop.load(Relaxed) {
                match listener.accept() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(())
        };
        let server = serving(threads, to, || to.listen(), serve)?;
        let client = from.spawn(threads, 0, || {
            let (begin, mut made) = (Instant::now(), 0_u32);
            while begin.elapsed() < TIME {
                let stream = to.connect()?;
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                made += 1;
            }
            Ok(f64::from(made) / begin.elapsed().as_secs_f64())
        });
        let rate = joined(client);
        stop.store(true, Relaxed);
        joined(server)?;
        rate
    })
}

/// What UDP carries in packets of 64 bytes with their Ethernet header, in thousands a second,
/// where no more than one in a thousand is lost (RFC 2544 26.1, but for the length of its trials).
pub fn packets(from: &End, to: &End) -> Result<f64> {
    let (sent, most) = trial(from, to, f64::INFINITY)?;
    let (mut least, mut most) = if is_kept(sent, most) { return Ok(rate(sent)) } else { (0.0, rate(sent)) };
    for _ in 0..8 {
        let middle = f64::midpoint(least, most);
        let (sent, received) = trial(from, to, middle)?;
        if is_kept(sent, received) {
            least = middle;
        } else {
            most = middle;
        }
    }
    Ok(least)
}

fn rate(sent: u64) -> f64 {
    sent as f64 / 1e3 / TIME.as_secs_f64()
}

fn is_kept(sent: u64, received: u64) -> bool {
    received as f64 >= sent as f64 * 0.999
}

/// So many thousand packets a second: how many were sent, and how many came.
fn trial(from: &End, to: &End, thousands: f64) -> Result<(u64, u64)> {
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    scope(|threads| {
        let open = || {
            let socket = to.socket(Type::DGRAM)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20))?;
            socket.set_read_timeout(Some(WARM))?;
            Ok(UdpSocket::from(socket))
        };
        let serve = |socket: UdpSocket| {
            let mut buffer = [0; 64];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => _ = received.fetch_add(1, Relaxed),
                    Err(_) if stop.load(Relaxed) => return Ok(()),
                    Err(_) => {}
                }
            }
        };
        let server = serving(threads, to, open, serve)?;
        let sender = from.spawn(threads, 0, || {
            let socket = UdpSocket::bind((from.address, 0))?;
            socket.connect((to.address, PORT))?;
            let (begin, mut sent) = (Instant::now(), 0_u64);
            loop {
                let passed = begin.elapsed();
                if passed >= TIME {
                    return Ok(sent);
                }
                if (sent as f64) < passed.as_secs_f64() * thousands * 1e3 {
                    for _ in 0..16 {
                        socket.send(&[0; 2])?;
                    }
                    sent += 16;
                }
            }
        });
        let sent = joined(sender);
        stop.store(true, Relaxed);
        joined(server)?;
        Ok((sent?, received.load(Relaxed)))
    })
}

/// The same, beside half as many packets of UDP as there can be.
pub fn loaded_round_trips(from: &End, to: &End, count: u32) -> Result<Figures> {
    scope(|threads| {
        let load = threads.spawn(|| trial(from, to, LOAD));
        let trips = round_trips(from, to, 1, count);
        load.join().ok().context("a thread panicked")??;
        trips
    })
}

/// How long echo requests take, in microseconds: the kernel at the other end answers.
pub fn round_trips(from: &End, to: &End, processor: usize, count: u32) -> Result<Figures> {
    scope(|threads| {
        joined(from.spawn(threads, processor, || {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
            socket.bind(&SocketAddrV6::new(from.address, 0, 0, 0).into())?;
            socket.connect(&SocketAddrV6::new(to.address, 0, 0, 0).into())?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let mut times = Vec::new();
            for number in 0..count {
                let [high, low] = u16::try_from(number & 0xffff)?.to_be_bytes();
                let begin = Instant::now();
                socket.send(&[128, 0, 0, 0, 0, 9, high, low])?;
                let mut answer = [0; 64];
                // The socket also hears of neighbours.
                while answer[0] != 129 || answer[6..8] != [high, low] {
                    let _ = (&socket).read(&mut answer).context("no answer to an echo request")?;
                }
                times.push(begin.elapsed().as_secs_f64() * 1e6);
            }
            Ok(Figures::of(times))
        }))
    })
}
