//! Backups by btrfs-send(8), to another host by ssh: each the difference to the one before, none of them half, and back.

use std::process::Command;

use anyhow::{Result, ensure};
use fs_err as fs;
use serde_json::Value;

use super::backups::{inside_ok, kinds_of_files, nothing_left, tree};
use super::refused;
use crate::lab::Lab;
use crate::must;

const TO: &str = "btrfs:root@localhost:/mnt/away/nsctl";
const FOLDER: &str = "/mnt/away/nsctl";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    inside_ok(lab, "web", kinds_of_files())?;
    asked_for(lab)?;
    kept(lab)?;
    back(lab)?;
    filled(lab)?;
    strayed(lab)?;
    torn(lab)?;
    cut_short(lab)?;
    scheduled(lab)?;
    lost(lab)?;
    here(lab)
}

/// What is missing is told, on which side ever, and nothing is made.
fn asked_for(lab: &Lab) -> Result<()> {
    lab.install("btrfs-progs")?;
    refused(lab, &format!("backup web --to {TO}"), 1, "ssh")?;
    refused(lab, "backup web --to btrfs:-oProxyCommand=x:/srv", 2, "names no repository")?;
    lab.install("openssh-server openssh-client")?;
    refused(lab, &format!("backup web --to {TO}"), 1, "root@localhost:/mnt/away/nsctl")?;
    lab.sh(
        "systemctl start ssh; mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
         cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys; ssh-keyscan localhost > /root/.ssh/known_hosts 2> /dev/null",
    )?;
    refused(lab, "backup web --to btrfs:localhost:/run/nsctl-there", 1, "not on btrfs")?;
    refused(lab, &format!("backup list --from {TO}"), 1, "there is no repository")?;
    let disk = lab.machines().join("away.img");
    fs::File::create(&disk)?.set_len(4 << 30)?;
    ensure!(Command::new("mkfs.btrfs").arg("-q").arg(&disk).status()?.success(), "no file system");
    lab.sh("mkdir -p /mnt/away; mount -o loop /var/lib/machines/away.img /mnt/away").map(drop)
}

fn backups(lab: &Lab) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(&lab.nsctl_ok(&format!("backup list web --from {TO} --json"))?)?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

/// The labels of the machine's snapshots.
fn snapshots(lab: &Lab) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&lab.nsctl_ok("snapshot list web --json")?)?;
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["label"].as_str().map(str::to_owned))
        .collect())
}

/// What the repository takes, in KiB.
fn size(lab: &Lab) -> Result<u64> {
    Ok(lab
        .sh("btrfs filesystem sync /mnt/away; df --output=used -k /mnt/away | tail -n 1")?
        .trim()
        .parse()?)
}

fn back_up(lab: &Lab) -> Result<u64> {
    let before = size(lab)?;
    lab.nsctl_ok(&format!("backup web --to {TO}"))?;
    let left = lab.sh(&format!("ls -A {FOLDER} | grep -e part -e gone || true"))?;
    must!(left.is_empty(), "left over there: {left}");
    Ok(size(lab)?.saturating_sub(before))
}

/// The first is whole, the next ones are what has changed.
fn kept(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show web -p Leader")?;
    let first = back_up(lab)?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    let one = snapshots(lab)?;
    must!(one.len() == 1, "{one:?}");
    let list = lab.nsctl_ok("snapshot list web")?;
    must!(list.contains("the next backup to btrfs:root@localhost"), "{list}");
    inside_ok(lab, "web", "echo two > /srv/world/later; rm /srv/world/d; mkfifo /srv/world/d; sync")?;
    let second = back_up(lab)?;
    must!(second * 5 < first, "{first} KiB, then {second}");
    must!(backups(lab)?.len() == 2, "{:?}", backups(lab)?);
    let two = snapshots(lab)?;
    must!(two.len() == 1 && two != one, "{two:?}");
    let there = lab.sh(&format!("cat {FOLDER}/*/tree/srv/world/later; stat -c %a {FOLDER}/*"))?;
    must!(there == "two\n700\n700\n", "{there}");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}

