//! What reaches a routed machine, and what it may send: from the router, from
//! another machine, from the host, and with false addresses.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Daemon, Lab, Namespace, until};
use crate::must;

const WEB: &str = "2001:db8:a:1::2";
const DB: &str = "2001:db8:a:2::2";
/// It goes when its parent does (see the laboratory's own servers).
const RA_SERVER: [&str; 17] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-c",
    "\"$@\" & wait",
    "sh",
    "dnsmasq",
    "-k",
    "--conf-file=/dev/null",
    "--user=root",
    "--port=0",
    "--pid-file=",
    "--enable-ra",
    "--interface=host0",
    "--dhcp-range=2001:db8:bad::,ra-only,64",
];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7777")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    open_and_closed(lab)?;
    opened_and_closed_again(lab)?;
    false_senders(lab)?;
    false_senders_to_ports(lab)?;
    to_the_host(lab)?;
    after_a_boot(lab)?;
    flushed(lab)
}

/// Whether the guest's service says hello to a connection from there.
fn hello(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    let script =
        format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{to}/7777 && head -c5 <&3' 2>/dev/null || true");
    let said = match from {
        "router" => lab.router.run(&["bash", "-c", &script])?.stdout,
        "host" => lab.sh(&script)?,
        machine => lab.inside(machine, &script)?.stdout,
    };
    Ok(said == "hello")
}

fn open_and_closed(lab: &Lab) -> Result<()> {
    until(Duration::from_secs(20), "the service answers", || hello(lab, "host", WEB))?;
    until(Duration::from_secs(20), "the service answers", || hello(lab, "host", DB))?;
    must!(hello(lab, "router", WEB)?, "an open port is closed to the world");
    must!(hello(lab, "db", WEB)?, "an open port is closed to another machine");
    must!(!hello(lab, "router", DB)?, "a closed port is open to the world");
    must!(!hello(lab, "web", DB)?, "a closed port is open to another machine");
    // Ping and errors get through; a closed port is silent.
    for to in [WEB, DB] {
        must!(lab.router.run(&["ping", "-6", "-c1", "-W5", to])?.ok(), "no ping to {to}");
    }
    // Out, everything goes.
    let out = lab.inside("db", "ping -6 -c1 -W5 2001:db8:ffff::1")?;
    must!(out.ok(), "{}", out.all());
    Ok(())
}

fn opened_and_closed_again(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show db -p Leader")?;
    lab.nsctl_ok("open db tcp/7777")?;
    must!(hello(lab, "router", DB)?, "an opened port is closed");
    must!(lab.nsctl_ok("open db tcp/7777")?.contains("already"), "opened twice");
    must!(lab.nsctl_ok("show db")?.contains("open  tcp/7777"), "{}", lab.nsctl_ok("show db")?);
    lab.nsctl_ok("close db tcp/7777")?;
    must!(!hello(lab, "router", DB)?, "a closed port is open");
    lab.nsctl_ok("open db tcp/7000-8000 --from 2001:db8:a:1::/64")?;
    must!(!hello(lab, "router", DB)?, "open to everybody, not just to the prefix");
    must!(hello(lab, "web", DB)?, "closed to the prefix it is open for");
    super::refused(lab, "close db tcp/7777", 1, "tcp/7777 is not open on 'db'")?;
    super::refused(lab, "open db icmp/1", 2, "is no port")?;
    super::refused(lab, "open nobody tcp/1", 1, "there is no machine")?;
    lab.nsctl_ok("close db tcp/7000-8000 --from 2001:db8:a:1::/64")?;
    must!(lab.sh("machinectl show db -p Leader")? == leader, "it was restarted");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

/// A machine sends from its own /64 only: neither the router nor another machine
/// hears of anything else.
fn false_senders(lab: &Lab) -> Result<()> {
    for (sender, passes) in [
        ("2001:db8:a:2::77", true),
        ("2001:db8:a:1::77", false),
        ("2001:db8:bad::1", false),
        ("2001:db8:a::1", false),
        // The host's own end of the link, and whoever of the link is a router.
        ("2001:db8:a:2::1", false),
        ("2001:db8:a:2::", false),
    ] {
        lab.router.watch("ip6", &format!("ip6 saddr {sender}"))?;
        lab.inside(
            "db",
            &format!(
                "ip addr add {sender}/128 dev host0 nodad
                 ping -6 -c2 -i0.2 -W1 -I {sender} 2001:db8:ffff::1 || true
                 ip addr del {sender}/128 dev host0"
            ),
        )?;
        let seen = lab.router.watched("ip6")?;
        must!((seen > 0) == passes, "{seen} packets from {sender} came out");
    }
    Ok(())
}

/// A false sender reaches neither an open nor a closed port of another machine.
fn false_senders_to_ports(lab: &Lab) -> Result<()> {
    lab.booted("web")?;
    lab.inside(
        "web",
        "nft 'table ip6 watch {
        chain c {
            type filter hook prerouting priority -300
            ip6 saddr 2001:db8:bad::1 counter
        }
    }'",
    )?;
    // From outside, with an address of a machine that a port is open for.
    lab.nsctl_ok("open web udp/9 --from 2001:db8:a:2::/64")?;
    lab.inside(
        "web",
        "nft 'table ip6 outside {
        chain c {
            type filter hook prerouting priority -300
            ip6 saddr 2001:db8:a:2::9 counter
        }
    }'",
    )?;
    lab.router.script(&format!(
        "ip addr add 2001:db8:a:2::9/128 dev lo nodad; ip -6 route replace {WEB}/128 via 2001:db8:ffff::2 dev up0 src 2001:db8:a:2::9
         bash -c 'echo x > /dev/udp/{WEB}/9'
         ip -6 route del {WEB}/128; ip addr del 2001:db8:a:2::9/128 dev lo"
    ))?;
    let seen = lab.inside("web", "nft list table ip6 outside")?.stdout;
    must!(seen.contains("packets 0 "), "a false sender outside gets in:\n{seen}");
    false_neighbours(lab)?;
    for port in [7777, 7778] {
        lab.inside(
            "db",
            &format!(
                "ip addr add 2001:db8:bad::1/128 dev host0 nodad; ip -6 route add {WEB}/128 via fe80::1 dev host0 src 2001:db8:bad::1
                 timeout 1 bash -c 'exec 3<>/dev/tcp/{WEB}/{port}' || true; echo x > /dev/udp/{WEB}/{port}
                 ip -6 route del {WEB}/128; ip addr del 2001:db8:bad::1/128 dev host0"
            ),
        )?;
    }
    let seen = lab.inside("web", "nft list table ip6 watch")?.stdout;
    must!(seen.contains("packets 0 "), "a false sender reaches another machine:\n{seen}");
    Ok(())
}

