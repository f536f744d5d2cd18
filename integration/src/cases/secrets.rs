//! A secret reaches the service that asks for it, and nobody else: it is in no file of the host's or the guest's, no
//! log, no definition and no export.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::lab::run::Done;
use crate::must;

/// What is looked for afterwards, wherever it must not be.
const SECRETS: [&str; 3] = ["Iohquai4chah", "ahPh3Eimoo7i", "eeK9ohQuoo5W"];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    given(lab)?;
    changed(lab)?;
    of_any_size(lab)?;
    killed(lab)?;
    missing(lab)?;
    of_another_host(lab)?;
    not_handed_on(lab)?;
    goes_along(lab)?;
    taken_away(lab)?;
    nowhere(lab)
}

/// What a service in the machine finds that asks for it.
fn read(lab: &Lab, machine: &str, id: &str) -> Result<String> {
    let unit = format!(
        "systemd-run --quiet --wait --pipe -p LoadCredential={id} sh -c 'cat \"$CREDENTIALS_DIRECTORY\"/{id}'"
    );
    let done = inside(lab, machine, &unit)?;
    must!(done.ok(), "{machine} cannot read {id}: {}", done.all());
    Ok(done.stdout)
}

fn inside(lab: &Lab, machine: &str, lines: &str) -> Result<Done> {
    lab.run(&["nsctl", "shell", machine, "sh", "-euc", lines])
}

/// By standard input; it is not to stand in a file even here.
fn set(lab: &Lab, words: &str, secret: &str) -> Result<String> {
    lab.must(&["sh", "-euc", &format!("printf %s \"$1\" | nsctl -v secret set {words} 2>&1"), "sh", secret])
}

fn given(lab: &Lab) -> Result<()> {
    lab.sh(&format!("mount -t tmpfs tmpfs /mnt; printf %s {} > /mnt/db", SECRETS[0]))?;
    refused(lab, "create web --routed --image debian-13 --secret db", 2, "ID=FILE")?;
    refused(lab, "create web --routed --image debian-13 --secret ../db=/mnt/db", 2, "name of a secret")?;
    refused(lab, "create web --routed --image debian-13 --secret db=/mnt/none", 1, "cannot be read")?;
    must!(!lab.sh("ls /var/lib/machines")?.contains("web"), "it was made");
    let said = lab.nsctl_ok("-v create web --routed --image debian-13 --secret db=/mnt/db")?;
    must!(!said.contains(SECRETS[0]), "{said}");
    lab.sh("umount /mnt")?;
    must!(read(lab, "web", "db")? == SECRETS[0], "it is another");
    let definition = lab.sh("cat /etc/nsctl/machines.d/web.toml")?;
    must!(definition.contains("secret = [\"db\"]"), "{definition}");
    must!(lab.sh("stat -c %a:%U /etc/nsctl/secrets/web@db.cred")?.trim() == "600:root", "others may read it");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}

/// Another one in its place takes a restart, and that is asked about.
fn changed(lab: &Lab) -> Result<()> {
    let leader = || lab.sh("machinectl show web -p Leader");
    let before = leader()?;
    let asked = lab.run(&["sh", "-c", "echo x | nsctl secret set web db"])?;
    must!(!asked.ok() && asked.all().contains("This restarts web"), "{}", asked.all());
    must!(leader()? == before && read(lab, "web", "db")? == SECRETS[0], "it was changed");
    let said = set(lab, "web db --yes", SECRETS[1])?;
    must!(!said.contains(SECRETS[1]) && leader()? != before, "{said}");
    must!(read(lab, "web", "db")? == SECRETS[1], "it is another");
    // What is changed while it is stopped, it has at its next start.
    lab.nsctl_ok("stop web")?;
    set(lab, "web token", SECRETS[2])?;
    lab.nsctl_ok("start web")?;
    must!(
        read(lab, "web", "token")? == SECRETS[2] && read(lab, "web", "db")? == SECRETS[1],
        "they are others"
    );
    // One that systemd itself knows.
    set(lab, "web ssh.authorized_keys.root --yes", "ssh-ed25519 AAAA someone\n")?;
    lab.booted("web")?;
    let keys = inside(lab, "web", "cat /root/.ssh/authorized_keys")?;
    must!(keys.stdout == "ssh-ed25519 AAAA someone\n", "{}", keys.all());
    lab.nsctl_ok("secret remove web ssh.authorized_keys.root --yes").map(drop)
}

