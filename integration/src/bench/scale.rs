//! A thousand definitions.

use anyhow::Result;

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use crate::lab::{Lab, Suite, Trees};

const MACHINES: usize = 1000;
const ROUNDS: usize = 5;

/// What a definition is rendered to, by hand: the same files, copied, and read again.
const COPY: &str = "cp -rT /root/copy / && systemctl daemon-reload && networkctl reload";
/// Everything of the machines is gone, as if it never was.
const CLEAN: &str = "rm -rf /etc/nsctl/machines.d /etc/systemd/nspawn/m* /etc/systemd/network/05-nsctl-ve-m* \
     /etc/systemd/system/systemd-nspawn@m* /var/lib/nsctl/guest /var/lib/nsctl/firewall /var/lib/nsctl/state.toml
     mkdir /etc/nsctl/machines.d; nsctl -q apply --yes; systemctl daemon-reload; networkctl reload; sync";

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        "mkdir -p /root/defs /etc/nsctl/machines.d; for k in $(seq {MACHINES}); do
             printf 'autostart = false\\nopen = [\"tcp/22\"]\\n\\n[network]\\nmode = \"routed\"\\n' > /root/defs/m$k.toml
         done; cp /root/defs/* /etc/nsctl/machines.d/; nsctl -q apply --yes; mkdir /root/copy; cd /
         tar c etc/nsctl/machines.d etc/systemd/nspawn etc/systemd/network etc/systemd/system/systemd-nspawn@m* \
             etc/hosts var/lib/nsctl | tar x -C /root/copy"
    ))?;
    applied(&lab, sheet)?;
    at_rest(&lab, sheet)
}

fn applied(lab: &Lab, sheet: &mut Sheet) -> Result<()> {
    let (mut ours, mut theirs, mut memory) = (Figures::default(), Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        lab.sh(CLEAN)?;
        lab.sh("cp /root/defs/* /etc/nsctl/machines.d/; sync")?;
        let apply = cost(lab, "nsctl -q apply --yes")?;
        ours.add(apply.elapsed);
        memory.add(apply.memory);
        lab.sh(CLEAN)?;
        theirs.add(cost(lab, COPY)?.elapsed);
    }
    let what = format!("apply of {MACHINES} new definitions");
    sheet.pair(&what, "ms", &ours, ("cp of the same files, one reload", &theirs), Goal::Times(2.0));
    sheet.single(&format!("memory of `apply`, {MACHINES} new definitions"), "MB", &memory, 40.0);
    Ok(())
}

fn at_rest(lab: &Lab, sheet: &mut Sheet) -> Result<()> {
    lab.sh(CLEAN)?;
    lab.sh("cp /root/defs/* /etc/nsctl/machines.d/; nsctl -q apply --yes; nsctl plan --exit-code")?;
    let read = "find /etc/nsctl /etc/systemd/nspawn /etc/systemd/network /etc/systemd/system/systemd-nspawn@m* \
                /var/lib/nsctl -type f -exec cat {} +";
    let (mut ours, mut theirs) = (Figures::default(), Figures::default());
    for _ in 0..2 * ROUNDS {
        ours.add(cost(lab, "nsctl plan")?.elapsed);
        theirs.add(cost(lab, read)?.elapsed);
    }
    let what = format!("plan, {MACHINES} machines, nothing to do");
    sheet.pair(&what, "ms", &ours, ("cat of the same files", &theirs), Goal::Within(300.0));
    for verb in ["plan", "list --json", "doctor --json", "show m1", "pool", "dns", "attach m1 --routed"] {
        let mut memory = Figures::default();
        memory.add(cost(lab, &format!("nsctl {verb}"))?.memory);
        sheet.single(&format!("memory of `{verb}`, {MACHINES} machines"), "MB", &memory, 40.0);
    }
    Ok(())
}
