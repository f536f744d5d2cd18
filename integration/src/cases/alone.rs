//! Each machine is judged alone: what is wrong with one, or could not be undone, holds up no
//! other, and is named by each command.

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/80")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    broken_definition(lab)?;
    broken_host_file(lab)?;
    too_large(lab)?;
    no_bus_inside(lab)?;
    a_tree_that_stays(lab)?;
    a_foreign_line(lab)
}

fn broken_definition(lab: &Lab) -> Result<()> {
    let hosts = lab.sh("cat /etc/hosts")?;
    lab.sh(
        "cd /etc/nsctl/machines.d; cp db.toml /root; echo '[netw' > db.toml; cp /root/db.toml -- '-x.toml'",
    )?;
    for line in ["open web tcp/81", "restart web", "stop web", "start web"] {
        must!(lab.nsctl(line)?.ok(), "`nsctl {line}`:\n{}", lab.nsctl(line)?.all());
    }
    must!(
        lab.sh("cat /etc/hosts")? == hosts,
        "the name of a running machine is gone:\n{}",
        lab.sh("cat /etc/hosts")?
    );
    refused(lab, "open db tcp/1", 1, "db.toml:1:6")?;
    refused(lab, "start db", 1, "db.toml:1:6")?;
    let list = lab.nsctl("list")?;
    must!(list.status == 1 && list.stderr.contains("its definition cannot be used"), "{}", list.all());
    must!(
        list.stdout.matches("2001:db8:a:").count() >= 4 && !list.stdout.contains("unmanaged"),
        "{}",
        list.all()
    );
    lab.sh("sed -i '1i description = \"x\"' /etc/nsctl/machines.d/web.toml")?;
    let apply = lab.nsctl("apply --yes")?;
    must!(
        apply.status == 1 && apply.stderr.contains("db.toml:1:6") && apply.stderr.contains("-x.toml"),
        "{}",
        apply.all()
    );
    must!(lab.sh("systemctl show systemd-nspawn@web -p Description")?.contains("=x"), "{}", apply.all());
    must!(lab.sh("cat /etc/hosts")? == hosts, "the name of a running machine is gone");
    let doctor = lab.nsctl("doctor")?;
    must!(doctor.status == 1 && doctor.stdout.contains("db stays as it is"), "{}", doctor.all());
    must!(lab.nsctl("stop db")?.ok(), "{}", lab.nsctl("stop db")?.all());
    lab.sh("cp /root/db.toml /etc/nsctl/machines.d/; rm /etc/nsctl/machines.d/-x.toml; nsctl start db; test \"$(nsctl plan)\" = 'nothing to do'").map(drop)
}

fn broken_host_file(lab: &Lab) -> Result<()> {
    lab.sh("cp /etc/nsctl/nsctl.toml /root; echo pool >> /etc/nsctl/nsctl.toml")?;
    let stop = lab.nsctl("stop web")?;
    let list = lab.nsctl("list")?;
    must!(stop.ok() && list.status == 1 && list.stdout.contains("stopped"), "{}{}", stop.all(), list.all());
    must!(list.stdout.contains("2001:db8:a:1::/64"), "{}", list.all());
    refused(lab, "open web tcp/1", 1, "nsctl.toml")?;
    lab.sh("cp /root/nsctl.toml /etc/nsctl/; nsctl start web").map(drop)
}

/// A definition of many megabytes takes no memory.
fn too_large(lab: &Lab) -> Result<()> {
    lab.sh("yes '# much' | head -c 60000000 > /etc/nsctl/machines.d/huge.toml")?;
    let list = lab.nsctl("list")?;
    must!(
        list.stderr.contains("is larger than 1048576 bytes") && list.stdout.contains("web"),
        "{}",
        list.all()
    );
    must!(lab.nsctl("open web tcp/82")?.ok(), "another machine is held up");
    lab.sh("rm /etc/nsctl/machines.d/huge.toml").map(drop)
}

