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
#[derive(Debug, Args)]
pub struct Logs {
    /// The machine's name
    name: String,
    /// Go on showing what comes
    #[arg(long, short)]
    follow: bool,
    /// How many lines
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
    /// What nsctl's host has from its console, instead of its own journal
    #[arg(long)]
    console: bool,
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
    let lines = format!("--lines={}", args.lines);
    let mut words = vec!["--no-pager", &lines, &whose];
    words.extend(args.follow.then_some("--follow"));
    Ok(sys::run("journalctl", &words)?)
}
