//! Many machines started by one command.

use anyhow::Result;

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use crate::lab::{Lab, Suite, Trees, tiny_guest};

const MACHINES: usize = 200;
const ROUNDS: usize = 3;

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d; for k in $(seq {MACHINES}); do printf 'image = \"tiny\"\\n[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/m$k.toml; done"
    ))?;
    cost(&lab, "nsctl apply --yes")?;
    // Not by nsctl: who was stopped with it stays so.
    let stop = format!("systemctl stop $(seq -f systemd-nspawn@m%g {MACHINES})");
    let start = format!("systemctl start $(seq -f systemd-nspawn@m%g {MACHINES})");
    let (mut ours, mut theirs, mut share) = (Figures::default(), Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        cost(&lab, &stop)?;
        let apply = cost(&lab, "nsctl apply --yes")?;
        ours.add(apply.elapsed / 1000.0);
        share.add(100.0 * apply.cpu / apply.elapsed);
        cost(&lab, &stop)?;
        theirs.add(cost(&lab, &start)?.elapsed / 1000.0);
    }
    let what = format!("{MACHINES} machines started by one `apply`, and seen to answer");
    sheet.pair(&what, "s", &ours, ("systemctl start", &theirs), Goal::Times(1.1));
    sheet.single("nsctl's processor time of that, of the time it takes", "%", &share, 3.0);
    Ok(())
}
