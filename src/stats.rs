//! What machines use: counters since each started, and how fast they grow. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::nftables::counter::Dropped;

/// What one machine has used since it started, and what it uses now. What the kernel does not count, as its controller
/// is off (cgroups(7)), is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// CPU time, in microseconds.
    pub cpu_usec: u64,
    /// Bytes; with what the kernel keeps of its files.
    pub memory: Option<u64>,
    /// The most that it was, in bytes.
    pub memory_peak: Option<u64>,
    /// Bytes.
    pub swap: Option<u64>,
    pub tasks: Option<u64>,
    /// How often the kernel killed processes for want of memory.
    pub oom_kills: Option<u64>,
    pub io: Option<Io>,
    /// As the machine sees it: what it received, and what it sent.
    pub received: Traffic,
    pub sent: Traffic,
    /// What the firewall did not let in to it; none of a machine without nsctl's firewall.
    pub refused: Option<Dropped>,
    /// What it sent with an address that is none of its own.
    pub spoofed: Option<Dropped>,
}

/// Bytes that went from and to disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Io {
    pub read: u64,
    pub written: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    /// Packets that the link had no room for.
    pub dropped: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.dropped += other.dropped;
    }
}

/// All machines that ran at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Of a clock that nobody sets (clock_gettime(2), CLOCK_MONOTONIC).
    pub at: Duration,
    pub machines: BTreeMap<String, Stats>,
}

/// How fast one machine's counters grow, each a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// 1.0 is one CPU.
    pub cpu: f64,
    pub io_read: Option<f64>,
    pub io_written: Option<f64>,
    pub received: f64,
    pub sent: f64,
    /// Packets that were dropped anywhere on its way.
    pub dropped: f64,
}

impl Stats {
    /// Packets that were dropped, by whomever.
    pub fn dropped(&self) -> u64 {
        let by_rules = [self.refused, self.spoofed].into_iter().flatten().map(|dropped| dropped.packets);
        self.received.dropped + self.sent.dropped + by_rules.sum::<u64>()
    }

    /// Since another moment. One that has started anew since then begins at nothing; what the firewall counts goes on.
    fn rates(&self, before: &Stats, over: Duration) -> Rates {
        let is_new = self.cpu_usec < before.cpu_usec;
        let a_second = |grown: u64| grown as f64 / over.as_secs_f64().max(f64::MIN_POSITIVE);
        let grown = |now: u64, then: u64| now.saturating_sub(if is_new { 0 } else { then });
        let io = |of: fn(Io) -> u64| {
            self.io.map(|now| a_second(grown(of(now), before.io.map(of).unwrap_or_default())))
        };
        let by_rules = |now: Option<Dropped>, then: Option<Dropped>| {
            now.zip(then).map_or(0, |(now, then)| now.packets.saturating_sub(then.packets))
        };
        let by_links = grown(self.received.dropped, before.received.dropped)
            + grown(self.sent.dropped, before.sent.dropped);
        let dropped =
            by_links + by_rules(self.refused, before.refused) + by_rules(self.spoofed, before.spoofed);
        Rates {
            cpu: a_second(grown(self.cpu_usec, before.cpu_usec)) / 1e6,
            io_read: io(|io| io.read),
            io_written: io(|io| io.written),
            received: a_second(grown(self.received.bytes, before.received.bytes)),
            sent: a_second(grown(self.sent.bytes, before.sent.bytes)),
            dropped: a_second(dropped),
        }
    }
}

impl Sample {
    /// How fast each grows; one that was not there before is not told of yet.
    pub fn rates(&self, before: &Sample) -> BTreeMap<String, Rates> {
        let over = self.at.saturating_sub(before.at);
        let known =
            self.machines.iter().filter_map(|(name, now)| Some((name, now, before.machines.get(name)?)));
        known.map(|(name, now, then)| (name.clone(), now.rates(then, over))).collect()
    }
}

/// A number of a flat file of a cgroup: `key value` a line (cgroups(7)).
pub fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// What io.stat says of all devices together.
pub fn io(text: &str) -> Io {
    let mut all = Io::default();
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("rbytes", bytes)) => all.read += bytes.parse().unwrap_or(0),
            Some(("wbytes", bytes)) => all.written += bytes.parse().unwrap_or(0),
            _ => {}
        }
    }
    all
}

/// The cgroup of a machine's unit, by /proc/PID/cgroup of its first process: what nspawn makes below it is part of it.
/// One that a user has started is in a unit of that user's systemd.
pub fn unit_cgroup(text: &str) -> Option<String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let parts: Vec<&str> = path.split('/').collect();
    let inner = parts.iter().position(|part| *part == "payload");
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let unit = match inner {
        Some(inner) => parts[..inner].iter().rposition(is_unit)?,
        None => parts.iter().position(is_unit)?,
    };
    Some(format!("/{}", parts[..=unit].join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_its_units() {
        let of = |text| unit_cgroup(text);
        assert_eq!(
            of("0::/machine.slice/systemd-nspawn@web.service/payload/init.scope\n").as_deref(),
            Some("/machine.slice/systemd-nspawn@web.service")
        );
        assert_eq!(
            of("1:name=systemd:/x\n0::/machine.slice/machine-a.scope/payload\n").as_deref(),
            Some("/machine.slice/machine-a.scope")
        );
        assert_eq!(
            of("0::/user.slice/user-1000.slice/user@1000.service/app.slice/machine-x.scope/payload/init.scope").as_deref(),
            Some("/user.slice/user-1000.slice/user@1000.service/app.slice/machine-x.scope")
        );
        assert_eq!(of("0::/"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn flat_files_are_read() {
        assert_eq!(value("usage_usec 12\nuser_usec 3\n", "usage_usec"), Some(12));
        assert_eq!(value("oom 1\noom_kill 4\n", "oom_kill"), Some(4));
        assert_eq!(value("oom_kill 4\n", "oom"), None);
        let text = "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=1 wbytes=2 dbytes=9\n";
        assert_eq!(io(text), Io { read: 101, written: 9 });
        assert_eq!(io("8:0 \n"), Io::default());
    }

    #[test]
    fn rates_are_of_what_has_grown() {
        let one = |cpu_usec, bytes, packets| Stats {
            cpu_usec,
            received: Traffic { bytes, packets: 0, dropped: 1 },
            refused: Some(Dropped { packets, bytes: 0 }),
            ..Stats::default()
        };
        let sample = |seconds, stats| Sample {
            at: Duration::from_secs(seconds),
            machines: [("web".to_owned(), stats)].into(),
        };
        let first = sample(10, one(1_000_000, 100, 5));
        let rates = sample(12, one(2_000_000, 300, 9)).rates(&first)["web"];
        assert_eq!((rates.cpu, rates.received, rates.dropped, rates.io_read), (0.5, 100.0, 2.0, None));
        // It was started anew meanwhile.
        let anew = sample(12, one(500_000, 50, 6)).rates(&first)["web"];
        // One packet by the firewall, whose counter outlives it, and one by its new link.
        assert_eq!((anew.cpu, anew.received, anew.dropped), (0.25, 25.0, 1.0));
        assert!(Sample::default().rates(&first).is_empty() && first.rates(&Sample::default()).is_empty());
    }
}
