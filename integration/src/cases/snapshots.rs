//! A machine as it was, kept, and gone back to: whole at each instant, whoever is killed, and whatever is full.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::disk;
use super::refused;
use crate::lab::{Done, Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    refusals(lab)?;
    there_and_back(lab)?;
    goes_on(lab)?;
    killed_while_taken(lab)?;
    killed_while_going_back(lab)?;
    killed_while_undone(lab)?;
    schedules(lab)?;
    other_names(lab)?;
    full(lab)
}

fn guest(lab: &Lab, lines: &str) -> Result<Done> {
    lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", lines])
}

/// What the guest has in a file of its own.
fn has(lab: &Lab) -> Result<String> {
    lab.booted("web")?;
    Ok(guest(lab, "cat /root/state")?.stdout.trim().to_owned())
}

fn put(lab: &Lab, word: &str) -> Result<()> {
    lab.booted("web")?;
    let done = guest(lab, &format!("echo {word} > /root/state"))?;
    must!(done.ok(), "{}", done.all());
    Ok(())
}

pub fn labels(lab: &Lab) -> Result<BTreeSet<String>> {
    let list: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("snapshot list web --json")?)?;
    let rows = list.as_array().into_iter().flatten();
    Ok(rows.filter_map(|row| Some(row["label"].as_str()?.to_owned())).collect())
}

/// Each record has its tree, and each tree its record.
pub fn is_whole(lab: &Lab, when: &str) -> Result<()> {
    let trees =
        lab.sh("cd /var/lib/machines && find . -maxdepth 1 -name '.web@*' | sed 's,^./.web@,,' | sort")?;
    let trees: BTreeSet<String> = trees.lines().map(str::to_owned).collect();
    must!(trees == labels(lab)?, "{when}: the trees {trees:?}, the records {:?}", labels(lab)?);
    let stray = lab.sh("ls -A /etc/systemd/nspawn | grep -vE '^[a-z]+.nspawn$' || true")?;
    must!(stray.is_empty(), "{when}: {stray}");
    Ok(())
}

fn refusals(lab: &Lab) -> Result<()> {
    refused(lab, "snapshot nobody", 1, "no machine named")?;
    refused(lab, "snapshot web a/b", 2, "cannot be the label")?;
    refused(lab, "snapshot web ..", 2, "cannot be the label")?;
    refused(lab, "rollback web first --yes", 1, "has no snapshots")?;
    refused(lab, "snapshot remove web first --yes", 1, "has no snapshots")?;
    refused(lab, "set web snapshots.every=sometimes", 1, "hint:")?;
    refused(lab, "set web snapshots.keep={daily=0}", 1, "hint:")?;
    must!(lab.nsctl_ok("snapshot list")?.contains("no snapshots"), "there are some");
    Ok(())
}

