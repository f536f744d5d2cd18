//! Folders, files and devices of the host that a machine gets while it runs.

use anyhow::Result;

use crate::lab::{Done, Lab};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    // One of btrfs's, which no machine may use by itself; this kernel has one /dev for all.
    let device = format!("/dev/nsctl-dev-{}", lab.init()?);
    lab.sh(&format!("mknod {device} c 10 234 && chmod 666 {device}"))?;
    let tried = binds(lab, &device);
    lab.sh(&format!("rm {device}"))?;
    tried
}

fn binds(lab: &Lab, device: &str) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    lab.sh("mkdir -p /srv/world/deep; echo hi > /srv/world/x; echo f > /srv/file")?;
    let leader = lab.sh("machinectl show web -p Leader")?;
    folders(lab)?;
    planted(lab)?;
    killed(lab)?;
    devices(lab, device)?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    // What it is to see no more, it may have open: that takes a restart, and is said before.
    let asked = lab.nsctl("set web bind=[]")?;
    must!(!asked.ok() && asked.stderr.contains("restart"), "{}", asked.all());
    lab.nsctl_ok("set web bind=[] device=[] --yes")?;
    must!(lab.sh("machinectl show web -p Leader")? != leader, "it was not restarted");
    lab.booted("web")?;
    must!(!guest(lab, "grep -E '/world|nsctl-dev' /proc/self/mountinfo")?.ok(), "some are left");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

