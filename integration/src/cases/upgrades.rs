//! Packages are upgraded by the guest's own package manager, and what comes of it is taken back where it does not do
//! what it did: whatever a package does, whoever is killed, and whatever is full.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::Value;

use super::refused;
use super::snapshots::{is_whole, labels};
use crate::lab::{Done, Lab, REPOSITORY, until};
use crate::must;

const GREETER: &str = include_str!("greeter.sh");
const OTHERS: &str = include_str!("other_packages.sh");
/// A service that ends at once.
const BROKEN: &str = "/bin/false";
/// A package that is never installed, as long as nobody lets it.
pub const HANGS: &str = "touch /run/hangs; until [ -e /run/lets-go ]; do sleep 0.1; done";
/// What clears a terminal and changes its title.
const ESCAPES: &str = "printf '\\033[2J\\033]0;owned\\007escaped\\n'";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    machine(lab, "web")?;
    refusals(lab)?;
    upgraded(lab)?;
    restarted(lab)?;
    taken_back(lab)?;
    hostile(lab)?;
    several(lab)?;
    others(lab)
}

/// A machine with version 1 of a package that serves tcp/8080.
pub fn machine(lab: &Lab, name: &str) -> Result<()> {
    lab.nsctl_ok(&format!("create {name} --routed --image debian-13"))?;
    lab.nsctl_ok(&format!("open {name} tcp/8080 udp/5353"))?;
    lab.booted(name)?;
    let script = lab.root()?.join("root/greeter.sh");
    fs::write(&script, GREETER)?;
    lab.nsctl_ok(&format!("cp /root/greeter.sh {name}:/root/"))?;
    publish(lab, name, &["1", ":"])?;
    guest(lab, name, "apt-get -q update && apt-get -q -y install greeter")?;
    Ok(())
}

pub fn guest(lab: &Lab, name: &str, lines: &str) -> Result<String> {
    let done = lab.run(&["nsctl", "shell", name, "--", "sh", "-ec", lines])?;
    must!(done.ok(), "`{lines}` in {name}: {}", done.all());
    Ok(done.stdout)
}

pub fn publish(lab: &Lab, name: &str, words: &[&str]) -> Result<()> {
    let done = lab.run(&[&["nsctl", "shell", name, "--", "sh", "/root/greeter.sh"], words].concat())?;
    must!(done.ok(), "{}", done.all());
    Ok(())
}

