//! How many instructions nsctl takes with a thousand machines, as callgrind counts them: unlike times, they do not
//! change with the machine that runs it. A test holds the program to those of the table.

use anyhow::{Context, Result, ensure};

use super::figures::Sheet;
use crate::lab::{Lab, Suite, Trees, tiny_guest};

const MACHINES: usize = 1000;
/// By how much a count may grow before the table must say so.
const GROWTH: f64 = 1.1;
/// The verbs, as they are called; the create starts nothing, as what waits looks again and again.
const VERBS: [&str; 3] = ["list --json", "plan", "create one --routed --image tiny --no-start"];

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    for (what, count) in counts(&lab)? {
        sheet.told(&what, &format!("{count:.1} million"));
    }
    Ok(())
}

/// Millions of instructions, of each verb by its row in the table.
fn counts(lab: &Lab) -> Result<Vec<(String, f64)>> {
    lab.install("valgrind")?;
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        r#"mkdir -p /etc/nsctl/machines.d; for k in $(seq {MACHINES}); do
             printf 'autostart = false\nopen = ["tcp/22"]\n\n[network]\nmode = "routed"\n' > /etc/nsctl/machines.d/m$k.toml
         done; nsctl -q apply --yes; nsctl plan --exit-code"#
    ))?;
    VERBS.iter().map(|verb| Ok((row(lab.suite(), verb), count(lab, verb)?))).collect()
}

fn row(suite: Suite, verb: &str) -> String {
    let verb = verb.split(" --").next().unwrap_or(verb).split(' ').next().unwrap_or(verb);
    format!("instructions of `{verb}`, {MACHINES} machines, systemd {}", suite.systemd())
}

#[allow(clippy::cast_precision_loss)]
fn count(lab: &Lab, verb: &str) -> Result<f64> {
    let said = lab.sh(&format!(
        "valgrind -q --tool=callgrind --callgrind-out-file=/run/counted nsctl {verb} > /run/said 2>&1 || {{ cat /run/said >&2; exit 1; }}
         grep -h '^summary:' /run/counted"
    ))?;
    let count = said.trim().trim_start_matches("summary:").trim();
    Ok(count.parse::<u64>().with_context(|| format!("callgrind said {said:?}"))? as f64 / 1e6)
}

/// Whether none has grown by a tenth since they were written down.
pub fn compare(lab: &Lab, table: &str) -> Result<()> {
    for (what, count) in counts(lab)? {
        let kept =
            kept(table, &what).with_context(|| format!("`lab bench counts` has not counted {what}"))?;
        eprintln!("{what}: {count:.1} million, {kept} in the table");
        ensure!(
            count <= kept * GROWTH,
            "{what}: {count:.1} million, where the table has {kept}: make it less again, or measure them anew by \
             `lab bench counts` and say why (of the program that is packaged, not one for debugging)"
        );
    }
    Ok(())
}

fn kept(table: &str, what: &str) -> Option<f64> {
    let line =
        table.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(what)?.strip_prefix(" | "))?;
    line.split(' ').next()?.parse().ok()
}
