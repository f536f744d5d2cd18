//! An upgrade that is cut short, or that fills the disk: the machine is what it was.

use anyhow::{Result, bail};

use super::disk;
use super::snapshots::labels;
use super::upgrades::{HANGS, guest, is_well, machine, publish, upgrade};
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    machine(lab, "web")?;
    killed(lab)?;
    found_late(lab)?;
    full(lab)
}

/// Killed anywhere, also while it is taken back: the next nsctl makes it what it was.
fn killed(lab: &Lab) -> Result<()> {
    publish(lab, "web", &["2", "exit 1"])?;
    let mut ended = false;
    for point in (1..120).step_by(2) {
        let kill = format!("NSCTL_KILL_AT={point}");
        let done = lab.run(&["env", &kill, "nsctl-faults", "upgrade", "web", "--yes"])?;
        // The next one may be killed as well.
        lab.run(&["env", &format!("NSCTL_KILL_AT={}", 2 + point % 7), "nsctl-faults", "apply", "--yes"])?;
        lab.nsctl_ok("apply --yes")?;
        let kept = labels(lab)?.iter().any(|label| label.starts_with("failed-upgrade"));
        is_well(lab, "web", "1", &format!("killed at {point}"))?;
        if done.status == 1 {
            must!(point > 15 && kept, "killed nowhere, at {point}: {}", done.all());
            ended = true;
            break;
        }
    }
    must!(ended, "it was always killed");
    Ok(())
}

/// Long after, what the machine did since is not thrown away.
fn found_late(lab: &Lab) -> Result<()> {
    publish(lab, "web", &["2", HANGS])?;
    lab.sh("nsctl upgrade web --yes > /root/said 2>&1 & up=$!
         until nsctl shell web -- test -e /run/hangs 2> /dev/null; do kill -0 $up || { cat /root/said; exit 9; }; done
         kill -KILL $up; wait $up || true
         sed -i -E 's/\"until\":[0-9]+/\"until\":1/g' /var/lib/nsctl/journal/*.json")?;
    guest(lab, "web", "echo precious > /root/state")?;
    // Nor where it stands still by then, as after a reboot.
    lab.sh("systemctl stop systemd-nspawn@web")?;
    let next = lab.nsctl("apply --yes")?;
    must!(next.ok() && next.all().contains("was cut short long ago"), "{}", next.all());
    lab.booted("web")?;
    must!(guest(lab, "web", "cat /root/state")?.trim() == "precious", "it is lost");
    // It goes on where it was.
    publish(lab, "web", &["3", ":"])?;
    guest(lab, "web", "touch /run/lets-go")?;
    let (done, row) = upgrade(lab, "web")?;
    must!(done.ok() && row["result"] == "upgraded", "{}", done.all());
    is_well(lab, "web", "3", "found late")
}

/// The tree may grow no more, or the disk is full: the way back takes no room.
fn full(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("remove web --yes")?;
    disk::on(lab, "ext4", &["mkfs.ext4", "-q", "-m", "0"], "loop")?;
    machine(lab, "web")?;
    publish(
        lab,
        "web",
        &[
            "2",
            "touch /run/hangs; until [ -e /run/full ]; do sleep 0.1; done; head -c 300M /dev/zero > /root/more",
        ],
    )?;
    let done = lab.sh(
        "nsctl upgrade web --yes > /root/said 2>&1 & up=$!
         until nsctl shell web -- test -e /run/hangs 2> /dev/null; do kill -0 $up || { cat /root/said; exit 9; }; done
         avail=$(df --output=avail -B1M /var/lib/machines | tail -n1)
         fallocate -l $((avail - 20))M /var/lib/machines/ballast
         nsctl shell web -- touch /run/full; wait $up || true; cat /root/said; rm /var/lib/machines/ballast",
    )?;
    must!(done.contains("rolled back") && done.contains("are copied, which takes about"), "{done}");
    is_well(lab, "web", "1", "when the disk was full")?;
    if labels(lab)?.is_empty() { disk::off(lab, "ext4") } else { bail!("{:?}", labels(lab)?) }
}
