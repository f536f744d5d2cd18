//! Images from files, folders and the web; and those who made them may be hostile,
//! the line may break, and the disk may be full: nothing outside the tree is
//! touched, and no half image stays.

use std::process::Stdio;

use anyhow::Result;

use super::refused;
use crate::lab::{Daemon, Lab, Suite, install_tiny_guest, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    tiny_guest(lab, "tiny")?;
    lab.install("xz-utils zstd python3")?;
    if lab.suite() == Suite::Forky {
        lab.install("libcurl4t64")?;
    }
    let environment = lab.sh("systemctl show systemd-importd -P Environment")?;
    must!(
        environment.contains("SYSTEMD_IMPORT_BTRFS_QUOTA=0"),
        "importd turns on quota groups: {environment}"
    );
    formats(lab)?;
    padded(lab)?;
    hostile(lab)?;
    slow(lab)?;
    full_disk(lab)?;
    fetched(lab)?;
    busybox(lab)
}

fn formats(lab: &Lab) -> Result<()> {
    lab.sh("cd /root; tar -C /var/lib/machines/tiny -cf tiny.tar .; for tool in gzip xz zstd; do $tool -qk tiny.tar; done; cp -r /var/lib/machines/tiny folder")?;
    for (file, name) in [
        ("tiny.tar", "a"),
        ("tiny.tar.gz", "b"),
        ("tiny.tar.xz", "c"),
        ("tiny.tar.zst", "d"),
        ("folder", "e"),
    ] {
        let said = lab.nsctl_ok(&format!("image import /root/{file} --name {name}"))?;
        must!(said.contains(&format!("the image is {name}")), "{said}");
        lab.sh(&format!("cmp /var/lib/machines/tiny/sbin/init /var/lib/machines/{name}/sbin/init"))?;
    }
    let listed: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("image list --json")?)?;
    must!(listed.as_array().is_some_and(|all| all.len() >= 7), "{listed}");
    for name in ["a", "b", "c", "d", "e"] {
        lab.nsctl_ok(&format!("image remove -y {name}"))?;
    }
    // A disk image is one, too.
    lab.sh("truncate -s 4M /root/disk.raw; gzip -k /root/disk.raw")?;
    lab.nsctl_ok("image import /root/disk.raw.gz")?;
    must!(lab.nsctl_ok("image list")?.contains("disk"), "{}", lab.nsctl_ok("image list")?);
    lab.nsctl_ok("image remove -y disk")?;
    refused(lab, "image remove -y nothing", 1, "there is no image")?;
    refused(lab, "image import /root/none.tar", 1, "does not exist")
}

