//! Another firewall's forward chain drops what goes to machines: `create` says
//! so, and the command that it prints lets it through; on a bridge under
//! br_netfilter, too. Our own table never touches frames on a bridge.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Lab, until};
use crate::must;

const DROP: &str = "nft 'table inet theirs {
    chain forward {
        type filter hook forward priority 10
        policy drop
    }
}'";

pub fn run(lab: &mut Lab) -> Result<()> {
    routed(lab)?;
    bridged(lab)
}

/// The command between backquotes of the note that holds a word.
pub fn advice(said: &str, word: &str) -> Result<String> {
    let line = said.lines().find(|line| line.starts_with("note: ") && line.contains(word));
    let line = line.with_context(|| format!("no note about {word}:\n{said}"))?;
    Ok(line.split('`').nth(1).with_context(|| format!("no command: {line}"))?.to_owned())
}

fn routed(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(DROP)?;
    let said = lab.nsctl("create web --routed --image debian-13")?;
    must!(said.ok(), "{}", said.all());
    let ping = || lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:a:1::2"]);
    must!(!ping()?.ok(), "nobody drops anything");
    lab.sh(&advice(&said.stderr, "inet theirs forward")?)?;
    must!(ping()?.ok(), "the command that was printed does not help");
    lab.sh("nft delete table inet theirs")?;

    // iptables' chains, as Docker sets their policy.
    lab.sh("nft 'table ip6 filter {
        chain FORWARD {
            type filter hook forward priority 0
            policy drop
        }
        chain DOCKER-USER {
        }
    }'")?;
    let said = lab.nsctl("create db --routed --image debian-13 --no-start")?;
    must!(said.ok() && said.stderr.contains("Docker's forward chain"), "{}", said.all());
    let command = advice(&said.stderr, "Docker")?;
    must!(command.starts_with("ip6tables -I DOCKER-USER -s 2001:db8:a::/48 -j ACCEPT"), "{command}");
    lab.sh("nft delete table ip6 filter")?;
    Ok(())
}

fn bridged(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.sh("for family in ip6 ip; do sysctl -qw net.bridge.bridge-nf-call-${family}tables=1; done")?;
    lab.nsctl_ok("create bot --bridge vbr0 --image debian-13")?;
    let has = |what: &str| Ok(lab.machine("bot")?["addresses"].to_string().contains(what));
    until(Duration::from_secs(30), "our own table lets frames on a bridge pass", || has("192.168.5."))?;
    lab.sh(DROP)?;
    lab.nsctl_ok("stop bot")?;
    lab.sh("rm -rf /var/lib/machines/bot/var/lib/systemd/network")?;
    let plan = lab.nsctl("create other --bridge vbr0 --image debian-13 --no-start")?;
    must!(plan.ok(), "{}", plan.all());
    lab.sh(&advice(&plan.stderr, "br_netfilter")?)?;
    lab.nsctl_ok("start bot")?;
    until(Duration::from_secs(30), "the machine has its lease again", || has("192.168.5."))?;
    until(Duration::from_secs(30), "and IPv6", || has("2001:db8:5:"))
}
