//! `nsctl --host`: a laptop, on which nsctl has nothing of its own and no rights, drives a server by ssh.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Done, Lab, Suite, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let laptop = lab.beside(Suite::Forky, 1)?;
    let said = laptop.nsctl("--host server list")?;
    must!(said.status == 1 && said.stderr.contains("ssh cannot be run"), "{}", said.all());
    acquainted(lab, &laptop)?;
    away(&laptop)?;
    as_here(lab, &laptop)?;
    files(lab, &laptop)?;
    first_boot(&laptop)?;
    torn(lab, &laptop)?;
    terminal(&laptop)?;
    interrupted(lab, &laptop)?;
    without_root(lab, &laptop)?;
    lab.sh("test -z \"$(ls -A /var/tmp | grep nsctl- || true)\"")?;
    laptop
        .sh("test -z \"$(ls /tmp | grep nsctl- || true)\"; test ! -e /etc/nsctl; test ! -e /var/lib/nsctl")
        .map(drop)
}

/// ann of the laptop comes in at the server as root, and as bob, who may use sudo.
fn acquainted(lab: &Lab, laptop: &Lab) -> Result<()> {
    lab.install("openssh-server sudo")?;
    laptop.install("openssh-client expect")?;
    let user = |name: &str| {
        format!(
            "echo '{name}:*:1234:1234::/home/{name}:/bin/sh' >> /etc/passwd; echo '{name}:x:1234:' >> /etc/group
             mkdir -p /home/{name}; chown {name}:{name} /home/{name}\n"
        )
    };
    laptop.sh(&user("ann"))?;
    laptop.sh("su ann -c \"mkdir -m 700 ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519\"")?;
    let key = laptop.sh("cat /home/ann/.ssh/id_ed25519.pub")?;
    lab.sh(&user("bob"))?;
    lab.sh(&format!(
        "systemctl start ssh
         echo 'bob ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/bob
         for home in /root /home/bob; do mkdir -p -m 700 $home/.ssh; echo '{key}' > $home/.ssh/authorized_keys; done
         chown -R bob /home/bob/.ssh"
    ))?;
    laptop.sh(
        "printf 'Host server\\nHostName 2001:db8:ffff::2\\nUser root\\nHost bob\\nHostName 2001:db8:ffff::2\\nUser bob\\n' > /home/ann/.ssh/config
         ssh-keyscan 2001:db8:ffff::2 > /home/ann/.ssh/known_hosts 2> /dev/null; chown ann /home/ann/.ssh/*",
    )?;
    Ok(())
}

/// As ann does it, in her home.
fn ann(laptop: &Lab, line: &str) -> Result<Done> {
    laptop.run(&["su", "-", "ann", "-c", line])
}

fn done(laptop: &Lab, line: &str) -> Result<String> {
    let done = ann(laptop, line)?;
    must!(done.ok(), "`{line}` ended with {}: {}", done.status, done.all());
    Ok(done.stdout)
}

fn away(laptop: &Lab) -> Result<()> {
    let said = ann(laptop, "nsctl --host nobody.invalid list")?;
    must!(
        said.status == 1 && said.stderr.contains("'nobody.invalid' cannot be reached by ssh"),
        "{}",
        said.all()
    );
    must!(said.stderr.contains("hint: does `ssh nobody.invalid id` work?"), "{}", said.all());
    let said = ann(laptop, "nsctl --json --host nobody.invalid list")?;
    let error: Value = serde_json::from_str(&said.stdout).with_context(|| said.all())?;
    must!(error["error"]["hint"].is_string(), "{error}");
    // What looks like an option of ssh's is a host all the same.
    let said = ann(laptop, "nsctl --host=-oProxyCommand=touch\\ /tmp/pwned list")?;
    must!(!said.ok(), "{}", said.all());
    laptop.sh("! test -e /tmp/pwned")?;
    Ok(())
}

/// Output, errors and status of each are those of the command there.
fn as_here(lab: &Lab, laptop: &Lab) -> Result<()> {
    done(laptop, "nsctl -H server init --pool 2001:db8:a::/48 --uplink wan0")?;
    let said = done(laptop, "nsctl --host server create web --routed --image debian-13 --open tcp/7777")?;
    must!(said.contains("web answers at 2001:db8:a:1::2"), "{said}");
    for words in ["list", "pool --json", "plan", "pool", "stop nobody", "--root /nowhere list", "lst"] {
        let (here, there) = (lab.nsctl(words)?, ann(laptop, &format!("nsctl --host server {words}"))?);
        let same =
            (here.status, &here.stdout) == (there.status, &there.stdout) && here.stderr == there.stderr;
        // What is no verb is told by whoever is asked first.
        must!(same, "`{words}`:\n{}\n---\n{}", here.all(), there.all());
    }
    // Words come whole, also those that a shell would read, and the status of what runs in the machine.
    let odd = "nsctl -H server shell web -- printf '<%s>' \"a b\" 'it'\\''s' '$HOME `id`' '*' ''";
    must!(done(laptop, odd)? == "<a b><it's><$HOME `id`><*><>", "{}", done(laptop, odd)?);
    must!(ann(laptop, "nsctl -H server shell web -- sh -c 'exit 43'")?.status == 43, "the status is lost");
    for status in [127, 255] {
        let said = ann(laptop, &format!("nsctl -H server shell web -- sh -c 'exit {status}'"))?;
        must!(said.status == status && said.stderr.is_empty(), "{}: {}", said.status, said.all());
    }
    let piped = done(laptop, "echo from the laptop | nsctl -H server shell web -- cat")?;
    must!(piped.trim() == "from the laptop", "{piped}");
    done(laptop, "echo hush | nsctl -H server secret set web token --yes")?;
    must!(done(laptop, "nsctl -H server secret list web")?.contains("token"), "no secret came");
    done(laptop, "nsctl -H server secret remove web token --yes")?;
    Ok(())
}

/// Files are those of the laptop, and stay away from the server.
fn files(lab: &Lab, laptop: &Lab) -> Result<()> {
    lab.booted("web")?;
    done(laptop, "mkdir -p world/deep; echo hello > world/deep/level.dat; ln -s world link")?;
    done(laptop, "nsctl -H server cp world web:/srv/ && nsctl -H server cp link web:/srv/other")?;
    let inside =
        done(laptop, "nsctl -H server shell web -- cat /srv/world/deep/level.dat /srv/other/deep/level.dat")?;
    must!(inside == "hello\nhello\n", "{inside}");
    done(laptop, "nsctl -H server cp web:/srv/world back; cmp back/deep/level.dat world/deep/level.dat")?;
    done(
        laptop,
        "mkdir there; nsctl -H server cp web:/etc/os-release there/; test -s there/os-release; test \"$(stat -c %U there/os-release)\" = ann",
    )?;
    // What is here already is not replaced, and nothing was asked of the server then.
    let said = ann(laptop, "nsctl -H server cp web:/etc/hostname back/deep/level.dat")?;
    must!(said.status == 1 && said.stderr.contains("is there already"), "{}", said.all());
    must!(done(laptop, "cat back/deep/level.dat")? == "hello\n", "it was replaced");
    let said = ann(laptop, "nsctl -H server cp nothing web:/srv/")?;
    must!(said.status == 1 && said.stderr.contains("nothing"), "{}", said.all());
    done(laptop, "nsctl -H server stop web")?;
    let said = done(laptop, "nsctl -H server export web web.tar.gz")?;
    must!(said.contains("web is in web.tar.gz"), "{said}");
    done(laptop, "tar tzf web.tar.gz > list; grep -q level.dat list")?;
    let said = done(laptop, "nsctl -H server import --name copy --yes web.tar.gz")?;
    must!(said.contains("copy answers at"), "{said}");
    let world = done(laptop, "nsctl -H server shell copy -- cat /srv/world/deep/level.dat")?;
    must!(world == "hello\n", "{world}");
    done(laptop, "nsctl -H server start web").map(drop)
}

/// What a new machine gets is the laptop's.
fn first_boot(laptop: &Lab) -> Result<()> {
    done(laptop, "echo hush > word; echo 'touch /root/ran' > script; cp .ssh/id_ed25519.pub key.pub")?;
    done(
        laptop,
        "nsctl -H server create fresh --routed --image debian-13 --ssh-key key.pub --secret token=word --run=script",
    )?;
    let inside = done(laptop, "nsctl -H server shell fresh -- cat /root/.ssh/authorized_keys")?;
    must!(inside == done(laptop, "cat key.pub")?, "{inside}");
    must!(done(laptop, "nsctl -H server secret list fresh")?.contains("token"), "no secret came");
    done(laptop, "nsctl -H server remove fresh --yes").map(drop)
}

/// Ended in the middle of an upload, and with the connection: nothing of it stays on either side.
fn torn(lab: &Lab, laptop: &Lab) -> Result<()> {
    done(laptop, "head -c 2000000000 /dev/zero > large")?;
    for how in [
        "pkill -TERM -u ann -x nsctl",
        "pkill -INT -u ann '^(nsctl|ssh|tar)$'",
        "pkill -KILL -u ann -x nsctl",
        "pkill -KILL -u ann -x ssh",
    ] {
        let line = "exec nsctl -H server cp large web:/srv/";
        let mut command = laptop.enter(&["su", "-", "ann", "-c", line])?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let there = || Ok(lab.run(&["sh", "-c", "test -s /var/tmp/nsctl-*/0/large"])?.ok());
        until(Duration::from_secs(30), "it comes", there)?;
        laptop.sh(how)?;
        must!(!child.wait()?.success(), "`{how}`: it went on");
        let gone = || Ok(lab.sh("ls /var/tmp")?.matches("nsctl-").count() == 0);
        until(Duration::from_secs(30), how, gone)?;
        // Who is killed cleans up nothing of his own.
        let left = laptop.sh("ls -A /tmp /home/ann; rm -rf /tmp/nsctl-*")?;
        must!(how.contains("-KILL") || !left.contains("nsctl-"), "`{how}` left something:\n{left}");
    }
    done(laptop, "nsctl -H server cp large web:/srv/")?;
    let mut command =
        laptop.enter(&["su", "-", "ann", "-c", "exec nsctl -H server cp web:/srv/large back-again"])?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let comes = || Ok(laptop.run(&["sh", "-c", "test -s /home/ann/.nsctl-*/large"])?.ok());
    until(Duration::from_secs(60), "it comes", comes)?;
    laptop.sh("pkill -TERM -u ann -x nsctl")?;
    must!(!child.wait()?.success(), "it went on");
    must!(!laptop.sh("ls -A /home/ann /tmp")?.contains("nsctl-"), "a draft stays");
    must!(!laptop.sh("ls -A /home/ann")?.contains("back-again"), "half of it is there");
    done(laptop, "rm large; nsctl -H server shell web -- rm /srv/large").map(drop)
}

