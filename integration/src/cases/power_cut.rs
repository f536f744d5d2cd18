//! The power goes, for real: the host's disk is an ext4 image, and what the host boots from
//! again is a copy of the instant. What a verb had said was done is there, byte for byte; in
//! the middle of one, the next nsctl finishes or undoes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use fs_err as fs;

use crate::lab::{Lab, tiny_guest, until};
use crate::must;

/// What a guest changes of its tree by itself, and what makes a tree fit for its first boot.
const OF_THE_GUEST: [&str; 5] = ["var", "run", "etc/machine-id", "etc/resolv.conf", "etc/.updated"];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.move_to_ext4()?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    tiny_guest(lab, "tiny")?;
    lab.sh("sync; echo lost > /root/unsynced")?;
    cut(lab)?;
    must!(
        fs::read(lab.upper().join("root/unsynced")).unwrap_or_default().is_empty(),
        "no power cut loses anything"
    );
    lab.power_on()?;
    after_it_is_done(lab)?;
    in_the_middle(lab)
}

/// What returned 0 is there.
fn after_it_is_done(lab: &mut Lab) -> Result<()> {
    let image = lab.image();
    done(lab, "create web --routed --image debian-13", &[("web", &image)])?;
    answers(lab, "2001:db8:a:1::2")?;
    let web = lab.machines().join("web");
    done(lab, "clone web twin", &[("twin", &web)])?;
    answers(lab, "2001:db8:a:2::2")?;
    lab.nsctl_ok("stop web")?;
    done(lab, "rename web other", &[("other", &image)])?;
    done(lab, "snapshot other safe", &[("other", &image), (".other@safe", &image)])?;
    lab.sh("rm -r /var/lib/machines/other/usr/share; sync")?;
    done(lab, "rollback other safe --yes", &[("other", &image), (".other@safe", &image)])?;
    lab.nsctl_ok("start other")?;
    exported(lab)?;
    lab.sh("tar -C /var/lib/machines/debian-13 -cf /root/tree.tar .; sync")?;
    done(lab, "image import /root/tree.tar --name imported", &[("imported", &image)])?;
    done(lab, "import /root/other.tar --name again --yes", &[("again", &image)])?;
    answers(lab, "2001:db8:a:3::2")
}

/// Runs a verb, cuts the power at once, and compares each tree with what it was made of.
fn done(lab: &mut Lab, line: &str, trees: &[(&str, &Path)]) -> Result<()> {
    lab.nsctl_ok(line)?;
    let copy = lab.cut()?;
    let before = files(lab)?;
    lab.lose_power(copy)?;
    for (name, original) in trees {
        let lost = differences(original, &lab.machines().join(name))?;
        must!(
            lost.is_empty(),
            "after `nsctl {line}` and a power cut, {} files of {name} are not what they were: {:?}",
            lost.len(),
            &lost[..lost.len().min(5)]
        );
    }
    lab.power_on()?;
    let after = files(lab)?;
    must!(before == after, "after `nsctl {line}` and a power cut, files changed:\n{before}---\n{after}");
    let plan = lab.nsctl_ok("plan")?;
    must!(plan == "nothing to do\n", "after `nsctl {line}` and a power cut:\n{plan}");
    Ok(())
}

/// A file that an export wrote is whole.
fn exported(lab: &mut Lab) -> Result<()> {
    // It started with the host; a tree that changes cannot be packed.
    lab.nsctl_ok("stop other")?;
    lab.nsctl_ok("export other /root/other.tar")?;
    let copy = lab.cut()?;
    let before = lab.sh("sha256sum /root/other.tar")?;
    lab.lose_power(copy)?;
    lab.power_on()?;
    let after = lab.sh("sha256sum /root/other.tar; ls -la /root")?;
    must!(after.starts_with(&before), "the exported file is another: {before}{after}");
    Ok(())
}

