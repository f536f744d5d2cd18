//! `nsctl logs`: what a machine's own journal says, or its console where it has none.

use clap::Args;

use crate::cli::fault::{argument, unknown};
use crate::cli::session::live_bus;
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::provision::Init;
use crate::sys;
use crate::sys::tree::Tree;

/// Show the journal of a machine
#[derive(Debug, Clone, Args)]
pub struct Logs {
    /// The machine's name
    #[arg(add = crate::cli::complete::any_machines())]
    name: String,
    /// Go on showing what comes
    #[arg(long, short)]
    follow: bool,
    /// How many lines
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
    /// What nsctl's host has from its console, instead of its own journal
    #[arg(long, conflicts_with = "unit")]
    console: bool,
    /// Only what this unit of the machine's says; may be given several times
    #[arg(long, short, value_name = "UNIT")]
    unit: Vec<String>,
    /// Only what is not older: "2026-11-28 12:00", yesterday, -1h (systemd.time(7))
    #[arg(long, short = 'S', value_name = "TIME")]
    since: Option<String>,
    /// Only what is not newer
    #[arg(long, short = 'U', value_name = "TIME")]
    until: Option<String>,
    /// Only of this boot of the machine: the last one, or --boot=-1 for the one before
    #[arg(long, short, value_name = "BOOT", num_args = 0..=1, default_missing_value = "0", require_equals = true)]
    boot: Option<String>,
}

pub async fn run(global: &Global, args: Logs) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let bus = live_bus(global, "a machine's journal is read").await?;
    let tree = Tree::of(name.as_str());
    let runs = bus.leader(&name).await?.is_some();
    if tree.is_none() && !runs && !bus.images().await?.contains(name.as_str()) {
        return Err(unknown(name.as_str(), bus.images().await?.iter().map(String::as_str)));
    }
    let systemd = tree.as_ref().is_some_and(|tree| matches!(tree.guest().init, Init::Systemd(_)));
    let kept = tree.as_ref().is_some_and(|tree| tree.has("var/log/journal"));
    let whose = if args.console {
        format!("--unit={}", name.unit())
    } else if runs && systemd {
        format!("--machine={name}")
    } else if kept {
        format!("--root=/var/lib/machines/{name}")
    } else {
        format!("--unit={}", name.unit())
    };
    let of_console = whose.starts_with("--unit=");
    if of_console && (!args.unit.is_empty() || args.boot.is_some()) {
        return Err(Fault::new(format!(
            "'{name}' keeps no journal in which units and boots could be told apart"
        ))
        .hint("leave --unit and --boot away: what its console said is shown"));
    }
    let mut words = vec!["--no-pager".to_owned(), format!("--lines={}", args.lines), whose];
    words.extend(args.follow.then(|| "--follow".to_owned()));
    words.extend(args.unit.iter().map(|unit| format!("--unit={unit}")));
    words.extend(args.since.map(|time| format!("--since={time}")));
    words.extend(args.until.map(|time| format!("--until={time}")));
    words.extend(args.boot.map(|boot| format!("--boot={boot}")));
    words.extend(global.json.then(|| "--output=json".to_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    global.report.streams();
    Ok(sys::run("journalctl", &words)?)
}
