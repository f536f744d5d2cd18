//! Three hosts, of three versions of systemd, and one pool without shares: a real etcd of three members, by TLS, says
//! who has what of it. No prefix and no name is there twice, whatever happens to etcd and to the hosts.

mod cluster;
mod trial;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::refused;
use crate::lab::{Lab, Suite, until};
use crate::must;
use cluster::Cluster;

/// How many each host makes at once with the others.
const MACHINES: usize = 50;

pub fn run(lab: &mut Lab) -> Result<()> {
    let one = lab.beside(Suite::Bookworm, 1)?;
    let two = lab.beside(Suite::Forky, 2)?;
    lab.router.script("ip -6 route del 2001:db8:a::/48 via 2001:db8:ffff::2 dev up0")?;
    let mut cluster = Cluster::start(lab)?;
    for host in [&*lab, &one, &two] {
        host.install("etcd-client")?;
        cluster.give_keys(host)?;
        host.sh(
            "mkdir -p /etc/nsctl/profiles.d; echo 'autostart = false' > /etc/nsctl/profiles.d/idle.toml",
        )?;
    }
    joined(&[&*lab, &one, &two], &cluster)?;
    at_once(&[&*lab, &one, &two])?;
    fits(&two)?;
    named_once(lab, &one)?;
    rests(lab, &one)?;
    moved(lab, &one)?;
    reached(&[lab, &one, &two])?;
    killed(lab)?;
    without_a_leader(lab, &mut cluster)?;
    alone(lab, &one, &mut cluster)?;
    forgotten(&[&*lab, &one, &two], &mut cluster)?;
    leaves(&[&*lab, &one, &two], &cluster)?;
    drop((one, two, cluster));
    trial::on_a_socket(lab)
}

fn fleet(host: &Lab) -> Result<Vec<Value>> {
    let all: Value = serde_json::from_str(&host.nsctl_ok("fleet list --json")?)?;
    Ok(all.as_array().cloned().unwrap_or_default())
}