/// Any bytes, as many as systemd takes.
fn of_any_size(lab: &Lab) -> Result<()> {
    lab.sh(
        "head -c 524288 /dev/urandom > /root/large; head -c 524289 /dev/zero > /root/larger; : > /root/empty",
    )?;
    refused(lab, "secret set web large /root/larger --yes", 1, "more than 512 KiB")?;
    refused(lab, "secret set web large /root/empty --yes", 1, "is empty")?;
    refused(lab, "secret set web large /dev/zero --yes", 1, "more than 512 KiB")?;
    refused(lab, "secret set web large /root --yes", 1, "cannot be read")?;
    lab.nsctl_ok("secret set web large /root/large --yes")?;
    let sum = inside(lab, "web", "sha256sum < /run/credentials/@system/large")?;
    must!(sum.stdout == lab.sh("sha256sum < /root/large")?, "{}", sum.all());
    refused(lab, "secret set web large2 /root/large --yes", 1, "together")?;
    lab.nsctl_ok("secret remove web large --yes")?;
    must!(!inside(lab, "web", "test -e /run/credentials/@system/large")?.ok(), "it is there still");
    Ok(())
}

/// Killed anywhere, it is the old one or the new one, and the next command sets that right.
fn killed(lab: &Lab) -> Result<()> {
    let mut done = false;
    for point in (1..60).step_by(2) {
        let words =
            format!("printf %s {} | NSCTL_KILL_AT={point} nsctl-faults secret set web db --yes", SECRETS[0]);
        done = lab.run(&["sh", "-c", &words])?.ok();
        lab.nsctl_ok("apply --yes")?;
        let has = read(lab, "web", "db")?;
        let wanted = if done { &SECRETS[..1] } else { &SECRETS[..2] };
        must!(wanted.contains(&has.as_str()), "{point}: {has}");
        must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{point}: {}", lab.nsctl("plan")?.all());
        must!(lab.sh("ls /var/lib/nsctl/journal")?.is_empty(), "{point}: a journal is left");
        if done {
            break;
        }
        set(lab, "web db --yes", SECRETS[1])?;
    }
    must!(done, "it never came to its end");
    set(lab, "web db --yes", SECRETS[1]).map(drop)
}

/// A machine is not brought down to find that it cannot start.
fn missing(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show web -p Leader")?;
    lab.sh("rm /etc/nsctl/secrets/web@db.cred")?;
    refused(lab, "restart web", 1, "the secret db is not on this host")?;
    refused(lab, "set web environment.A=b --yes", 1, "the secret db is not on this host")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    // What needs no restart is not held up by that.
    lab.nsctl_ok("open web tcp/99")?;
    let found = lab.nsctl("doctor web")?;
    must!(
        found.all().contains("secret-lost") && found.all().contains("nsctl secret set web db"),
        "{}",
        found.all()
    );
    let list = lab.nsctl_ok("secret list web --json")?;
    must!(list.contains("\"missing\"") && list.contains("\"set\""), "{list}");
    // Two are missing: they come one after the other.
    lab.sh("rm /etc/nsctl/secrets/web@token.cred")?;
    let said = set(lab, "web db", SECRETS[1])?;
    must!(said.contains("lacks token still"), "{said}");
    set(lab, "web token --yes", SECRETS[2])?;
    must!(
        read(lab, "web", "db")? == SECRETS[1] && read(lab, "web", "token")? == SECRETS[2],
        "they are others"
    );
    // A profile may ask for one; a machine of it is made with that, or without a start.
    lab.sh("mkdir -p /etc/nsctl/profiles.d; echo 'secret = [\"acme\"]' > /etc/nsctl/profiles.d/acme.toml")?;
    refused(lab, "create shop --routed --image debian-13 --profile acme", 1, "--secret acme=FILE")?;
    lab.nsctl_ok("create shop --routed --image debian-13 --profile acme --no-start")?;
    refused(lab, "start shop", 1, "nsctl secret set shop acme")?;
    set(lab, "shop acme", SECRETS[0])?;
    lab.nsctl_ok("start shop")?;
    must!(read(lab, "shop", "acme")? == SECRETS[0], "it is another");
    must!(
        !lab.sh("cat /etc/nsctl/machines.d/shop.toml")?.contains("secret"),
        "it stands in the definition, too"
    );
    lab.nsctl_ok("remove shop --yes").map(drop)
}

