//! The Debian package's life: installed, upgraded under traffic, no older one in its place, removed, purged.

use std::process::Stdio;

use anyhow::{Context, Result};
use fs_err as fs;

use crate::lab::{Lab, until};
use crate::must;

const WEB: &str = "2001:db8:a:1::2";

pub fn run(lab: &mut Lab) -> Result<()> {
    fs::copy(package()?, lab.root()?.join("root/new.deb"))?;
    // Another nsctl, older by its number, which has written its state in the way of then.
    lab.sh("rm /usr/local/bin/nsctl*
         dpkg-deb -R /root/new.deb /root/old
         new=$(dpkg-deb -f /root/new.deb Version)
         sed -i 's/^Version: .*/Version: 0.0.9/' /root/old/DEBIAN/control
         sed -i \"s/$new/0.0.9/g\" /root/old/DEBIAN/preinst
         dpkg-deb --root-owner-group -b /root/old /root/old.deb
         dpkg -i /root/old.deb")?;
    installed(lab)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    upgraded(lab)?;
    downgraded(lab)?;
    removed(lab)?;
    purged(lab)
}

/// What `make deb` has built.
fn package() -> Result<std::path::PathBuf> {
    if let Some(named) = std::env::var_os("NSCTL_DEB") {
        return Ok(named.into());
    }
    let mut found = fs::read_dir(".")?.flatten().map(|entry| entry.path());
    let is_ours = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("nsctl_") && name.ends_with(".deb")
    };
    found.find(is_ours).context("there is no nsctl_*.deb here: make deb")
}

fn installed(lab: &Lab) -> Result<()> {
    lab.sh(
        "cd /usr/share; ls man/man1/nsctl.1.gz man/man1/nsctl-create.1.gz man/man5/nsctl.toml.5.gz man/man7/nsctl-networking.7.gz \
         bash-completion/completions/nsctl zsh/vendor-completions/_nsctl fish/vendor_completions.d/nsctl.fish \
         doc/nsctl/copyright doc/nsctl/examples/minecraft.toml
         systemd-analyze verify nsctl-apply.path nsctl-apply.service nsctl-dns.path nsctl-dns.timer nsctl-dns.service
         ! systemctl is-enabled -q nsctl-apply.path nsctl-dns.timer",
    )
    .map(drop)
}

/// Nothing restarts, nothing is lost.
fn upgraded(lab: &Lab) -> Result<()> {
    // Leases as an nsctl of the first days wrote them.
    lab.sh("sed -i 's/^version = .*/version = 1/; s/^resting = .*/resting = []/' /var/lib/nsctl/state.toml")?;
    let before = running(lab)?;
    let mut ping = lab.router.command(&["ping", "-6", "-i0.02", "-W1", WEB]);
    let ping = ping.stdout(Stdio::piped()).spawn()?;
    until(std::time::Duration::from_secs(10), "the ping has begun", || {
        Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", WEB])?.ok())
    })?;
    lab.sh("dpkg -i /root/new.deb")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(ping.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    let said = ping.wait_with_output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    must!(
        said.contains(" 0% packet loss"),
        "the upgrade lost packets:\n{}",
        said.lines().rev().take(3).collect::<String>()
    );
    must!(running(lab)? == before, "the upgrade restarted something");
    // The state is as this nsctl writes it from the next change on.
    let plan = lab.nsctl_ok("plan")?;
    must!(plan.starts_with("to do: change /var/lib/nsctl/state.toml\n"), "{plan}");
    lab.nsctl_ok("apply --yes")?;
    let plan = lab.nsctl_ok("plan")?;
    must!(plan == "nothing to do\n", "{plan}");
    must!(lab.machine("web")?["network"]["address"] == WEB, "the lease is not read");
    Ok(())
}

/// What runs, and since when.
fn running(lab: &Lab) -> Result<String> {
    lab.sh(
        "systemctl show -P InvocationID systemd-nspawn@web systemd-networkd systemd-machined nsctl-firewall
         machinectl show -p Leader web; nft -s list table inet nsctl | grep -v ' set near' | head -40 | sha256sum",
    )
}

fn downgraded(lab: &Lab) -> Result<()> {
    let done = lab.run(&["dpkg", "-i", "/root/old.deb"])?;
    must!(!done.ok() && done.all().contains("0.0.9 is older"), "{}", done.all());
    lab.nsctl_ok("list").map(drop)
}

/// Machines run on, and start with their host.
fn removed(lab: &mut Lab) -> Result<()> {
    lab.sh("dpkg -r nsctl; ! test -e /usr/bin/nsctl")?;
    lab.router.script(&format!("ping -6 -c3 -i0.2 -W2 {WEB}"))?;
    lab.sh("sync")?;
    lab.power_off()?;
    lab.power_on()?;
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", WEB])?.ok());
    until(std::time::Duration::from_secs(60), "the machine answers after a boot without nsctl", answers)?;
    lab.sh("dpkg -i /root/new.deb")?;
    let plan = lab.nsctl_ok("plan")?;
    must!(plan.contains("nothing to do"), "{plan}");
    Ok(())
}

/// Nothing of nsctl's but the trees.
fn purged(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    lab.sh("printf '[Exec]\\nBoot=yes\\n' > /etc/systemd/nspawn/mine.nspawn; grep -q web.machines.internal /etc/hosts || true")?;
    lab.sh("dpkg -P nsctl; rm -r /root/old /root/*.deb")?;
    let left = lab.sh(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /var/lib/machines -prune -o -path /var/log -prune \
         -o -path /var/lib/dpkg -prune -o -path /dev -prune -o -iname '*nsctl*' -print
         grep -rls 'Written by nsctl' /etc || true
         grep nsctl /etc/hosts || true
         nft list tables | grep nsctl || true
         systemctl list-units --all --plain --no-legend 'nsctl*' 'systemd-nspawn@web*' || true",
    )?;
    must!(left.trim().is_empty(), "purge leaves:\n{left}");
    lab.sh("test -e /etc/systemd/nspawn/mine.nspawn; test -d /var/lib/machines/web; test -d /var/lib/machines/debian-13").map(drop)
}
