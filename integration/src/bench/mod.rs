//! What nsctl takes, beside what it is measured against: alternately, in one run.

mod agree;
mod backups;
mod binary;
pub mod counts;
mod creates;
mod figures;
mod fleet;
mod leases;
mod lists;
mod many;
mod measure;
mod path;
mod probe;
mod rivals;
mod scale;
mod snapshots;
mod starts;
mod thousand;
mod traffic;
mod watched;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::{Suite, Trees};
use figures::Sheet;

/// Where the table goes.
const RESULTS: &str = "bench/RESULTS.md";

/// One subject, measured on one suite.
type Part = fn(&Trees, Suite, &mut Sheet) -> Result<()>;

/// The subjects, by name. Those of the rivals' packages are measured on trixie, which has them all.
const PARTS: [(&str, Part); 17] = [
    ("starts", starts::run),
    ("rivals", starts::beside_rivals),
    ("creates", creates::run),
    ("snapshots", snapshots::run),
    ("backups", backups::run),
    ("watched", watched::run),
    ("path", path::run),
    ("path-rivals", path::beside_rivals),
    ("many", many::run),
    ("lists", lists::run),
    ("scale", scale::run),
    ("counts", counts::run),
    ("fleet", fleet::run),
    ("leases", leases::run),
    ("agree", agree::run),
    ("binary", binary::run),
    ("thousand", thousand::run),
];

/// Measures everything, or one subject, and writes its table.
pub fn run(words: &[String]) -> Result<()> {
    let Some(word) = words.first() else { return PARTS.iter().try_for_each(|(name, _)| apart(name)) };
    let (name, part) = PARTS.iter().find(|(name, _)| name == word).with_context(usage)?;
    let trees = Trees::open(&Suite::ALL)?;
    let mut sheet = Sheet::default();
    let suites = if *name == "starts" { &Suite::ALL[..] } else { &[Suite::Trixie] };
    for suite in suites {
        part(&trees, *suite, &mut sheet).with_context(|| format!("{name} on {}", suite.name()))?;
    }
    sheet.save(name, Path::new(RESULTS))?;
    sheet.judge();
    println!("{name} is written to {RESULTS}");
    Ok(())
}

/// One subject in a process of its own: a program that is started is told to have had at
/// its peak as much memory as the one that started it (getrusage(2), "ru_maxrss").
fn apart(subject: &str) -> Result<()> {
    let status = Command::new(std::env::current_exe()?).args(["bench", subject]).status()?;
    ensure!(status.success(), "{subject} could not be measured");
    Ok(())
}

fn usage() -> String {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    format!("usage: lab bench [{}]", names.join("|"))
}
