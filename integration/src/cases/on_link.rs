//! A host whose provider looks for each address of its /64 on the link: it answers for its machines.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

use super::{refused, uplink_has};

pub fn run(lab: &mut Lab) -> Result<()> {
    uplink_has(lab, "2001:db8:c::2")?;
    lab.router.script("ip addr add 2001:db8:c::1/64 dev up0 nodad")?;
    let said = lab.nsctl_ok("init")?;
    must!(
        said.contains("It looks for the addresses of 2001:db8:c::/64 on the link")
            && said.contains("\n    nsctl init --pool 2001:db8:c::/64 --uplink wan0 --on-link\n"),
        "{said}"
    );
    refused(lab, "init --pool 2001:db8:c::/64", 1, "is not routed to this host")?;
    a_pool_with_the_router(lab)?;
    let said = lab.nsctl_ok("init --pool 2001:db8:c::/64 --on-link")?;
    must!(said.contains("the router asks this host for each address"), "{said}");
    must!(lab.nsctl_ok("doctor --probe 1")?.contains("is on the link"), "a probe");
    routed_after_all(lab)?;

    elsewhere(lab)?;
    lab.nsctl_ok("create web --routed --image debian-13 --route 2001:db8:d::/56")?;
    let routes = lab.sh("ip -6 route show dev ve-web; networkctl --no-pager status ve-web | grep State")?;
    must!(
        routes.contains("2001:db8:d::/56 via 2001:db8:c::100") && routes.contains("configured"),
        "{routes}"
    );
    let first = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:c::100"])?;
    must!(first.ok(), "it does not answer:\n{}", first.all());
    let waited: f64 = first
        .stdout
        .split("time=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or(1e9);
    must!(waited < 100.0, "the first answer takes {waited} ms");
    let out = lab.inside("web", "ping -6 -c2 -i0.2 -W5 2001:db8:c::1; ip -6 route get 2001:db8:ffff::1")?;
    must!(out.stdout.contains("2 received") && out.stdout.contains("src 2001:db8:c::100"), "{}", out.all());
    own_affairs(lab)?;
    the_name_server(lab)?;
    unanswered(lab)?;
    lasts(lab)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());

    lab.power_off()?;
    lab.power_on()?;
    lab.booted("web")?;
    let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", "2001:db8:c::100"])?;
    must!(ping.ok(), "it does not answer after the host's boot:\n{}", ping.all());
    comes_and_goes(lab)?;
    a_part_of_it(lab)
}

/// A provider who has begun to route it here is found out.
fn routed_after_all(lab: &Lab) -> Result<()> {
    let own = lab.sh("ip -6 -o addr show dev wan0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'")?;
    let route = |verb: &str| {
        let each = ["2001:db8:c::/65", "2001:db8:c:0:8000::/65"];
        let line = each.map(|half| format!("ip -6 route {verb} {half} via {} dev up0", own.trim()));
        lab.router.script(&line.join("; "))
    };
    route("add")?;
    refused(lab, "doctor --probe 1", 1, "is routed to this host, and not looked for on wan0")?;
    refused(lab, "init --pool 2001:db8:c::/64 --on-link", 1, "nobody looks for its addresses")?;
    route("del").map(drop)
}

