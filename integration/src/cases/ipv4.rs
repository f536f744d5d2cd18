//! A machine with `--ipv4 nat` reaches the IPv4 world through the host; one
//! without has no IPv4 at all.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

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
    let private = web["addresses"].as_array().into_iter().flatten().filter_map(|a| a.as_str()).find(|a| !a.contains(':'));
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
    until(Duration::from_secs(20), "the default holds", out)
}