/// A tool that writes the padding of its tar a moment after the end.
fn padded(lab: &Lab) -> Result<()> {
    lab.sh("cat > /usr/local/sbin/mmdebstrap <<'end'
#!/usr/bin/python3
import sys, tarfile, time
with tarfile.open('/root/tiny.tar') as tar: end = tar.getmembers() and tar.offset + 1024
whole, out = open('/root/tiny.tar', 'rb').read(), sys.stdout.buffer
assert len(whole) > end and not any(whole[end - 1024:])
for part in whole[:end], whole[end:]:
    out.write(part)
    out.flush()
    time.sleep(1)
end
         chmod +x /usr/local/sbin/mmdebstrap")?;
    lab.nsctl_ok("image build debian:sid")?;
    lab.sh("cmp /var/lib/machines/tiny/sbin/init /var/lib/machines/debian-sid/sbin/init; rm /usr/local/sbin/mmdebstrap")?;
    lab.nsctl_ok("image remove -y debian-sid")?;
    Ok(())
}

fn hostile(lab: &Lab) -> Result<()> {
    lab.sh("mkdir -p /root/bad && cd /root/bad
         cat > make.py <<'end'
import tarfile, io
def make(name, entries):
    with tarfile.open(name, 'w') as t:
        for path, kind, data in entries:
            i = tarfile.TarInfo(path)
            i.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE): i.linkname = data
            elif kind == tarfile.REGTYPE: i.size = len(data)
            elif kind in (tarfile.BLKTYPE, tarfile.CHRTYPE): i.devmajor, i.devminor = data
            t.addfile(i, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
R, S, L, B = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.BLKTYPE
osr = ('etc/os-release', R, b'ID=x\\n')
make('absolute.tar', [osr, ('/root/bad/outside', R, b'x')])
make('dots.tar', [osr, ('../../../../root/bad/outside', R, b'x')])
make('link.tar', [osr, ('way', S, '/root/bad'), ('way/outside', R, b'x')])
make('hard.tar', [osr, ('way', L, '/etc/passwd'), ('way', R, b'gone')])
make('device.tar', [osr, ('disk', B, (7, 0))])
end
         sha256sum /etc/passwd > before
         python3 make.py")?;
    for name in ["absolute", "dots", "link", "hard", "device"] {
        // Refused, or harmless.
        let done = lab.nsctl(&format!("image import /root/bad/{name}.tar"))?;
        must!(done.ok() || done.stderr.contains("hint:"), "{}", done.all());
        lab.sh("cd /root/bad; test ! -e outside && sha256sum --quiet -c before")?;
        if done.ok() {
            lab.nsctl_ok(&format!("image remove -y {name}"))?;
        }
        clean(lab)?;
    }
    // A bomb: a megabyte that holds 300.
    lab.sh(
        "cd /root/bad; mkdir big; truncate -s 300M big/file; tar -c big | gzip -1 > bomb.tar.gz; rm -r big",
    )?;
    refused(lab, "image import /root/bad/bomb.tar.gz --max-size 100M", 1, "holds more than 104857600 bytes")?;
    refused(lab, "create web --routed --image /root/bad/bomb.tar.gz --max-size 100M", 1, "holds more than")?;
    // Torn.
    lab.sh("cd /root/bad; head -c 300000 ../tiny.tar.gz > torn.tar.gz; head -c 300000 ../tiny.tar.xz > torn.tar.xz; head -c 100000 /dev/urandom > noise.tar")?;
    for name in ["torn.tar.gz", "torn.tar.xz", "noise.tar"] {
        refused(lab, &format!("image import /root/bad/{name} --name torn"), 1, "")?;
    }
    clean(lab)
}

/// No part of an image that is not whole.
fn clean(lab: &Lab) -> Result<()> {
    let there = lab.sh("ls -A /var/lib/machines | grep -v '^.#.*lck$' || true")?;
    must!(
        there.lines().all(|name| ["debian-13", "tiny", "web"].contains(&name)),
        "something is left:\n{there}"
    );
    Ok(())
}

/// A pipe, to which nobody may ever write, is refused at once; an archive that is slow to unpack holds
/// up nobody else, and whoever waits for it can be told to stop.
fn slow(lab: &Lab) -> Result<()> {
    lab.sh("mkfifo /root/pipe.tar")?;
    for line in [
        "create late --routed --image /root/pipe.tar",
        "image import /root/pipe.tar --name late",
        "import /root/pipe.tar --name late",
    ] {
        refused(lab, line, 1, "/root/pipe.tar")?;
    }
    lab.sh(
        "printf '#!/bin/sh\\ntouch /root/unpacks; sleep 60\\n' > /usr/local/bin/zstd; chmod +x /usr/local/bin/zstd",
    )?;
    for line in
        ["create late --routed --image /root/tiny.tar.zst", "image import /root/tiny.tar.zst --name late"]
    {
        lab.sh(&format!(
            "systemd-run -q --unit=slow -p Type=exec -p TimeoutStopSec=20 -p KillMode=mixed nsctl {line}
             until test -e /root/unpacks; do sleep 0.05; done
             timeout 20 nsctl create other --routed --image tiny --no-start
             timeout 20 nsctl remove -y other; systemctl is-active -q slow; systemctl stop slow; rm /root/unpacks
             test $(systemctl show -P Result slow) = exit-code; systemctl reset-failed slow"
        ))?;
        let left = lab.sh("ls /etc/nsctl/machines.d /var/lib/nsctl/journal; ls -A /var/lib/machines")?;
        must!(!left.contains("late") && !left.contains(".json"), "something is left:\n{left}");
    }
    // It is slow, and goes on: for longer than tokio keeps an idle thread.
    lab.sh("printf '#!/bin/sh\\nhead -c 1024 /root/tiny.tar; sleep 12; exec tail -c +1025 /root/tiny.tar\\n' > /usr/local/bin/zstd")?;
    lab.nsctl_ok("image import /root/tiny.tar.zst --name late")?;
    lab.sh("cmp /var/lib/machines/tiny/sbin/init /var/lib/machines/late/sbin/init")?;
    lab.nsctl_ok("image remove -y late")?;
    lab.sh("rm /root/pipe.tar /usr/local/bin/zstd").map(drop)
}

fn full_disk(lab: &Lab) -> Result<()> {
    lab.sh("mount -t tmpfs -o size=1M tmpfs /var/lib/machines")?;
    let done = lab.nsctl("image import /root/tiny.tar")?;
    must!(!done.ok(), "it fits: {}", done.all());
    let left = lab.sh("ls -A /var/lib/machines | grep -v '^.#.*lck$' || true; umount /var/lib/machines")?;
    must!(left.is_empty(), "something is left on a full disk:\n{left}");
    Ok(())
}

/// From a server of the LAN: whole, torn, and other than its checksum says.
fn fetched(lab: &Lab) -> Result<()> {
    let web = lab.scratch("web");
    std::fs::create_dir_all(&web)?;
    for file in ["tiny.tar.gz", "tiny.tar.xz"] {
        std::fs::copy(lab.root()?.join("root").join(file), web.join(file))?;
    }
    let sums = lab.sh("cd /root; sha256sum tiny.tar.gz")?;
    std::fs::write(web.join("SHA256SUMS"), &sums)?;
    lab.router.script("ip addr add 192.0.2.1/24 dev up0")?;
    lab.sh("printf 'Address=192.0.2.2/24\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload; until ping -qc1 -W1 192.0.2.1 > /dev/null; do :; done")?;
    let place = web.to_string_lossy().into_owned();
    let _server = Daemon::spawn(
        lab.router
            .command(&["busybox", "httpd", "-f", "-p", "192.0.2.1:80", "-h", &place])
            .stdin(Stdio::null()),
    )?;
    refused(lab, "image pull http://192.0.2.1/tiny.tar.gz", 1, "already an image named 'tiny'")?;
    refused(lab, "image pull http://192.0.2.1/tiny.tar.gz --name signed", 1, "")?;
    lab.nsctl_ok("image pull http://192.0.2.1/tiny.tar.gz --verify checksum --name fetched")?;
    lab.sh("cmp /var/lib/machines/tiny/sbin/init /var/lib/machines/fetched/sbin/init")?;
    lab.nsctl_ok("image remove -y fetched")?;
    lab.sh("find /var/lib/machines -maxdepth 1 -name '.tar-*' -exec machinectl clean --all \\; > /dev/null 2>&1 || true")?;
    std::fs::write(web.join("SHA256SUMS"), sums.replace(&sums[..4], "0000"))?;
    refused(lab, "image pull http://192.0.2.1/tiny.tar.gz --verify checksum --name fetched", 1, "")?;
    refused(
        lab,
        "image pull http://192.0.2.1/nothing.tar.gz --verify no --name fetched",
        1,
        "the transfer of 'fetched' failed: ",
    )?;
    let half = std::fs::read(web.join("tiny.tar.gz"))?;
    std::fs::write(web.join("half.tar.gz"), &half[..half.len() / 2])?;
    refused(
        lab,
        "image pull http://192.0.2.1/half.tar.gz --verify no --name fetched",
        1,
        "the transfer of 'fetched' failed: ",
    )?;
    must!(!lab.nsctl_ok("image list")?.contains("fetched"), "{}", lab.nsctl_ok("image list")?);
    refused(lab, "image pull ftp://192.0.2.1/x.tar", 2, "nothing to fetch")
}

/// A guest whose PID 1 is busybox's init: it boots, is listed, and shuts down at once.
fn busybox(lab: &Lab) -> Result<()> {
    let tree = lab.scratch("busybox");
    install_tiny_guest(&tree)?;
    std::fs::remove_file(tree.join("sbin/init"))?;
    std::os::unix::fs::symlink("../bin/busybox", tree.join("sbin/init"))?;
    std::fs::write(
        tree.join("etc/inittab"),
        "::sysinit:/bin/busybox ip link set host0 up\n::respawn:/bin/busybox sleep 3600\n",
    )?;
    let tar = lab.root()?.join("root/busybox.tar");
    anyhow::ensure!(
        std::process::Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status()?
            .success()
    );
    let said = lab.nsctl_ok("create bb --routed --image /root/busybox.tar")?;
    let bb = lab.machine("bb")?;
    must!(said.contains("bb answers at") && bb["addresses"][0] == bb["network"]["address"], "{said}{bb}");
    must!(lab.sh("cat /etc/nsctl/machines.d/bb.toml")?.contains("KillSignal = \"SIGUSR2\""), "no signal");
    must!(lab.machine("bb")?["state"] == "running", "{}", lab.machine("bb")?);
    lab.sh("timeout 20 systemctl stop systemd-nspawn@bb")?;
    must!(lab.machine("bb")?["state"] == "stopped", "{}", lab.machine("bb")?);
    lab.nsctl_ok("start bb").map(drop)
}
