//! `--root`: just files, and links in a foreign root lead nowhere.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh("mkdir /tmp/r; cd /tmp/r
         nsctl --root /tmp/r init --pool 2001:db8:a::/62 --uplink wan0
         nsctl --root /tmp/r create web --routed --image debian-13
         nsctl --root /tmp/r create db --routed
         test -L etc/systemd/system/machines.target.wants/systemd-nspawn@web.service
         nsctl --root /tmp/r apply --yes
         nsctl --root /tmp/r remove -y web
         ! test -e etc/systemd/system/machines.target.wants/systemd-nspawn@web.service || exit 1
         ! ls var/lib/nsctl/journal/*.json 2> /dev/null")?;
    // A lease is not freed while the files of its machine are there.
    lab.sh("rm /tmp/r/etc/nsctl/machines.d/db.toml; nsctl --root /tmp/r create other --routed")?;
    let twice = lab.sh("grep -h ^Prefix /tmp/r/etc/systemd/network/05-nsctl-ve-* | sort | uniq -d")?;
    must!(twice.is_empty(), "two machines have one subnet: {twice}");
    lab.sh("nsctl --root /tmp/r apply --yes; ! test -e /tmp/r/etc/systemd/network/05-nsctl-ve-db.network")?;

    // More files than a shell's limit lets a process hold open.
    lab.sh("mkdir /tmp/m; nsctl --root /tmp/m init --pool 2001:db8:a::/48
         mkdir /tmp/m/etc/nsctl/machines.d; cd /tmp/m/etc/nsctl/machines.d
         for k in $(seq 100); do cp /tmp/r/etc/nsctl/machines.d/other.toml many$k.toml; done
         ulimit -Sn 128; nsctl --root /tmp/m apply --yes; test -e /tmp/m/etc/systemd/nspawn/many100.nspawn")?;

    lab.sh("mkdir -p /tmp/e/var/lib/nsctl; echo precious > /root/precious; ln -s /root/precious /tmp/e/var/lib/nsctl/lock")?;
    let done = lab.nsctl("--root /tmp/e init --pool 2001:db8:a::/48")?;
    must!(!done.ok(), "{}", done.all());
    must!(lab.sh("cat /root/precious")? == "precious\n", "a link led out of the root");
    lab.sh("mkdir -p /tmp/f; ln -s /etc /tmp/f/etc")?;
    let done = lab.nsctl("--root /tmp/f init --pool 2001:db8:a::/48")?;
    must!(!done.ok() && done.stderr.contains("Too many levels of symbolic links"), "{}", done.all());
    lab.sh("ln -sfn / /tmp/f/etc; mkdir /tmp/g; ln -s /tmp /tmp/g/etc")?;
    lab.nsctl_ok("--root /tmp/f init --pool 2001:db8:a::/48")?;
    must!(!lab.nsctl("--root /tmp/g init --pool 2001:db8:a::/48")?.ok(), "a link to nowhere was followed");
    lab.sh(
        "test -e /tmp/f/nsctl/nsctl.toml && ! test -e /nsctl && ! test -e /tmp/nsctl && ! test -e /etc/nsctl",
    )?;
    Ok(())
}