fn there_and_back(lab: &Lab) -> Result<()> {
    put(lab, "one")?;
    lab.nsctl_ok("snapshot web first")?;
    refused(lab, "snapshot web first", 1, "already")?;
    refused(lab, "rollback web other --yes", 1, "it has: first")?;
    // Nobody writes to it, and it is nobody's machine.
    let touched = lab.sh("touch /var/lib/machines/.web@first/root/x 2>&1 || true")?;
    must!(touched.contains("Read-only") || touched.contains("not permitted"), "{touched}");
    must!(!lab.nsctl_ok("image list")?.contains("first"), "{}", lab.nsctl_ok("image list")?);
    put(lab, "two")?;
    // So deep that nobody can look into it.
    let deep = "cd /root && perl -e 'for (1..20000) { mkdir \"d\"; chdir \"d\" or die }'";
    must!(guest(lab, deep)?.ok(), "no deep folders");
    let shown = lab.nsctl("snapshot show web first")?;
    must!(shown.ok() && shown.stderr.contains("cannot be told"), "{}", shown.all());
    lab.nsctl_ok("set web limits.tasks=300 environment.A=b --yes")?;
    let shown = lab.nsctl_ok("snapshot show web first")?;
    must!(shown.contains("+tasks = 300"), "{shown}");
    refused(lab, "rollback web first", 1, "--yes")?;
    lab.nsctl_ok("rollback web first --yes")?;
    must!(has(lab)? == "one", "its files are {}", has(lab)?);
    must!(lab.machine("web")?["limits"]["tasks"] == 8192, "{}", lab.machine("web")?);
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor web")?.contains("all is well"), "{}", lab.nsctl("doctor web")?.all());
    is_whole(lab, "after a rollback")?;
    // As it was just before is kept, and can be gone back to, also by one that is stopped.
    let before = labels(lab)?.into_iter().find(|label| label.starts_with("before-rollback"));
    let Some(before) = before else { bail!("what it had is lost") };
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok(&format!("rollback web {before} --yes"))?;
    must!(lab.machine("web")?["state"] == "stopped", "{}", lab.machine("web")?);
    lab.nsctl_ok("start web")?;
    must!(has(lab)? == "two", "its files are {}", has(lab)?);
    must!(lab.machine("web")?["limits"]["tasks"] == 300, "{}", lab.machine("web")?);
    lab.nsctl_ok("snapshot web still --stop")?;
    must!(lab.machine("web")?["state"] == "running", "{}", lab.machine("web")?);
    // People are quick, and machines quicker.
    lab.nsctl_ok("stop web")?;
    lab.sh("for time in 1 2 3; do nsctl snapshot web && nsctl rollback web first --yes; done")?;
    must!(labels(lab)?.len() >= 8, "{:?}", labels(lab)?);
    is_whole(lab, "after three in a second")?;
    lab.nsctl_ok("start web")?;
    lab.nsctl_ok("set web limits.tasks=300")?;
    let all: Vec<String> = labels(lab)?.into_iter().filter(|label| label != "first").collect();
    lab.nsctl_ok(&format!("snapshot remove web {} --yes", all.join(" ")))?;
    is_whole(lab, "after some were deleted")
}

/// A machine that stands still goes on, also where whoever asked for that is killed.
fn goes_on(lab: &Lab) -> Result<()> {
    let state = || lab.sh("systemctl show -p FreezerState --value systemd-nspawn@web");
    lab.nsctl_ok("snapshot web frozen --freeze")?;
    must!(state()?.trim() == "running", "it stands still: {}", state()?);
    let mut ended = false;
    for point in 1..30 {
        let kill = format!("NSCTL_KILL_AT={point}");
        let done = lab.run(&["env", &kill, "nsctl-faults", "snapshot", "web", "cold", "--freeze"])?;
        // No other nsctl is needed for that.
        until(Duration::from_secs(20), "it goes on", || Ok(state()?.trim() == "running"))?;
        lab.nsctl_ok("apply --yes")?;
        is_whole(lab, &format!("killed at {point} of a frozen one"))?;
        if done.ok() {
            must!(point > 4, "it was killed nowhere");
            ended = true;
            break;
        }
    }
    must!(ended, "it was always killed");
    lab.nsctl_ok("snapshot remove web frozen cold --yes").map(drop)
}

fn killed_while_taken(lab: &Lab) -> Result<()> {
    for verb in ["snapshot web more", "snapshot remove web more --yes"] {
        let mut ended = false;
        for point in 1..40 {
            let words: Vec<&str> = verb.split(' ').collect();
            let kill = format!("NSCTL_KILL_AT={point}");
            let done = lab.run(&[&["env", &kill, "nsctl-faults"], &words[..]].concat())?;
            lab.nsctl_ok("apply --yes")?;
            is_whole(lab, &format!("killed at {point} of `{verb}`"))?;
            let there = labels(lab)?.contains("more");
            if done.ok() {
                must!(there != verb.contains("remove"), "`{verb}` did nothing");
                ended = true;
                break;
            }
            // What was finished after all is put back, so that the next point is one of the same.
            if there != verb.contains("remove") {
                lab.nsctl_ok(if there { "snapshot remove web more --yes" } else { "snapshot web more" })?;
            }
        }
        must!(ended, "`{verb}` was always killed");
    }
    Ok(())
}

