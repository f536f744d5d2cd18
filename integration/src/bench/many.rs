//! One machine among many: what changes it alone, and what its packets pass, whatever others there are.

use anyhow::Result;

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use super::path;
use super::traffic::PORT;
use crate::lab::{Lab, Suite, Trees, tiny_guest};

/// How many machines the host has in the end, and on the way.
const MANY: [usize; 4] = [1, 100, 1000, 10_000];
/// With how many the verbs are measured.
const VERBS: [usize; 3] = [1, 1000, 10_000];
const ROUNDS: usize = 7;

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok(&format!("create m1 --routed --image debian-13 --open tcp/{PORT} --open udp/{PORT}"))?;
    lab.booted("m1")?;
    let (mut there, mut times) = (1, Vec::new());
    for machines in MANY {
        grow(&lab, there + 1, machines)?;
        there = machines;
        path::keep_rules(&lab, machines)?;
        if VERBS.contains(&machines) {
            times.push(verbs(&lab)?);
        }
    }
    for (at, verb) in ["open", "close", "start"].into_iter().enumerate() {
        for (machines, with) in VERBS.iter().zip(&times).skip(1) {
            let what = format!("`{verb}` of one among {machines} machines");
            sheet.pair(&what, "ms", &with[at], ("it alone", &times[0][at]), Goal::Times(2.0));
        }
    }
    lab.nsctl_ok("start m1")?;
    path::among(&lab, &MANY, sheet)
}

/// Defined, and with their rules loaded.
fn grow(lab: &Lab, from: usize, to: usize) -> Result<()> {
    let definition = r#"autostart = false\nopen = ["tcp/22"]\n\n[network]\nmode = "routed"\n"#;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d; for k in $(seq {from} {to}); do
             printf '{definition}' > /etc/nsctl/machines.d/m$k.toml
         done; timeout 110 nsctl -q apply --yes"
    ))
    .map(drop)
}

/// `open`, `close` and `start` of one that answers.
fn verbs(lab: &Lab) -> Result<[Figures; 3]> {
    let mut times: [Figures; 3] = Default::default();
    for round in 0..=ROUNDS {
        let open = cost(lab, "nsctl open m1 tcp/80")?.elapsed;
        let close = cost(lab, "nsctl close m1 tcp/80")?.elapsed;
        lab.nsctl_ok("stop m1")?;
        let start = cost(lab, "nsctl start m1")?.elapsed;
        if round > 0 {
            times.iter_mut().zip([open, close, start]).for_each(|(times, time)| times.add(time));
        }
    }
    Ok(times)
}
