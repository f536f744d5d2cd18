//! The kernel's table of neighbours is one for all machines: neither a guest that sends from every
//! address of its prefix, nor the world that asks for each of them, takes the others' places in it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Daemon, Lab, alone_with, until};
use crate::must;

const WEB: &str = "2001:db8:a:1::2";
const DB: &str = "2001:db8:a:2::2";

/// Pings by ICMPv6 until it is killed, a thousand a second, each from or to another address of a
/// /64 that is written without its host part.
const FLOOD: &str = r#"
    use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6);
    ($from, $to) = @ARGV;
    $any = sub { my $a = shift; $a .= join(":", map { sprintf "%x", 1 + rand 65535 } 1 .. 4) if $a =~ /[^:]:$/; inet_pton(AF_INET6, $a) };
    while (1) {
        socket(S, AF_INET6, SOCK_RAW, 58) or die $!;
        # IPV6_FREEBIND: the address need not be there.
        setsockopt(S, 41, 78, 1) or die $!;
        bind(S, pack_sockaddr_in6(0, $any->($from))) or die $!;
        send(S, pack("C2n3", 128, 0, 0, 7, 7), 0, pack_sockaddr_in6(0, $any->($to)));
        select undef, undef, undef, 0.0005;
    }
"#;
/// The same, in neighbour solicitations that tell of a sender's link-layer address.
const SOLICIT: &str = r#"
    use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6);
    ($from, $index) = @ARGV;
    while (1) {
        socket(S, AF_INET6, SOCK_RAW, 58) or die $!;
        setsockopt(S, 41, 78, 1) or die $!;
        # IPV6_MULTICAST_HOPS: what comes from afar is no neighbour's (RFC 4861 7.1.1).
        setsockopt(S, 41, 18, 255) or die $!;
        my $source = $from . join(":", map { sprintf "%x", 1 + rand 65535 } 1 .. 4);
        bind(S, pack_sockaddr_in6(0, inet_pton(AF_INET6, $source), $index)) or die $!;
        my $asked = inet_pton(AF_INET6, "fe80::1");
        my $all = inet_pton(AF_INET6, "ff02::1:ff00:1");
        send(S, pack("C2nN", 135, 0, 0, 0) . $asked . pack("C2H12", 1, 1, "020000000001"), 0,
            pack_sockaddr_in6(0, $all, $index));
        select undef, undef, undef, 0.0005;
    }
"#;

pub fn run(lab: &mut Lab) -> Result<()> {
    // Each case takes some hundred of its 1,024 places; three at once are too many.
    let _table = alone_with("neighbours")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    for address in [WEB, DB] {
        let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
        until(Duration::from_secs(20), "the machine answers", answers)?;
    }
    let inside = || lab.within("web", &["perl", "-e", FLOOD, "2001:db8:a:1:", "2001:db8:ffff::1"]);
    suffers_nothing(lab, "a guest sends from many addresses", inside)?;
    let index =
        lab.inside("web", "cat /sys/class/net/host0/ifindex || ip -o link show host0 | cut -d: -f1")?.stdout;
    let index = index.split_whitespace().last().context("no host0")?.to_owned();
    let solicits = || lab.within("web", &["perl", "-e", SOLICIT, "2001:db8:a:1:", &index]);
    suffers_nothing(lab, "a guest asks from many addresses", solicits)?;
    let local = || lab.within("web", &["perl", "-e", SOLICIT, "fe80:0:0:0:", &index]);
    suffers_nothing(lab, "a guest asks from many link-local addresses", local)?;
    let outside = || Ok(lab.router.command(&["perl", "-e", FLOOD, "2001:db8:ffff::1", "2001:db8:a:1:"]));
    suffers_nothing(lab, "the world asks for many addresses", outside)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    ordinary(lab)
}

/// While it goes on, `db` answers, as one that is known and as one that must be found anew, and
/// `web` itself at its planned address.
fn suffers_nothing(lab: &Lab, what: &str, flood: impl Fn() -> Result<std::process::Command>) -> Result<()> {
    let mut command = flood()?;
    let mut flood = Daemon::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
    let many = || Ok(neighbours(lab, "ve-web")? > 100);
    until(Duration::from_secs(20), "the flood reaches the host", many)?;
    // Long enough for a thousand and more to come, and for those before them to be old.
    std::thread::sleep(Duration::from_secs(6));
    for (name, address) in [("db", DB), ("web", WEB)] {
        let known = lab.router.run(&["ping", "-6", "-c40", "-i0.05", "-W2", address])?;
        must!(
            known.stdout.contains("40 received"),
            "{what}: {name}, which is known, loses some:\n{}\n{}",
            known.all(),
            limits(lab)?
        );
        for _ in 0..10 {
            lab.sh(&format!("ip -6 neigh flush dev ve-{name}"))?;
            let new = lab.router.run(&["ping", "-6", "-c1", "-W2", address])?;
            must!(new.ok(), "{what}: {name}, which must be found, does not answer:\n{}", new.all());
            // The guest must find the host anew, too, and asks for it beside its own flood.
            lab.inside(name, "ip -6 neigh flush dev host0")?;
            let back = lab.router.run(&["ping", "-6", "-c1", "-W2", address])?;
            must!(back.ok(), "{what}: {name}, which must find the host, does not answer:\n{}", back.all());
        }
    }
    let held = neighbours(lab, "ve-web")?;
    must!(held < 600, "{what}: one machine holds {held} places");
    must!(flood.0.try_wait()?.is_none(), "{what}: the flood ended by itself");
    Ok(())
}

/// What the kernel counts of what it gave up: for all hosts of this machine together.
fn limits(lab: &Lab) -> Result<String> {
    let ours = fs_err::read_to_string("/proc/net/stat/ndisc_cache")?
        + &fs_err::read_to_string("/proc/net/softnet_stat")?;
    let hosts = lab.sh("ip -6 neigh show nud all | awk '{print $3, $NF}' | sort | uniq -c
         cat /proc/sys/net/netfilter/nf_conntrack_count /proc/net/stat/nf_conntrack; nft list chain inet nsctl near-senders
         ip -6 neigh show dev ve-web nud all | grep -F 2001:db8:a:1::2' '")?;
    let guests =
        lab.inside("web", "ip -6 neigh; nstat -az 2>/dev/null | grep -i drop || cat /proc/net/snmp6")?;
    Ok(format!("{ours}{hosts}{}", guests.stdout))
}

fn neighbours(lab: &Lab, link: &str) -> Result<usize> {
    let text = lab.sh(&format!("ip -6 neigh show dev {link} nud all | wc -l"))?;
    text.trim().parse().with_context(|| text.clone())
}

/// What a guest uses in earnest, some dozens of addresses, is there soon after a flood.
fn ordinary(lab: &Lab) -> Result<()> {
    lab.inside("web", "for k in $(seq 100 139); do ip addr add 2001:db8:a:1::$k/64 dev host0 nodad; done")?;
    for k in 100..140 {
        let address = format!("2001:db8:a:1::{k}");
        let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", &address])?.ok());
        until(Duration::from_secs(5), "it answers at another address", answers)?;
    }
    Ok(())
}
