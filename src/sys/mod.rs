//! The outside world in small verbs. The only room that touches D-Bus, netlink,
//! files and the clock.

#![allow(clippy::disallowed_methods)]

pub mod archive;
pub mod arrival;
pub mod backups;
pub mod bird;
pub mod build;
pub mod bus;
pub mod calls;
pub mod carry;
pub mod compare;
pub mod credential;
pub mod disk;
pub mod editor;
mod error;
mod etcd;
pub mod fault;
pub mod frozen;
pub mod guest;
pub mod health;
mod icmp;
pub mod journald;
pub mod kernel;
pub mod limits;
pub mod lock;
pub mod meter;
pub mod mounts;
pub mod neighbour;
pub mod net;
pub mod nft;
pub mod nsupdate;
pub mod ping;
pub mod processes;
pub mod pty;
pub mod quota;
pub mod remote;
pub mod router;
pub mod sockets;
pub mod ssh;
mod subvolume;
pub mod tarball;
pub mod trace;
pub mod tree;
pub mod trial;
pub mod usage;
pub mod vitals;
mod walk;
mod within;

pub use backups::{BtrfsError, ResticError};
pub use bus::{Bus, BusError, Signal};
pub use credential::CredentialError;
pub use disk::{Disk, DiskError};
pub use error::Error;
pub use etcd::{Etcd, EtcdError};
pub use guest::GuestError;
pub use health::HealthFault;
pub use limits::LimitError;
pub use lock::{Lock, LockError};
pub use mounts::MountError;
pub use net::{Net, NetError};
pub use nft::NftError;
pub use quota::QuotaError;
pub use trial::TrialError;

use std::path::Path;
use std::time::Instant;

use futures_util::{StreamExt, stream};

/// How many things are asked at a time: each takes sockets, of which a process has a thousand.
const AT_ONCE: usize = 64;

/// Asks many at once, though not all of a thousand; gives the answers in order.
pub async fn together<F: Future>(asked: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let numbered = asked.into_iter().enumerate().map(async |(at, one)| (at, one.await));
    let mut answers: Vec<_> = stream::iter(numbered).buffer_unordered(AT_ONCE).collect().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// What a path leads to that the user named, as seen from where he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    Folder,
    File,
    /// A device, a pipe, a socket.
    Other,
}

/// What is there, links followed; none if it is missing, or out of our reach.
pub fn what_is_at(path: &Path) -> Option<Thing> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    Some(match kind {
        kind if kind.is_dir() => Thing::Folder,
        kind if kind.is_file() => Thing::File,
        _ => Thing::Other,
    })
}

/// As many files as the kernel lets us hold open (setrlimit(2)): a change below a foreign root
/// holds one for each file that it writes.
pub fn may_open_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// The clock that never goes back.
pub fn now() -> Instant {
    Instant::now()
}

/// This boot, and no other: what the kernel calls it (random(4)), and when the first process was
/// started, as the kernel stays the same where the host is a container.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id() -> std::io::Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{} {}", kernel.trim(), processes::started(1).unwrap_or_default()))
}

/// Nanoseconds since 1970: what is named by them is in the order of its making.
pub fn stamp() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Of the clock on the wall.
pub fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The same, to the microsecond.
pub fn microseconds_since_1970() -> u64 {
    u64::try_from(stamp() / 1000).unwrap_or_default()
}

/// How many bytes a second the disk of the trees takes, tried.
///
/// # Errors
/// When it takes none.
pub fn disk_speed() -> std::io::Result<u64> {
    const SAMPLE: usize = 16 << 20;
    let file = tempfile::tempfile_in("/var/lib/machines")?;
    // A disk that compresses must not make little of it.
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (noise >> 56) as u8
    };
    let sample: Vec<u8> = (0..SAMPLE).map(|_| next()).collect();
    let begin = now();
    std::io::Write::write_all(&mut &file, &sample)?;
    file.sync_data()?;
    let micros = begin.elapsed().as_micros().max(1) as u64;
    Ok(SAMPLE as u64 * 1_000_000 / micros)
}

/// The words after `nsctl` on the command line, in one line.
pub fn command_line() -> String {
    arguments().join(" ")
}

/// The words that we were called with; what is no text in them is shown as such.
pub fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Runs a program of the host with our own input and output; gives its exit status.
///
/// # Errors
/// When it cannot be run.
pub fn run(program: &str, words: &[&str]) -> std::io::Result<u8> {
    let status = std::process::Command::new(program).args(words).env("PATH", build::PATH).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// What is in a folder of this host: names, and whether they are folders.
pub fn entries(folder: &Path) -> Vec<(String, bool)> {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir()))).collect()
}

/// The words of a line that a shell is about to complete.
pub fn completed_words() -> Vec<String> {
    std::env::args().skip_while(|word| word != "--").skip(2).collect()
}

/// The kind of terminal that we are in.
pub fn terminal_kind() -> Option<String> {
    std::env::var("TERM").ok()
}

/// Whether we may change the host.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