fn version(lab: &Lab, name: &str) -> Result<String> {
    lab.booted(name)?;
    Ok(guest(lab, name, "dpkg-query -W greeter")?.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

/// `nsctl upgrade`, and what it says of its only machine.
pub fn upgrade(lab: &Lab, words: &str) -> Result<(Done, Value)> {
    let done = lab.nsctl(&format!("upgrade {words} --yes --json"))?;
    let rows: Value = serde_json::from_str(&done.stdout).with_context(|| done.all())?;
    Ok((done, rows[0].clone()))
}

fn leader(lab: &Lab, name: &str) -> Result<String> {
    lab.sh(&format!("machinectl show {name} -p Leader --value"))
}

/// The machine has this version, runs and serves; each snapshot is whole; and then there are none.
pub fn is_well(lab: &Lab, name: &str, wanted: &str, when: &str) -> Result<()> {
    must!(version(lab, name)? == wanted, "{when}: it has {}", version(lab, name)?);
    until(Duration::from_secs(20), &format!("{when}: tcp/8080 answers"), || {
        let asked = format!("exec 3<> /dev/tcp/{}/8080", address(lab, name)?);
        Ok(lab.run(&["bash", "-c", &asked])?.ok())
    })?;
    if name == "web" {
        is_whole(lab, when)?;
    }
    let (doctor, plan) = (lab.nsctl(&format!("doctor {name}"))?, lab.nsctl("plan")?);
    must!(doctor.all().contains("all is well"), "{when}: {}", doctor.all());
    must!(plan.all().contains("nothing to do"), "{when}: {}", plan.all());
    let all = labels(lab)?;
    if name == "web" && !all.is_empty() {
        let all: Vec<String> = all.into_iter().collect();
        lab.nsctl_ok(&format!("snapshot remove web {} --yes", all.join(" ")))?;
    }
    Ok(())
}

fn address(lab: &Lab, name: &str) -> Result<String> {
    Ok(lab.machine(name)?["addresses"][0].as_str().unwrap_or_default().to_owned())
}

fn refusals(lab: &Lab) -> Result<()> {
    refused(lab, "upgrade nobody", 1, "no machine named")?;
    refused(lab, "upgrade", 2, "required")?;
    refused(lab, "upgrade web --within 3x", 2, "30m")?;
    refused(lab, "upgrade web --within 0s", 2, "30m")?;
    refused(lab, "upgrade web --jobs 0", 2, "1..=64")?;
    refused(lab, "--root /tmp upgrade web", 2, "running host")?;
    publish(lab, "web", &["1.1", ":"])?;
    refused(lab, "upgrade web", 1, "nobody can be asked")?;
    let listed = lab.nsctl_ok("upgrade web --list")?;
    must!(listed.contains("available") && listed.contains("greeter"), "{listed}");
    lab.nsctl_ok("create idle --routed --image debian-13 --no-start")?;
    refused(lab, "upgrade idle", 1, "is not running")?;
    lab.nsctl_ok("remove idle --yes")?;
    // A mirror that does not answer is no reason to say that all is well.
    guest(lab, "web", "mv /srv/repo /srv/away")?;
    let (done, row) = upgrade(lab, "web")?;
    must!(!done.ok() && row["result"] == "failed", "{}", done.all());
    guest(lab, "web", "mv /srv/away /srv/repo")?;
    // Who names a family that nobody knows is told so.
    guest(
        lab,
        "web",
        "cp -L /etc/os-release /root/mine; rm /etc/os-release; printf 'ID=x\\n' > /etc/os-release",
    )?;
    let unknown = lab.nsctl("upgrade web --yes")?;
    must!(!unknown.ok() && unknown.all().contains("does not know the package manager"), "{}", unknown.all());
    guest(lab, "web", "mv /root/mine /etc/os-release")?;
    must!(labels(lab)?.is_empty(), "{:?}", labels(lab)?);
    Ok(())
}

fn upgraded(lab: &Lab) -> Result<()> {
    publish(lab, "web", &["2", ":"])?;
    let before = leader(lab, "web")?;
    let (done, row) = upgrade(lab, "web")?;
    must!(done.ok() && row["result"] == "upgraded" && row["restarted"] == false, "{}", done.all());
    let change = serde_json::json!([{ "name": "greeter", "old": "1", "new": "2" }]);
    must!(row["packages"] == change, "{row}");
    must!(leader(lab, "web")? == before, "it was restarted");
    let label = row["snapshot"].as_str().context("it has no snapshot")?;
    // The way back is open.
    lab.nsctl_ok(&format!("rollback web {label} --yes"))?;
    must!(version(lab, "web")? == "1", "it has {}", version(lab, "web")?);
    let (done, _) = upgrade(lab, "web")?;
    must!(done.ok(), "{}", done.all());
    let (done, row) = upgrade(lab, "web")?;
    must!(done.ok() && row["result"] == "up-to-date", "{}", done.all());
    is_well(lab, "web", "2", "upgraded")
}

/// One that says so, and one that runs what is gone.
fn restarted(lab: &Lab) -> Result<()> {
    for (number, asks) in [
        "touch /run/reboot-required",
        "cp /bin/sleep /usr/bin/old; systemd-run --collect -p Type=exec /usr/bin/old 999; rm /usr/bin/old",
    ]
    .into_iter()
    .enumerate()
    {
        let stays = format!("2.{number}.1");
        publish(lab, "web", &[&stays, asks])?;
        let before = leader(lab, "web")?;
        let (done, row) = upgrade(lab, "web --no-restart")?;
        let why = row["restart"].as_array().map_or(0, Vec::len);
        must!(done.ok() && why > 0 && leader(lab, "web")? == before, "{asks}: {}", done.all());
        let goes = format!("2.{number}.2");
        publish(lab, "web", &[&goes, asks])?;
        let (done, row) = upgrade(lab, "web")?;
        must!(
            done.ok() && row["restarted"] == true && leader(lab, "web")? != before,
            "{asks}: {}",
            done.all()
        );
        is_well(lab, "web", &goes, asks)?;
    }
    Ok(())
}

fn taken_back(lab: &Lab) -> Result<()> {
    publish(lab, "web", &["4", ":"])?;
    must!(upgrade(lab, "web")?.0.ok(), "version 4");
    // As long as that says what does not come back is waited for.
    lab.must(&["nsctl", "set", "web", "check.command=true", "check.within=8"])?;
    let deaf = "/usr/bin/systemd-socket-activate --accept --inetd -l 8081 /bin/cat";
    let elsewhere: [(&[&str], &str); 4] = [
        (&["5", "exit 7"], "package manager failed"),
        (&["5", ":", BROKEN], "greeter.service has failed"),
        (&["5", "rm -rf /usr/lib/systemd/systemd /lib/systemd/systemd; touch /run/reboot-required"], "start"),
        (&["5", ":", deaf], "nothing listens at tcp/8080"),
    ];
    for (words, why) in elsewhere {
        publish(lab, "web", words)?;
        guest(lab, "web", "echo before > /root/state")?;
        let (done, row) = upgrade(lab, "web")?;
        must!(!done.ok() && row["result"] == "rolled-back", "{words:?}: {}", done.all());
        must!(row["why"].as_str().is_some_and(|said| said.contains(why)), "{words:?}: {row}");
        must!(row["snapshot"].is_null() && row["kept"].is_string(), "{row}");
        is_well(lab, "web", "4", &format!("after {words:?}"))?;
    }
    // Its check is asked, too; and one that it did not pass before is not.
    lab.must(&["nsctl", "set", "web", "check.command=test ! -e /root/bad", "check.within=5"])?;
    publish(lab, "web", &["5", "touch /root/bad"])?;
    let (done, row) = upgrade(lab, "web")?;
    must!(!done.ok() && row["why"].as_str().is_some_and(|why| why.contains("check")), "{}", done.all());
    is_well(lab, "web", "4", "after a check")?;
    guest(lab, "web", "touch /root/bad")?;
    let (done, _) = upgrade(lab, "web")?;
    must!(done.ok() && done.all().contains("fails its check before its upgrade"), "{}", done.all());
    guest(lab, "web", "rm /root/bad")?;
    is_well(lab, "web", "5", "with a check that it did not pass")
}

fn hostile(lab: &Lab) -> Result<()> {
    // One that hangs is waited for as long as was said; Ctrl-C does not wait.
    publish(lab, "web", &["6", "sleep 1000"])?;
    let begin = Instant::now();
    let (done, row) = upgrade(lab, "web --within 4s")?;
    must!(!done.ok() && row["result"] == "rolled-back", "{}", done.all());
    must!(begin.elapsed() < Duration::from_secs(40), "it took {:?}", begin.elapsed());
    is_well(lab, "web", "5", "after one that hangs")?;
    publish(lab, "web", &["6", HANGS])?;
    let stopped = lab.sh("nsctl upgrade web --yes > /root/said 2>&1 & up=$!
         until nsctl shell web -- test -e /run/hangs 2> /dev/null; do kill -0 $up || { cat /root/said; exit 9; }; done
         kill -INT $up; wait $up || echo $?; cat /root/said")?;
    must!(stopped.contains("rolled back") && stopped.contains("interrupted"), "{stopped}");
    is_well(lab, "web", "5", "after Ctrl-C")?;
    // What would be obeyed by a terminal, and what never ends.
    publish(lab, "web", &["6", &format!("{ESCAPES}; exit 1")])?;
    let said = lab.nsctl("upgrade web --yes --verbose")?;
    must!(!said.ok() && said.all().contains("escaped") && !said.all().contains('\x1b'), "{}", said.all());
    is_well(lab, "web", "5", "after escapes")?;
    publish(lab, "web", &["6", "cat /dev/zero"])?;
    let (done, _) = upgrade(lab, "web --within 5s")?;
    must!(!done.ok() && done.all().len() < 100_000, "{} bytes", done.all().len());
    is_well(lab, "web", "5", "after a flood")?;
    let away = "cp -L /etc/os-release /root/mine; rm /etc/os-release; ln -s /dev/zero /etc/os-release";
    guest(lab, "web", away)?;
    let (done, _) = upgrade(lab, "web")?;
    must!(!done.ok() && done.all().contains("does not know the package manager"), "{}", done.all());
    guest(lab, "web", "mv /root/mine /etc/os-release").map(drop)
}

/// Each for itself: what goes wrong with one does not keep another from it.
fn several(lab: &Lab) -> Result<()> {
    machine(lab, "db")?;
    lab.nsctl_ok("create idle --routed --image debian-13 --no-start")?;
    lab.nsctl_ok("disable idle")?;
    publish(lab, "web", &["8", "exit 1"])?;
    publish(lab, "db", &["8", ":"])?;
    let done = lab.nsctl("upgrade --all --yes --json")?;
    let rows: Value = serde_json::from_str(&done.stdout)?;
    let results: Vec<&str> =
        rows.as_array().into_iter().flatten().filter_map(|row| row["result"].as_str()).collect();
    must!(!done.ok() && results == ["upgraded", "not-running", "rolled-back"], "{results:?}: {}", done.all());
    is_well(lab, "web", "5", "beside another")?;
    is_well(lab, "db", "8", "beside another")?;
    lab.nsctl_ok("remove db idle --yes").map(drop)
}

/// The real dnf and pacman, of Debian's packages, in a guest that says it is of their families.
fn others(lab: &Lab) -> Result<()> {
    lab.nsctl_ok(&format!("set web bind-read-only=[\"{REPOSITORY}:/srv/debian\"] --yes"))?;
    lab.booted("web")?;
    fs::write(lab.root()?.join("root/others.sh"), OTHERS)?;
    lab.nsctl_ok("cp /root/others.sh web:/root/")?;
    guest(lab, "web", "sh /root/others.sh prepare")?;
    guest(lab, "web", "cp -L /etc/os-release /root/mine; rm /etc/os-release")?;
    for (family, name) in [("fedora", "hello.noarch"), ("arch", "hello")] {
        guest(
            lab,
            "web",
            &format!("echo ID={family} > /etc/os-release; sh /root/others.sh {family} 1 install"),
        )?;
        guest(lab, "web", &format!("sh /root/others.sh {family} 2"))?;
        let (done, row) = upgrade(lab, "web")?;
        let change = serde_json::json!([{ "name": name, "old": "1-1", "new": "2-1" }]);
        must!(done.ok() && row["packages"] == change, "{family}: {}", done.all());
        let (done, row) = upgrade(lab, "web")?;
        must!(done.ok() && row["result"] == "up-to-date", "{family}: {}", done.all());
        guest(lab, "web", &format!("sh /root/others.sh {family} 3 breaks"))?;
        let (done, row) = upgrade(lab, "web")?;
        must!(!done.ok() && row["result"] == "rolled-back", "{family}: {}", done.all());
        let has = guest(lab, "web", "cat /usr/share/hello")?;
        must!(has.trim() == "2", "{family}: {has}");
    }
    guest(lab, "web", "mv /root/mine /etc/os-release")?;
    is_well(lab, "web", "5", "after other package managers")
}