/// A port that is open for the LAN alone: the LAN gets in, who feigns its addresses at the uplink
/// does not, and one who may come from anywhere may come by any way.
fn false_neighbours(lab: &Lab) -> Result<()> {
    lab.sh("ip link set enp6s0 up; ip addr add 2001:db8:5::9/64 dev enp6s0 nodad")?;
    lab.nsctl_ok("open web udp/10 --from 2001:db8:5::/64")?;
    lab.nsctl_ok("open web udp/11")?;
    lab.inside(
        "web",
        "nft 'table ip6 neighbours {
        chain c {
            type filter hook prerouting priority -300
            ip6 saddr 2001:db8:5::/64 udp dport 10 counter
            ip6 saddr 2001:db8:5::/64 udp dport 11 counter
        }
    }'",
    )?;
    let counted = || {
        let text = lab.inside("web", "nft list table ip6 neighbours")?.stdout;
        let counts =
            text.split("packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        Ok::<Vec<u64>, anyhow::Error>(counts.collect())
    };
    // Both wait for the packets that they send: a ping from the same address goes the same way.
    let send = |place: &Namespace, link: &str, gateway: &str, address: &str| {
        place.script(&format!(
            "ip addr add {address}/128 dev {link} nodad; ip -6 route replace {WEB}/128 via {gateway} dev {link} src {address}
             for port in 10 11; do bash -c \"echo x > /dev/udp/{WEB}/$port\"; done; ping -6 -c1 -W1 {WEB} || true
             ip -6 route del {WEB}/128; ip addr del {address}/128 dev {link}"
        ))
    };
    send(&lab.router, "up0", "2001:db8:ffff::2", "2001:db8:5::77")?;
    let seen = counted()?;
    must!(seen == [0, 1], "of a false neighbour at the uplink: {seen:?}");
    send(&lab.lan, "lan0", "2001:db8:5::9", "2001:db8:5::78")?;
    let seen = counted()?;
    must!(seen == [1, 2], "of a true neighbour besides: {seen:?}");
    lab.nsctl_ok("close web udp/10 --from 2001:db8:5::/64")?;
    lab.nsctl_ok("close web udp/11")?;
    lab.sh("ip addr del 2001:db8:5::9/64 dev enp6s0").map(drop)
}

