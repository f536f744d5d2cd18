//! `nsctl metrics`: what is known of all machines, for Prometheus and its like.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::machine::look::look;
use crate::cli::machine::show::with_ages;
use crate::cli::machine::stats::meter;
use crate::cli::machine::view::Row;
use crate::cli::session::live_bus;
use crate::cli::text::out;
use crate::cli::{Fault, Global};
use crate::metrics::{Exposition, Family, Format, Kind, Sample};
use crate::nftables::counter::Dropped;
use crate::stats::Stats;
use crate::sys::disk::FileEdit;
use crate::sys::{self, Disk, ping, together};

/// Print metrics of all machines for Prometheus: OpenMetrics, or a file for node_exporter
///
/// For each machine: whether it runs and answers, its prefix, what it uses (CPU, memory, tasks, disk, network), what the
/// firewall dropped on its account, and how old its backup and the proof of it are. nsctl-metrics.timer writes the file
/// each minute where Debian's prometheus-node-exporter is.
#[derive(Debug, Clone, Args)]
pub struct Metrics {
    /// Write this file, in the older format that node_exporter's textfile collector reads, and print nothing
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
}

/// How long an address may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);

const MACHINE: Family = gauge("nsctl_machine", "A machine, and how it meets the world.").info();
const PREFIX: Family =
    gauge("nsctl_machine_prefix", "The prefix and the address of a routed machine.").info();
const RUNS: Family = gauge("nsctl_machine_running", "Whether a machine runs.");
const ANSWERS: Family = gauge(
    "nsctl_machine_answering",
    "Whether a machine passes its check, or answers a ping where it has none.",
);
const STARTED: Family =
    gauge("nsctl_machine_start_time", "When a machine started, since 1970.").of("seconds");
const DRIFT: Family =
    gauge("nsctl_machine_drift", "In how many ways a machine is not what its definition says.");
const CPU: Family = counter("nsctl_machine_cpu", "CPU time since a machine started.").of("seconds");
const MEMORY: Family =
    gauge("nsctl_machine_memory", "Memory that a machine uses, with its page cache.").of("bytes");
const PEAK: Family =
    gauge("nsctl_machine_memory_peak", "The most memory that a machine has used.").of("bytes");
const SWAP: Family = gauge("nsctl_machine_swap", "Swap that a machine uses.").of("bytes");
const TASKS: Family = gauge("nsctl_machine_tasks", "Processes and threads in a machine.");
const OOM: Family = counter("nsctl_machine_oom_kills", "Processes that were killed for want of memory.");
const READ: Family = counter("nsctl_machine_io_read", "Bytes that a machine read from disks.").of("bytes");
const WRITTEN: Family =
    counter("nsctl_machine_io_written", "Bytes that a machine wrote to disks.").of("bytes");
const RECEIVED: Family =
    counter("nsctl_machine_network_received", "Bytes that a machine received.").of("bytes");
const SENT: Family = counter("nsctl_machine_network_sent", "Bytes that a machine sent.").of("bytes");
const PACKETS_IN: Family =
    counter("nsctl_machine_network_received_packets", "Packets that a machine received.");
const PACKETS_OUT: Family = counter("nsctl_machine_network_sent_packets", "Packets that a machine sent.");
const LOST: Family =
    counter("nsctl_machine_network_dropped_packets", "Packets that a machine's links had no room for.");
const REFUSED: Family = counter(
    "nsctl_machine_firewall_refused_packets",
    "Packets to a machine that its firewall did not let in.",
);
const SPOOFED: Family =
    counter("nsctl_machine_firewall_spoofed_packets", "Packets from a machine with an address not its own.");
const BACKUP: Family =
    gauge("nsctl_machine_backup_time", "When the latest backup was taken, since 1970.").of("seconds");
const PROOF: Family =
    gauge("nsctl_machine_backup_proof_time", "When a backup was last proved or not, since 1970.")
        .of("seconds");
const PROVED: Family = gauge("nsctl_machine_backup_proved", "Whether the last proof of a backup succeeded.");

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, unit: None, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, unit: None, help }
}

impl Family {
    const fn of(self, unit: &'static str) -> Family {
        Family { unit: Some(unit), ..self }
    }

    const fn info(self) -> Family {
        Family { kind: Kind::Info, ..self }
    }
}

pub async fn run(global: &Global, args: Metrics) -> Result<u8, Fault> {
    // Who is not root is told neither addresses nor counters, and would not see that they are missing.
    live_bus(global, "metrics are told").await?;
    let mut looked = look(global, &[]).await?;
    with_ages(&mut looked.rows);
    let now = sys::seconds_since_1970();
    let stats = meter(global).await?.sample().await?.machines;
    let answers = answering(&looked.rows).await;
    let format = if args.textfile.is_some() { Format::Prometheus } else { Format::OpenMetrics };
    let text = told(format, &looked.rows, &stats, &answers, now);
    match args.textfile {
        Some(path) => {
            let path = std::path::absolute(path)?;
            let edit = FileEdit { path: &path, text: Some(&text), mode: Some(0o644) };
            Disk::new(&global.root).change(&[edit])?;
        }
        None => {
            global.report.streams();
            out!("{}", text.trim_end());
        }
    }
    Ok(u8::from(!looked.is_whole))
}