fn back(lab: &Lab) -> Result<()> {
    let then = tree(lab, "web")?;
    let said = lab.nsctl_ok(&format!("backup verify web --from {TO}"))?;
    must!(said.contains("does what it did"), "{said}");
    must!(
        lab.nsctl_ok("list -o name,backup")?.contains("proved"),
        "{}",
        lab.nsctl_ok("list -o name,backup")?
    );
    inside_ok(lab, "web", "rm -r /srv/world; sync")?;
    lab.nsctl_ok(&format!("restore web --from {TO} --yes"))?;
    let now = tree(lab, "web")?;
    must!(now == then, "it was\n{then}and is\n{now}");
    lab.nsctl_ok(&format!("restore web --from {TO} --as web2 --yes"))?;
    lab.booted("web2")?;
    must!(tree(lab, "web2")? == then, "{}", tree(lab, "web2")?);
    lab.nsctl_ok("remove web2 --yes")?;
    for label in snapshots(lab)?.iter().filter(|label| label.starts_with("before-")) {
        lab.nsctl_ok(&format!("snapshot remove web {label} --yes"))?;
    }
    nothing_else_left(lab)
}

/// But for what the next one is the difference to.
fn nothing_else_left(lab: &Lab) -> Result<()> {
    let stays = snapshots(lab)?;
    must!(stays.iter().all(|label| label.starts_with("backup-")) && stays.len() < 2, "{stays:?}");
    nothing_left(lab, &stays)
}

/// A subvolume of the guest's own would be left out: that is told, unless it is empty.
fn filled(lab: &Lab) -> Result<()> {
    lab.sh("btrfs -q subvolume create /var/lib/machines/web/srv/own; btrfs -q subvolume create '/var/lib/machines/web/srv/empty one'")?;
    back_up(lab)?;
    lab.sh("touch /var/lib/machines/web/srv/own/file")?;
    let leader = lab.sh("machinectl show web -p Leader")?;
    refused(lab, &format!("backup web --to {TO} --stop"), 1, "/srv/own")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was stopped for nothing");
    lab.sh("btrfs -q subvolume delete /var/lib/machines/web/srv/own '/var/lib/machines/web/srv/empty one'")
        .map(drop)
}

/// Where one side has lost what the difference is to, all of it is sent.
fn strayed(lab: &Lab) -> Result<()> {
    lab.nsctl_ok(&format!("snapshot remove web {} --yes", snapshots(lab)?.join(" ")))?;
    let whole = back_up(lab)?;
    let next = back_up(lab)?;
    must!(next * 5 < whole, "{whole} KiB, then {next}");
    // It is there, and another.
    lab.sh(&format!(
        "for tree in {FOLDER}/*/tree; do btrfs property set -f -ts \"$tree\" ro false; touch \"$tree/other\"
             btrfs property set -ts \"$tree\" ro true; done"
    ))?;
    let again = back_up(lab)?;
    must!(again > next * 5, "{next} KiB, then {again}");
    must!(back_up(lab)? * 5 < again, "{again} KiB, and as much again");
    lab.nsctl_ok(&format!("backup verify web --from {TO}")).map(drop)
}

/// What is torn on its way is no backup, and no machine, whoever says that all is well.
fn torn(lab: &Lab) -> Result<()> {
    let before = backups(lab)?;
    let list = snapshots(lab)?;
    // What is sent is a difference, and small; what comes back is all of it.
    for (sent, back) in [(0, 0), (40, 40), (3000, 3_000_000)] {
        lab.sh(&format!(
            "printf '#!/bin/sh\\nif [ \"$1\" = receive ]; then head -c {sent} | /usr/bin/btrfs \"$@\"; exit 0; fi\\n' > /usr/local/bin/btrfs
             printf 'if [ \"$1\" = send ]; then /usr/bin/btrfs \"$@\" | head -c {back}; exit 0; fi\\nexec /usr/bin/btrfs \"$@\"\\n' >> /usr/local/bin/btrfs
             chmod +x /usr/local/bin/btrfs"
        ))?;
        let put = lab.nsctl(&format!("backup web --to {TO}"))?;
        let restored = lab.nsctl(&format!("restore web --from {TO} --as half --yes --no-start"))?;
        lab.sh("rm /usr/local/bin/btrfs")?;
        must!(put.status == 1 && backups(lab)? == before, "{sent} bytes: {}", put.all());
        must!(restored.status == 1, "{back} bytes: {}", restored.all());
        must!(!lab.sh("ls -A /var/lib/machines")?.contains("half"), "{}", lab.sh("ls -A /var/lib/machines")?);
    }
    must!(snapshots(lab)? == list, "{:?}", snapshots(lab)?);
    back_up(lab).map(drop)
}

