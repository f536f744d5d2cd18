//! What a machine is for: its check is asked at each start, and by those who look; one that ends is started
//! again, and machines start one after the other.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const FAILS: &str = "web fails its check, tcp/8080\n    nothing accepts connections at tcp/8080";

/// A service that begins a second after the machine.
const SERVICE: &str =
    "printf '[Service]\\nExecStartPre=sleep 1\\nExecStart=systemd-socket-activate --accept --inetd -l 8080 /bin/cat\\n' \
                       > /etc/systemd/system/late.service
                       mkdir -p /etc/systemd/system/multi-user.target.wants
                       ln -s ../late.service /etc/systemd/system/multi-user.target.wants/";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    for name in ["web", "db"] {
        lab.nsctl_ok(&format!("create {name} --routed --image debian-13"))?;
    }
    lab.booted("web")?;
    wrong_words(lab)?;
    ports(lab)?;
    commands(lab)?;
    again(lab)?;
    one_after_the_other(lab)
}

fn wrong_words(lab: &Lab) -> Result<()> {
    for wrong in [
        "check.tcp=0",
        "check.within=9",
        "check={command=\" \"}",
        "check={}",
        "check={tcp=80,within=0}",
        "check.udp=53",
        "restart=sometimes",
        "after=[\"-x\"]",
        "after=[\"web\"]",
    ] {
        let words: Vec<String> = vec!["nsctl".into(), "set".into(), "web".into(), wrong.into()];
        let before = super::fingerprint(lab)?;
        let done = lab.run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        must!(!done.ok() && done.stderr.contains("hint:"), "{wrong}: {}", done.all());
        must!(super::fingerprint(lab)? == before, "{wrong} changed something");
    }
    // Each would wait for the other.
    lab.nsctl_ok("set db after=[\"web\"]")?;
    refused(lab, "set web after=[\"db\"]", 1, "would start after")?;
    lab.nsctl_ok("set db after=[]")?;
    let noted = lab.nsctl("set db after=[\"nobody\"]")?;
    must!(noted.ok() && noted.all().contains("there is no such machine"), "{}", noted.all());
    lab.nsctl_ok("set db after=[]").map(drop)
}

fn ports(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("set web check.tcp=8080 check.within=2")?;
    let listed = lab.nsctl("list")?;
    must!(listed.ok() && listed.stderr.contains("it fails its check, tcp/8080"), "{}", listed.all());
    let doctor = lab.nsctl("doctor web")?;
    must!(doctor.status == 1 && doctor.all().contains(FAILS), "{}", doctor.all());
    // A start says so, and lets it run.
    let leader = lab.sh("machinectl show web -p Leader")?;
    let done = lab.nsctl("restart web")?;
    must!(done.status == 1 && done.stderr.contains("'web' runs, but fails its check"), "{}", done.all());
    must!(lab.sh("machinectl show web -p Leader")? != leader, "it was not restarted");
    let json: serde_json::Value = serde_json::from_str(&lab.nsctl("restart web --json")?.stdout)?;
    must!(json["errors"][0]["message"].as_str().is_some_and(|text| text.contains("check")), "{json}");
    let seen = json["machines"].as_array().cloned().unwrap_or_default();
    must!(seen.iter().any(|seen| seen["check"]["passes"] == false), "{json}");
    // A service that needs its time has it.
    lab.booted("web")?;
    let made = lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", SERVICE])?;
    must!(made.ok(), "{}", made.all());
    lab.nsctl_ok("set web check.within=30")?;
    let started = lab.nsctl_ok("restart web")?;
    must!(started.contains("web passes its check, tcp/8080"), "{started}");
    must!(lab.machine("web")?["check"]["passes"] == true, "{}", lab.machine("web")?);
    must!(lab.nsctl_ok("list -o name,check")?.contains("passes"), "{}", lab.nsctl_ok("list -o name,check")?);
    // On a bridge, too, where this host may have no address at all.
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("attach web --bridge vbr0")?;
    until(Duration::from_secs(30), "it passes on the LAN", || {
        Ok(lab.machine("web")?["check"]["passes"] == true)
    })?;
    lab.nsctl_ok("attach web --routed").map(drop)
}