fn set(lab: &Lab, word: &str) -> Result<()> {
    let done = lab.run(&["nsctl", "set", "web", word])?;
    must!(done.ok(), "{word}: {}", done.all());
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

/// In the guest, by its own tools.
fn guest(lab: &Lab, lines: &str) -> Result<Done> {
    lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", lines])
}

fn inside(lab: &Lab, lines: &str) -> Result<()> {
    let done = guest(lab, lines)?;
    must!(done.ok(), "{lines}: {}", done.all());
    Ok(())
}

fn folders(lab: &Lab) -> Result<()> {
    set(lab, "bind=[\"/srv/world:/world/a\"]")?;
    inside(lab, "test \"$(cat /world/a/x)\" = hi && test \"$(stat -c %U /world)\" = root")?;
    // What it is only to read it could remount, were that not there when it starts; nor may it take away what is
    // mounted below something, and see what that hides.
    let asked = lab.run(&["nsctl", "set", "web", "bind-read-only=[\"/srv/file:/mine/file\"]"])?;
    must!(!asked.ok() && asked.stderr.contains("restart"), "{}", asked.all());
    lab.sh("mkdir -p /srv/sub/inner && mount -t tmpfs none /srv/sub/inner")?;
    let below = lab.run(&["nsctl", "set", "web", "bind=[\"/srv/world:/world/a\", \"/srv/sub\"]"])?;
    must!(
        !below.ok() && below.stderr.contains("/srv/sub/inner") && below.stderr.contains("hint:"),
        "{}",
        below.all()
    );
    lab.sh("umount /srv/sub/inner")?;
    // What is mounted there later on the host is seen; what the guest mounts stays in it.
    lab.sh("mount -t tmpfs none /srv/world/deep && touch /srv/world/deep/later")?;
    inside(
        lab,
        "test -e /world/a/deep/later && mkdir /tmp/m && mount --bind /tmp/m /world/a/deep && mount -t tmpfs none /world/a/deep",
    )?;
    must!(lab.sh("ls /srv/world/deep")?.trim() == "later", "the guest mounted something on the host");
    inside(lab, "umount /world/a/deep && umount /world/a/deep")?;
    lab.sh("umount /srv/world/deep")?;
    // What would hide another takes a restart.
    let asked = lab.run(&["nsctl", "set", "web", "bind=[\"/srv/world:/world/a\", \"/srv:/world\"]"])?;
    must!(!asked.ok() && asked.stderr.contains("restart"), "{}", asked.all());
    Ok(())
}

/// The guest may put anything where something is to be seen.
fn planted(lab: &Lab) -> Result<()> {
    inside(
        lab,
        "ln -s /proc/1/root/etc /out; ln -s ../../../../../../etc /up; touch /plain; ln -s /etc/hostname /name",
    )?;
    for (target, can) in
        [("/out/x", false), ("/plain", false), ("/plain/x", false), ("/up/there", true), ("/name", false)]
    {
        let before = lab.sh("ls -la /etc; cat /proc/self/mountinfo | wc -l")?;
        let word = format!("bind=[\"/srv/world:/world/a\", \"/srv/world:{target}\"]");
        let done = lab.run(&["nsctl", "set", "web", &word])?;
        must!(done.ok() == can, "{target}: {}", done.all());
        must!(can || done.stderr.contains("hint:"), "{target}: {}", done.all());
        must!(
            lab.sh("ls -la /etc; cat /proc/self/mountinfo | wc -l")? == before,
            "{target} reached the host"
        );
    }
    inside(lab, "test -e /etc/there/x")
}

/// At each point it is seen, or not, as the definition says.
fn killed(lab: &Lab) -> Result<()> {
    for point in 1..60 {
        let target = format!("/killed/{point}");
        let text = lab.sh("grep '^bind ' /etc/nsctl/machines.d/web.toml")?;
        let all = text.trim().trim_start_matches("bind = ").trim_end_matches(']').to_owned();
        let word = format!("bind={all}, \"/srv/file:{target}\"]");
        let kill = format!("NSCTL_KILL_AT={point}");
        let done = lab.run(&["env", &kill, "nsctl-faults", "set", "web", &word])?;
        lab.nsctl_ok("apply --yes")?;
        let said = lab.sh("cat /etc/nsctl/machines.d/web.toml")?.contains(&target);
        let seen = guest(lab, &format!("grep -q ' {target} ' /proc/self/mountinfo"))?.ok();
        must!(seen == said, "killed at {point}: seen {seen}, defined {said}");
        if done.ok() {
            must!(point > 3, "it was killed nowhere");
            return Ok(());
        }
    }
    anyhow::bail!("it never ended")
}

fn devices(lab: &Lab, device: &str) -> Result<()> {
    let opens = format!("exec 3<> {device}");
    let word = format!("device=[\"{device}\"]");
    for wrong in ["device=[\"/etc/passwd\"]", "device=[\"/dev/a b\"]", "device=[\"/dev/../etc\"]"] {
        let done = lab.run(&["nsctl", "set", "web", wrong])?;
        must!(!done.ok() && done.stderr.contains("is no device"), "{wrong}: {}", done.all());
    }
    // systemd does not let a machine use what is bound into it alone.
    let text = lab.sh("grep '^bind ' /etc/nsctl/machines.d/web.toml")?;
    let all = text.trim().trim_start_matches("bind = ").trim_end_matches(']').to_owned();
    set(lab, &format!("bind={all}, \"{device}:/dev/bound\"]"))?;
    must!(!guest(lab, "exec 3<> /dev/bound")?.ok(), "a bound device can be used");
    // What cannot be done is undone, and what it might use before, it still may.
    let usual = lab.sh("systemctl show -p DeviceAllow systemd-nspawn@web")?;
    inside(lab, &format!("mkdir {device}"))?;
    let done = lab.run(&["nsctl", "set", "web", &word])?;
    must!(!done.ok() && done.stderr.contains("hint:"), "{}", done.all());
    let has = lab.sh("systemctl show -p DeviceAllow systemd-nspawn@web | sort")?;
    let usual: std::collections::BTreeSet<&str> = usual.lines().collect();
    must!(has.lines().collect::<std::collections::BTreeSet<&str>>() == usual, "{has}");
    inside(lab, &format!("rmdir {device}; exec 3<> /dev/net/tun"))?;
    set(lab, &word)?;
    inside(lab, &opens)?;
    inside(lab, "exec 3<> /dev/net/tun")
}