/// Cut between two steps, at points all over a verb.
fn in_the_middle(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    let tiny = lab.machines().join("tiny");
    for (line, points) in [
        ("create victim --routed --image tiny --no-start", [6, 11, 16]),
        ("attach victim --bridge vbr0", [5, 9, 14]),
        ("snapshot victim x", [4, 6, 8]),
        ("rollback victim x --yes", [6, 10, 14]),
        ("clone victim second --no-start", [6, 11, 16]),
        ("rename second third", [5, 9, 14]),
        ("remove third --yes", [5, 9, 14]),
    ] {
        for point in points {
            half(lab, line, point)?;
        }
        lab.nsctl(line)?;
        for name in ["victim", ".victim@x", "second", "third"] {
            let tree = lab.machines().join(name);
            let lost = if tree.exists() { differences(&tiny, &tree)? } else { Vec::new() };
            must!(lost.is_empty(), "files of {name} are lost after `nsctl {line}`: {lost:?}");
        }
    }
    Ok(())
}

fn half(lab: &mut Lab, line: &str, point: u32) -> Result<()> {
    let before = disk(lab)?;
    let killed = lab.run(&["sh", "-c", &format!("NSCTL_KILL_AT={point} nsctl-faults {line}")])?;
    let copy = lab.cut()?;
    lab.lose_power(copy)?;
    lab.power_on()?;
    let place = format!("a power cut at point {point} of `nsctl {line}` (status {})", killed.status);
    // Any verb fixes first; this one has nothing to do for itself.
    let next = lab.nsctl("bridge create vbr0 --uplink enp6s0")?;
    must!(next.ok(), "after {place}:\n{}", next.all());
    let left = lab.sh("find /etc /var/lib/nsctl -name '.nsctl*' -o -name '*.json'")?;
    must!(left.is_empty(), "left after {place}: {left}");
    if disk(lab)? != before {
        let plan = lab.nsctl("plan")?;
        must!(plan.stdout == "nothing to do\n", "half done after {place}:\n{}{}", next.all(), plan.all());
        // It is through: undone by hand, for the next point.
        must!(
            killed.ok() || next.stderr.contains("was cut short"),
            "nobody is told after {place}: {}",
            next.all()
        );
        back(lab, line)?;
    }
    Ok(())
}

/// The verb was through: back to before it, for the next point.
fn back(lab: &Lab, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[0] {
        "create" => lab.nsctl_ok("remove victim --yes"),
        "attach" => lab.nsctl_ok("attach victim --routed"),
        "snapshot" => lab.nsctl_ok("snapshot remove victim x --yes"),
        "rollback" => lab.sh(
            "nsctl snapshot remove victim $(cd /var/lib/machines; ls -d .victim@before* | sed s/.*@//) --yes",
        ),
        "clone" => lab.nsctl_ok("remove second --yes"),
        "rename" => lab.nsctl_ok("rename third second"),
        _ => lab.nsctl_ok("clone victim third --no-start"),
    }
    .map(drop)
}

fn cut(lab: &mut Lab) -> Result<()> {
    let copy = lab.cut()?;
    lab.lose_power(copy)
}

/// All that nsctl writes down.
fn files(lab: &Lab) -> Result<String> {
    lab.sh("cd /; find etc/nsctl etc/systemd etc/sysctl.d etc/hosts var/lib/nsctl -type f ! -name '*lock' -exec sha256sum {} + | sort -k2; find etc/systemd -type l -printf '%p %l\\n' | sort")
}

/// The same, and which trees there are.
fn disk(lab: &Lab) -> Result<String> {
    Ok(format!("{}{}", files(lab)?, lab.sh("ls -A /var/lib/machines | grep -v '^[.]#.*lck$'")?))
}

fn answers(lab: &Lab, address: &str) -> Result<()> {
    let ping = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
    until(Duration::from_secs(30), &format!("{address} answers after the power cut"), ping)
}

/// The files of a tree that a copy of it has not, or with other content.
fn differences(original: &Path, copy: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(original.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if OF_THE_GUEST.iter().any(|own| path == Path::new(own)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && fs::read(copy.join(&path)).ok() != Some(fs::read(entry.path())?) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