/// Killed anywhere, nothing is left but what the next one deletes.
fn cut_short(lab: &Lab) -> Result<()> {
    for verb in ["backup web --to", "restore web --yes --from"] {
        let mut ended = false;
        for point in (1..160).step_by(7) {
            let line = format!("NSCTL_KILL_AT={point} nsctl-faults {verb} {TO}");
            ended = lab.run(&["sh", "-c", &line])?.ok();
            if ended {
                break;
            }
            lab.nsctl_ok("apply --yes")?;
            must!(lab.machine("web")?["state"] == "running", "{verb}, killed at {point}: it does not run");
        }
        must!(ended, "`{verb}` was always killed");
    }
    back_up(lab)?;
    for label in snapshots(lab)?.iter().filter(|label| !label.starts_with("backup-")) {
        lab.nsctl_ok(&format!("snapshot remove web {label} --yes"))?;
    }
    must!(tree(lab, "web")?.contains("linked"), "its files are others");
    nothing_else_left(lab)
}

/// The old ones go, there, too, and the next is a difference all the same.
fn scheduled(lab: &Lab) -> Result<()> {
    lab.sh(&format!("printf '\\n[backup]\\nto = \"{TO}\"\\n' >> /etc/nsctl/nsctl.toml"))?;
    lab.must(&["nsctl", "set", "web", "backup.every=hourly", "backup.keep={ hourly = 1 }"])?;
    for _ in 0..3 {
        lab.sh("systemctl start nsctl-backup@hourly.service")?;
        let all = backups(lab)?;
        let scheduled = all.iter().filter(|one| one["scheduled"] == true).count();
        must!(scheduled == 1, "{all:?}");
        must!(
            lab.sh(&format!("ls -A {FOLDER} | grep -v ^[.] | wc -l"))?.trim() == all.len().to_string(),
            "{all:?}"
        );
    }
    // Whose disk is not mounted, nobody takes for an empty one.
    lab.sh("umount /mnt/away")?;
    must!(!lab.run(&["systemctl", "start", "nsctl-backup@hourly.service"])?.ok(), "it did not fail");
    refused(lab, "backup web", 1, "there is no repository")?;
    lab.sh("mount -o loop /var/lib/machines/away.img /mnt/away; systemctl reset-failed; systemctl start nsctl-backup@hourly.service")?;
    must!(lab.nsctl("doctor web")?.ok(), "{}", lab.nsctl("doctor web")?.all());
    Ok(())
}

/// The machine is gone with its snapshots, and comes back as it was.
fn lost(lab: &Lab) -> Result<()> {
    let (then, was) = (tree(lab, "web")?, lab.machine("web")?);
    lab.nsctl_ok("backup web --stop")?;
    lab.nsctl_ok("remove web --yes")?;
    lab.nsctl_ok("restore web --yes")?;
    must!(lab.machine("web")?["network"] == was["network"], "{}", lab.machine("web")?);
    must!(tree(lab, "web")? == then, "its files are others: {then}");
    // A name of somebody else's in a card is none of its backups.
    lab.sh(&format!(
        "cd {FOLDER}; one=$(ls | head -n 1); mkdir feedfeed
         sed 's/machine:web/machine:evil/' $one/backup.json > feedfeed/backup.json; echo '{{}}' > $one/backup.json"
    ))?;
    must!(!lab.nsctl_ok("backup list")?.contains("evil"), "{}", lab.nsctl_ok("backup list")?);
    Ok(())
}

/// A disk of this host is one, too.
fn here(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("backup web --to btrfs:/mnt/away/here")?;
    lab.nsctl_ok("backup verify web --from btrfs:/mnt/away/here")?;
    lab.nsctl_ok("remove web --yes")?;
    lab.sh("umount /mnt/away").map(drop)
}
