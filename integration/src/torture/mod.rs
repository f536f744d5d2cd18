//! Random commands, random kills, random crashes: what must hold is looked at after each.

mod actions;
mod invariants;
mod look;
mod victim;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;

use crate::lab::{Lab, Suite, Trees};
use actions::Blow;
use victim::Victim;

/// `lab torture SUITE [SEED [COUNT]]`: so many kills and crashes.
pub fn run(arguments: &[String]) -> Result<()> {
    const USAGE: &str = "usage: lab torture SUITE [SEED [COUNT]]";
    let word = arguments.first().context(USAGE)?;
    let suite = Suite::named(word).context(USAGE)?;
    let number =
        |at: usize| arguments.get(at).filter(|text| !text.is_empty()).map(|text| text.parse::<u64>());
    let seed = number(1).transpose().context(USAGE)?.unwrap_or_else(|| Rng::new().u64(0..1_000_000));
    let count = number(2).transpose().context(USAGE)?.unwrap_or(200);
    let trees = Trees::open(&[suite])?;
    let mut lab = Lab::boot(&trees, suite)?;
    println!("torture of {}, seed {seed}", suite.name());
    let told = torture(&mut lab, seed, Limit { cuts: count, time: None, tells: true })?;
    println!("{told}");
    Ok(())
}

/// When it is enough.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub cuts: u64,
    pub time: Option<Duration>,
    /// Whether each blow is printed.
    pub tells: bool,
}

/// Tortures a host that was booted just now, on an ext4 disk; what was done, in a sentence.
///
/// # Errors
/// What no longer holds, and the blows before it.
pub fn torture(lab: &mut Lab, seed: u64, limit: Limit) -> Result<String> {
    let mut victim = Victim::new(lab)?;
    let mut blows: Vec<String> = Vec::new();
    let (mut rng, start) = (Rng::with_seed(seed), Instant::now());
    while victim.cuts() < limit.cuts && limit.time.is_none_or(|time| start.elapsed() < time) {
        let blow = Blow::choose(&mut rng);
        blows.push(blow.to_string());
        if limit.tells {
            print!("{:4} {:6.1} s  {blow}", blows.len(), start.elapsed().as_secs_f64());
            std::io::stdout().flush()?;
        }
        let ended = victim.strike(&blow).with_context(|| {
            let from = blows.len().saturating_sub(15);
            let told = victim.journal();
            format!("{told}\nseed {seed}, blow {}:\n  {}", blows.len(), blows[from..].join("\n  "))
        })?;
        if limit.tells {
            println!(": {}", ended.map_or("nothing to strike at".into(), |outcome| format!("{outcome:?}")));
        }
    }
    let Victim { kills, crashes, .. } = victim;
    Ok(format!("seed {seed}: {} blows, {kills} kills, {crashes} crashes: all held", blows.len()))
}

/// A short one, for each run of all tests; the seed is the same, unless TORTURE_SEED is set.
pub fn short(lab: &mut Lab) -> Result<()> {
    let seed = std::env::var("TORTURE_SEED").ok().and_then(|text| text.parse().ok());
    let limit = Limit { cuts: u64::MAX, time: Some(Duration::from_secs(60)), tells: false };
    torture(lab, seed.unwrap_or(1), limit).map(drop)
}
