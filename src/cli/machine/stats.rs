//! `nsctl stats`: what machines have used since they started, in numbers.

use clap::Args;
use serde::Serialize;

use crate::cli::fault::{live_only, unknown};
use crate::cli::session::bus;
use crate::cli::text::{self, err, out};
use crate::cli::{Fault, Global};
use crate::stats::{Sample, Stats as Numbers};
use crate::sys::is_root;
use crate::sys::meter::Meter;

/// Show what machines have used since they started, and use now
///
/// CPU time, memory, tasks, disk and network of each machine that runs, and the packets that were dropped on its
/// account. `--json` gives bytes, microseconds and packets; what the kernel does not count is null there, and `-` here.
#[derive(Debug, Clone, Args)]
pub struct Stats {
    /// Just these machines [default: all that run]
    #[arg(add = crate::cli::complete::any_machines())]
    names: Vec<String>,
}

/// One machine, in the words of `stats --json`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    stats: &'a Numbers,
}

pub async fn run(global: &Global, args: Stats) -> Result<u8, Fault> {
    let mut meter = meter(global).await?;
    let mut sample = meter.sample().await?;
    only(&mut sample, &args.names)?;
    let rows: Vec<Row<'_>> = sample.machines.iter().map(|(name, stats)| Row { name, stats }).collect();
    if global.json {
        global.report.answer(&rows)?;
        return Ok(0);
    }
    if !is_root() && !rows.is_empty() && !global.quiet {
        err!("note: what the firewall drops is told to root alone");
    }
    if rows.is_empty() {
        out!("no machine runs");
        return Ok(0);
    }
    let header =
        ["NAME", "CPU", "MEMORY", "PEAK", "TASKS", "READ", "WRITTEN", "RECEIVED", "SENT", "DROPPED", "OOM"];
    out!("{}", text::table(&header, &rows.iter().map(Row::cells).collect::<Vec<_>>()));
    Ok(0)
}

pub async fn meter(global: &Global) -> Result<Meter, Fault> {
    let bus = bus(global).await?.ok_or_else(|| live_only("what machines use is counted"))?;
    Ok(Meter::new(bus)?)
}

/// Those that were asked for; one that does not run is told.
pub fn only(sample: &mut Sample, names: &[String]) -> Result<(), Fault> {
    if let Some(nobody) = names.iter().find(|name| !sample.machines.contains_key(*name)) {
        return Err(unknown(nobody, sample.machines.keys().map(String::as_str))
            .hint(format!("only machines that run use anything: `nsctl start {nobody}`")));
    }
    sample.machines.retain(|name, _| names.is_empty() || names.contains(name));
    Ok(())
}

/// Bytes, or that nobody counts them.
pub fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), text::bytes)
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

impl Row<'_> {
    fn cells(&self) -> Vec<String> {
        let Row { name, stats } = self;
        vec![
            (*name).to_owned(),
            format!("{:.1} s", stats.cpu_usec as f64 / 1e6),
            size(stats.memory),
            size(stats.memory_peak),
            count(stats.tasks),
            size(stats.io.map(|io| io.read)),
            size(stats.io.map(|io| io.written)),
            text::bytes(stats.received.bytes),
            text::bytes(stats.sent.bytes),
            stats.dropped().to_string(),
            count(stats.oom_kills),
        ]
    }
}
