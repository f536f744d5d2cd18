//! A /32 with 65,536 leases.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use fs_err as fs;
use nsctl::pool::{Leases, Pool};
use nsctl::state::{parse, render};
use nsctl::sys::Disk;

use super::figures::{Figures, Sheet};
use super::measure::milliseconds;
use crate::lab::{Suite, Trees};

const LEASES: u64 = 65_536;
const ROUNDS: usize = 15;

pub fn run(trees: &Trees, _: Suite, sheet: &mut Sheet) -> Result<()> {
    let pool = Pool::Fixed("2001:db8::/32".parse()?);
    let mut held = BTreeMap::new();
    for k in 1..=LEASES {
        held.insert(format!("m{k}").parse()?, pool.lease(k).context("outside")?);
    }
    let leases = Leases::new(held, Vec::new()).ok().context("twice")?;
    let place = trees.runs().join(format!("{}-leases", std::process::id()));
    fs::create_dir_all(&place)?;
    let disk = Disk::new(&place);
    let (mut lease, mut save, mut read) = (Figures::default(), Figures::default(), Figures::default());
    for round in 0..ROUNDS {
        let mut leases = leases.clone();
        let name = format!("new{round}").parse()?;
        let begin = Instant::now();
        leases.lease(pool, &name, None)?;
        lease.add(milliseconds(begin.elapsed()));
        let begin = Instant::now();
        let text = render(&leases);
        disk.write_private("/var/lib/nsctl/state.toml".as_ref(), &text)?;
        save.add(milliseconds(begin.elapsed()));
        let begin = Instant::now();
        parse(Some(&text))?;
        read.add(milliseconds(begin.elapsed()));
    }
    fs::remove_dir_all(&place)?;
    sheet.single(&format!("one lease of a /32 with {LEASES}"), "ms", &lease, 1.0);
    sheet.single(&format!("state file of {LEASES} leases saved, on the disk"), "ms", &save, 50.0);
    sheet.single("the same read", "ms", &read, 300.0);
    Ok(())
}
