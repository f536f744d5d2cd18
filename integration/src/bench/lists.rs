//! All machines with their addresses: 1, 20, 100.

use std::time::Duration;

use anyhow::Result;

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use super::rivals;
use crate::lab::{Lab, Suite, Trees, tiny_guest, until};

const LISTS: usize = 15;
/// One after the other from one shell, so that entering the host weighs little.
const IN_A_ROW: u8 = 10;

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    rivals::INCUS.set_up(&lab)?;
    let mut there = 0;
    let measured: Result<Vec<()>> = [1, 20, 100]
        .into_iter()
        .map(|machines| {
            grow(&lab, there, machines)?;
            there = machines;
            measure(&lab, machines, sheet)
        })
        .collect();
    let torn_down = rivals::INCUS.tear_down(&lab);
    measured?;
    torn_down
}

/// As many machines of ours, and as many of Incus.
fn grow(lab: &Lab, from: usize, to: usize) -> Result<()> {
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d; for k in $(seq {} {to}); do printf 'image = \"tiny\"\\n[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/m$k.toml; done
         nsctl -q apply --yes",
        from + 1
    ))?;
    until(Duration::from_secs(60), "every machine has its address", || {
        let list = lab.list()?;
        let machines = list.as_array().cloned().unwrap_or_default();
        Ok(machines.len() == to
            && machines.iter().all(|m| m["addresses"].as_array().is_some_and(|a| !a.is_empty())))
    })?;
    // In parts, as a command inside a host has its limit.
    for first in (from + 1..=to).step_by(10) {
        rivals::INCUS.sh(lab, &format!("tiny {first} {}", to.min(first + 9)))?;
    }
    Ok(())
}

fn measure(lab: &Lab, machines: usize, sheet: &mut Sheet) -> Result<()> {
    let incus = rivals::INCUS.line("list");
    let lines = ["nsctl list --json", "machinectl list -l --no-pager", &incus];
    let mut times = [Figures::default(), Figures::default(), Figures::default()];
    for round in 0..=LISTS {
        for (line, times) in lines.iter().zip(&mut times) {
            let row = format!("for k in $(seq {IN_A_ROW}); do {line}; done");
            let elapsed = cost(lab, &row)?.elapsed;
            if round > 0 {
                times.add(elapsed / f64::from(IN_A_ROW));
            }
        }
    }
    let goal = if machines == 100 { 0.1 } else { 1.0 };
    let what = format!("list, {machines} machines");
    sheet.pair(&what, "ms", &times[0], ("machinectl list -l", &times[1]), Goal::Times(goal));
    sheet.pair(&what, "ms", &times[0], ("incus list", &times[2]), Goal::Times(goal));
    Ok(())
}
