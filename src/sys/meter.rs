//! What machines use, as the kernel counts it: their cgroups, their links, and nsctl's firewall.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Bus, Error, Net, nft, together};
use crate::name::MachineName;
use crate::nftables::counter::{Dropped, Reason};
use crate::stats::{self, Sample, Stats, Traffic};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Asks again and again, and asks machined only of machines that it has not seen.
pub struct Meter {
    bus: Bus,
    net: Net,
    begun: Instant,
    known: BTreeMap<String, Known>,
}

/// Where one is, as long as it runs.
struct Known {
    cgroup: PathBuf,
    /// Of the cgroup: another when the machine has started anew.
    inode: u64,
    /// The host's ends of its links.
    links: Vec<u32>,
}

impl Known {
    /// How the cgroup is now; none: it has gone.
    fn is_there(&self) -> bool {
        inode(&self.cgroup) == Some(self.inode)
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.ino())
}

impl Meter {
    /// # Errors
    /// When the kernel gives no socket.
    pub fn new(bus: Bus) -> Result<Meter, Error> {
        Ok(Meter { bus, net: Net::host()?, begun: Instant::now(), known: BTreeMap::new() })
    }

    /// What all machines use now.
    ///
    /// # Errors
    /// When machined or the kernel does not answer.
    pub async fn sample(&mut self) -> Result<Sample, Error> {
        let names = self.bus.machine_names().await?;
        self.known.retain(|name, known| names.contains(name) && known.is_there());
        let new: Vec<&String> = names.iter().filter(|name| !self.known.contains_key(*name)).collect();
        let bus = &self.bus;
        let found = together(new.into_iter().map(async |name| (name.clone(), find(bus, name).await))).await;
        self.known.extend(found.into_iter().filter_map(|(name, known)| Some((name, known?))));
        let traffic = self.net.traffic().await?;
        // Only root is told, and without nft nothing was dropped by it.
        let dropped = nft::dropped().await.unwrap_or_default();
        let at = self.begun.elapsed();
        let machines = self.known.iter().filter_map(|(name, known)| {
            let mut stats = of_cgroup(&known.cgroup)?;
            for (received, sent) in known.links.iter().filter_map(|index| traffic.get(index)) {
                stats.received += *received;
                stats.sent += *sent;
            }
            (stats.refused, stats.spoofed) = by_firewall(name, &dropped);
            Some((name.clone(), stats))
        });
        Ok(Sample { at, machines: machines.collect() })
    }
}

/// One that ends while we ask is none.
async fn find(bus: &Bus, name: &str) -> Option<Known> {
    let (leader, links) = bus.whereabouts(name).await.ok()??;
    let text = std::fs::read_to_string(format!("/proc/{leader}/cgroup")).ok()?;
    let cgroup = PathBuf::from(format!("{CGROUPS}{}", stats::unit_cgroup(&text)?));
    let inode = inode(&cgroup)?;
    Some(Known { cgroup, inode, links })
}

fn of_cgroup(cgroup: &Path) -> Option<Stats> {
    let text = |file: &str| std::fs::read_to_string(cgroup.join(file)).ok();
    let number = |file: &str| text(file)?.trim().parse().ok();
    Some(Stats {
        cpu_usec: stats::value(&text("cpu.stat")?, "usage_usec")?,
        memory: number("memory.current"),
        memory_peak: number("memory.peak"),
        swap: number("memory.swap.current"),
        tasks: number("pids.current"),
        oom_kills: text("memory.events").and_then(|text| stats::value(&text, "oom_kill")),
        io: text("io.stat").map(|text| stats::io(&text)),
        ..Stats::default()
    })
}

fn by_firewall(
    name: &str,
    dropped: &BTreeMap<(MachineName, Reason), Dropped>,
) -> (Option<Dropped>, Option<Dropped>) {
    let Ok(name) = name.parse::<MachineName>() else { return (None, None) };
    let of = |reason| dropped.get(&(name.clone(), reason)).copied();
    (of(Reason::Refused), of(Reason::Spoofed))
}

/// What the host's ends of links have sent and received: their machines have received and sent it.
pub(super) type ByLink = BTreeMap<u32, (Traffic, Traffic)>;
