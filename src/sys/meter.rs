//! What machines use, as the kernel counts it: their cgroups, their links, and nsctl's firewall.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Bus, Error, Net, nft, together};
use crate::name::{MachineName, kernel_name};
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
    /// The host's ends of its links, as far as machined knows.
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
            for link in own_links(name, known, &traffic) {
                stats.received += link.sent;
                stats.sent += link.received;
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

/// What a link has sent and received; where it is the host's end of a machine's, that has received and sent it.
#[derive(Debug, Clone)]
pub struct Carried {
    pub index: u32,
    pub name: String,
    pub is_bridge: bool,
    pub sent: Traffic,
    pub received: Traffic,
}

/// The host's ends of a machine's links: those that nspawn names by it, or, of one that was started otherwise, what
/// machined was told. Of a bridged one that is the bridge, which is others', too.
fn own_links<'a>(name: &str, known: &Known, all: &'a [Carried]) -> Vec<&'a Carried> {
    let names: Vec<String> = name
        .parse::<MachineName>()
        .ok()
        .map_or(Vec::new(), |name| vec![kernel_name(&name.routed_link()), kernel_name(&name.bridged_link())]);
    let named: Vec<&Carried> = all.iter().filter(|link| names.contains(&link.name)).collect();
    if !named.is_empty() {
        return named;
    }
    all.iter().filter(|link| known.links.contains(&link.index) && !link.is_bridge).collect()
}
