//! What a machine's tree may take of the disk, on btrfs; of XFS and ext4, which this kernel may not
//! limit, the emulated machine tells.

use anyhow::{Result, ensure};
use fs_err as fs;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    on(lab, "btrfs", &["mkfs.btrfs", "-q"], "loop")?;
    holds(lab)?;
    off(lab, "btrfs")?;
    // Where it cannot be had, nothing is begun.
    let unable: [(&str, &[&str], &str, &str); 3] = [
        ("xfs", &["mkfs.xfs", "-q"], "loop", "prjquota"),
        ("ext4", &["mkfs.ext4", "-q"], "loop", "prjquota"),
        ("btrfs", &["mkfs.btrfs", "-q"], "loop", "btrfs quota disable"),
    ];
    for (name, make, options, hint) in unable {
        on(lab, name, make, options)?;
        if name == "btrfs" {
            btrfs(lab, &["quota", "enable"], "")?;
        }
        lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
        refused(lab, "set web limits.disk=200M", 1, hint)?;
        off(lab, name)?;
    }
    Ok(())
}

/// Another file system for the trees.
pub fn on(lab: &Lab, name: &str, make: &[&str], options: &str) -> Result<()> {
    let disk = lab.machines().join("disk.img");
    fs::File::create(&disk)?.set_len(3 << 30)?;
    let done = std::process::Command::new(make[0]).args(&make[1..]).arg(&disk).status()?;
    ensure!(done.success(), "{name}: {make:?}");
    lab.sh(&format!(
        // machined has mounts of its own, from when it was started.
        "systemctl stop systemd-machined; mkdir -p /mnt/new && mount -o {options} /var/lib/machines/disk.img /mnt/new
         cp -a /var/lib/machines/debian-13 /mnt/new/ && mount --bind /mnt/new /var/lib/machines && umount /mnt/new"
    ))?;
    Ok(())
}

pub fn off(lab: &Lab, name: &str) -> Result<()> {
    lab.nsctl_ok("remove web --yes").map_err(|error| error.context(name.to_owned()))?;
    lab.sh(
        "systemctl stop systemd-machined; umount --lazy /var/lib/machines && rm /var/lib/machines/disk.img",
    )?;
    Ok(())
}

/// The guest has no btrfs(8), and may do the same by ioctl_btrfs(2).
fn btrfs(lab: &Lab, words: &[&str], at: &str) -> Result<()> {
    let place = lab.root()?.join("var/lib/machines").join(at);
    let done = std::process::Command::new("btrfs").args(words).arg(&place).status()?;
    ensure!(done.success(), "btrfs {words:?} {}", place.display());
    Ok(())
}

/// A subvolume of the guest's.
fn own(lab: &Lab, name: &str) -> Result<()> {
    btrfs(lab, &["-q", "subvolume", "create"], &format!("web/srv/{name}"))
}

/// Writes so many MiB into a file of the machine.
fn write(lab: &Lab, file: &str, size: u32) -> Result<bool> {
    let line = format!("dd if=/dev/urandom of={file} bs=1M count={size} 2>&1 && sync {file}");
    Ok(lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", &line])?.ok())
}

fn holds(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    for wrong in ["limits.disk=0", "limits.disk=much", "limits.disk=50%"] {
        let done = lab.nsctl(&format!("set web {wrong}"))?;
        must!(!done.ok(), "{wrong}");
    }
    must!(write(lab, "/root/before", 50)?, "it has no room");
    own(lab, "early")?;
    let leader = lab.sh("machinectl show web -p Leader")?;
    // What is there already does not count.
    lab.nsctl_ok("set web limits.disk=150M")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(write(lab, "/root/some", 60)?, "it may take nothing more");
    must!(!write(lab, "/root/more", 300)?, "it takes more than it may");
    lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", "rm -f /root/more; sync"])?;
    // Nor by what it makes beside, now or before.
    own(lab, "late")?;
    for name in ["early", "late"] {
        must!(!write(lab, &format!("/srv/{name}/more"), 300)?, "it takes more in {name}");
        lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", &format!("rm -f /srv/{name}/more; sync")])?;
    }
    lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", "rm /root/some; sync"])?;
    let room = lab.sh("df --output=avail -BM /var/lib/machines | tail -1")?;
    must!(room.trim().trim_end_matches('M').parse::<u32>()? > 1000, "the disk itself is full: {room}");
    // More, and as much as there is.
    lab.nsctl_ok("set web limits.disk=2G")?;
    must!(write(lab, "/root/more", 300)?, "it may not take more");
    lab.nsctl_ok("set web limits.disk=150M")?;
    lab.nsctl_ok("set web limits.disk=")?;
    must!(write(lab, "/root/other", 300)?, "it is limited still");
    // As it is, full, it is kept by a rollback, and deleted.
    lab.nsctl_ok("set web limits.disk=")?;
    lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", "rm -f /root/m* /root/o*; sync"])?;
    lab.nsctl_ok("snapshot web small")?;
    lab.nsctl_ok("set web limits.disk=150M")?;
    must!(!write(lab, "/root/full", 300)?, "it is not limited");
    lab.nsctl_ok("rollback web small --yes")?;
    lab.sh("nsctl snapshot remove web $(cd /var/lib/machines; ls -d .web@* | sed s/.*@//) --yes")?;
    must!(lab.sh("ls -A /var/lib/machines | grep -c web@ || true")?.trim() == "0", "some are left");
    lab.nsctl_ok("set web limits.disk=150M")?;
    lab.booted("web")?;
    // A name that changes, and a new tree, take it along.
    lab.nsctl_ok("set web limits.disk=150M")?;
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok("rename web other")?;
    lab.nsctl_ok("rename other web")?;
    lab.nsctl_ok("start web")?;
    lab.booted("web")?;
    must!(!write(lab, "/root/third", 300)?, "it lost its limit with its name");
    Ok(())
}
