//! A machine that is lost comes back from where it was kept, also on another host; and that it does is proved before.

use anyhow::Result;
use serde_json::Value;

use super::refused;
use crate::lab::Lab;
use crate::lab::run::Done;
use crate::must;

const REPOSITORY: &str = "/srv/backups";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("echo kennwort > /root/secret")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7 --secret token=/root/secret")?;
    lab.booted("web")?;
    furnish(lab)?;
    asked_for(lab)?;
    lab.install("restic")?;
    kept(lab)?;
    proved(lab)?;
    not_proved(lab)?;
    rolled_back(lab)?;
    cut_short(lab)?;
    scheduled(lab)?;
    elsewhere(lab)?;
    another(lab)?;
    lost(lab)
}

fn inside(lab: &Lab, machine: &str, lines: &str) -> Result<Done> {
    lab.run(&["nsctl", "shell", machine, "sh", "-euc", lines])
}

pub(super) fn inside_ok(lab: &Lab, machine: &str, lines: &str) -> Result<String> {
    let done = inside(lab, machine, lines)?;
    must!(done.ok(), "in {machine}, `{lines}`: {}", done.all());
    Ok(done.stdout)
}

/// Files of every kind.
pub(super) fn kinds_of_files() -> &'static str {
    "mkdir -p /srv/world; cd /srv/world; echo one > a; ln a b; ln -s /etc/shadow c; mkfifo d; truncate -s 64M sparse
     chown 1000:1000 a; chmod 4711 a; touch -d 2001-02-03 old; head -c 3000000 /dev/urandom > noise; sync"
}

