//! Docker, ufw and firewalld as Debian ships them: each cuts machines off, nsctl
//! says so, and the commands that it prints let them through.

use std::time::Duration;

use anyhow::Result;

use super::others::advice;
use crate::lab::{Daemon, Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router.script("ip addr add 192.0.2.1/24 dev up0")?;
    lab.sh("printf 'Address=192.0.2.2/24\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload")?;
    until(Duration::from_secs(10), "the host has IPv4", || {
        Ok(lab.run(&["ping", "-c1", "-W1", "192.0.2.1"])?.ok())
    })?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let _server = Daemon::spawn(&mut lab.router.command(&["busybox", "httpd", "-f", "-p", "192.0.2.1:80"]))?;
    lab.nsctl_ok("create web --routed --image debian-13 --ipv4 nat --open tcp/7777")?;
    until(Duration::from_secs(20), "IPv4 works before", || v4(lab))?;
    until(Duration::from_secs(20), "IPv6 works before", || v6(lab))?;

    // Docker drops what is forwarded where it was the one to turn forwarding on.
    lab.sh("sysctl -qw net.ipv4.ip_forward=0")?;
    lab.install("docker.io iptables")?;
    must!(!v4(lab)?, "Docker drops nothing:\n{}", lab.sh("nft list ruleset")?);
    fixed(lab, "Docker's", &["the IPv4 of"])?;
    must!(v4(lab)? && v6(lab)?, "the command for Docker does not help");
    lab.sh("systemctl disable -q --now docker.socket docker.service; nft delete table ip filter; nft delete table ip nat")?;

    lab.install("ufw")?;
    lab.sh("ufw --force enable")?;
    must!(!v4(lab)? && !v6(lab)?, "ufw drops nothing:\n{}", lab.sh("nft list ruleset")?);
    fixed(lab, "ufw's", &["the IPv4 of", "what goes to and from"])?;
    must!(v4(lab)? && v6(lab)?, "the commands for ufw do not help");
    lab.sh("ufw --force disable; for f in ip ip6; do nft delete table $f filter; done")?;

    lab.install("firewalld")?;
    let drops = || Ok(!v4(lab)? && !v6(lab)?);
    until(Duration::from_secs(10), "firewalld drops something", drops)?;
    fixed(lab, "firewalld's", &["the IPv4 of", "what goes to and from"])?;
    must!(
        v4(lab)? && v6(lab)?,
        "the commands for firewalld do not help:\n{}",
        lab.sh("nft list table inet firewalld")?
    );
    Ok(())
}

/// The router reaches the machine over IPv6. No ping: some let that through.
fn v6(lab: &Lab) -> Result<bool> {
    Ok(lab.router.run(&["bash", "-c", "timeout 1 bash -c 'exec 3<>/dev/tcp/2001:db8:a:1::2/7777'"])?.ok())
}

/// The machine reaches the router over IPv4.
fn v4(lab: &Lab) -> Result<bool> {
    Ok(lab.inside("web", "timeout 1 bash -c 'exec 3<>/dev/tcp/192.0.2.1/80'")?.ok())
}

/// Runs the command of each note about this tool and this traffic.
fn fixed(lab: &Lab, tool: &str, traffic: &[&str]) -> Result<()> {
    let said = lab.nsctl("open web tcp/1")?;
    must!(said.ok(), "{}", said.all());
    lab.nsctl_ok("close web tcp/1")?;
    for what in traffic {
        let notes: String =
            said.stderr.lines().filter(|line| line.contains(tool)).map(|line| format!("{line}\n")).collect();
        lab.sh(&advice(&notes, what)?)?;
    }
    Ok(())
}
