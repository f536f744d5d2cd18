//! A machine with `--ipv4 nat` reaches the IPv4 world through the host; one
//! without has no IPv4 at all.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

/// Sends a message of ICMP: to whom, its type and code, and what follows, in hexadecimal digits.
const SEND: &str = r#"
    ($to, $kind, $inner) = @ARGV;
    $message = pack("H*", "${kind}000000000000$inner");
    $sum += $_ for unpack("n*", $message);
    $sum = ($sum >> 16) + ($sum & 65535) while $sum >> 16;
    substr($message, 2, 2) = pack("n", ~$sum & 65535);
    socket(S, PF_INET, SOCK_RAW, 1) && send(S, $message, 0, sockaddr_in(0, inet_aton($to))) or die $!;
"#;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router.script("ip addr add 192.0.2.1/24 dev up0")?;
    lab.sh("printf 'Address=192.0.2.2/24\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload")?;
    let there = || Ok(lab.run(&["ping", "-c1", "-W1", "192.0.2.1"])?.ok());
    until(Duration::from_secs(10), "the host has IPv4", there)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --ipv4 nat")?;
    lab.nsctl_ok("create db --routed --image debian-13 --ipv4 none")?;
    let out = || Ok(lab.inside("web", "ping -c1 -W1 192.0.2.1")?.ok());
    until(Duration::from_secs(20), "the machine reaches the IPv4 world", out)?;
    let web = lab.machine("web")?;
    must!(web["addresses"][0] == "2001:db8:a:1::2", "IPv6 does not come first: {web}");
    let shown = lab.nsctl_ok("list")?;
    let private = web["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str())
        .find(|a| !a.contains(':'));
    must!(private.is_some_and(|address| shown.contains(address)), "no IPv4 address: {web}");
    let db = lab.inside("db", "ip -4 -br addr show dev host0")?;
    must!(!db.stdout.contains('/'), "IPv4 where there should be none: {}", db.stdout);
    // IPv6 goes out as it is: nothing translates it.
    lab.router.watch("ip6", "ip6 saddr 2001:db8:a:1::2 icmpv6 type echo-request")?;
    must!(lab.inside("web", "ping -6 -c1 -W5 2001:db8:ffff::1")?.ok(), "no IPv6");
    must!(lab.router.watched("ip6")? == 1, "IPv6 is translated");
    // A false IPv4 sender does not get out.
    lab.router.watch("ip", "ip saddr 203.0.113.7")?;
    lab.inside(
        "web",
        "ip addr add 203.0.113.7/32 dev host0; ping -c2 -i0.2 -W1 -I 203.0.113.7 192.0.2.1 || true; ip addr del 203.0.113.7/32 dev host0",
    )?;
    must!(lab.router.watched("ip")? == 0, "a false sender gets out");
    // The host keeps its own way out (FACTS: global forwarding stops RA).
    let kept = || Ok(lab.sh("ip -6 route show default")?.contains("dev wan0"));
    until(Duration::from_secs(15), "the host has its default route again", kept)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // What is the default is not said in the definition.
    lab.sh("printf '\\n[defaults]\\nipv4 = \"nat\"\\n' >> /etc/nsctl/nsctl.toml")?;
    let said = lab.nsctl("create third --routed --image debian-13")?;
    must!(said.ok(), "{}", said.all());
    let out = || Ok(lab.inside("third", "ping -c1 -W1 192.0.2.1")?.ok());
    until(Duration::from_secs(20), "the default holds", out)?;
    pings(lab)
}

/// Machines and the host ping each other over IPv4, and hear of what does not get through.
fn pings(lab: &Lab) -> Result<()> {
    let address = |of: &str| {
        let script = "ip -4 -o addr show dev host0 scope global | sed 's/.*inet \\([0-9.]*\\).*/\\1/'";
        Ok::<String, anyhow::Error>(lab.inside(of, script)?.stdout.trim().to_owned())
    };
    let (web, third) = (address("web")?, address("third")?);
    for (from, to) in [("web", &third), ("third", &web)] {
        let ping = lab.inside(from, &format!("ping -c1 -W5 {to}"))?;
        must!(ping.ok(), "{from} does not ping {to}:\n{}", ping.all());
    }
    let host = lab.inside("web", "ip -4 route show default | sed 's/.*via \\([0-9.]*\\).*/\\1/'")?.stdout;
    must!(
        lab.inside("web", &format!("ping -c1 -W5 {}", host.trim()))?.ok(),
        "web does not ping the host at {host}"
    );
    // An error that connection tracking knows nothing of: of a packet that the other never sent.
    lab.inside(
        "web",
        "nft 'table ip seen {
            chain c {
                type filter hook prerouting priority -300
                icmp type { destination-unreachable, time-exceeded, parameter-problem } counter
                icmp type { redirect, timestamp-request } counter
            }
        }'",
    )?;
    // The packet that each is about went from web to third, by UDP.
    let octets = |address: &str| {
        let all = address.split('.').map(|octet| octet.parse::<u8>().map(|octet| format!("{octet:02x}")));
        all.collect::<Result<String, _>>()
    };
    let inner = format!("4500001c0000000040110000{}{}0009000900080000", octets(&web)?, octets(&third)?);
    for kind in ["0303", "0b00", "0c00", "0501", "0d00"] {
        lab.inside("third", &format!("perl -MSocket -e '{SEND}' {web} {kind} {inner}"))?;
    }
    let seen = lab.inside("web", "nft list table ip seen")?.stdout;
    must!(seen.contains("parameter-problem } counter packets 3 "), "errors do not get through:\n{seen}");
    must!(seen.contains("counter packets 0 "), "what is no error gets through:\n{seen}");
    Ok(())
}
