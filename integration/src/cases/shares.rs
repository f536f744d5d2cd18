//! One pool on three hosts, of three versions of systemd: each leases from its share alone, and what is routed to
//! it by hand reaches its machines, from the world and from those of the others.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::refused;
use crate::lab::{Lab, Suite};
use crate::must;

const MACHINES: usize = 6;

pub fn run(lab: &mut Lab) -> Result<()> {
    let others = [(Suite::Bookworm, 1), (Suite::Forky, 2)];
    let others = others.map(|(suite, number)| lab.beside(suite, number));
    let [one, two] = others;
    let (one, two) = (one?, two?);
    let hosts = [&*lab, &one, &two];
    lab.router.script("ip -6 route del 2001:db8:a::/48 via 2001:db8:ffff::2 dev up0")?;
    what_is_no_share(lab)?;
    for (number, host) in hosts.iter().enumerate() {
        let share = share(number);
        let said = host.nsctl_ok(&format!("init --pool 2001:db8:a::/48 --share {share} --uplink wan0"))?;
        must!(said.contains(&format!("{share}, its share of 2001:db8:a::/48; this host has")), "{said}");
        lab.router.script(&format!("ip -6 route add {share} via 2001:db8:ffff::{} dev up0", number + 2))?;
        // Said again without it, it stays.
        let again = host.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
        must!(again.contains(&share), "{again}");
        must!(host.nsctl_ok("plan")? == "nothing to do\n", "{}", host.nsctl_ok("plan")?);
    }
    unique(&hosts)?;
    reached(&hosts)?;
    feigned(&hosts)?;
    refused_outside(lab)?;
    gone(&one)
}

fn share(number: usize) -> String {
    format!("2001:db8:a:{}00::/56", number + 1)
}

fn what_is_no_share(lab: &Lab) -> Result<()> {
    for (share, why) in [
        ("2001:db8:b:100::/56", "is no part of the pool"),
        ("2001:db8:a:1::/64", "a /63 at the longest"),
        ("2001:db8::/32", "is no part of the pool"),
        ("2001:db8:a:100::1/56", "host bits"),
    ] {
        refused(lab, &format!("init --pool 2001:db8:a::/48 --share {share} --uplink wan0"), 2, why)?;
    }
    refused(lab, "init --share 2001:db8:a:100::/56", 2, "--pool")
}

/// All at once, and no prefix twice.
fn unique(hosts: &[&Lab]) -> Result<()> {
    std::thread::scope(|scope| {
        let make = |host: &Lab| {
            let names = (1..=MACHINES).map(|number| format!("m{number}"));
            names.into_iter().try_for_each(|name| {
                host.nsctl_ok(&format!("create {name} --routed --image debian-13 --no-start")).map(drop)
            })
        };
        let all: Vec<_> = hosts.iter().map(|host| scope.spawn(move || make(host))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let mut prefixes = BTreeSet::new();
    for (number, host) in hosts.iter().enumerate() {
        let pool: Value = serde_json::from_str(&host.nsctl_ok("pool --json")?)?;
        must!(pool["pool"] == "2001:db8:a::/48" && pool["share"] == share(number), "{pool}");
        must!(pool["size"] == 255 && pool["free"] == 255 - MACHINES, "{pool}");
        for lease in pool["leases"].as_array().context("no leases")? {
            let subnet = lease["subnet"].as_str().context("no subnet")?.to_owned();
            must!(
                subnet.starts_with(&format!("2001:db8:a:{}0", number + 1)),
                "{subnet} is of another's share"
            );
            must!(prefixes.insert(subnet.clone()), "{subnet} is there twice");
        }
    }
    must!(prefixes.len() == 3 * MACHINES, "{prefixes:?}");
    Ok(())
}

fn address(number: usize) -> String {
    format!("2001:db8:a:{}01::2", number + 1)
}

/// From the world, and from each host's machine to each other's.
fn reached(hosts: &[&Lab]) -> Result<()> {
    for host in hosts {
        host.nsctl_ok("start m1")?;
    }
    for (number, host) in hosts.iter().enumerate() {
        hosts[0].router.script(&format!("ping -6 -c1 -W5 {}", address(number)))?;
        for other in (0..hosts.len()).filter(|other| *other != number) {
            let done = host.inside("m1", &format!("ping -6 -c1 -W5 {}", address(other)))?;
            must!(done.ok(), "m1 of host {number} does not reach {}: {}", address(other), done.all());
        }
        // What nobody holds ends at the host whose share it is of, and does not come back to be sent again.
        let done = host.inside("m1", &format!("ping -6 -c1 -W5 2001:db8:a:{}77::1", (number + 1) % 3 + 1))?;
        must!(!done.ok() && done.all().contains("unreachable"), "{}", done.all());
    }
    Ok(())
}

/// Who has an address of this host's share is here, and does not come in from elsewhere; of another's he may.
fn feigned(hosts: &[&Lab]) -> Result<()> {
    hosts[0].nsctl_ok("open m1 udp/7 --from 2001:db8:a::/48")?;
    let (counted, to) = ("udp dport 7 counter", address(0));
    let heard = |from: &str| -> Result<bool> {
        let machine = |lines: &str| hosts[0].inside("m1", lines);
        machine(&format!(
            "nft 'table inet heard; delete table inet heard; table inet heard {{ chain c {{ type filter hook input priority 0; {counted}; }}; }}'"
        ))?;
        let router = &hosts[0].router;
        router.script(&format!(
            "ip addr add {from}/128 dev lo nodad
             ip -6 route replace {to}/128 via 2001:db8:ffff::2 dev up0 src {from}
             bash -c 'echo x > /dev/udp/{to}/7'
             ip -6 route del {to}/128; ip addr del {from}/128 dev lo; ping -6 -c1 -W5 {to}"
        ))?;
        // What came before the ping was sent before it.
        let listed = machine("nft list table inet heard")?;
        must!(listed.ok(), "{}", listed.all());
        Ok(!listed.stdout.contains("packets 0"))
    };
    must!(heard("2001:db8:a:277::9")?, "who is of another's share is not let in");
    must!(!heard("2001:db8:a:177::9")?, "who feigns an address of this host's share is let in");
    Ok(())
}

fn refused_outside(lab: &Lab) -> Result<()> {
    let other = "/etc/nsctl/machines.d/other.toml";
    lab.sh(&format!("printf '[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:201::/64\"\n' > {other}"))?;
    let said = lab.nsctl("plan")?;
    must!(
        said.status == 1 && said.all().contains("is not in the pool 2001:db8:a:100::/56"),
        "{}",
        said.all()
    );
    lab.sh(&format!("rm {other}"))?;
    let another = "init --pool 2001:db8:a::/48 --share 2001:db8:a:400::/56 --uplink wan0";
    refused(lab, another, 1, "which is not in 2001:db8:a:400::/56")
}

/// Nothing of it stays behind.
fn gone(host: &Lab) -> Result<()> {
    for number in 1..=MACHINES {
        host.nsctl_ok(&format!("remove -y m{number}"))?;
    }
    host.nsctl_ok("deinit --yes")?;
    host.sh("! grep -rq '2001:db8:a' /etc/nsctl /etc/systemd || exit 1; ! ip -6 route | grep 2001:db8:a")
        .map(drop)
}
