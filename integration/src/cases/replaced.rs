//! The firewall is replaced under traffic: no packet that should be dropped gets
//! through, and no open port is closed for a moment.

use std::process::Stdio;

use anyhow::{Context, Result};

use crate::lab::{Daemon, Lab};
use crate::must;

/// How nftables.service is asked to load the administrator's rules again.
const AGAIN: [&str; 3] = ["restart nftables", "reload nftables", "stop nftables && systemctl start nftables"];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open udp/5000")?;
    lab.booted("web")?;
    // Counts what arrives in the machine, by port. No answer: the sender's socket would fail.
    lab.inside(
        "web",
        "nft 'table ip6 seen {
            chain c {
                type filter hook prerouting priority -300
                udp dport 5000 counter drop
                udp dport 6000 counter drop
            }
        }'",
    )?;
    lab.sh("systemctl start nftables")?;
    // Neighbours know each other before the flood: none is lost for want of an address.
    must!(lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", "2001:db8:a:1::2"])?.ok(), "no ping");
    let mut sender = Daemon::spawn(
        lab.router
            .command(&[
                "bash",
                "-c",
                "exec 3<>/dev/udp/2001:db8:a:1::2/5000 4<>/dev/udp/2001:db8:a:1::2/6000
                 trap 'echo $n; exit' TERM
                 n=0; while :; do echo x >&3; echo x >&4; n=$((n+1)); done 2>/dev/null",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    for round in 0..40 {
        lab.nsctl_ok(if round % 2 == 0 { "open web tcp/1" } else { "close web tcp/1" })?;
    }
    for way in AGAIN {
        lab.sh(&format!(
            "for i in $(seq 30); do systemctl reset-failed nftables nsctl-firewall; systemctl {way}; done"
        ))?;
    }
    let sent = finish(&mut sender)?;
    let seen = lab.inside("web", "nft -j list table ip6 seen")?.stdout;
    let (open, closed) = (packets(&seen, 5000)?, packets(&seen, 6000)?);
    must!(sent > 10_000, "only {sent} packets were sent: no traffic to speak of");
    must!(closed == 0, "{closed} of {sent} packets to a closed port got through");
    // The sender may be ended between sending one and counting it.
    must!((sent..=sent + 1).contains(&open), "{open} of {sent} packets to an open port got through");
    theirs(lab)
}

/// What the administrator's own rules have of it: all that they had before.
fn theirs(lab: &Lab) -> Result<()> {
    let tables = || lab.sh("nft list tables");
    let ours = || {
        let plan = lab.nsctl_ok("plan")?;
        must!(plan == "nothing to do\n", "{plan}");
        Ok(())
    };
    must!(tables()?.contains("inet filter"), "{}", tables()?);
    lab.sh("nft add table inet mine; systemctl reload nftables")?;
    must!(!tables()?.contains("inet mine"), "a reload leaves what it should flush:\n{}", tables()?);
    ours()?;
    lab.sh("systemctl stop nftables")?;
    must!(tables()? == "table inet nsctl\n", "a stop leaves more than ours, or less:\n{}", tables()?);
    ours()?;
    lab.sh("systemctl start nftables")?;
    must!(tables()?.contains("inet filter"), "{}", tables()?);
    // A file with a fault: both rule sets stay as they were.
    lab.sh("cp /etc/nftables.conf /root/; echo nonsense >> /etc/nftables.conf; ! systemctl reload nftables 2> /dev/null")?;
    must!(tables()?.contains("inet filter"), "{}", tables()?);
    ours()?;
    // None, and no flush in it.
    lab.sh(
        "rm /etc/nftables.conf; ! systemctl reload nftables 2> /dev/null || systemctl is-active nftables",
    )?;
    ours()?;
    lab.sh("echo 'table inet other { }' > /etc/nftables.conf; systemctl restart nftables")?;
    must!(tables()?.contains("inet other"), "{}", tables()?);
    ours()?;
    // Ours not there: theirs are loaded as ever.
    lab.sh("cp /root/nftables.conf /etc/; mv /var/lib/nsctl /root/; systemctl reset-failed nftables; systemctl restart nftables; mv /root/nsctl /var/lib/")?;
    must!(tables()?.contains("inet filter"), "without ours theirs are not loaded:\n{}", tables()?);
    lab.nsctl_ok("apply --yes")?;
    // Somebody gives the unit other commands: those are left to him.
    lab.sh(
        "mkdir -p /etc/systemd/system/nftables.service.d
         printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/nft -f /root/nftables.conf\\n' > /etc/systemd/system/nftables.service.d/10-mine.conf
         nsctl apply --yes; systemctl daemon-reload; systemctl show -p ExecStart nftables | grep -q /root/nftables.conf",
    )?;
    ours()
}

fn finish(sender: &mut Daemon) -> Result<u64> {
    use std::io::Read;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(sender.pid())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    let mut text = String::new();
    sender.0.stdout.take().context("no pipe")?.read_to_string(&mut text)?;
    text.trim().parse().with_context(|| format!("the sender said '{text}'"))
}

/// The counter of the rule for a port, in nft's JSON.
fn packets(json: &str, port: u64) -> Result<u64> {
    let listed: serde_json::Value = serde_json::from_str(json)?;
    let rules = listed["nftables"].as_array().into_iter().flatten().filter_map(|o| o.get("rule"));
    let mut exprs = rules.filter_map(|rule| rule["expr"].as_array());
    let ours = exprs.find(|expr| expr.iter().any(|e| e["match"]["right"] == port)).context("no such rule")?;
    ours.iter().find_map(|e| e["counter"]["packets"].as_u64()).context("no counter")
}