/// Whatever networkd and the uplink go through, machines are answered for, and so is whom the user's
/// own file names.
fn lasts(lab: &Lab) -> Result<()> {
    lab.sh("printf 'IPv6ProxyNDPAddress=2001:db8:c::aaaa\\n' >> /etc/systemd/network/20-wan0.network.d/10-provider.conf")?;
    let answered = || -> Result<bool> {
        let proxies = lab.sh("ip -6 neigh show proxy dev wan0")?;
        Ok(proxies.contains("2001:db8:c::100") && proxies.contains("2001:db8:c::aaaa"))
    };
    for event in ["networkctl reload", "networkctl reconfigure wan0", "systemctl restart systemd-networkd"] {
        lab.sh(event)?;
        until(Duration::from_secs(10), &format!("both are answered for after {event}"), answered)?;
        let settled = || Ok(lab.sh("networkctl --no-pager status wan0")?.contains("(configured)"));
        until(Duration::from_secs(20), "networkd has done its work", settled)?;
        must!(answered()?, "after {event}: {}", lab.sh("ip -6 neigh show proxy")?);
    }
    // The cable is out for a moment.
    lab.router.script("ip link set port0 down")?;
    until(Duration::from_secs(10), "no carrier", || {
        Ok(lab.sh("cat /sys/class/net/wan0/operstate")?.trim() != "up")
    })?;
    lab.router.script("ip link set port0 up")?;
    let pinged = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:c::100"])?.ok());
    until(Duration::from_secs(20), "it answers after its cable was out", pinged)?;
    must!(answered()?, "after the cable: {}", lab.sh("ip -6 neigh show proxy")?);
    lab.sh("sed -i /IPv6ProxyNDPAddress/d /etc/systemd/network/20-wan0.network.d/10-provider.conf; networkctl reload; networkctl reconfigure wan0")?;
    until(Duration::from_secs(20), "the host has its router again", || {
        Ok(lab.sh("ip -6 route show default")?.contains("wan0"))
    })
}