/// In a terminal there is one on the other side: who must be asked is asked, and Ctrl-C reaches nsctl there.
fn terminal(laptop: &Lab) -> Result<()> {
    let script = "spawn nsctl --host server remove copy
         expect {Go on?} { send \"n\\r\" } timeout { exit 9 }
         expect eof
         lassign [wait] _ _ _ status
         exit $status";
    let said = laptop.run(&["su", "-", "ann", "-c", &format!("expect -c 'set timeout 20\n{script}'")])?;
    must!(said.status == 1, "{}: {}", said.status, said.all());
    let script = "spawn nsctl --host server shell copy -- sh -c {echo it-runs; exec sleep 100}
         expect {it-runs} {} timeout { exit 9 }
         send \"\\003\"
         expect eof
         lassign [wait] _ _ _ status
         exit $status";
    let said = laptop.run(&["su", "-", "ann", "-c", &format!("expect -c 'set timeout 20\n{script}'")])?;
    must!(said.status == 130, "{}: {}", said.status, said.all());
    done(laptop, "nsctl -H server remove copy --yes").map(drop)
}

/// Without a terminal: what is interrupted here is interrupted there.
fn interrupted(lab: &Lab, laptop: &Lab) -> Result<()> {
    for (words, seen) in [
        ("shell web -- sleep 7777", "[s]leep 7777"),
        ("logs web -f", "[n]sctl logs"),
        ("events -f", "[n]sctl events"),
    ] {
        let mut command =
            laptop.enter(&["su", "-", "ann", "-c", &format!("exec nsctl -H server {words}")])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let runs = || Ok(lab.run(&["pgrep", "-f", seen])?.ok());
        until(Duration::from_secs(30), "it runs there", runs)?;
        // As the terminal does it: all of them.
        laptop.sh("pkill -INT -u ann '^(nsctl|ssh)$'")?;
        let status = child.wait()?;
        must!(status.code() == Some(130), "`{words}` ended with {status}");
        let ended = until(Duration::from_secs(20), "it has ended there", || Ok(!runs()?));
        must!(ended.is_ok(), "`{words}` goes on there:\n{}", lab.sh("ps axfo pid,ppid,args")?);
    }
    Ok(())
}

fn without_root(lab: &Lab, laptop: &Lab) -> Result<()> {
    let said = done(laptop, "nsctl -H bob list")?;
    must!(said == lab.nsctl_ok("list")?, "{said}");
    done(laptop, "echo again > world/deep/level.dat; nsctl -H bob cp world/deep/level.dat web:/srv/")?;
    done(laptop, "nsctl -H bob cp web:/srv/level.dat brought; cmp brought world/deep/level.dat")?;
    // Neither is there who has no rights, nor a host without nsctl.
    lab.sh("rm /etc/sudoers.d/bob")?;
    let said = ann(laptop, "nsctl -H bob list")?;
    must!(said.status == 1, "{}", said.all());
    lab.sh("mv /usr/local/bin/nsctl /usr/local/bin/away")?;
    let said = ann(laptop, "nsctl -H server list")?;
    lab.sh("mv /usr/local/bin/away /usr/local/bin/nsctl")?;
    must!(said.status == 1 && said.stderr.contains("there is no nsctl on 'server'"), "{}", said.all());
    Ok(())
}
