//! A host to look around in.

use anyhow::{Context, Result};

use crate::lab::{Lab, Suite, Trees};

/// Boots a host, runs one command in it (a shell without any), ends it.
pub fn run(arguments: &[String]) -> Result<()> {
    let (word, rest) = arguments.split_first().context("usage: lab shell SUITE [COMMAND...]")?;
    let suite = Suite::named(word);
    let suite = suite.with_context(|| format!("no suite '{word}': bookworm, trixie or forky"))?;
    let trees = Trees::open(&[suite])?;
    let lab = Lab::boot(&trees, suite)?;
    for (name, place) in [("router", &lab.router), ("LAN", &lab.lan)] {
        eprintln!("the {name}: nsenter --net=/proc/{}/ns/net", place.pid());
    }
    let words = if rest.is_empty() { vec!["bash", "-l"] } else { rest.iter().map(String::as_str).collect() };
    let status = lab.enter(&words)?.status()?;
    drop(lab);
    std::process::exit(status.code().unwrap_or(1));
}
