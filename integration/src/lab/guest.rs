//! A guest of 2 MB without systemd: busybox and a script.

use std::path::Path;

use anyhow::Result;
use fs_err as fs;

use super::host::Lab;
use super::run::{check, words};
use super::trees::subvolume;

/// PID 1; it ends when nspawn asks it to, with SIGRTMIN+3, for which busybox has no name.
const INIT: &str = "#!/bin/sh
trap 'exit 0' 37
/bin/busybox ip link set host0 up
while :; do /bin/busybox sleep 3600 & wait $!; done
";

/// Puts the guest's tree into the host's /var/lib/machines. It takes its
/// address by RA, in the kernel.
pub fn tiny_guest(lab: &Lab, name: &str) -> Result<()> {
    let tree = lab.machines().join(name);
    // A disk of the host's own is no btrfs.
    if lab.has_ext4() {
        fs::create_dir(&tree)?
    } else {
        subvolume(&tree)?
    }
    install_tiny_guest(&tree)
}

/// Makes such a tree in a folder, which may be there.
pub fn install_tiny_guest(tree: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "usr", "var", "root"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    fs::os::unix::fs::symlink("busybox", tree.join("bin/sh"))?;
    fs::write(tree.join("etc/os-release"), "ID=tiny\n")?;
    let init = tree.join("sbin/init");
    fs::write(&init, INIT)?;
    check(&mut words(&["chmod", "755", &init.to_string_lossy()])).map(drop)
}
