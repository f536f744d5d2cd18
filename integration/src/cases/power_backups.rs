//! The power goes, for real, while a machine is backed up, tried and restored: what was said to be done is on the disk,
//! and what was not is finished or undone by the next nsctl; its repository is whole each time.

use anyhow::Result;
use serde_json::Value;

use super::backups::{furnish, inside_ok, nothing_left, plain, tree};
use super::snapshots::labels;
use crate::lab::Lab;
use crate::must;

const REPOSITORY: &str = "/srv/backups";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.move_to_ext4()?;
    lab.install("restic")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(&format!(
        "echo kennwort > /root/secret; (umask 077; head -c 24 /dev/urandom | base64 > /etc/nsctl/backup.password)
         printf '\\n[backup]\\nto = \"{REPOSITORY}\"\\n' >> /etc/nsctl/nsctl.toml; sync"
    ))?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7 --secret token=/root/secret")?;
    lab.booted("web")?;
    furnish(lab)?;
    after_it_is_done(lab)?;
    in_the_middle(lab)
}

/// What is on the disk by now is all that there is.
fn cut(lab: &mut Lab) -> Result<()> {
    let copy = lab.cut()?;
    lab.lose_power(copy)?;
    lab.power_on()?;
    lab.booted("web")
}

fn backups(lab: &Lab) -> Result<usize> {
    let list: Value = serde_json::from_str(&lab.nsctl_ok("backup list web --json")?)?;
    Ok(list.as_array().map_or(0, Vec::len))
}

fn is_whole(lab: &Lab) -> Result<()> {
    lab.sh(&format!(
        "restic -q -r {REPOSITORY} --password-file /etc/nsctl/backup.password check --no-lock --read-data 2>&1"
    ))
    .map(drop)
}

fn after_it_is_done(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("backup web")?;
    cut(lab)?;
    must!(backups(lab)? == 1, "the backup is lost");
    is_whole(lab)?;
    let then = tree(lab, "web")?;
    lab.nsctl_ok("backup verify web")?;
    cut(lab)?;
    let proof = lab.nsctl_ok("list -o name,backup")?;
    must!(proof.contains("proved") && !proof.contains("not proved"), "the proof is lost: {proof}");
    inside_ok(lab, "web", "rm -r /srv/world; sync")?;
    lab.nsctl_ok("restore web --yes")?;
    cut(lab)?;
    must!(plain(&tree(lab, "web")?) == plain(&then), "it was\n{then}and is\n{}", tree(lab, "web")?);
    tidy(lab)
}

/// Snapshots of before each restore go, and what was brought back and is to be tried again; nothing else is left.
fn tidy(lab: &Lab) -> Result<()> {
    let all: Vec<String> = labels(lab)?.into_iter().collect();
    must!(
        all.iter().all(|label| label.starts_with("before-rollback") || label.starts_with("restored-")),
        "{all:?}"
    );
    if !all.is_empty() {
        lab.nsctl_ok(&format!("snapshot remove web {} --yes", all.join(" ")))?;
    }
    nothing_left(lab, &[])
}

/// Cut at points all over a verb, right where nsctl is, or a moment after it was killed.
fn in_the_middle(lab: &mut Lab) -> Result<()> {
    for (verb, points) in [
        ("backup web", &[4, 14][..]),
        ("backup verify web", &[5, 12, 19]),
        ("restore web --yes", &[6, 16, 45]),
    ] {
        let mut cuts = 0;
        for point in points {
            let line = format!("NSCTL_KILL_AT={point} nsctl-faults {verb}");
            let done = lab.run(&["sh", "-c", &line])?;
            cuts += u32::from(!done.ok());
            cut(lab)?;
            let place = format!("a power cut at point {point} of `nsctl {verb}` (status {})", done.status);
            let next = lab.nsctl("apply --yes")?;
            must!(next.ok(), "after {place}:\n{}", next.all());
            must!(tree(lab, "web")?.contains("linked"), "its files are others after {place}");
            must!(
                lab.nsctl("plan")?.stdout == "nothing to do\n",
                "after {place}: {}",
                lab.nsctl("plan")?.all()
            );
            is_whole(lab).map_err(|error| error.context(place.clone()))?;
            // It works from there on, and takes away what one that was cut short had sent from.
            lab.nsctl_ok("backup web")?;
            tidy(lab).map_err(|error| error.context(place))?;
        }
        must!(cuts > 1, "`nsctl {verb}` was cut {cuts} times");
        lab.nsctl_ok(verb)?;
        lab.booted("web")?;
    }
    lab.nsctl_ok("backup verify web").map(drop)
}
