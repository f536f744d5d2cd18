//! The stretch: a thousand machines at once on one host. How far does it go, and what stops it?

use std::time::Instant;

use anyhow::{Context, Result};
use fs_err as fs;

use super::figures::Sheet;
use super::measure::{cost, milliseconds};
use crate::lab::run::capture;
use crate::lab::{Lab, Suite, Trees, tiny_guest};

const MACHINES: usize = 1000;

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d
         for k in $(seq {MACHINES}); do
             cp -a --reflink=auto /var/lib/machines/tiny /var/lib/machines/m$k
             printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/m$k.toml
         done"
    ))?;
    let before = available()?;
    let begin = Instant::now();
    let done = capture(&mut lab.enter(&["nsctl", "-q", "apply", "--yes"])?)?;
    let seconds = milliseconds(begin.elapsed()) / 1000.0;
    let running = lab.sh("ls /run/systemd/machines | grep -c '^m' || true")?;
    let end = if done.ok() { "all answered".to_owned() } else { why(&lab)? };
    sheet.told(
        &format!("{MACHINES} machines of 2 MB started by one `apply`"),
        &format!("{seconds:.0} s, {} running; {end}", running.trim()),
    );
    let gigabytes = (before - available()?) / 1e6;
    sheet.told("memory of the host with them", &format!("{gigabytes:.1} GB"));
    let list = cost(&lab, "nsctl list --json")?;
    sheet.told("`list --json` of them", &format!("{:.0} ms, {:.0} MB", list.elapsed, list.memory));
    // Their removal by hand takes longer than that of the whole host.
    Ok(())
}

/// What the units that failed said first.
fn why(lab: &Lab) -> Result<String> {
    let text = lab.sh(
        "journalctl -b --no-pager -o cat -u 'systemd-nspawn@*' -g 'ailed|annot|oo many|pace left|imit' | head -n 3",
    )?;
    Ok(text.trim().replace('\n', "; ").replace('|', "/"))
}

/// Kilobytes of memory that programs can have.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
