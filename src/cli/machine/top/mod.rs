//! `nsctl top`: what machines use from moment to moment; live in a terminal, plain where it is piped.

mod screen;
mod sheet;

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use crate::apply::Interrupt;
use crate::cli::machine::stats::{meter, only};
use crate::cli::{Fault, Global};
use crate::stats::Sample;
use crate::sys::meter::Meter;
use sheet::{Sheet, Sort};

/// Watch what machines use: CPU, memory, disk, network, and what is dropped
///
/// In a terminal it is one screen that changes: q ends it; n, c, m, i and t sort by name, CPU, memory, disk (I/O) and
/// network traffic. Where it is piped, or with --json, a table or document follows the other.
#[derive(Debug, Clone, Args)]
pub struct Top {
    /// Just these machines [default: all that run]
    #[arg(add = crate::cli::complete::any_machines())]
    names: Vec<String>,
    /// How long from one look to the next, in seconds
    #[arg(long, short = 'd', value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    delay: f64,
    /// End after so many
    #[arg(long, short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// By what they are sorted
    #[arg(long, value_enum, default_value_t = Sort::Cpu)]
    sort: Sort,
}

fn seconds(word: &str) -> Result<f64, String> {
    let number: f64 = word.parse().map_err(|_| "it is no number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&number) { Ok(number) } else { Err("it must be from 0.1 to 3600".to_owned()) }
}

pub async fn run(global: &Global, args: Top) -> Result<u8, Fault> {
    let mut watch = Watch::begin(global, &args).await?;
    if std::io::stdout().is_terminal() && !global.json && args.count.is_none() {
        screen::run(&mut watch, args.sort).await?;
        return Ok(0);
    }
    global.report.streams();
    let mut interrupt = Interrupt::begin();
    let mut left = args.count;
    while left != Some(0) {
        tokio::select! {
            () = watch.next() => {}
            () = interrupt.came() => return Ok(0),
        }
        let sheet = watch.sheet(args.sort).await?;
        let text = if global.json { sheet.json()? } else { sheet.text(left != args.count) };
        // Who reads no more has seen enough.
        if !print(&text) {
            break;
        }
        left = left.map(|left| left - 1);
    }
    Ok(0)
}

fn print(text: &str) -> bool {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok()
}

/// Looks again and again.
struct Watch {
    meter: Meter,
    names: Vec<String>,
    before: Sample,
    ticks: tokio::time::Interval,
}

impl Watch {
    async fn begin(global: &Global, args: &Top) -> Result<Watch, Fault> {
        let mut meter = meter(global).await?;
        let mut before = meter.sample().await?;
        only(&mut before, &args.names)?;
        let delay = Duration::from_secs_f64(args.delay);
        let mut ticks = tokio::time::interval(delay);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first comes at once.
        ticks.tick().await;
        Ok(Watch { meter, names: args.names.clone(), before, ticks })
    }

    /// Until it is time to look again.
    async fn next(&mut self) {
        self.ticks.tick().await;
    }

    async fn sheet(&mut self, sort: Sort) -> Result<Sheet, Fault> {
        let mut sample = self.meter.sample().await?;
        // One of them may end meanwhile, and come again.
        sample.machines.retain(|name, _| self.names.is_empty() || self.names.contains(name));
        let sheet = Sheet::of(&sample, &self.before, sort);
        self.before = sample;
        Ok(sheet)
    }
}