fn killed_while_going_back(lab: &Lab) -> Result<()> {
    put(lab, "now")?;
    for point in 1..80 {
        let kill = format!("NSCTL_KILL_AT={point}");
        let done = lab.run(&["env", &kill, "nsctl-faults", "rollback", "web", "first", "--yes"])?;
        lab.nsctl_ok("apply --yes")?;
        is_whole(lab, &format!("killed at {point} of a rollback"))?;
        lab.nsctl_ok("start web")?;
        let (files, tasks) = (has(lab)?, lab.machine("web")?["limits"]["tasks"].clone());
        let back = files == "one" && tasks == 8192;
        must!(back || (files == "now" && tasks == 300), "killed at {point}: {files}, {tasks}");
        must!(
            lab.nsctl_ok("doctor web")?.contains("all is well"),
            "killed at {point}: {}",
            lab.nsctl("doctor web")?.all()
        );
        if done.ok() {
            must!(back && point > 8, "it was killed nowhere, or did nothing");
            return Ok(());
        }
        if back {
            let before = labels(lab)?.into_iter().find(|label| label.starts_with("before-rollback"));
            let Some(before) = before else { bail!("killed at {point}: what it had is lost") };
            lab.nsctl_ok(&format!("rollback web {before} --yes"))?;
        }
        let extra: Vec<String> =
            labels(lab)?.into_iter().filter(|label| label.starts_with("before")).collect();
        if !extra.is_empty() {
            lab.nsctl_ok(&format!("snapshot remove web {} --yes", extra.join(" ")))?;
        }
    }
    bail!("it never ended")
}

/// A rollback to what does not start is undone; killed in that, and killed again when the next nsctl goes on with it,
/// the machine has its own tree, and its own settings.
fn killed_while_undone(lab: &Lab) -> Result<()> {
    let old: Vec<String> = labels(lab)?.into_iter().filter(|label| label.starts_with("before")).collect();
    lab.nsctl_ok(&format!("snapshot remove web {} --yes", old.join(" ")))?;
    put(lab, "mine")?;
    lab.sh("cd /var/lib/machines/web/usr/lib/systemd && mv systemd systemd.away && nsctl snapshot web broken && mv systemd.away systemd")?;
    let failed = lab.nsctl("rollback web broken --yes")?;
    must!(!failed.ok(), "it starts without an init: {}", failed.all());
    is_its_own(lab, "after an undo")?;
    let mut undone = false;
    for point in (8..60).step_by(3) {
        let kill = format!("NSCTL_KILL_AT={point}");
        let done = lab.run(&["env", &kill, "nsctl-faults", "rollback", "web", "broken", "--yes"])?;
        for again in [3, 6, 9, 12] {
            lab.run(&["env", &format!("NSCTL_KILL_AT={again}"), "nsctl-faults", "apply", "--yes"])?;
        }
        lab.nsctl("apply --yes")?;
        // Killed while all was done but the waiting, it is kept: what the machine had is a snapshot.
        let kept = |lab: &Lab| -> Result<Vec<String>> {
            Ok(labels(lab)?.into_iter().filter(|label| label.starts_with("before-rollback")).collect())
        };
        if let Some(before) = kept(lab)?.first() {
            lab.nsctl_ok(&format!("rollback web {before} --yes"))?;
            lab.nsctl_ok(&format!("snapshot remove web {} --yes", kept(lab)?.join(" ")))?;
        }
        lab.nsctl_ok("start web")?;
        is_its_own(lab, &format!("killed at {point}, and again"))?;
        // It came to its end by itself.
        if done.stderr.contains("undoing") && done.status == 1 {
            undone = true;
            break;
        }
    }
    must!(undone, "it was always killed before");
    lab.nsctl_ok("snapshot remove web broken --yes").map(drop)
}

fn is_its_own(lab: &Lab, when: &str) -> Result<()> {
    is_whole(lab, when)?;
    must!(has(lab)? == "mine", "{when}: it has {}", has(lab)?);
    must!(lab.sh("ls /etc/systemd/nspawn")?.trim() == "web.nspawn", "{when}: its settings are gone");
    let trees = lab.sh("ls -A /var/lib/machines | grep discarded || true")?;
    must!(trees.is_empty(), "{when}: {trees}");
    let doctor = lab.nsctl("doctor web")?;
    must!(doctor.all().contains("all is well"), "{when}: {}", doctor.all());
    Ok(())
}

