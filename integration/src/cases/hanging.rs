//! Services that hang (SIGSTOP) are named within a limit by every verb, whatever was
//! begun is undone or fixed by the next command, and when they go on so does nsctl.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::fingerprint;
use crate::lab::{Done, Lab, until};
use crate::must;

/// How long services may take, in the build for tests.
const LIMIT: &str = "3000";
/// The longest that a command may take which undoes something, too.
const WHOLE: Duration = Duration::from_secs(60);

/// Which verbs need a service, and must say so.
const NEED: [(&str, &[&str]); 4] = [
    (
        "systemd-machined",
        &["list", "plan", "stop web", "create db --routed --image debian-13", "shell web true"],
    ),
    ("systemd-networkd", &["plan", "create db --routed --image debian-13", "open web tcp/80"]),
    ("systemd-importd", &["image import /root/small.tar --name small"]),
    ("dbus", &["list", "doctor", "stop web"]),
];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.sh("mkdir -p /root/small/usr/bin /root/small/etc; echo ID=small > /root/small/etc/os-release; tar -C /root/small -cf /root/small.tar .")?;
    for (service, lines) in NEED {
        let before = fingerprint(lab)?;
        stop(lab, service)?;
        for line in lines {
            let (done, took) = limited(lab, line)?;
            let said = format!("{service} hangs: it did not answer");
            must!(
                done.status == 1 && done.stderr.contains(&said) && done.stderr.contains("hint: `systemctl"),
                "{service}, `{line}` ({took:?}): {}",
                done.all()
            );
            must!(took < WHOLE, "{service}, `{line}` took {took:?}: {}", done.all());
        }
        found(lab, service)?;
        go_on(lab, service)?;
        lab.nsctl_ok("list")?;
        lab.nsctl_ok("apply --yes")?;
        must!(fingerprint(lab)? == before, "{service}:\n{before}\n---\n{}", fingerprint(lab)?);
    }
    // Nobody waits for resolved.
    stop(lab, "systemd-resolved")?;
    found(lab, "systemd-resolved")?;
    for line in ["list", "plan"] {
        lab.nsctl_ok(line)?;
    }
    go_on(lab, "systemd-resolved")?;
    for service in ["systemd-networkd", "systemd-machined", "dbus"] {
        in_the_middle(lab, service)?;
    }
    endless_job(lab)?;
    tools(lab)?;
    the_real_limit(lab)
}

fn stop(lab: &Lab, service: &str) -> Result<()> {
    // importd goes when nobody asks it.
    if service == "systemd-importd" {
        lab.sh("systemctl start systemd-importd")?;
    }
    lab.sh(&format!("kill -STOP $(systemctl show -p MainPID --value {service})")).map(drop)
}

fn go_on(lab: &Lab, service: &str) -> Result<()> {
    lab.sh(&format!("kill -CONT $(systemctl show -p MainPID --value {service})")).map(drop)
}

fn limited(lab: &Lab, line: &str) -> Result<(Done, Duration)> {
    let mut all = vec!["env", "NSCTL_BUS_LIMIT=3000", "nsctl-faults"];
    all.extend(line.split(' '));
    let begin = Instant::now();
    Ok((lab.run(&all)?, begin.elapsed()))
}

/// doctor says it at once, and says what fixes it.
fn found(lab: &Lab, service: &str) -> Result<()> {
    if service == "dbus" {
        return Ok(());
    }
    for line in ["doctor", "doctor web"] {
        let begin = Instant::now();
        let done = lab.nsctl(line)?;
        let told = done.stdout.contains(&format!("{service} runs, but does not answer"));
        must!(
            done.status == 1 && told && done.stdout.contains(&format!("systemctl restart {service}")),
            "{service}, `{line}`: {}",
            done.all()
        );
        must!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    }
    Ok(())
}