/// What came here without its key is told before the machine needs it.
fn of_another_host(lab: &Lab) -> Result<()> {
    must!(lab.nsctl("doctor web")?.ok(), "{}", lab.nsctl("doctor web")?.all());
    lab.sh("mv /var/lib/systemd/credential.secret /var/lib/systemd/credential.kept; systemd-creds setup")?;
    let found = lab.nsctl("doctor web")?;
    must!(found.all().contains("cannot be decrypted"), "{}", found.all());
    // Nothing brings the machine down that could not start again.
    let leader = lab.sh("machinectl show web -p Leader")?;
    for line in ["restart web", "snapshot web cold --stop", "set web description=x environment.A=b --yes"] {
        refused(lab, line, 1, "cannot be decrypted")?;
    }
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    // What doctor says is the way out, for one after the other.
    lab.sh("cp -a /etc/nsctl/secrets /root/kept")?;
    must!(set(lab, "web db", SECRETS[1])?.contains("lacks token still"), "it was not said");
    set(lab, "web token --yes", SECRETS[2])?;
    must!(
        read(lab, "web", "db")? == SECRETS[1] && read(lab, "web", "token")? == SECRETS[2],
        "they are others"
    );
    lab.sh("cp -a /root/kept/. /etc/nsctl/secrets/; rm -r /root/kept")?;
    lab.sh("mv /var/lib/systemd/credential.kept /var/lib/systemd/credential.secret")?;
    lab.nsctl_ok("restart web")?;
    must!(lab.nsctl("doctor web")?.ok(), "{}", lab.nsctl("doctor web")?.all());
    Ok(())
}

/// Somebody's own words for its start hand on no secret: that is said, and not found out by the service.
fn not_handed_on(lab: &Lab) -> Result<()> {
    let file = "/etc/systemd/system/systemd-nspawn@web.service.d/60-mine.conf";
    let start =
        "systemd-nspawn --quiet --keep-unit --boot --network-veth -U --settings=override --machine=%%i";
    lab.sh(&format!(
        "printf '[Service]\\nExecStart=\\nExecStart={start}\\n' > {file}; systemctl daemon-reload"
    ))?;
    let asked = lab.run(&["sh", "-c", "echo x | nsctl secret set web db --yes"])?;
    must!(!asked.ok() && asked.all().contains("--load-credential=db:db"), "{}", asked.all());
    lab.sh(&format!(
        "sed -i 's/--machine/--load-credential=db:db --load-credential=token:token --machine/' {file}; \
         systemctl daemon-reload"
    ))?;
    set(lab, "web db --yes", SECRETS[1])?;
    must!(read(lab, "web", "db")? == SECRETS[1], "it is another");
    lab.sh(&format!("rm {file}; systemctl daemon-reload"))?;
    // For all machines; and one that nsctl's own would take the place of.
    let all = "/etc/systemd/system/systemd-nspawn@.service.d";
    for (name, says) in [("override.conf", "hands it no secrets"), ("10-mine.conf", "take the place of that")]
    {
        lab.sh(&format!(
            "mkdir -p {all}; printf '[Service]\\nExecStart=\\nExecStart={start}\\n' > {all}/{name}; systemctl daemon-reload"
        ))?;
        refused(lab, "restart web", 1, says)?;
        let asked = lab.run(&["sh", "-c", "echo x | nsctl secret set web db --yes"])?;
        must!(!asked.ok() && asked.all().contains(says), "{}", asked.all());
        lab.sh(&format!("rm -r {all}; systemctl daemon-reload"))?;
    }
    Ok(())
}

