//! A machine with an IPv4 address of its own: one that is looked for on the uplink, one that is
//! routed to the host, and one for a guest that reads no file.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, tiny_guest, until};
use crate::must;

/// Looked for on the link.
const WEB: &str = "192.0.2.9";
/// Routed to the host.
const DB: &str = "203.0.113.7";
const TINY: &str = "203.0.113.8";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router.script(
        "ip addr add 192.0.2.1/24 dev up0; sysctl -qw net.ipv4.conf.all.forwarding=1
         ip route add 203.0.113.0/24 via 192.0.2.2",
    )?;
    lab.sh("printf 'Address=192.0.2.2/24\\nGateway=192.0.2.1\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload")?;
    let there = || Ok(lab.run(&["ping", "-c1", "-W1", "192.0.2.1"])?.ok());
    until(Duration::from_secs(10), "the host has IPv4", there)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    for (word, status, says) in [
        ("127.0.0.1", 2, "no address that a machine can have"),
        ("192.0.2.9/32", 2, "neither nat, nat64 nor none"),
        ("192.0.2.2", 1, "192.0.2.2 is this host's own, or its router's"),
        ("192.0.2.1", 1, "192.0.2.1 is this host's own, or its router's"),
    ] {
        refused(lab, &format!("create web --routed --image debian-13 --ipv4 {word}"), status, says)?;
    }
    lab.router.script(&format!("ip addr add {WEB}/32 dev up0"))?;
    let elsewhere = format!("somebody else on wan0 has {WEB} already");
    refused(lab, &format!("create web --routed --image debian-13 --ipv4 {WEB}"), 1, &elsewhere)?;
    lab.router.script(&format!("ip addr del {WEB}/32 dev up0"))?;
    lab.nsctl_ok(&format!("create web --routed --image debian-13 --ipv4 {WEB} --open tcp/7777"))?;
    lab.nsctl_ok(&format!("create db --routed --image debian-13 --ipv4 {DB}"))?;
    refused(
        lab,
        &format!("create more --routed --image debian-13 --ipv4 {WEB}"),
        1,
        "192.0.2.9 is the address of",
    )?;
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok(&format!("create tiny --routed --ipv4 {TINY}"))?;

    until(Duration::from_secs(10), "the address answers", || Ok(answers(lab, WEB)?.is_ok()))?;
    first_answer(lab)?;
    all_answer(lab)?;
    from_inside(lab)?;
    firewalled(lab)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());
    let shown = lab.machine("web")?;
    must!(shown["addresses"] == serde_json::json!(["2001:db8:a:1::2", WEB]), "{shown}");

    lab.power_off()?;
    lab.power_on()?;
    lab.booted("web")?;
    lab.booted("db")?;
    all_answer(lab)?;
    comes_and_goes(lab)
}

fn answers(lab: &Lab, address: &str) -> Result<Result<String>> {
    let ping = lab.router.run(&["ping", "-c2", "-i0.2", "-W5", address])?;
    Ok(if ping.ok() {
        Ok(ping.stdout)
    } else {
        Err(anyhow::anyhow!("{address} does not answer:\n{}", ping.all()))
    })
}

