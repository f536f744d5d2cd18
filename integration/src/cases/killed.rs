//! Killed before or after any single step, nothing is lost or doubled, nothing
//! is left over, and the next nsctl says what it finished or undid.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create keeper --routed --image debian-13")?;
    // Each verb is tried again, killed one point later, until it gets through.
    until_it_gets_through(lab, "create victim --routed --image debian-13 --no-start")?;
    until_it_gets_through(lab, "attach victim --bridge vbr0")?;
    lab.sh("sed -i 's/^autostart.*//' /etc/nsctl/machines.d/victim.toml; printf 'bind = [\"/srv\"]\\n' | cat - /etc/nsctl/machines.d/victim.toml > /root/new && cp /root/new /etc/nsctl/machines.d/victim.toml")?;
    let applied = kills(lab, "apply --yes")?;
    must!(applied > 3, "apply was killed {applied} times only");
    until_it_gets_through(lab, "remove -y victim")?;
    at_any_instant(lab)?;
    power_fails(lab)?;
    let trees = lab.sh("ls /var/lib/machines")?;
    must!(!trees.contains("victim"), "a tree is left: {trees}");
    must!(lab.machine("keeper")?["addresses"][0] == "2001:db8:a:1::2", "{}", lab.machine("keeper")?);
    Ok(())
}

/// Of a file that was not there a power cut may leave an empty one (fsync(2)): it goes, too.
fn power_fails(lab: &Lab) -> Result<()> {
    let before = host(lab)?;
    lab.sh("find /etc /var/lib/nsctl -type f | sort > /root/before")?;
    lab.sh(
        "! NSCTL_KILL_AT=17 nsctl-faults create victim --routed --image debian-13 --no-start 2> /dev/null",
    )?;
    let torn = lab.sh(
        "find /etc /var/lib/nsctl -type f ! -name '.nsctl*' ! -path '*/nsctl/journal/*' | sort | comm -13 /root/before - > /root/torn
         xargs truncate -s 0 < /root/torn; wc -l < /root/torn",
    )?;
    must!(torn.trim().parse::<u32>()? > 3, "{torn} files were written");
    let next = lab.nsctl("bridge create vbr0 --uplink enp6s0")?;
    must!(next.ok() && next.stderr.contains("was cut short"), "{}", next.all());
    must!(host(lab)? == before, "something is left");
    Ok(())
}

/// Kills at instants that nobody chose: what is left is whole machines or none.
fn at_any_instant(lab: &Lab) -> Result<()> {
    for _ in 0..8 {
        lab.sh(
            "timeout -s KILL 0.$(shuf -i 10-99 -n1) nsctl create victim --routed --image debian-13 > /dev/null 2>&1 || true
             nsctl bridge create vbr0 --uplink enp6s0 > /dev/null
             ! ls /var/lib/nsctl/journal/*.json 2> /dev/null || exit 1; test -z \"$(find /etc /var/lib/nsctl -name '.nsctl*')\"
             if test -e /etc/nsctl/machines.d/victim.toml; then
                 test \"$(nsctl plan)\" = 'nothing to do'; nsctl remove -y victim > /dev/null
             fi
             ! test -e /var/lib/machines/victim || exit 1; ! test -e /etc/systemd/nspawn/victim.nspawn",
        )?;
    }
    Ok(())
}

/// Kills the verb at every point; between two tries the host is as it was
/// before, or the verb is through.
fn until_it_gets_through(lab: &Lab, line: &str) -> Result<()> {
    let kills = kills(lab, line)?;
    must!(kills > 8, "`nsctl {line}` was killed {kills} times only");
    Ok(())
}

fn kills(lab: &Lab, line: &str) -> Result<u32> {
    for point in 1..200 {
        let before = host(lab)?;
        let killed = lab.run(&["sh", "-c", &format!("NSCTL_KILL_AT={point} nsctl-faults {line}")])?;
        if killed.ok() {
            return Ok(point - 1);
        }
        must!(killed.status == 137, "`nsctl {line}` was not killed at {point}:\n{}", killed.all());
        let began = lab.run(&["sh", "-c", "ls /var/lib/nsctl/journal/*.json > /dev/null"])?.ok();
        // Any verb fixes first; this one then finds nothing to do for itself.
        let next = lab.nsctl("bridge create vbr0 --uplink enp6s0")?;
        must!(next.ok(), "after a kill at {point} of `nsctl {line}`:\n{}", next.all());
        let told = next.stderr.contains("was cut short");
        must!(began == told, "the user is not told after a kill at {point}:\n{}", next.all());
        let left = lab.sh("find /etc /var/lib/nsctl -name '.nsctl*' -o -path '*/nsctl/journal/*'")?;
        must!(left.is_empty(), "left after a kill at {point} of `nsctl {line}`: {left}");
        if next.stderr.contains("finishing") || host(lab)? != before {
            return through(lab, line, point, &next.stderr);
        }
    }
    anyhow::bail!("`nsctl {line}` never gets through")
}

/// The verb was through, or past the point of no return, when it was killed.
fn through(lab: &Lab, line: &str, point: u32, said: &str) -> Result<u32> {
    let plan = lab.nsctl("plan")?;
    let rest = plan.stdout.lines().all(|line| line == "nothing to do" || line.contains("'victim'"));
    must!(rest, "half done after a kill at {point} of `nsctl {line}`:\n{said}\n{}", plan.all());
    Ok(point)
}

/// What must be as it was when a verb is undone.
fn host(lab: &Lab) -> Result<String> {
    super::fingerprint(lab)
}