/// With the machine on this host, and not off it.
fn goes_along(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("clone web twin")?;
    must!(read(lab, "twin", "db")? == SECRETS[1], "the clone has another");
    lab.nsctl_ok("stop twin")?;
    lab.nsctl_ok("rename twin sister")?;
    lab.nsctl_ok("start sister")?;
    must!(read(lab, "sister", "token")? == SECRETS[2], "it has another name, and another secret");
    must!(!lab.nsctl_ok("secret list")?.contains("twin"), "{}", lab.nsctl_ok("secret list")?);
    lab.nsctl_ok("snapshot sister before")?;
    set(lab, "sister db --yes", SECRETS[0])?;
    lab.nsctl_ok("rollback sister before --yes")?;
    must!(read(lab, "sister", "db")? == SECRETS[0], "a snapshot had a secret in it");
    let said = lab.nsctl("export sister /root/sister.tar")?;
    must!(said.ok() && said.all().contains("its secrets stay here"), "{}", said.all());
    lab.nsctl_ok("remove sister --yes")?;
    must!(lab.sh("ls /etc/nsctl/secrets")? == "web@db.cred\nweb@token.cred\n", "they are left");
    let said = lab.nsctl("import /root/sister.tar --yes")?;
    must!(said.ok() && said.all().contains("nsctl secret set sister db"), "{}", said.all());
    set(lab, "sister db", SECRETS[0])?;
    set(lab, "sister token", SECRETS[2])?;
    lab.nsctl_ok("start sister")?;
    must!(read(lab, "sister", "db")? == SECRETS[0], "it is another");
    // A definition that is away for a while loses none.
    lab.sh("mv /etc/nsctl/machines.d/sister.toml /root")?;
    lab.nsctl_ok("apply --yes")?;
    let shown = lab.nsctl_ok("prune --dry-run")?;
    must!(shown.contains("the secret db of sister"), "{shown}");
    // Nor does a new machine of that name get to see what the other was told.
    refused(lab, "import /root/sister.tar --name sister --yes", 1, "")?;
    lab.sh("mv /root/sister.toml /etc/nsctl/machines.d/")?;
    lab.nsctl_ok("apply --yes")?;
    must!(read(lab, "sister", "db")? == SECRETS[0], "it is another");
    lab.sh("rm /etc/nsctl/machines.d/sister.toml")?;
    lab.nsctl_ok("apply --yes")?;
    lab.nsctl_ok("prune --yes")?;
    must!(lab.sh("ls /etc/nsctl/secrets")? == "web@db.cred\nweb@token.cred\n", "they are left");
    Ok(())
}

fn taken_away(lab: &Lab) -> Result<()> {
    refused(lab, "secret remove web none --yes", 1, "it has: db, token")?;
    refused(lab, "secret remove web token", 1, "nothing brings back")?;
    // What no definition names any more nobody reads: no restart for that.
    lab.nsctl_ok("set web secret=[\"db\"] --yes")?;
    let leader = lab.sh("machinectl show web -p Leader")?;
    lab.nsctl_ok("secret remove web token --yes")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    must!(!inside(lab, "web", "test -e /run/credentials/@system/token")?.ok(), "it is there still");
    must!(read(lab, "web", "db")? == SECRETS[1], "the other is gone, too");
    must!(!lab.sh("cat /etc/nsctl/machines.d/web.toml")?.contains("token"), "the definition names it");
    Ok(())
}

/// On no disk, in no journal, in no unit that systemd shows.
fn nowhere(lab: &Lab) -> Result<()> {
    let words = SECRETS.map(|secret| format!("-e {secret}")).join(" ");
    lab.sh("journalctl --flush || true; journalctl --sync")?;
    let found =
        lab.run(&["sh", "-c", &format!("grep -rlIs {words} /etc /var /root /home /run/nsctl /run/systemd")])?;
    must!(found.stdout.is_empty(), "a secret stands in {}", found.stdout);
    let bytes =
        lab.run(&["sh", "-c", &format!("grep -rls {words} /var/log /run/log /var/lib/nsctl /etc /root")])?;
    must!(bytes.stdout.is_empty(), "a secret stands in {}", bytes.stdout);
    let journal = lab.run(&["sh", "-c", &format!("journalctl -a --no-pager -o verbose | grep {words}")])?;
    must!(journal.stdout.is_empty(), "{}", journal.stdout);
    let shown = lab.run(&["sh", "-c", &format!("systemctl show systemd-nspawn@web | grep {words}")])?;
    must!(shown.stdout.is_empty(), "{}", shown.stdout);
    let tree = lab.run(&["sh", "-c", &format!("nsctl stop web; grep -rls {words} /var/lib/machines/web")])?;
    must!(!tree.stdout.contains("/var/lib/machines"), "a secret stands in {}", tree.stdout);
    Ok(())
}