/// Whether those that run do what they are for, as far as anybody can tell from here.
async fn answering(rows: &[Row]) -> BTreeMap<String, bool> {
    let running = rows.iter().filter(|row| row.state == "running");
    let asked = running.map(async |row| Some((row.name.clone(), answers(row).await?)));
    together(asked).await.into_iter().flatten().collect()
}

async fn answers(row: &Row) -> Option<bool> {
    if let Some(check) = &row.check {
        return Some(check.passes);
    }
    let address: Ipv6Addr = row.network.address?;
    ping::answers(address, ANSWER_TIME).await.ok()
}

fn told(
    format: Format,
    rows: &[Row],
    stats: &BTreeMap<String, Stats>,
    answers: &BTreeMap<String, bool>,
    now: u64,
) -> String {
    let mut all = Exposition::new(format);
    of_definitions(&mut all, rows);
    let started = |row: &Row| row.uptime.map(|uptime| now.saturating_sub(uptime) as f64);
    all.add(RUNS, each(rows, |row| Some(f64::from(row.state == "running"))));
    all.add(ANSWERS, each(rows, |row| answers.get(&row.name).map(|yes| f64::from(*yes))));
    all.add(STARTED, each(rows, started));
    all.add(DRIFT, each(rows, |row| Some(row.drift.len() as f64)));
    of_use(&mut all, stats);
    let proof = |row: &Row| row.backup.proof.clone();
    all.add(BACKUP, each(rows, |row| row.backup.last.as_ref().map(|last| last.taken as f64)));
    all.add(PROOF, each(rows, |row| proof(row).map(|proof| proof.when as f64)));
    all.add(PROVED, each(rows, |row| proof(row).map(|proof| f64::from(proof.why.is_none()))));
    all.end()
}

fn each<'a>(rows: &'a [Row], of: impl Fn(&Row) -> Option<f64> + 'a) -> impl Iterator<Item = Sample<'a>> + 'a {
    rows.iter().filter_map(move |row| Some((vec![("machine", row.name.as_str())], of(row)?)))
}

fn of_definitions(all: &mut Exposition, rows: &[Row]) {
    let bridge = |row: &'_ Row| row.network.bridge.clone().unwrap_or_default();
    let bridges: Vec<String> = rows.iter().map(bridge).collect();
    let machines = rows.iter().zip(&bridges).map(|(row, bridge)| {
        let labels =
            vec![("machine", row.name.as_str()), ("mode", row.network.mode.word()), ("bridge", bridge)];
        (labels, 1.0)
    });
    all.add(MACHINE, machines);
    let text = |value: Option<String>| value.unwrap_or_default();
    let routed = rows.iter().filter_map(|row| {
        let (prefix, address) = (row.network.prefix.map(|it| it.to_string())?, row.network.address);
        Some((row, prefix, text(address.map(|it| it.to_string()))))
    });
    let routed: Vec<(&Row, String, String)> = routed.collect();
    let prefixes = routed.iter().map(|(row, prefix, address)| {
        let labels = vec![("machine", row.name.as_str()), ("prefix", prefix.as_str()), ("address", address)];
        (labels, 1.0)
    });
    all.add(PREFIX, prefixes);
}

fn of_use(all: &mut Exposition, stats: &BTreeMap<String, Stats>) {
    let mut add = |family: Family, of: &dyn Fn(&Stats) -> Option<f64>| {
        let known = stats.iter().filter_map(|(name, stats)| Some((name.as_str(), of(stats)?)));
        all.add(family, known.map(|(name, value)| (vec![("machine", name)], value)));
    };
    let number = |value: Option<u64>| value.map(|value| value as f64);
    let packets = |dropped: Option<Dropped>| dropped.map(|dropped| dropped.packets as f64);
    add(CPU, &|stats| Some(stats.cpu_usec as f64 / 1e6));
    add(MEMORY, &|stats| number(stats.memory));
    add(PEAK, &|stats| number(stats.memory_peak));
    add(SWAP, &|stats| number(stats.swap));
    add(TASKS, &|stats| number(stats.tasks));
    add(OOM, &|stats| number(stats.oom_kills));
    add(READ, &|stats| number(stats.io.map(|io| io.read)));
    add(WRITTEN, &|stats| number(stats.io.map(|io| io.written)));
    add(RECEIVED, &|stats| Some(stats.received.bytes as f64));
    add(SENT, &|stats| Some(stats.sent.bytes as f64));
    add(PACKETS_IN, &|stats| Some(stats.received.packets as f64));
    add(PACKETS_OUT, &|stats| Some(stats.sent.packets as f64));
    add(LOST, &|stats| Some((stats.received.dropped + stats.sent.dropped) as f64));
    add(REFUSED, &|stats| packets(stats.refused));
    add(SPOOFED, &|stats| packets(stats.spoofed));
}
