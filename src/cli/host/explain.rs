//! `nsctl explain`: what a key of nsctl.toml or of a definition means.

use clap::Args;
use serde::Serialize;

use crate::cli::text::out;
use crate::cli::{Fault, Global};
use crate::manual::{Entry, entries};
use crate::visible::{few, joined};

/// Explain a key of nsctl.toml, or of a machine's definition
#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// limits.memory, network.subnet, uplink.mtu, … [default: all keys are listed]
    #[arg(add = crate::cli::complete::keys())]
    key: Option<String>,
}

#[derive(Serialize)]
struct View<'a> {
    page: &'a str,
    key: &'a str,
    text: &'a str,
}

pub fn run(global: &Global, args: &Explain) -> Result<u8, Fault> {
    let all = entries();
    let found: Vec<&Entry> = match &args.key {
        Some(word) => all.iter().filter(|entry| entry.is_called(word)).collect(),
        None => all.iter().collect(),
    };
    if let (Some(word), true) = (&args.key, found.is_empty()) {
        return Err(unknown(word, &all));
    }
    if global.json {
        let views = found.iter().map(|Entry { page, key, text }| View { page, key, text });
        global.report.answer(&views.collect::<Vec<_>>())?;
    } else if args.key.is_none() {
        out!("{}", joined(found.iter().map(|entry| format!("{:28}{}", entry.key, entry.page)), "\n"));
    } else {
        let told = found.iter().map(|Entry { page, key, text }| format!("{key}, of {page}\n\n{text}"));
        out!("{}", joined(told, "\n\n"));
    }
    Ok(0)
}

fn unknown(word: &str, all: &[Entry]) -> Fault {
    let last = word.rsplit('.').next().unwrap_or(word);
    let near = all.iter().map(|entry| entry.key).filter(|key| key.split('.').any(|part| part == last));
    let near: Vec<&str> = near.collect();
    let hint = if near.is_empty() {
        "`nsctl explain` lists all keys".to_owned()
    } else {
        format!("there is {}; `nsctl explain` lists all", few(near))
    };
    Fault::new(format!("there is no key '{}'", word.escape_debug())).hint(hint)
}
