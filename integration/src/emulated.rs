//! What needs more than the kernel that we run on may have (6in4, WireGuard, limits): tried in a
//! Debian kernel under qemu's software emulation.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use crate::lab::run::{capture, check, words};
use crate::lab::{Suite, Trees, binary, install_tiny_guest};

/// One after another, in one shell.
const SCRIPTS: [&str; 6] = [
    include_str!("emulated/head.sh"),
    include_str!("emulated/tunnel.sh"),
    include_str!("emulated/vlan.sh"),
    include_str!("emulated/wireguard.sh"),
    include_str!("emulated/limits.sh"),
    include_str!("emulated/disk.sh"),
];
/// What it says is typed there, and printed.
const GUIDE: &str = include_str!("../../docs/guides/tunnel.md");
const UNIT: &str = "[Unit]\nAfter=systemd-networkd.service dbus.service\n[Service]\nType=oneshot\nExecStart=/bin/bash /root/emulated.sh\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n[Install]\nWantedBy=multi-user.target\n";
/// Its disks, vda and vdb, and what makes their file systems.
const DISKS: [(&str, &[&str]); 2] = [
    ("xfs", &["mkfs.xfs", "-q"]),
    ("ext4", &["mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"]),
];
const DISK_SIZE: u64 = 1 << 30;
/// Longest time that the whole of it may take.
const LIMIT: &str = "1200";

/// Boots the machine, and fails unless its script says that all is well.
pub fn run(suite: Suite) -> Result<()> {
    let start = Instant::now();
    let trees = Trees::open(&[suite])?;
    let dir = trees.runs().join(format!("{}-emulated", std::process::id()));
    let done = boot(&trees, suite, &dir);
    crate::lab::remove_tree(&dir)?;
    let console = done?;
    let said: Vec<&str> =
        console.lines().filter_map(|line| line.split_once("EMULATED: ").map(|(_, text)| text)).collect();
    println!("{}", said.join("\n"));
    if !said.iter().any(|line| line.starts_with("all is well")) {
        bail!("something does not work:\n{console}");
    }
    println!("({:.0} s)", start.elapsed().as_secs_f64());
    Ok(())
}

fn boot(trees: &Trees, suite: Suite, dir: &Path) -> Result<String> {
    crate::lab::subvolume(dir)?;
    let root = dir.join("root");
    crate::lab::snapshot(&trees.host(suite), &root)?;
    let kernel = kernel(&dir.join("kernel"), &root)?;
    prepare(&root)?;
    let initrd = dir.join("initrd.gz");
    let pack = "cd \"$1\" && find . -xdev | cpio --quiet -o -H newc | gzip -1 > \"$2\"";
    check(&mut words(&["sh", "-euc", pack, "sh", &root.to_string_lossy(), &initrd.to_string_lossy()]))?;
    let mut qemu = Command::new("timeout");
    qemu.args([LIMIT, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "3072"]);
    qemu.args(["-kernel", &kernel, "-initrd", &initrd.to_string_lossy()]);
    qemu.args(["-append", "console=ttyS0 rdinit=/lib/systemd/systemd quiet systemd.show_status=no"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none"]).stdin(Stdio::null());
    for (name, make) in DISKS {
        let image = dir.join(name);
        fs::File::create(&image)?.set_len(DISK_SIZE)?;
        check(words(make).arg(&image))?;
        qemu.args(["-drive", &format!("if=virtio,format=raw,file={}", image.display())]);
    }
    Ok(capture(&mut qemu)?.all())
}

/// Debian's kernel for virtual machines, its modules, and wg(8), put into the tree.
fn kernel(dir: &Path, root: &Path) -> Result<String> {
    fs::create_dir_all(dir)?;
    let script = "cd \"$1\"
        name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-[^ ]*\\).*/\\1/p' | head -n1)
        test -n \"$name\"; apt-get -qq download \"$name\"; dpkg -x ./*.deb .
        mkdir -p \"$2/usr/lib/modules\"; modules=lib/modules; test -d $modules || modules=usr/lib/modules
        cp -a $modules/* \"$2/usr/lib/modules/\"; chroot \"$2\" depmod \"$(ls $modules)\"
        mkdir wg; cd wg; apt-get -qq download wireguard-tools; dpkg -x ./*.deb .; cp usr/bin/wg \"$2/usr/bin/\"; cd ..
        ls boot/vmlinuz-*";
    let found =
        check(&mut words(&["sh", "-euc", script, "sh", &dir.to_string_lossy(), &root.to_string_lossy()]))?;
    let image = found.lines().last().context("no kernel")?;
    ensure!(image.contains("vmlinuz"), "no kernel: {found}");
    Ok(dir.join(image).to_string_lossy().into_owned())
}

fn prepare(root: &Path) -> Result<()> {
    fs::copy(binary("NSCTL_BIN", "../release/nsctl")?, root.join("usr/local/bin/nsctl"))?;
    let script = SCRIPTS.join("\n") + "\nend \"all is well\"\n";
    fs::write(root.join("root/emulated.sh"), script)?;
    fs::write(root.join("root/tunnel.md"), GUIDE)?;
    fs::write(root.join("etc/systemd/system/emulated.service"), UNIT)?;
    fs::write(
        root.join("etc/systemd/network/20-wan0.network"),
        "[Match]\nName=wan0\n[Network]\nAddress=192.0.2.2/24\nLinkLocalAddressing=no\n",
    )?;
    fs::os::unix::fs::symlink(
        "../emulated.service",
        root.join("etc/systemd/system/multi-user.target.wants/emulated.service"),
    )?;
    // A subvolume within a snapshot is an empty folder that nothing can be put into.
    fs::remove_dir(root.join("var/lib/machines"))?;
    install_tiny_guest(&root.join("var/lib/machines/tiny"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_guide_is_typed() {
        let scripts = SCRIPTS.join("\n");
        let sessions = GUIDE.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
        let commands = sessions.flat_map(str::lines).filter_map(|line| line.strip_prefix("# "));
        for command in commands {
            assert!(scripts.contains(&format!("guide {command}\n")), "{command}");
        }
    }
}