/// A pool need not be all of the /64.
fn a_part_of_it(lab: &Lab) -> Result<()> {
    lab.sh("nsctl init --pool 2001:db8:c:0:1::/80 --on-link --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    let address = lab.machine("web")?["addresses"][0].as_str().unwrap_or_default().to_owned();
    must!(address.starts_with("2001:db8:c:0:1:"), "{}", lab.machine("web")?);
    let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", &address])?;
    must!(ping.ok(), "{}", ping.all());
    let out = lab.inside("web", "ping -6 -c2 -i0.2 -W5 2001:db8:ffff::1")?;
    must!(out.ok(), "{}", out.all());
    lab.nsctl_ok("remove -y web").map(drop)
}

/// A pool must not hold the router: a machine would get its address one day.
fn a_pool_with_the_router(lab: &Lab) -> Result<()> {
    lab.sh("ip -6 route add default via 2001:db8:c::1 dev wan0 metric 10")?;
    for line in ["init --pool 2001:db8:c::/64 --on-link", "init --pool 2001:db8:c::/64"] {
        refused(lab, line, 1, "which is this host's router")?;
        must!(lab.nsctl(line)?.stderr.contains("such as 2001:db8:c:0:1::/80"), "{}", lab.nsctl(line)?.stderr);
    }
    lab.sh("ip -6 route del default via 2001:db8:c::1 dev wan0 metric 10").map(drop)
}

/// An address that somebody else on the link has is nobody's here.
fn elsewhere(lab: &Lab) -> Result<()> {
    let has =
        |verb: &str, address: &str| lab.router.script(&format!("ip addr {verb} {address} dev up0 nodad"));
    has("add", "2001:db8:c::100/128")?;
    // He need not have heard of this host.
    lab.router.script("ip -6 neigh flush dev up0")?;
    lab.nsctl_ok("create other --routed --image debian-13 --no-start")?;
    let address = lab.machine("other")?["network"]["address"].clone();
    must!(address == "2001:db8:c::101", "it is given what another has: {address}");
    has("add", "2001:db8:c::101/128")?;
    refused(lab, "start other", 1, "somebody else on wan0 has 2001:db8:c::101 already")?;
    must!(lab.machine("other")?["state"] == "stopped", "it runs all the same");
    // Others go on, in one apply.
    lab.nsctl_ok("create more --routed --image debian-13 --no-start")?;
    let said = lab.nsctl("apply --yes")?;
    must!(
        said.status == 1 && said.stderr.contains("'other' does not start: somebody else"),
        "{}",
        said.all()
    );
    must!(lab.machine("more")?["state"] == "running", "one holds up the others: {}", said.all());
    lab.nsctl_ok("remove -y more")?;
    // Who answers for every address, or says what this host is, tells nothing.
    has("del", "2001:db8:c::101/128")?;
    let answers = |how: &str| lab.router.script(&format!("ip -6 neigh {how} proxy 2001:db8:c::101 dev up0"));
    lab.router.script("sysctl -qw net.ipv6.conf.up0.proxy_ndp=1 net.ipv6.conf.up0.forwarding=1 net.ipv6.neigh.up0.proxy_delay=0")?;
    answers("add")?;
    refused(lab, "start other", 1, "somebody else on wan0 has 2001:db8:c::101 already")?;
    answers("del")?;
    lab.nsctl_ok("start other")?;
    lab.nsctl_ok("remove -y other")?;
    has("del", "2001:db8:c::100/128").map(drop)
}

/// The host and its neighbours keep what they have.
fn own_affairs(lab: &Lab) -> Result<()> {
    for (who, address) in [(true, "2001:db8:c::2"), (false, "2001:db8:c::1")] {
        let line = ["ping", "-6", "-c2", "-i0.2", "-W5", address];
        let ping = if who { lab.router.run(&line)? } else { lab.run(&line)? };
        must!(ping.ok(), "{address}: {}", ping.all());
    }
    // Nobody is answered for but machines that run.
    let nobody = lab.router.run(&["ping", "-6", "-c1", "-W2", "2001:db8:c::101"])?;
    must!(!nobody.ok(), "{}", nobody.all());
    let known = lab.router.script("ip -6 neigh show 2001:db8:c::101")?;
    must!(!known.contains("lladdr"), "somebody answers for nobody: {known}");
    Ok(())
}

/// It is the machines'; neighbours have addresses of the pool, too, and may know the host's MAC.
fn the_name_server(lab: &Lab) -> Result<()> {
    let mac = lab.sh("cat /sys/class/net/wan0/address")?;
    lab.router.script(&format!(
        "ip -6 neigh replace 2001:db8:c::53 lladdr {} dev up0 nud permanent; ping -6 -c1 -W5 2001:db8:c::53",
        mac.trim()
    ))?;
    let asks = "timeout 2 bash -c 'exec 3<>/dev/tcp/2001:db8:c::53/53'";
    must!(lab.inside("web", asks)?.ok(), "a machine does not reach its name server");
    must!(!lab.router.run(&["bash", "-c", asks])?.ok(), "a neighbour reaches the machines' name server");
    Ok(())
}

fn unanswered(lab: &Lab) -> Result<()> {
    lab.sh("ip -6 neigh del proxy 2001:db8:c::100 dev wan0")?;
    let found = lab.nsctl("doctor web")?;
    must!(!found.ok() && found.stdout.contains("is not answered for on wan0"), "{}", found.all());
    lab.nsctl_ok("doctor web --fix --yes")?;
    must!(lab.sh("ip -6 neigh show proxy")?.contains("2001:db8:c::100"), "it is not mended");
    Ok(())
}

/// An answer lasts as long as the machine runs there.
fn comes_and_goes(lab: &Lab) -> Result<()> {
    let proxies = || lab.sh("ip -6 neigh show proxy");
    for (line, answered) in [("s/^on-link = true$/#&/", false), ("s/^#on-link/on-link/", true)] {
        lab.sh(&format!("sed -i '{line}' /etc/nsctl/nsctl.toml; nsctl apply --yes"))?;
        must!(proxies()?.contains("2001:db8:c::100") == answered, "{line}: {}", proxies()?);
    }
    lab.nsctl_ok("stop web")?;
    must!(proxies()?.is_empty(), "a stopped machine is answered for: {}", proxies()?);
    lab.nsctl_ok("start web")?;
    must!(proxies()?.contains("2001:db8:c::100"), "a started machine is not answered for");
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("attach web --bridge vbr0")?;
    must!(proxies()?.is_empty(), "a machine that moved is answered for: {}", proxies()?);
    lab.nsctl_ok("attach web --routed")?;
    until(Duration::from_secs(5), "an answer", || Ok(proxies()?.contains("2001:db8:c::100")))?;
    lab.nsctl_ok("remove -y web")?;
    must!(proxies()?.is_empty(), "what is gone is answered for: {}", proxies()?);
    Ok(())
}