/// A service hangs while a plan is carried out: at each of some points nsctl stops itself.
fn in_the_middle(lab: &Lab, service: &str) -> Result<()> {
    let mut named = 0;
    for point in [3, 7, 11] {
        let before = fingerprint(lab)?;
        lab.sh(&format!(
            "rm -f /tmp/said; systemd-run -q --unit=victim -p Type=exec -p StandardError=file:/tmp/said -E NSCTL_STOP_AT={point} -E NSCTL_BUS_LIMIT={LIMIT} nsctl-faults create db --routed --image debian-13"
        ))?;
        let stopped = || {
            let state = lab.sh("ps -o stat= -p $(systemctl show victim -p MainPID --value) || echo gone")?;
            Ok(state.starts_with('T') || state.contains("gone"))
        };
        until(Duration::from_secs(60), "nsctl stops at the point", stopped)?;
        stop(lab, service)?;
        lab.sh("systemctl kill -s CONT victim 2>/dev/null || true")?;
        let over = || Ok(!lab.run(&["systemctl", "-q", "is-active", "victim"])?.ok());
        until(WHOLE, "nsctl ends", over)?;
        let ok = lab.sh("systemctl show victim -p Result --value")?.trim() == "success";
        go_on(lab, service)?;
        let said = lab.sh("cat /tmp/said; systemctl reset-failed victim 2>/dev/null || true")?;
        let next = lab.nsctl("apply --yes")?;
        must!(next.ok(), "{service} at {point}:\n{said}\nnext:\n{}", next.all());
        if ok {
            lab.nsctl_ok("remove -y db")?;
            lab.sh("rm -f /var/lib/nsctl/state.toml; nsctl state rebuild")?;
            continue;
        }
        named += 1;
        must!(said.contains(&format!("{service} hangs")), "{service} at {point}: {said}");
        must!(
            fingerprint(lab)? == before,
            "{service} at {point}:\n{said}\n{before}\n---\n{}",
            fingerprint(lab)?
        );
    }
    must!(named > 0, "{service} was never missed");
    Ok(())
}

/// A start that waits for what never ends.
fn endless_job(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("stop web")?;
    lab.sh("mkdir -p /run/systemd/system/systemd-nspawn@web.service.d
            printf '[Unit]\\nRequires=forever.service\\nAfter=forever.service\\n[Service]\\nTimeoutStartSec=1\\n' > /run/systemd/system/systemd-nspawn@web.service.d/wait.conf
            printf '[Service]\\nType=oneshot\\nExecStart=sleep infinity\\n' > /run/systemd/system/forever.service; systemctl daemon-reload")?;
    let (done, took) = limited(lab, "start web")?;
    must!(
        done.status == 1 && done.stderr.contains("its job still waits") && done.stderr.contains("list-jobs"),
        "{}",
        done.all()
    );
    must!(took < WHOLE, "{took:?}");
    must!(
        !lab.sh("systemctl list-jobs --no-legend")?.contains("nspawn@web"),
        "{}",
        lab.sh("systemctl list-jobs")?
    );
    lab.sh("rm -r /run/systemd/system/systemd-nspawn@web.service.d /run/systemd/system/forever.service; systemctl stop forever.service; systemctl daemon-reload")?;
    lab.nsctl_ok("start web").map(drop)
}

/// nft(8) hangs, and what unpacks an archive.
fn tools(lab: &Lab) -> Result<()> {
    let fake = |name: &str, begins: &str| {
        lab.sh(&format!("printf '#!/bin/sh\\n{begins}exec sleep 600\\n' > /usr/local/sbin/{name}; chmod 755 /usr/local/sbin/{name}"))
    };
    let sleeps = || Ok(lab.run(&["pgrep", "-fx", "sleep 600"])?.ok());
    fake("nft", "")?;
    let (done, _) = limited(lab, "plan")?;
    must!(
        done.status == 1 && done.stderr.contains("nft hangs") && done.stderr.contains("hint:"),
        "{}",
        done.all()
    );
    lab.sh("rm /usr/local/sbin/nft")?;
    until(Duration::from_secs(10), "nft is killed", || sleeps().map(|sleeps| !sleeps))?;
    fake("gzip", "head -c 1024 /root/small.tar\\n")?;
    lab.sh("cp /root/small.tar /root/small.tar.gz")?;
    let (done, _) = limited(lab, "image import /root/small.tar.gz --name small")?;
    must!(
        done.status == 1 && done.stderr.contains("stands still") && done.stderr.contains("hint:"),
        "{}",
        done.all()
    );
    must!(!lab.sh("ls -A /var/lib/machines")?.contains("small"), "{}", lab.sh("ls -A /var/lib/machines")?);
    until(Duration::from_secs(10), "gzip is killed", || sleeps().map(|sleeps| !sleeps))?;
    lab.sh("rm /usr/local/sbin/gzip").map(drop)
}

/// As everybody has it.
fn the_real_limit(lab: &Lab) -> Result<()> {
    stop(lab, "systemd-machined")?;
    let begin = Instant::now();
    let done = lab.nsctl("list")?;
    let took = begin.elapsed();
    must!(
        done.status == 1 && done.stderr.contains("systemd-machined hangs: it did not answer within 25 s"),
        "{}",
        done.all()
    );
    must!((25..40).contains(&took.as_secs()), "{took:?}");
    go_on(lab, "systemd-machined")?;
    lab.nsctl_ok("list").map(drop)
}