/// Files of every kind, and a service that listens and has read its secret.
pub(super) fn furnish(lab: &Lab) -> Result<()> {
    inside_ok(
        lab,
        "web",
        &(kinds_of_files().to_owned() + "
         printf '[Socket]\\nListenStream=[::]:7\\nAccept=yes\\n[Install]\\nWantedBy=sockets.target\\n' > /etc/systemd/system/echo.socket
         printf '[Service]\\nLoadCredential=token\\nExecStart=/bin/cat\\nStandardInput=socket\\n' > /etc/systemd/system/echo@.service
         printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nLoadCredential=token\\nExecStart=/usr/bin/grep -q kennwort /run/credentials/needs.service/token\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/needs.service
         systemctl daemon-reload; systemctl enable --now echo.socket needs.service 2> /dev/null; sync"),
    )
    .map(drop)
}

/// All that a tree is, in lines.
pub(super) fn tree(lab: &Lab, name: &str) -> Result<String> {
    lab.sh(&format!(
        "cd /var/lib/machines/{name}/srv/world
         stat -c '%n %F %a %u %g %h %Y %s' a b c d old noise sparse; readlink c; sha256sum noise a
         test $(stat -c %b sparse) -lt 1000 && echo sparse; test a -ef b && echo linked"
    ))
}

/// Without a place, a password or restic nothing is stopped, and the way is told.
fn asked_for(lab: &Lab) -> Result<()> {
    refused(lab, "backup web", 2, "where backups are")?;
    refused(lab, "backup web --to relative", 2, "names no repository")?;
    refused(lab, &format!("backup nobody --to {REPOSITORY}"), 1, "no machine named")?;
    lab.nsctl("backup web --to /srv/backups --stop")?;
    must!(lab.machine("web")?["state"] == "running", "it was stopped");
    lab.sh("(umask 077; head -c 24 /dev/urandom | base64 > /etc/nsctl/backup.password); rm -f /var/lib/nsctl/backups/web.toml")?;
    refused(lab, &format!("backup list --from {REPOSITORY}"), 1, "restic").map(drop)
}

fn kept(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show web -p Leader")?;
    refused(lab, &format!("backup list --from {REPOSITORY}"), 1, "no repository")?;
    lab.nsctl_ok(&format!("backup web --to {REPOSITORY}"))?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    let snapshots = lab.nsctl_ok("snapshot list --json")?;
    must!(snapshots.trim() == "[]", "a snapshot is left: {snapshots}");
    must!(
        lab.run(&["sh", "-c", &format!("grep -rqs -e kennwort -e tcp/7 {REPOSITORY}")])?.status == 1,
        "it can be read"
    );
    lab.sh(&format!("printf '\\n[backup]\\nto = \"{REPOSITORY}\"\\n' >> /etc/nsctl/nsctl.toml"))?;
    let size = || -> Result<u64> { Ok(lab.sh(&format!("du -sk {REPOSITORY} | cut -f 1"))?.trim().parse()?) };
    let before = size()?;
    inside_ok(lab, "web", "echo two > /srv/world/later; sync")?;
    lab.nsctl_ok("backup web")?;
    // What has not changed is neither read nor kept again.
    must!(size()? < before + 3000, "it grew from {before} to {} KiB", size()?);
    let list: Value = serde_json::from_str(&lab.nsctl_ok("backup list web --json")?)?;
    must!(list.as_array().is_some_and(|all| all.len() == 2), "{list}");
    must!(
        lab.nsctl_ok("list -o name,backup")?.contains("not proved"),
        "{}",
        lab.nsctl_ok("list -o name,backup")?
    );
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    // Who had it for himself, and was killed, is in nobody's way.
    lab.sh(&format!(
        "export RESTIC_PASSWORD_FILE=/etc/nsctl/backup.password; restic -q -r {REPOSITORY} check > /dev/null & \
         until test -n \"$(ls {REPOSITORY}/locks)\"; do :; done; kill -KILL $!; wait $! || test -n \"$(ls {REPOSITORY}/locks)\""
    ))?;
    lab.nsctl_ok("backup web")?;
    Ok(())
}

/// It starts beside the machine, and nobody hears of it.
fn proved(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show web -p Leader")?;
    // Whatever somebody calls a snapshot of his, it is his.
    lab.nsctl_ok("snapshot web verify")?;
    let said = lab.nsctl_ok("backup verify web")?;
    must!(lab.sh("ls -A /var/lib/machines")?.contains(".web@verify"), "a snapshot is gone");
    lab.nsctl_ok("snapshot remove web verify --yes")?;
    must!(said.contains("does what it did"), "{said}");
    must!(
        lab.nsctl_ok("list -o name,backup")?.contains("proved"),
        "{}",
        lab.nsctl_ok("list -o name,backup")?
    );
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    nothing_left(lab, &[])
}

/// But for these snapshots.
pub(super) fn nothing_left(lab: &Lab, stays: &[String]) -> Result<()> {
    let stays = stays.join("$ -e ");
    let left = lab.sh(&format!(
        "ls -A /var/lib/machines | grep -e trial -e restored -e +received -e backup | grep -v -e '^$' -e @{stays}$ || true
         ls /run/nsctl/trial /run/systemd/nspawn | grep trial- || true
         systemctl list-units --all --plain --no-legend 'nsctl-trial-*'; machinectl list --no-legend | grep trial || true
         ls /var/lib/nsctl/journal; findmnt -n | grep nsctl/backup || true"
    ))?;
    must!(left.is_empty(), "left over: {left}");
    Ok(())
}

/// What would not come up, whatever its files are, is told; and a backup is not what it should be where a port is mute.
fn not_proved(lab: &Lab) -> Result<()> {
    // How long it may take, its check says.
    lab.nsctl_ok("set web check.tcp=7 check.within=5")?;
    // It works until it starts anew.
    inside_ok(
        lab,
        "web",
        "sed -i 's/^ListenStream=.*/ListenStream=[::]:8/' /etc/systemd/system/echo.socket; sync",
    )?;
    lab.nsctl_ok("backup web")?;
    refused_verify(lab, "nothing listens at tcp/7")?;
    lab.nsctl_ok("set web check=")?;
    inside_ok(
        lab,
        "web",
        "sed -i 's/^ListenStream=.*/ListenStream=[::]:7/' /etc/systemd/system/echo.socket",
    )?;
    inside_ok(lab, "web", "sed -i 's/kennwort/anderes/' /etc/systemd/system/needs.service; sync")?;
    lab.nsctl_ok("backup web")?;
    refused_verify(lab, "needs.service has failed")?;
    let doctor = lab.nsctl("doctor web")?;
    must!(!doctor.all().contains("backup-unproved"), "nobody asked for it: {}", doctor.all());
    inside_ok(lab, "web", "sed -i 's/anderes/kennwort/' /etc/systemd/system/needs.service; sync")?;
    nothing_left(lab, &[])
}

fn refused_verify(lab: &Lab, says: &str) -> Result<()> {
    let done = lab.nsctl("backup verify web")?;
    must!(
        done.status == 1 && done.all().contains(says) && done.all().contains("--as web-tried"),
        "{}",
        done.all()
    );
    must!(
        lab.nsctl_ok("list -o name,backup")?.contains("proof failed"),
        "{}",
        lab.nsctl_ok("list -o name,backup")?
    );
    Ok(())
}

/// What it is now is kept, and what it was then is back, hard links and all.
fn rolled_back(lab: &Lab) -> Result<()> {
    inside_ok(lab, "web", "systemctl daemon-reload")?;
    lab.nsctl_ok("backup web --freeze")?;
    let then = tree(lab, "web")?;
    must!(then.contains("linked") && then.contains("4711 1000 1000 2"), "{then}");
    inside_ok(lab, "web", "rm -r /srv/world; sync")?;
    lab.nsctl_ok("close web tcp/7")?;
    refused(lab, "restore web", 1, "nobody can be asked")?;
    refused(lab, "restore web 0000beef --yes", 1, "no backup 0000beef")?;
    refused(lab, "restore web not-an-id --yes", 2, "is no backup's id")?;
    lab.nsctl_ok("restore web --yes")?;
    let now = tree(lab, "web")?;
    // What restic knows nothing of: which blocks were never written.
    must!(plain(&now) == plain(&then), "it was\n{then}and is\n{now}");
    must!(lab.sh("cat /etc/nsctl/machines.d/web.toml")?.contains("tcp/7"), "its definition is another");
    let all: Value = serde_json::from_str(&lab.nsctl_ok("snapshot list web --json")?)?;
    let labels: Vec<&str> =
        all.as_array().into_iter().flatten().filter_map(|one| one["label"].as_str()).collect();
    must!(matches!(labels[..], [one] if one.starts_with("before-rollback")), "{labels:?}");
    lab.nsctl_ok(&format!("snapshot remove web {} --yes", labels[0]))?;
    nothing_left(lab, &[])
}

pub(super) fn plain(tree: &str) -> Vec<&str> {
    tree.lines().filter(|line| *line != "sparse").collect()
}

/// Killed anywhere, nothing is left but what can be sent again, and the next one is whole.
fn cut_short(lab: &Lab) -> Result<()> {
    for verb in ["backup web", "backup verify web", "restore web --yes"] {
        let mut ended = false;
        for point in (1..160).step_by(9) {
            let words: Vec<&str> = verb.split(' ').collect();
            let kill = format!("NSCTL_KILL_AT={point}");
            ended = lab.run(&[&["env", &kill, "nsctl-faults"], &words[..]].concat())?.ok();
            if ended {
                break;
            }
            lab.nsctl_ok("apply --yes")?;
            must!(lab.machine("web")?["state"] == "running", "{verb}, killed at {point}: it does not run");
        }
        must!(ended, "`{verb}` was always killed");
    }
    lab.nsctl_ok("backup web")?;
    lab.nsctl_ok("backup verify web")?;
    let all: Value = serde_json::from_str(&lab.nsctl_ok("snapshot list web --json")?)?;
    let labels: Vec<&str> =
        all.as_array().into_iter().flatten().filter_map(|one| one["label"].as_str()).collect();
    let restored: Vec<&&str> = labels.iter().filter(|label| label.starts_with("backup-")).collect();
    must!(restored.is_empty(), "{labels:?}");
    lab.nsctl_ok(&format!("snapshot remove web {} --yes", labels.join(" ")))?;
    must!(tree(lab, "web")?.contains("linked"), "its files are others");
    nothing_left(lab, &[])
}

/// A timer makes, expires and proves them.
fn scheduled(lab: &Lab) -> Result<()> {
    lab.must(&[
        "nsctl",
        "set",
        "web",
        "backup.every=hourly",
        "backup.keep={ hourly = 1 }",
        "backup.verify=hourly",
    ])?;
    must!(lab.sh("systemctl is-active nsctl-backup@hourly.timer")?.trim() == "active", "no timer");
    let doctor = lab.nsctl("doctor web")?;
    must!(doctor.ok(), "{}", doctor.all());
    let count = || -> Result<usize> {
        let list: Value = serde_json::from_str(&lab.nsctl_ok("backup list web --json")?)?;
        let scheduled = |one: &&Value| one["scheduled"] == true;
        Ok(list.as_array().map_or(0, |all| all.iter().filter(scheduled).count()))
    };
    for _ in 0..2 {
        lab.sh("systemctl start nsctl-backup@hourly.service")?;
        must!(count()? == 1, "{} are there", count()?);
    }
    // Where it cannot be had, the unit fails, and doctor tells.
    lab.sh(&format!("mv {REPOSITORY}/config /root/config"))?;
    lab.sh("mv /etc/nsctl/backup.password /root/kept; echo other > /etc/nsctl/backup.password")?;
    must!(!lab.run(&["systemctl", "start", "nsctl-backup@hourly.service"])?.ok(), "it did not fail");
    lab.sh(&format!("rm -f {REPOSITORY}/config; mv /root/config {REPOSITORY}/config; mv /root/kept /etc/nsctl/backup.password"))?;
    let doctor = lab.nsctl("doctor web")?;
    must!(doctor.status == 1 && doctor.all().contains("backup-old"), "{}", doctor.all());
    // Where a repository was and is not, no other is made in its place.
    lab.sh(&format!("mv {REPOSITORY} /srv/away"))?;
    must!(!lab.run(&["systemctl", "start", "nsctl-backup@hourly.service"])?.ok(), "it did not fail");
    refused(lab, "backup web", 1, "there is no repository")?;
    must!(lab.sh("ls /srv")?.trim() == "away", "another one was made");
    lab.sh(&format!("mv /srv/away {REPOSITORY}"))?;
    lab.sh("systemctl reset-failed; systemctl start nsctl-backup@hourly.service")?;
    must!(lab.nsctl("doctor web")?.ok(), "{}", lab.nsctl("doctor web")?.all());
    lab.nsctl_ok("set web backup=")?;
    must!(!lab.run(&["systemctl", "is-active", "nsctl-backup@hourly.timer"])?.ok(), "its timer runs on");
    Ok(())
}

/// A backup of another host: by its only name, or by the one that is said.
fn elsewhere(lab: &Lab) -> Result<()> {
    lab.sh("cp /etc/machine-id /root/id; echo 0123456789abcdef0123456789abcdef > /etc/machine-id")?;
    let proved = lab.nsctl("backup verify web");
    lab.sh("cat /root/id > /etc/machine-id")?;
    let proved = proved?;
    must!(proved.status == 1 && proved.all().contains("are proved there"), "{}", proved.all());
    // What it shares with others comes along where it is not.
    lab.sh("mkdir -p /etc/nsctl/profiles.d; echo 'open = [\"tcp/9\"]' > /etc/nsctl/profiles.d/nine.toml")?;
    lab.must(&["nsctl", "set", "web", "profile=[\"nine\"]"])?;
    lab.nsctl_ok("backup web")?;
    lab.nsctl_ok("set web profile=")?;
    lab.sh("rm /etc/nsctl/profiles.d/nine.toml")?;
    lab.nsctl_ok("restore web --as moved --yes")?;
    must!(lab.machine("moved")?["open"].to_string().contains("tcp/9"), "{}", lab.machine("moved")?);
    refused(lab, "start moved", 1, "nsctl secret set moved token")?;
    lab.sh("nsctl secret set moved token /root/secret")?;
    lab.nsctl_ok("start moved")?;
    lab.booted("moved")?;
    let ids = inside_ok(lab, "moved", "cat /etc/machine-id")?;
    must!(ids != inside_ok(lab, "web", "cat /etc/machine-id")?, "both are {ids}");
    let address = |name: &str| -> Result<Value> { Ok(lab.machine(name)?["network"]["address"].clone()) };
    must!(address("moved")? != address("web")?, "both have {}", address("web")?);
    lab.nsctl_ok("remove moved --yes").map(drop)
}

/// Somebody else's things in a repository are nobody's business here; what is no backup is not taken for one.
fn another(lab: &Lab) -> Result<()> {
    lab.sh(&format!(
        "export RESTIC_PASSWORD_FILE=/etc/nsctl/backup.password
         restic -q -r {REPOSITORY} backup /etc/hostname
         restic -q -r {REPOSITORY} backup --tag nsctl,machine:evil,on:x,taken:99999999999 /etc/hostname"
    ))?;
    refused(lab, "restore evil --yes", 1, "restic")?;
    must!(!lab.nsctl_ok("backup list")?.contains("hostname"), "{}", lab.nsctl_ok("backup list")?);
    // A definition that was never nsctl's own does nothing before it is read.
    lab.sh(&format!(
        "export RESTIC_PASSWORD_FILE=/etc/nsctl/backup.password; mkdir -p /root/evil/tree; cd /root/evil
         printf 'taken = 1\\nhow = \"stopped\"\\ndefinition = \"bind = [\\\\\"/:/host\\\\\"]\\\\n[network]\\\\nmode = \\\\\"routed\\\\\"\\\\n\"\\n' > machine.toml
         restic -q -r {REPOSITORY} backup --tag nsctl,machine:sly,on:x,taken:5 machine.toml tree"
    ))?;
    let said = lab.nsctl("restore sly")?;
    must!(
        said.status == 1 && said.all().contains("reaches beyond") && said.all().contains("/:/host"),
        "{}",
        said.all()
    );
    must!(!lab.nsctl_ok("list --json")?.contains("sly"), "it was made");
    // Nor does a profile get to a place that is none of profiles.
    lab.sh(&format!(
        "export RESTIC_PASSWORD_FILE=/etc/nsctl/backup.password; cd /root/evil
         cat > machine.toml << 'EOF'
taken = 1
how = \"stopped\"
definition = 'profile = [\"../machines.d/planted\"]'
[profiles.\"../machines.d/planted\"]
text = '[network]'
[profiles.unasked]
text = '[limits]'
EOF
         restic -q -r {REPOSITORY} backup --tag nsctl,machine:slier,on:x,taken:5 machine.toml tree"
    ))?;
    refused(lab, "restore slier --yes", 1, "")?;
    must!(!lab.sh("ls /etc/nsctl/machines.d /etc/nsctl/profiles.d")?.contains("planted"), "it was planted");
    Ok(())
}

/// The machine is gone, and comes back as it was, where it was.
fn lost(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("backup web --stop")?;
    let (then, was) = (tree(lab, "web")?, lab.machine("web")?);
    lab.nsctl_ok("remove web --yes")?;
    must!(!lab.sh("ls /var/lib/nsctl/backups")?.contains("web"), "what was known of it is left");
    // Somebody takes the next subnet meanwhile.
    lab.nsctl_ok("create other --routed --image debian-13 --no-start")?;
    let said = lab.nsctl("restore web --yes")?;
    must!(said.ok(), "{}", said.all());
    lab.sh("nsctl secret set web token /root/secret")?;
    lab.nsctl_ok("start web")?;
    let now = lab.machine("web")?;
    for key in ["network", "open", "secret"] {
        must!(now[key] == was[key], "{key}: it was {} and is {}", was[key], now[key]);
    }
    must!(plain(&tree(lab, "web")?) == plain(&then), "its files are others: {then}");
    lab.booted("web")?;
    inside_ok(lab, "web", "systemctl is-active needs.service echo.socket")?;
    lab.nsctl_ok("remove other --yes")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    nothing_left(lab, &[])
}