/// What a guest says reaches no terminal as an order to it, and what it does not say, nobody waits for.
fn commands(lab: &Lab) -> Result<()> {
    lab.booted("web")?;
    let set = |check: &str| lab.run(&["nsctl", "set", "web", check]);
    must!(set("check={command = \"test -e /etc/os-release\"}")?.ok(), "it cannot be set");
    must!(lab.machine("web")?["check"]["passes"] == true, "{}", lab.machine("web")?);
    must!(set("check={command = \"printf '\\\\033[2Jno\\\\n'; exit 3\"}")?.ok(), "it cannot be set");
    let listed = lab.nsctl("list")?;
    must!(listed.stderr.contains("no") && !listed.all().contains('\u{1b}'), "{:?}", listed.all());
    must!(set("check={command = \"sleep 600\", within = 2}")?.ok(), "it cannot be set");
    let begin = std::time::Instant::now();
    let listed = lab.nsctl("list")?;
    must!(listed.ok() && listed.stderr.contains("no answer within"), "{}", listed.all());
    must!(begin.elapsed() < Duration::from_secs(10), "list waited for {:?}", begin.elapsed());
    let done = lab.nsctl("restart web")?;
    must!(done.status == 1 && done.stderr.contains("no answer within"), "{}", done.all());
    must!(set("check=")?.ok(), "it cannot be taken away");
    must!(lab.nsctl_ok("doctor web")?.contains("all is well"), "{}", lab.nsctl("doctor web")?.all());
    Ok(())
}

/// By systemd alone.
fn again(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("set web restart=on-failure")?;
    let leader = || lab.sh("machinectl show web -p Leader --value 2> /dev/null || true");
    let first = leader()?;
    lab.sh("systemctl kill --signal=KILL --kill-whom=main systemd-nspawn@web || \
            systemctl kill --signal=KILL --kill-who=main systemd-nspawn@web")?;
    until(Duration::from_secs(60), "it is started again", || {
        Ok(!matches!(leader()?, now if now.is_empty() || now == first))
    })?;
    let address = "2001:db8:a:1::2";
    until(Duration::from_secs(30), "it answers again", || {
        Ok(lab.router.run(&["ping", "-c1", "-W1", address])?.ok())
    })?;
    // Who is stopped, killed or removed by somebody stays so.
    for verb in ["stop", "kill"] {
        lab.nsctl_ok(&format!("{verb} web"))?;
        let state = lab.sh("sleep 6; systemctl show -p ActiveState --value systemd-nspawn@web")?;
        must!(matches!(state.trim(), "inactive" | "failed"), "after {verb} it is {state}");
        lab.nsctl_ok("start web")?;
    }
    // Also one that cannot start, and is tried again and again.
    lab.sh("mkdir /srv/gone")?;
    lab.nsctl_ok("set web bind=[\"/srv/gone\"] restart=always")?;
    lab.sh("rmdir /srv/gone; machinectl kill --signal=KILL --kill-whom=leader web || machinectl kill --signal=KILL --kill-who=leader web")?;
    let restarts = || lab.sh("systemctl show -p NRestarts --value systemd-nspawn@web");
    until(Duration::from_secs(30), "it is tried again", || Ok(restarts()?.trim() != "0"))?;
    lab.nsctl_ok("stop web")?;
    let state = lab.sh("sleep 6; systemctl show -p ActiveState --value systemd-nspawn@web")?;
    must!(matches!(state.trim(), "inactive" | "failed"), "one that is tried again is {state} after a stop");
    lab.sh("mkdir /srv/gone")?;
    lab.nsctl_ok("set web bind=[] restart=on-failure")?;
    lab.nsctl_ok("start web").map(drop)
}

fn one_after_the_other(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("set db after=[\"web\"]")?;
    lab.nsctl_ok("stop web db")?;
    lab.nsctl_ok("start db web")?;
    let since = |name: &str| -> Result<u64> {
        let unit = format!("systemctl show -p ActiveEnterTimestampMonotonic --value systemd-nspawn@{name}");
        Ok(lab.sh(&unit)?.trim().parse()?)
    };
    let began = lab.sh("systemctl show -p InactiveExitTimestampMonotonic --value systemd-nspawn@db")?;
    must!(
        began.trim().parse::<u64>()? >= since("web")?,
        "db began at {began}, web was there at {}",
        since("web")?
    );
    lab.nsctl_ok("start db")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}