/// Nobody waits for the host's answer on the link.
fn first_answer(lab: &Lab) -> Result<()> {
    lab.router.script(&format!("ip neigh flush to {WEB}"))?;
    let said = answers(lab, WEB)??;
    let waited = said.split("time=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    must!(waited.is_some_and(|waited: f64| waited < 100.0), "the first answer takes long:\n{said}");
    Ok(())
}

fn all_answer(lab: &Lab) -> Result<()> {
    for address in [WEB, DB, TINY, "192.0.2.2"] {
        until(Duration::from_secs(10), address, || Ok(answers(lab, address)?.is_ok()))?;
    }
    Ok(())
}

/// Each has the right sender, in both families, and they reach each other.
fn from_inside(lab: &Lab) -> Result<()> {
    for (name, own) in [("web", WEB), ("db", DB), ("tiny", TINY)] {
        let v6 = lab.machine(name)?["addresses"][0].as_str().unwrap_or_default().to_owned();
        lab.router.watch("ip", &format!("ip saddr {own} icmp type echo-request"))?;
        lab.router.watch("ip6", &format!("ip6 saddr {v6} icmpv6 type echo-request"))?;
        let ping = lab.inside(name, "ping -c1 -W5 192.0.2.1 && ping -6 -c1 -W5 2001:db8:ffff::1")?;
        must!(ping.ok() && lab.router.watched("ip")? == 1, "{name}: {}", ping.all());
        must!(lab.router.watched("ip6")? == 1, "{name} sends as another than {v6}");
        let on_it = lab.inside(name, "ip -4 -o addr show dev host0 scope global")?.stdout;
        must!(on_it.contains(&format!("inet {own}/32 ")), "{name} has {on_it}");
    }
    for (from, to) in [("web", DB), ("db", WEB), ("web", TINY)] {
        let ping = lab.inside(from, &format!("ping -c1 -W5 {to}"))?;
        must!(ping.ok(), "{from} does not reach {to}:\n{}", ping.all());
    }
    Ok(())
}

/// What is open is open in both families, and a false sender does not get out.
fn firewalled(lab: &Lab) -> Result<()> {
    let hello = |to: &str| -> Result<bool> {
        let script =
            format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{to}/7777 && head -c5 <&3' 2>/dev/null || true");
        Ok(lab.router.run(&["bash", "-c", &script])?.stdout == "hello")
    };
    for open in [WEB, "2001:db8:a:1::2"] {
        until(Duration::from_secs(20), open, || hello(open))?;
    }
    must!(!hello(DB)?, "a port that nobody opened is open");
    for (line, open) in [
        ("close web tcp/7777", false),
        ("open web tcp/7777 --from 198.51.100.0/24", false),
        ("open web tcp/7777 --from 192.0.2.0/24", true),
        ("open web tcp/7777", true),
    ] {
        lab.nsctl_ok(line)?;
        must!(hello(WEB)? == open, "after `{line}`");
    }
    lab.router.watch("ip", "ip saddr { 192.0.2.2, 203.0.113.7, 203.0.113.99 } icmp type echo-request")?;
    for feigned in ["192.0.2.2", DB, "203.0.113.99"] {
        lab.inside(
            "web",
            &format!(
                "ip addr add {feigned}/32 dev host0; ping -c1 -W1 -I {feigned} 192.0.2.1 || true
                 ip addr del {feigned}/32 dev host0"
            ),
        )?;
    }
    must!(lab.router.watched("ip")? == 0, "a machine feigns another's address");
    Ok(())
}

/// The answer, and the route, last as long as the machine runs there.
fn comes_and_goes(lab: &Lab) -> Result<()> {
    let left = || lab.sh("ip -4 neigh show proxy; ip -4 route show");
    must!(left()?.contains(WEB), "{}", left()?);
    lab.nsctl_ok("stop web")?;
    must!(!left()?.contains(WEB), "a stopped machine is answered for: {}", left()?);
    lab.nsctl_ok("start web")?;
    all_answer(lab)?;
    lab.sh("sed -i '/^ipv4/d' /etc/nsctl/machines.d/web.toml; nsctl apply --yes")?;
    must!(!left()?.contains(WEB), "an address that went is answered for: {}", left()?);
    let seen = lab.inside("web", "ip -4 -br addr show dev host0")?.stdout;
    must!(!seen.contains(WEB), "the machine keeps it: {seen}");
    for name in ["web", "db", "tiny"] {
        lab.nsctl_ok(&format!("remove -y {name}"))?;
    }
    must!(!left()?.contains("203.0.113."), "a route is left: {}", left()?);
    Ok(())
}