/// A guest without a bus refuses, and nothing is left of what was asked of it. Where nobody knows
/// whether it was begun, that goes when the guest does.
fn no_bus_inside(lab: &Lab) -> Result<()> {
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok("create tiny --routed")?;
    let before = everything(lab)?;
    let done = lab.nsctl("expose tiny tcp/80")?;
    must!(done.status == 1 && done.stderr.contains("cannot open a shell in 'tiny'"), "{}", done.all());
    must!(!done.stderr.contains("not undone") && everything(lab)? == before, "{}", done.all());
    must!(lab.nsctl("restart web")?.stderr.matches("tiny").count() == 0, "it is named");
    killed_inside(lab)?;
    let other = lab.nsctl("restart web")?;
    must!(
        other.ok() && other.stderr.contains("`nsctl expose tiny tcp/80` (tiny) is not fixed yet"),
        "{}",
        other.all()
    );
    refused(lab, "open tiny tcp/1", 1, "'tiny' waits until")?;
    let apply = lab.nsctl("apply --yes")?;
    must!(apply.status == 1 && apply.stderr.contains("'tiny' waits until"), "{}", apply.all());
    let stop = lab.nsctl("stop tiny")?;
    must!(stop.ok(), "{}", stop.all());
    let next = lab.nsctl("restart web")?;
    must!(next.ok() && next.stderr.contains("is undone at last"), "{}", next.all());
    must!(lab.nsctl("restart web")?.stderr.matches("tiny").count() == 0, "it is named for ever");
    lab.sh("! ls /var/lib/nsctl/journal/*.json 2> /dev/null || exit 1; nsctl remove -y tiny; test -d /var/lib/machines/tiny").map(drop)
}

/// Kills `expose` at ever later points, until one is just before its shell inside.
fn killed_inside(lab: &Lab) -> Result<()> {
    let found = lab.sh("for point in $(seq 1 40); do
             NSCTL_KILL_AT=$point nsctl-faults expose tiny tcp/80 > /dev/null 2>&1 && exit 1
             if nsctl restart web 2>&1 | grep -q 'not fixed yet'; then echo found; break; fi
         done")?;
    must!(found.trim() == "found", "it is never killed inside");
    Ok(())
}

/// What nsctl keeps on the host.
fn everything(lab: &Lab) -> Result<String> {
    lab.sh(
        "find /etc/nsctl /etc/systemd /var/lib/nsctl -type f ! -name lock -exec sha256sum {} + | sort -k 2",
    )
}

/// A tree that machined cannot delete stays, and goes as soon as it can.
fn a_tree_that_stays(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create busy --routed --image debian-13 --no-start")?;
    let in_machined = "nsenter -t $(systemctl show systemd-machined -p MainPID --value) -m";
    let machines = "/var/lib/machines";
    lab.sh(&format!(
        "{in_machined} mount --bind {machines} {machines}; {in_machined} mount -o remount,bind,ro {machines}"
    ))?;
    let done = lab.nsctl("remove -y busy")?;
    must!(done.status == 1 && done.stderr.contains("delete the tree of 'busy'"), "{}", done.all());
    let other = lab.nsctl("restart web")?;
    must!(other.ok() && other.stderr.contains("(busy) is not fixed yet"), "{}", other.all());
    must!(
        other.stderr.lines().filter(|line| line.contains("not fixed")).count() == 1,
        "not in one line: {}",
        other.all()
    );
    refused(lab, "create busy --routed --image debian-13 --no-start", 1, "'busy' waits until")?;
    lab.sh(&format!("{in_machined} umount {machines}"))?;
    lab.sh("nsctl restart web; test ! -e /var/lib/machines/busy; ! ls /var/lib/nsctl/journal/*.json 2> /dev/null || exit 1").map(drop)
}

/// Whatever else changed in /etc/hosts, a killed command takes just its own line back.
fn a_foreign_line(lab: &Lab) -> Result<()> {
    // Killed at ever later points, until the name is in /etc/hosts.
    let point = lab.sh(
        "for point in $(seq 12 60); do
             NSCTL_KILL_AT=$point nsctl-faults create new --routed --image debian-13 --no-start > /dev/null 2>&1 || true
             if grep -q ' new$' /etc/hosts && ls /var/lib/nsctl/journal/*.json > /dev/null 2>&1; then echo $point; break; fi
             nsctl restart web > /dev/null 2>&1; test -e /etc/nsctl/machines.d/new.toml && exit 1 || true
         done; echo '192.0.2.7 mine' >> /etc/hosts",
    )?;
    must!(!point.trim().is_empty(), "it is not killed after its name is written");
    let next = lab.nsctl("restart web")?;
    must!(next.ok() && next.stderr.contains("was cut short"), "{}", next.all());
    let hosts = lab.sh("cat /etc/hosts; ls /var/lib/nsctl/journal")?;
    must!(
        hosts.contains("192.0.2.7 mine")
            && !hosts.contains("new")
            && hosts.contains(" web")
            && !hosts.contains("json"),
        "{hosts}"
    );
    Ok(())
}
