//! What looking takes: `top` and `metrics` of a hundred machines that run.

use std::time::Duration;

use anyhow::Result;

use super::figures::{Figures, Sheet};
use super::measure::cost;
use crate::lab::{Lab, Suite, Trees, tiny_guest, until};

const MACHINES: usize = 100;
const ROUNDS: usize = 5;

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d; for k in $(seq {MACHINES}); do
             printf 'image = \"tiny\"\\n[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/m$k.toml
         done; nsctl -q apply --yes"
    ))?;
    until(Duration::from_secs(60), "all machines run", || {
        Ok(lab.sh("machinectl list --no-legend | wc -l")?.trim() == MACHINES.to_string())
    })?;
    let (mut top, mut metrics) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        // Plain, as into a pipe; nft(8), which is asked for what was dropped, is counted with it.
        let seen = cost(&lab, "nsctl top -d 2 -n 6")?;
        top.add(100.0 * seen.cpu / seen.elapsed);
        metrics.add(cost(&lab, "nsctl metrics")?.cpu);
    }
    sheet.single(&format!("`top -d 2` with {MACHINES} machines, of a core"), "%", &top, 2.0);
    sheet.single(&format!("processor time of `metrics` of {MACHINES} machines"), "ms", &metrics, 300.0);
    Ok(())
}
