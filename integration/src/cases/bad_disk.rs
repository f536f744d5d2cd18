//! A read-only folder and a full disk: a clear error, and nothing is left over.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let create = "create web --routed --image debian-13";
    for folder in
        ["/etc/systemd/nspawn", "/etc/nsctl/machines.d", "/var/lib/nsctl/guest", "/etc/systemd/network"]
    {
        lab.sh(&format!(
            "mkdir -p {folder} && mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
        ))?;
        refused(lab, create, 1, "Read-only file system")?;
        lab.sh(&format!("umount {folder}"))?;
        lab.sh(&format!(
            "mount -t tmpfs -o size=4k tmpfs {folder} && head -c 4096 /dev/zero > {folder}/full 2>/dev/null"
        ))?;
        refused(lab, create, 1, "No space left")?;
        lab.sh(&format!("umount {folder}"))?;
    }
    lab.nsctl_ok(create)?;
    Ok(())
}