/// After a power cut the firewall is there before its machines are.
fn after_a_boot(lab: &mut Lab) -> Result<()> {
    lab.sh("sync")?;
    lab.power_off()?;
    lab.power_on()?;
    until(Duration::from_secs(30), "the open port answers", || hello(lab, "router", WEB))?;
    until(Duration::from_secs(30), "the host reaches the other machine", || hello(lab, "host", DB))?;
    must!(!hello(lab, "router", DB)?, "a closed port is open after a boot");
    Ok(())
}

/// The host hears DNS, DHCP and ICMPv6 of its machines, and no router advertisement.
fn to_the_host(lab: &Lab) -> Result<()> {
    // systemd-resolved listens on port 53 there.
    lab.sh("systemd-run -q systemd-socket-activate -l [2001:db8:a::1]:11 --inetd -a echo hi
         until test $(ss -ltn | grep -c '2001:db8:a::1.*:\\(11\\|53\\) ') = 2; do :; done")?;
    let connects = |port: u16| {
        let connect = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/2001:db8:a::1/{port}'");
        Ok::<bool, anyhow::Error>(lab.inside("web", &connect)?.ok())
    };
    must!(!connects(11)?, "a machine reaches port 11 of the host");
    must!(connects(53)?, "a machine does not reach the host's DNS");
    let world = "timeout 2 bash -c 'exec 3<>/dev/tcp/2001:db8:a::1/53'";
    must!(!lab.router.run(&["bash", "-c", world])?.ok(), "the host answers the DNS questions of the world");
    must!(lab.inside("web", "ping -6 -c1 -W5 2001:db8:a::1")?.ok(), "no ping to the host");
    // The kernel of a careless host would take this for its default route.
    lab.sh("sysctl -qw net.ipv6.conf.ve-web.accept_ra=2 net.ipv6.conf.ve-web.accept_ra_defrtr=1")?;
    let routes =
        || lab.sh("(ip -6 route show default; ip -6 route show dev ve-web) | sed 's/expires [0-9]*sec//'");
    let before = routes()?;
    lab.inside("web", "ip addr add 2001:db8:bad::1/64 dev host0 nodad")?;
    let _server = Daemon::spawn(&mut lab.within("web", &RA_SERVER)?)?;
    let came =
        || Ok(!lab.sh("nft list chain inet nsctl host-input | grep nd-router-advert")?.contains("packets 0"));
    until(Duration::from_secs(20), "the advertisement came", came)?;
    let after = routes()?;
    must!(after == before, "the host took a machine's advertisement:\n{before}\n---\n{after}");
    Ok(())
}

/// Somebody flushes all rules: Debian's own unit brings ours back, and so does nsctl.
fn flushed(lab: &Lab) -> Result<()> {
    lab.sh("systemctl start nftables && systemctl restart nsctl-firewall && systemctl reload nftables")?;
    let back = || Ok(!hello(lab, "router", DB)? && hello(lab, "router", WEB)?);
    until(Duration::from_secs(10), "the firewall is back after a reload of nftables.service", back)?;
    lab.sh("systemctl restart nftables")?;
    until(Duration::from_secs(10), "the firewall is back after a restart of nftables.service", back)?;
    lab.sh("systemctl stop nftables && systemctl start nftables")?;
    until(
        Duration::from_secs(10),
        "the firewall is back when nftables.service was stopped for a while",
        back,
    )?;
    lab.sh("nft flush ruleset")?;
    must!(hello(lab, "router", DB)?, "without rules it is open");
    let plan = lab.nsctl_ok("plan")?;
    must!(plan.contains("load the firewall"), "{plan}");
    lab.nsctl_ok("apply --yes")?;
    must!(!hello(lab, "router", DB)?, "apply does not bring the firewall back");
    lab.sh("nft flush ruleset")?;
    lab.nsctl_ok("restart db")?;
    until(Duration::from_secs(30), "the host reaches the machine", || hello(lab, "host", DB))?;
    must!(!hello(lab, "router", DB)?, "a machine is started without its firewall");
    lab.sh("nsctl stop db; nft flush ruleset; systemctl start systemd-nspawn@db")?;
    until(Duration::from_secs(30), "the host reaches the machine", || hello(lab, "host", DB))?;
    must!(!hello(lab, "router", DB)?, "systemd starts a machine without its firewall");
    // A file that is lost: it does not start at all.
    lab.sh(
        "nsctl stop db; nft flush ruleset; mv /var/lib/nsctl/firewall/db.nft /root/
         ! systemctl start systemd-nspawn@db 2> /dev/null || exit 1; nsctl apply --yes > /dev/null; nsctl start db",
    )?;
    must!(!hello(lab, "router", DB)?, "apply does not bring back a file that is lost");
    Ok(())
}