fn schedules(lab: &Lab) -> Result<()> {
    let timer = |word: &str| lab.sh(&format!("systemctl is-active nsctl-snapshot@{word}.timer || true"));
    lab.nsctl_ok("set web snapshots.every=hourly snapshots.keep={hourly=2} --yes")?;
    must!(timer("hourly")?.trim() == "active", "{}", timer("hourly")?);
    let taken = |lab: &Lab| -> Result<Vec<String>> {
        Ok(labels(lab)?.into_iter().filter(|label| label.starts_with("hourly-")).collect())
    };
    for hour in 1..=4 {
        lab.sh("systemctl start nsctl-snapshot@hourly.service")?;
        must!(taken(lab)?.len() == hour.min(2), "{:?}", taken(lab)?);
        // As if that had been an hour ago, and more.
        lab.sh("for file in /var/lib/nsctl/snapshots/web@hourly-*; do \
                sed -i \"s/^taken = .*/taken = $(($(sed -n 's/^taken = //p' \"$file\") - 3600))/\" \"$file\"; done")?;
    }
    must!(taken(lab)?.len() == 2, "{:?}", taken(lab)?);
    must!(labels(lab)?.contains("first"), "one that somebody took expired: {:?}", labels(lab)?);
    is_whole(lab, "after some expired")?;
    lab.nsctl_ok("set web snapshots.every=weekly")?;
    must!(timer("hourly")?.trim() != "active" && timer("weekly")?.trim() == "active", "{}", timer("weekly")?);
    lab.nsctl_ok("set web snapshots=")?;
    must!(timer("weekly")?.trim() != "active", "{}", timer("weekly")?);
    must!(lab.sh("ls /etc/systemd/system | grep -c snapshot || true")?.trim() == "0", "units stay");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

/// Snapshots go with their machine, to another name and to its end.
fn other_names(lab: &Lab) -> Result<()> {
    let before = labels(lab)?;
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok("rename web shop")?;
    must!(lab.nsctl_ok("snapshot list web")?.contains("no snapshots"), "some stay");
    lab.nsctl_ok("rename shop web")?;
    must!(labels(lab)? == before, "some are lost: {before:?}, {:?}", labels(lab)?);
    is_whole(lab, "after another name")?;
    lab.nsctl_ok("remove web --yes")?;
    is_whole(lab, "after its end")?;
    must!(labels(lab)?.is_empty(), "{:?}", labels(lab)?);
    Ok(())
}

/// Where nothing is shared, a snapshot is a copy, which may not find room.
fn full(lab: &Lab) -> Result<()> {
    disk::on(lab, "ext4", &["mkfs.ext4", "-q", "-m", "0"], "loop")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    put(lab, "one")?;
    let taken = lab.nsctl("snapshot web first")?;
    must!(taken.ok() && taken.all().contains("are copied, which takes about"), "{}", taken.all());
    put(lab, "two")?;
    lab.sh("avail=$(df --output=avail -B1M /var/lib/machines | tail -n1); fallocate -l $((avail - 60))M /var/lib/machines/ballast")?;
    let failed = lab.nsctl("snapshot web second")?;
    must!(!failed.ok(), "a copy found room: {}\n{}", failed.all(), lab.sh("df -BM /var/lib/machines; ls -la /var/lib/machines; du -sm /var/lib/machines/web /var/lib/machines/.web*")?);
    is_whole(lab, "when the disk was full")?;
    must!(labels(lab)?.len() == 1, "{:?}", labels(lab)?);
    let failed = lab.nsctl("rollback web first --yes")?;
    must!(!failed.ok(), "a copy found room: {}", failed.all());
    is_whole(lab, "when the disk was full for a rollback")?;
    must!(lab.machine("web")?["state"] == "running" && has(lab)? == "two", "it has {}", has(lab)?);
    lab.sh("rm /var/lib/machines/ballast")?;
    lab.nsctl_ok("rollback web first --yes")?;
    must!(has(lab)? == "one", "it has {}", has(lab)?);
    disk::off(lab, "ext4")
}