/// What programs read is as docs/schema.json says.
fn fits(host: &Lab) -> Result<()> {
    for (line, name) in
        [("fleet status", "fleet_status"), ("fleet list", "fleet_list"), ("fleet check", "fleet_check")]
    {
        let document = serde_json::from_str(&host.nsctl(&format!("{line} --json"))?.stdout)?;
        super::documents::fits(name, &document).with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// Each machine of the fleet once, and each prefix; as the hosts themselves say, too.
fn is_whole(hosts: &[&Lab], when: &str) -> Result<()> {
    let (mut names, mut prefixes, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    for host in hosts {
        let pool: Value = serde_json::from_str(&host.nsctl_ok("pool --json")?)?;
        for lease in pool["leases"].as_array().context("no leases")? {
            let (name, subnet) = (lease["machine"].to_string(), lease["subnet"].to_string());
            must!(names.insert(name.clone()), "{when}: {name} is there twice");
            must!(prefixes.insert(subnet.clone()), "{when}: {subnet} is there twice");
            count += 1;
        }
        let plan = host.nsctl_ok("plan")?;
        must!(plan == "nothing to do\n", "{when}: {plan}");
    }
    let told = fleet(hosts[0])?;
    must!(told.len() == count, "{when}: the hosts have {count} machines, etcd {}", told.len());
    for host in hosts {
        let check = host.nsctl("fleet check")?;
        must!(check.ok(), "{when}: {}", check.all());
    }
    Ok(())
}

fn joined(hosts: &[&Lab], cluster: &Cluster) -> Result<()> {
    refused(hosts[0], "fleet status", 1, "is in no fleet")?;
    refused(hosts[0], &cluster.join(""), 1, "nsctl init --pool")?;
    for (number, host) in hosts.iter().enumerate() {
        host.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
        if number == 0 {
            refused(host, &cluster.join("").replace("https", "http"), 2, "must begin with https://")?;
            // Who is not known there comes in nowhere, and nothing is written.
            refused(host, &cluster.stranger(), 1, "the fleet's etcd")?;
        }
        host.nsctl_ok(&cluster.join(if number == 1 { "password" } else { "certificate" }))?;
    }
    let status: Value = serde_json::from_str(&hosts[2].nsctl_ok("fleet status --json")?)?;
    let own: BTreeSet<String> =
        status["hosts"].as_array().into_iter().flatten().map(|host| host["own"].to_string()).collect();
    must!(own.len() == 3 && status["members"].as_array().is_some_and(|all| all.len() == 3), "{status}");
    for (number, host) in hosts.iter().enumerate() {
        let addresses = host.sh("ip -6 -br addr show lo")?;
        let own =
            format!("2001:db8:a:{}::1/128", if number == 0 { String::new() } else { number.to_string() });
        must!(addresses.contains(&own.replace("a:::", "a::")), "{own}: {addresses}");
    }
    // Nobody else shares another pool there.
    refused(hosts[1], "init --pool 2001:db8:b::/48 --uplink wan0", 1, "with a fleet")?;
    hosts[1].nsctl_ok(&cluster.join("password")).map(drop)
}

/// All hosts make theirs at the same time.
fn at_once(hosts: &[&Lab]) -> Result<()> {
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let make = |number: usize, host: &Lab| {
            (0..MACHINES).try_for_each(|machine| {
                let line = format!(
                    "create h{number}m{machine} --routed --profile idle --image debian-13 --no-start"
                );
                host.nsctl_ok(&line).map(drop)
            })
        };
        let all: Vec<_> =
            hosts.iter().enumerate().map(|(number, host)| scope.spawn(move || make(number, host))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    eprintln!("{} creates on three hosts at once: {:.1} s", 3 * MACHINES, began.elapsed().as_secs_f64());
    is_whole(hosts, "after all at once")
}

fn named_once(lab: &Lab, other: &Lab) -> Result<()> {
    refused(
        lab,
        "create h1m7 --routed --profile idle --image debian-13 --no-start",
        1,
        "there is a machine named 'h1m7' on host-1",
    )?;
    refused(lab, "rename h0m0 h1m7", 1, "there is a machine named 'h1m7' on host-1")?;
    let theirs = other.machine("h1m7")?["network"]["prefix"].as_str().unwrap_or_default().to_owned();
    lab.sh(&format!(
        "printf 'autostart = false\\n[network]\\nmode = \"routed\"\\nsubnet = \"{theirs}\"\\n' > /etc/nsctl/machines.d/mine.toml"
    ))?;
    refused(lab, "apply --yes", 1, "'h1m7' on host-1")?;
    lab.sh("rm /etc/nsctl/machines.d/mine.toml")?;
    lab.nsctl_ok("rename h0m0 first")?;
    other.nsctl_ok("create h0m0 --routed --profile idle --image debian-13 --no-start")?;
    other.nsctl_ok("remove h0m0 --yes").map(drop)
}

/// What one host has freed, another leases last; who comes again by his name has it back, there too.
fn rests(lab: &Lab, other: &Lab) -> Result<()> {
    let prefix =
        |host: &Lab, name: &str| Ok::<_, anyhow::Error>(host.machine(name)?["network"]["prefix"].clone());
    let then = prefix(lab, "h0m1")?;
    lab.nsctl_ok("remove h0m1 --yes")?;
    other.nsctl_ok("create another --routed --profile idle --image debian-13 --no-start")?;
    must!(prefix(other, "another")? != then, "what was freed just now is leased at once");
    other.nsctl_ok("create h0m1 --routed --profile idle --image debian-13 --no-start")?;
    must!(prefix(other, "h0m1")? == then, "it has another prefix than it had: {then}");
    Ok(())
}

/// To the LAN and back: what a machine gives up is everybody's, and it gets nothing that others have.
fn moved(lab: &Lab, other: &Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    lab.nsctl_ok("create lan --bridge vbr0 --profile idle --image debian-13 --no-start")?;
    refused(
        other,
        "create lan --routed --profile idle --image debian-13 --no-start",
        1,
        "there is a machine named 'lan'",
    )?;
    lab.nsctl_ok("attach lan --routed")?;
    let lease = lab.machine("lan")?["network"]["prefix"].clone();
    must!(
        fleet(other)?.iter().any(|one| one["name"] == "lan" && one["lease"] == lease),
        "{:?}",
        fleet(other)?
    );
    lab.nsctl_ok("attach lan --bridge vbr0")?;
    must!(
        fleet(other)?.iter().any(|one| one["name"] == "lan" && one["lease"].is_null()),
        "{:?}",
        fleet(other)?
    );
    lab.nsctl_ok("fleet check")?;
    lab.nsctl_ok("remove lan --yes")?;
    // A definition that is gone takes nothing with it as long as its machine is there.
    lab.nsctl_ok("create kept --routed --profile idle --image debian-13")?;
    let lease = lab.machine("kept")?["network"]["prefix"].clone();
    lab.sh("mv /etc/nsctl/machines.d/kept.toml /root/")?;
    lab.nsctl_ok("open first tcp/9")?;
    lab.nsctl_ok("create next --routed --profile idle --image debian-13 --no-start")?;
    must!(
        fleet(other)?.iter().any(|one| one["name"] == "kept" && one["lease"] == lease),
        "{:?}",
        fleet(other)?
    );
    lab.sh("mv /root/kept.toml /etc/nsctl/machines.d/")?;
    lab.nsctl_ok("remove kept next --yes")?;
    lab.nsctl_ok("fleet check")?;
    refused(lab, "--root /mnt fleet check", 2, "running host").map(drop)
}

/// By bird, each machine's prefix is routed to the host that has it, out of one pool, and the machines of all hosts
/// reach each other; one that feigns another's address reaches nobody.
fn reached(hosts: &[&Lab]) -> Result<()> {
    let _router = super::routing::router(hosts[0], "ospf")?;
    let mut addresses = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let name = format!("web{number}");
        super::routing::speaks(host, number, "protocol = \"ospf\"")?;
        host.nsctl_ok(&format!("create {name} --routed --profile idle --image debian-13"))?;
        addresses.push(host.machine(&name)?["network"]["address"].as_str().unwrap_or_default().to_owned());
    }
    let ping = |host: &Lab, name: &str, to: &str| {
        Ok::<_, anyhow::Error>(host.inside(name, &format!("ping -6 -c1 -W1 {to}"))?.ok())
    };
    for (number, host) in hosts.iter().enumerate() {
        for to in &addresses {
            let what = format!("web{number} reaches {to}");
            until(Duration::from_secs(40), &what, || ping(host, &format!("web{number}"), to)).map_err(
                |error| {
                    error.context(host.sh("ip -6 route; birdc show route table nsctl").unwrap_or_default())
                },
            )?;
            until(Duration::from_secs(20), &format!("the world reaches {to}"), || {
                Ok(hosts[0].router.run(&["ping", "-6", "-c1", "-W1", to])?.ok())
            })?;
        }
    }
    // An address of another host's machine, from here.
    hosts[0].inside("web0", &format!("ip addr add {}/128 dev host0 nodad", addresses[1]))?;
    let feigned =
        hosts[0].inside("web0", &format!("ping -6 -c2 -i0.2 -W1 -I {} {}", addresses[1], addresses[2]))?;
    must!(!feigned.ok(), "it is somebody else: {}", feigned.all());
    hosts[0].inside("web0", &format!("ip addr del {}/128 dev host0", addresses[1]))?;
    // It comes up elsewhere: whoever has it now announces it.
    let prefix = hosts[1].machine("web1")?["network"]["prefix"].clone();
    hosts[1].nsctl_ok("remove web1 --yes")?;
    hosts[2].nsctl_ok("create web1 --routed --profile idle --image debian-13")?;
    must!(hosts[2].machine("web1")?["network"]["prefix"] == prefix, "it has another prefix");
    until(Duration::from_secs(40), "it is reached where it is now", || {
        ping(hosts[0], "web0", &addresses[1])
    })?;
    for (number, host) in hosts.iter().enumerate() {
        host.nsctl_ok(&format!("remove web{number} --yes")).or_else(|_| host.nsctl_ok("list"))?;
    }
    hosts[2].nsctl_ok("remove web1 --yes").map(drop)
}

/// Killed anywhere: the next command has etcd and the host agree.
fn killed(lab: &Lab) -> Result<()> {
    for verb in ["create victim --routed --profile idle --image debian-13 --no-start", "remove victim --yes"]
    {
        let (mut ended, mut killed) = (false, 0);
        for point in (1..60).step_by(3) {
            let done = lab.run(&["sh", "-c", &format!("NSCTL_KILL_AT={point} nsctl-faults {verb}")])?;
            ended = done.ok();
            if ended {
                break;
            }
            killed += 1;
            lab.nsctl_ok("create next --routed --profile idle --image debian-13 --no-start")?;
            let check = lab.nsctl("fleet check")?;
            must!(check.ok(), "`{verb}` killed at {point}: {}", check.all());
            lab.nsctl_ok("remove next --yes")?;
            let check = lab.nsctl("fleet check")?;
            must!(check.ok(), "`{verb}` killed at {point}, later: {}", check.all());
            // It may be through.
            let there = lab.run(&["test", "-e", "/etc/nsctl/machines.d/victim.toml"])?.ok();
            match (verb.starts_with("create"), there) {
                (true, true) => drop(lab.nsctl_ok("remove victim --yes")?),
                (false, false) => {
                    drop(lab.nsctl_ok("create victim --routed --profile idle --image debian-13 --no-start")?)
                }
                _ => {}
            }
        }
        must!(ended && killed > 4, "`{verb}` was killed {killed} times, and ended: {ended}");
    }
    Ok(())
}

fn without_a_leader(lab: &Lab, cluster: &mut Cluster) -> Result<()> {
    let leader = cluster.leader(lab)?;
    cluster.kill(leader);
    // A new one is voted for within some seconds.
    until(Duration::from_secs(30), "another leader", || Ok(lab.nsctl("fleet list")?.ok()))?;
    lab.nsctl_ok("create led --routed --profile idle --image debian-13 --no-start")?;
    cluster.spawn(lab, leader)?;
    until(Duration::from_secs(30), "all three answer", || {
        Ok(!lab.nsctl_ok("fleet status")?.contains("not answer"))
    })
}

/// No majority, and then no link: what is there goes on, and what is new is refused in words.
fn alone(lab: &Lab, other: &Lab, cluster: &mut Cluster) -> Result<()> {
    lab.nsctl_ok("create here --routed --image debian-13 --open tcp/7")?;
    cluster.kill(0);
    cluster.kill(1);
    goes_on(lab)?;
    lab.nsctl_ok("remove led --yes")?;
    cluster.spawn(lab, 0)?;
    cluster.spawn(lab, 1)?;
    until(Duration::from_secs(30), "a majority", || Ok(lab.nsctl("fleet list")?.ok()))?;
    let check = lab.nsctl("fleet check")?;
    must!(check.status == 1 && check.all().contains("led"), "{}", check.all());
    lab.nsctl_ok("fleet check --fix")?;
    lab.nsctl_ok("fleet check")?;
    lab.sh("ip link set wan0 down")?;
    goes_on(lab)?;
    lab.sh("ip link set wan0 up")?;
    until(Duration::from_secs(30), "the link", || Ok(lab.nsctl("fleet list")?.ok()))?;
    other.nsctl_ok("create there --routed --profile idle --image debian-13 --no-start")?;
    lab.nsctl_ok("create back --routed --profile idle --image debian-13 --no-start").map(drop)
}

fn goes_on(lab: &Lab) -> Result<()> {
    let said =
        refused(lab, "create new --routed --profile idle --image debian-13 --no-start", 1, "cannot be asked");
    said.map(drop)?;
    for line in ["stop here", "start here", "open here tcp/9", "close here tcp/9", "list", "fleet --help"] {
        lab.nsctl_ok(line)?;
    }
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    lab.nsctl_ok("apply --yes")?;
    // What somebody else is about to define is nobody else's matter.
    lab.sh(
        "printf 'autostart = false\\n[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/stray.toml",
    )?;
    lab.nsctl_ok("open here tcp/9")?;
    lab.nsctl_ok("close here tcp/9")?;
    lab.sh("rm /etc/nsctl/machines.d/stray.toml")?;
    let doctor = lab.nsctl("doctor")?;
    must!(doctor.all().contains("fleet-silent"), "{}", doctor.all());
    refused(lab, "fleet status", 1, "cannot be asked").map(drop)
}

/// etcd comes back from a copy that is older than what was leased since: nobody gets that, and it is put back.
fn forgotten(hosts: &[&Lab], cluster: &mut Cluster) -> Result<()> {
    is_whole(hosts, "before the copy")?;
    cluster.save(hosts[0])?;
    hosts[0].nsctl_ok("create late0 --routed --profile idle --image debian-13 --no-start")?;
    hosts[1].nsctl_ok("create late1 --routed --profile idle --image debian-13 --no-start")?;
    hosts[0].nsctl_ok("remove h0m2 --yes")?;
    hosts[2].nsctl_ok("create late2 --routed --profile idle --image debian-13 --no-start")?;
    cluster.restore(hosts[0])?;
    until(Duration::from_secs(30), "it answers", || Ok(hosts[2].nsctl("fleet list")?.ok()))?;
    let check = hosts[0].nsctl("fleet check")?;
    must!(
        check.status == 1 && check.all().contains("late0") && check.all().contains("h0m2"),
        "{}",
        check.all()
    );
    // Before the others have said what they have, nothing is leased: the next would be what late0 has.
    not_early(hosts[2], "has forgotten something")?;
    let fixed = hosts[0].nsctl("fleet check --fix")?;
    must!(fixed.status == 1 && fixed.all().contains("host-1"), "{}", fixed.all());
    not_early(hosts[2], "host-1 did not")?;
    hosts[1].nsctl("fleet check --fix")?;
    hosts[2].nsctl_ok("create early --routed --profile idle --image debian-13 --no-start")?;
    is_whole(hosts, "after it was put back")
}

/// It makes nothing; but what it has itself it says.
fn not_early(lab: &Lab, says: &str) -> Result<()> {
    let done = lab.nsctl("create early --routed --profile idle --image debian-13 --no-start")?;
    must!(done.status == 1 && done.all().contains(says) && done.all().contains("hint: "), "{}", done.all());
    lab.sh("test ! -e /etc/nsctl/machines.d/early.toml; test ! -e /var/lib/machines/early").map(drop)
}

fn leaves(hosts: &[&Lab], cluster: &Cluster) -> Result<()> {
    refused(hosts[2], "deinit --force --yes", 1, "who leaves a fleet")?;
    let names = hosts[2].sh("ls /etc/nsctl/machines.d | sed 's/.toml$//'")?;
    let names: Vec<&str> = names.lines().collect();
    hosts[2].nsctl_ok(&format!("remove {} --yes", names.join(" ")))?;
    hosts[2].nsctl_ok("deinit --yes")?;
    hosts[2].sh("test ! -e /var/lib/nsctl/fleet.toml; ! grep fleet /etc/nsctl/nsctl.toml || exit 1")?;
    let there = hosts[0].nsctl_ok("fleet status")?;
    must!(!there.contains("host-2"), "{there}");
    // A copy of another host is not that host.
    let id = hosts[0].sh("cat /etc/machine-id")?;
    hosts[2].sh(&format!("cp /etc/machine-id /root/id; echo {} > /etc/machine-id; nsctl init --pool 2001:db8:a::/48 --uplink wan0", id.trim()))?;
    refused(hosts[2], &cluster.join(""), 1, "a host with this one's machine-id")?;
    hosts[2].sh("cat /root/id > /etc/machine-id")?;
    refused(hosts[0], "fleet forget host-9 --yes", 1, "there is no host")?;
    refused(hosts[0], "fleet forget host-1", 1, "nobody can be asked")?;
    hosts[0].nsctl_ok("fleet forget host-1 --yes")?;
    must!(fleet(hosts[0])?.iter().all(|one| one["host"] != "host-1"), "{:?}", fleet(hosts[0])?);
    // It was said too soon: what it has is its own again.
    hosts[1].nsctl_ok("fleet check --fix")?;
    is_whole(&hosts[..2], "after it came back")
}
