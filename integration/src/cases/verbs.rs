//! Verbs that people look for: settings, an editor, what starts with the host, signals, several machines at
//! once, files of a machine that is stopped, its journal by units and boots.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    // An image that is called something.
    lab.sh("echo vm > /var/lib/machines/debian-13/etc/hostname")?;
    for name in ["web", "db"] {
        lab.nsctl_ok(&format!("create {name} --routed --image debian-13"))?;
        lab.booted(name)?;
    }
    let name = lab.nsctl_ok("shell web cat /proc/sys/kernel/hostname")?;
    must!(name.trim() == "web", "the machine calls itself {name}");
    // /var/lib/machines is root's alone: who only looks does without it.
    for verb in ["list", "show web"] {
        let said = lab.sh(&format!("runuser -u nobody -- nsctl {verb}"))?;
        must!(said.contains("web") && said.contains("running"), "{said}");
    }
    settings(lab)?;
    editor(lab)?;
    several(lab)?;
    at_rest(lab)?;
    refused(lab, "create a_b --routed --image debian-13", 2, "systemd-nspawn takes no name with '_'")?;
    words(lab)
}

fn settings(lab: &Lab) -> Result<()> {
    refused(lab, "set web environment.A=b", 1, "This restarts web")?;
    lab.nsctl_ok("set web environment.A=b nspawn.Exec.Hostname=mc --yes")?;
    lab.booted("web")?;
    let environment = "tr '\\0' '\\n' < /proc/$(machinectl show web -p Leader | cut -d= -f2)/environ";
    must!(lab.sh(environment)?.contains("A=b\n"), "it has not got the variable");
    let said = lab.nsctl_ok("shell web cat /proc/sys/kernel/hostname")?;
    must!(said.trim() == "mc", "the machine calls itself {said}");
    lab.nsctl_ok("set web limits.memory=1G")?;
    must!(lab.machine("web")?["limits"]["memory"] == "1G", "{}", lab.machine("web")?);
    lab.nsctl_ok("disable web")?;
    must!(
        !lab.run(&["systemctl", "is-enabled", "-q", "systemd-nspawn@web"])?.ok(),
        "it starts with the host"
    );
    lab.nsctl_ok("enable web")?;
    lab.must(&["systemctl", "is-enabled", "systemd-nspawn@web"]).map(drop)
}

/// What was written is kept where it cannot be had, and is the definition where it can.
fn editor(lab: &Lab) -> Result<()> {
    lab.sh(
        "printf '#!/bin/sh\\nsed -i \"1i description = \\\\\"mine\\\\\"\" \"$1\"\\n' > /usr/local/bin/good
         printf '#!/bin/sh\\necho nonsense >> \"$1\"\\n' > /usr/local/bin/bad
         printf '#!/bin/sh\\necho lost >> \"$1\"; exit 3\\n' > /usr/local/bin/ugly; chmod +x /usr/local/bin/*
         EDITOR=good nsctl edit web --yes",
    )?;
    must!(lab.sh("systemctl show -P Description systemd-nspawn@web")?.trim() == "mine", "it was not applied");
    for editor in ["bad", "ugly"] {
        let done = lab.run(&["env", &format!("EDITOR={editor}"), "nsctl", "edit", "web", "--yes"])?;
        let kept = done.all();
        let kept =
            kept.split("what you wrote is in ").nth(1).unwrap_or_default().lines().next().unwrap_or_default();
        must!(
            !done.ok() && lab.sh(&format!("cat '{kept}'"))?.contains("mode = \"routed\""),
            "{}",
            done.all()
        );
    }
    let plan = lab.nsctl_ok("plan")?;
    must!(plan == "nothing to do\n", "{plan}");
    Ok(())
}

fn several(lab: &Lab) -> Result<()> {
    let said = lab.nsctl_ok("shell --all echo hello")?;
    must!(said.matches("hello").count() == 2, "{said}");
    must!(lab.nsctl("shell web,db false")?.status == 1, "a failure is not told");
    lab.nsctl_ok("kill db")?;
    must!(lab.machine("db")?["state"] == "stopped", "it runs");
    lab.nsctl_ok("start --all")?;
    let list = lab.nsctl_ok("list --running -o name,uptime")?;
    must!(list.lines().count() == 3, "{list}");
    // One that has just been started does not hear yet.
    lab.booted("db")?;
    // systemd powers off on this one (systemd(1), SIGRTMIN+4).
    lab.nsctl_ok("kill db --signal RTMIN+4")?;
    until(Duration::from_secs(30), "the machine has ended", || Ok(lab.machine("db")?["state"] == "stopped"))?;
    lab.nsctl_ok("reboot web")?;
    lab.booted("web")?;
    let journal = lab.nsctl_ok("logs web -u systemd-networkd -b -n 5")?;
    must!(journal.lines().count() > 0 && journal.lines().all(|line| line.contains("networkd")), "{journal}");
    let other = lab.nsctl("logs web --boot=nonsense")?;
    must!(!other.ok(), "{}", other.all());
    Ok(())
}

/// Files of a machine that is stopped are its root's, and lead nowhere else.
fn at_rest(lab: &Lab) -> Result<()> {
    lab.sh("echo secret > /root/secret; ln -sfn /root /var/lib/machines/db/srv/out; ln -sfn /etc /var/lib/machines/db/srv/etc; mkdir -p /root/folder/in; echo one > /root/folder/in/file")?;
    lab.nsctl_ok("cp /root/folder db:/srv/")?;
    let owner =
        lab.sh("stat -c %u /var/lib/machines/db/srv /var/lib/machines/db/srv/folder/in/file | uniq | wc -l")?;
    must!(owner.trim() == "1", "its root does not own it");
    lab.nsctl_ok("cp /root/secret db:/srv/out/planted")?;
    must!(
        !lab.run(&["test", "-e", "/root/planted"])?.ok(),
        "a link of the guest's was followed out of its tree"
    );
    lab.nsctl_ok("cp db:/srv/folder/in/file /root/back")?;
    must!(lab.sh("cat /root/back")? == "one\n", "it is another");
    refused(lab, "cp /root/secret db:/nowhere/", 1, "no folder")?;
    lab.sh("echo host > /etc/only-here")?;
    refused(lab, "cp db:/srv/etc/only-here /root/taken", 1, "does not exist")?;
    lab.nsctl_ok("start db")?;
    let said = lab.nsctl_ok("shell db stat -c %u:%s /srv/folder/in/file")?;
    must!(said.trim() == "0:4", "its root has not got it: {said}");
    Ok(())
}

/// A start that fails tells what nspawn said at last.
fn words(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("stop web")?;
    lab.sh("mkdir -p /srv/gone; nsctl -q set web 'bind=[\"/srv/gone\"]'; rmdir /srv/gone")?;
    let said = lab.nsctl("start web")?.all();
    must!(said.contains("/srv/gone"), "{said}");
    lab.nsctl_ok("set web bind=")?;
    lab.sh("mv /var/lib/machines/web/usr/lib/systemd/systemd /var/lib/machines/web/usr/lib/systemd/gone")?;
    let said = lab.nsctl("start web")?.all();
    must!(said.contains("; it said at last: "), "{said}");
    Ok(())
}
