//! One look at all machines, as rows. Pure.

use std::cmp::Ordering;

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::machine::stats::size;
use crate::cli::{Fault, text};
use crate::stats::{Rates, Sample};

/// By what machines are sorted: the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Name,
    Cpu,
    Memory,
    Io,
    Network,
}

/// All that is shown of one moment.
#[derive(Debug, Default, Serialize)]
pub struct Sheet {
    pub machines: Vec<Row>,
}

/// One machine, in the words of `top --json`: what it uses, and what it uses each second.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    #[serde(flatten)]
    pub rates: Rates,
    pub memory: Option<u64>,
    pub tasks: Option<u64>,
    pub oom_kills: Option<u64>,
}

/// What is shown of each, the least important last.
pub const TITLES: [&str; 9] =
    ["NAME", "CPU %", "MEMORY", "IN/s", "OUT/s", "TASKS", "DROPS/s", "READ/s", "WRITE/s"];
/// How wide each must be, in columns of the terminal, with the space before it.
const WIDTHS: [usize; 9] = [14, 7, 11, 11, 11, 6, 8, 11, 11];

/// How many of the columns there is room for.
pub fn fitting(width: usize) -> usize {
    let mut needed = 0;
    let fits = WIDTHS.iter().take_while(|column| {
        needed += **column;
        needed <= width
    });
    fits.count().max(2)
}

impl Sheet {
    pub fn of(now: &Sample, before: &Sample, sort: Sort) -> Sheet {
        let mut rates = now.rates(before);
        let rows = now.machines.iter().filter_map(|(name, stats)| {
            let rates = rates.remove(name)?;
            let (memory, tasks, oom_kills) = (stats.memory, stats.tasks, stats.oom_kills);
            Some(Row { name: name.clone(), rates, memory, tasks, oom_kills })
        });
        let mut sheet = Sheet { machines: rows.collect() };
        sheet.sort(sort);
        sheet
    }

    pub fn sort(&mut self, sort: Sort) {
        self.machines.sort_by(|a, b| b.key(sort).total_cmp(&a.key(sort)).then_with(|| by_name(a, b)));
    }

    pub fn json(&self) -> Result<String, Fault> {
        serde_json::to_string(self).map_err(|error| Fault::new(error.to_string()))
    }

    /// A table for who reads it elsewhere, with room to the one before.
    pub fn text(&self, follows: bool) -> String {
        let rows: Vec<Vec<String>> = self.machines.iter().map(|row| row.cells().into()).collect();
        let space = if follows { "\n" } else { "" };
        format!("{space}{}", text::table(&TITLES, &rows))
    }

    /// All machines together, in a few words.
    pub fn total(&self) -> String {
        let cpu: f64 = self.machines.iter().map(|row| row.rates.cpu).sum();
        let memory: u64 = self.machines.iter().filter_map(|row| row.memory).sum();
        let count = self.machines.len();
        let s = if count == 1 { "" } else { "s" };
        format!("{count} machine{s}, CPU {:.0} %, memory {}", cpu * 100.0, text::bytes(memory))
    }
}

fn by_name(a: &Row, b: &Row) -> Ordering {
    a.name.cmp(&b.name)
}

impl Row {
    fn key(&self, sort: Sort) -> f64 {
        let Rates { cpu, io_read, io_written, received, sent, .. } = self.rates;
        match sort {
            Sort::Name => 0.0,
            Sort::Cpu => cpu,
            Sort::Memory => self.memory.unwrap_or_default() as f64,
            Sort::Io => io_read.unwrap_or_default() + io_written.unwrap_or_default(),
            Sort::Network => received + sent,
        }
    }

    pub fn cells(&self) -> [String; 9] {
        let Row { name, rates, memory, tasks, .. } = self;
        let bytes = |rate: f64| text::bytes(rate as u64);
        let io = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), bytes);
        [
            text::sanitize(name),
            format!("{:.1}", rates.cpu * 100.0),
            size(*memory),
            bytes(rates.received),
            bytes(rates.sent),
            tasks.map_or_else(|| "-".to_owned(), |tasks| tasks.to_string()),
            format!("{:.0}", rates.dropped),
            io(rates.io_read),
            io(rates.io_written),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::{Stats, Traffic};

    fn sample(seconds: u64, all: &[(&str, u64, u64)]) -> Sample {
        let one = |(name, cpu_usec, bytes): &(&str, u64, u64)| {
            let received = Traffic { bytes: *bytes, ..Traffic::default() };
            (
                (*name).to_owned(),
                Stats { cpu_usec: *cpu_usec, received, memory: Some(1 << 30), ..Stats::default() },
            )
        };
        Sample { at: Duration::from_secs(seconds), machines: all.iter().map(one).collect() }
    }

    #[test]
    fn the_busiest_is_first_and_who_is_new_comes_at_the_next_look() {
        let before = sample(0, &[("a", 0, 0), ("b", 0, 0)]);
        let now = sample(1, &[("a", 10_000, 4096), ("b", 500_000, 0), ("new", 9_000_000, 0)]);
        let names = |sort| -> Vec<String> {
            Sheet::of(&now, &before, sort).machines.into_iter().map(|row| row.name).collect()
        };
        assert_eq!(names(Sort::Cpu), ["b", "a"]);
        assert_eq!(names(Sort::Network), ["a", "b"]);
        assert_eq!(names(Sort::Name), ["a", "b"]);
        let sheet = Sheet::of(&now, &before, Sort::Name);
        assert_eq!(sheet.total(), "2 machines, CPU 51 %, memory 2.0 GiB");
        assert_eq!(sheet.machines[0].cells()[..4], ["a", "1.0", "1.0 GiB", "4.0 KiB"]);
    }

    #[test]
    fn sixty_columns_have_room_for_what_matters_most() {
        let shown = |width| &TITLES[..fitting(width)];
        assert_eq!(shown(60), ["NAME", "CPU %", "MEMORY", "IN/s", "OUT/s", "TASKS"]);
        assert_eq!(shown(90), TITLES);
        assert_eq!(shown(5), ["NAME", "CPU %"]);
    }
}
