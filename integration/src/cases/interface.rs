//! What Incus's own test of routed interfaces checks: MTU, several addresses, extra routes, both
//! families, what is left after a stop, settings that survive a restart, and the uplink's own address.

use std::time::Duration;

use anyhow::{Result, bail};

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const UPLINK: &str = "ip -o addr show dev wan0 scope global permanent | grep -v mngtmpaddr; ip -6 route show dev wan0 proto static; cat /sys/class/net/wan0/mtu";
/// All that the kernel knows of links, addresses, routes, rules and neighbours, and the firewall; no counters, and
/// nothing that runs out by itself.
const KERNEL: &str = r"ip -o link | sed 's/@if[0-9]*//; s/^[0-9]*: //' | cut -d' ' -f1 | sort
    ip -o addr show scope global | grep -v ' wan0 ' | awk '{print $2, $4}' | sort
    ip -6 route show table all | grep -v -e wan0 -e fe80 -e cache | sed 's/ pref medium//' | sort
    ip -4 route show table all | sort; ip rule; ip -6 rule
    ip neigh show proxy; ip -6 neigh show proxy; ip -6 neigh show nud permanent
    nft -s list table inet nsctl | sed '/^\tset near /,/^\t}/d; /^\tset newcomers /,/^\t}/d'";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh("ip link set wan0 mtu 1460")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let uplink = lab.sh(UPLINK)?;
    lab.nsctl_ok("create db --routed --ipv4 nat --image debian-13")?;
    lab.nsctl_ok("create web --routed --ipv4 nat --image debian-13 --no-start")?;
    let quiet = kernel(lab)?;
    lab.sh("sed -i '/^mode/a mtu = 1400\\nroutes = [\"2001:db8:c::/56\"]' /etc/nsctl/machines.d/web.toml; nsctl apply --yes; nsctl start web")?;
    mtus(lab, "web", 1400)?;
    mtus(lab, "db", 1460)?;
    addresses(lab)?;
    both_families(lab)?;
    must!(
        lab.sh("ip -6 route show 2001:db8:c::/56 dev ve-web")?.contains("via 2001:db8:a:2::2"),
        "no extra route"
    );
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    lab.nsctl_ok("restart web")?;
    mtus(lab, "web", 1400)?;
    must!(
        lab.sh("ip -6 route show 2001:db8:c::/56 dev ve-web")?.contains("via"),
        "the extra route did not come back"
    );

    lab.nsctl_ok("stop web")?;
    // What routes to it leads to nobody while it does not run, and nobody may say that he is behind it.
    same(lab, &quiet, |line| {
        !line.contains("2001:db8:c::/56") && line != "\t\tiifname \"ve-web\" counter drop"
    })?;
    // That is all that its definition has left since.
    lab.sh("sed -i '/^mtu/d; /^routes/d' /etc/nsctl/machines.d/web.toml; nsctl apply --yes")?;
    same(lab, &quiet, |_| true)?;
    must!(lab.sh(UPLINK)? == uplink, "the uplink is not as it was:\n{uplink}\n{}", lab.sh(UPLINK)?);
    for (line, says) in [("mtu = 1279", "1280"), ("mtu = 70000", "65535"), ("mtu = \"big\"", "invalid type")]
    {
        lab.sh(&format!("sed -i '/^mtu/d; /^mode/a {line}' /etc/nsctl/machines.d/web.toml"))?;
        refused(lab, "start web", 1, says)?;
    }
    Ok(())
}

/// Waits until the kernel has just what it had before, of the lines that count.
fn same(lab: &Lab, before: &str, counts: fn(&str) -> bool) -> Result<()> {
    let now = || -> Result<String> {
        Ok(kernel(lab)?.lines().filter(|line| counts(line)).map(|line| format!("{line}\n")).collect())
    };
    if until(Duration::from_secs(10), "nothing of the machine", || Ok(now()? == before)).is_ok() {
        return Ok(());
    }
    let now = now()?;
    let apart = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|same| same == *line)).map(str::to_owned).collect()
    };
    bail!("after its stop there is more: {:#?}\nand less: {:#?}", apart(&now, before), apart(before, &now))
}

fn kernel(lab: &Lab) -> Result<String> {
    lab.sh(KERNEL)
}

fn mtus(lab: &Lab, name: &str, mtu: u32) -> Result<()> {
    let host = lab.sh(&format!("cat /sys/class/net/ve-{name}/mtu"))?;
    let guest = lab.inside(name, "ip -o link show host0")?;
    must!(
        host.trim() == mtu.to_string() && guest.stdout.contains(&format!(" mtu {mtu} ")),
        "{name}: {host} {}",
        guest.all()
    );
    // And what is longer is told so.
    let ping = |size: u32| lab.inside(name, &format!("ping -6 -c1 -W5 -M do -s {size} fe80::1%host0"));
    must!(ping(mtu - 48)?.ok() && !ping(mtu - 47)?.ok(), "{name} sends other packets than of {mtu} bytes");
    Ok(())
}

/// A machine may have as many addresses of its /64 as it likes.
fn addresses(lab: &Lab) -> Result<()> {
    lab.inside(
        "web",
        "ip addr add 2001:db8:a:2::53/64 dev host0 nodad; ip addr add 2001:db8:a:2::80/64 dev host0 nodad",
    )?;
    for address in ["2001:db8:a:2::2", "2001:db8:a:2::53", "2001:db8:a:2::80"] {
        let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", address])?;
        must!(ping.ok(), "{address}: {}", ping.all());
        let from = lab.inside("web", &format!("ping -6 -c1 -W5 -I {address} 2001:db8:ffff::1"))?;
        must!(from.ok(), "from {address}: {}", from.all());
    }
    let shown = lab.nsctl_ok("show web")?;
    must!(shown.contains("2001:db8:a:2::53") && shown.contains("2001:db8:a:2::80"), "{shown}");
    Ok(())
}

fn both_families(lab: &Lab) -> Result<()> {
    let private = |name: &str| -> Result<String> {
        let machine = lab.machine(name)?;
        let all = machine["addresses"].as_array().into_iter().flatten().filter_map(|one| one.as_str());
        Ok({ all }.find(|one| !one.contains(':')).unwrap_or_default().to_owned())
    };
    until(Duration::from_secs(20), "IPv4", || Ok(!private("web")?.is_empty() && !private("db")?.is_empty()))?;
    for (from, to) in [("web", "db"), ("db", "web")] {
        let v6 = lab.machine(to)?["network"]["address"].as_str().unwrap_or_default().to_owned();
        for address in [v6, private(to)?] {
            let ping = lab.inside(from, &format!("ping -c1 -W5 {address}"))?;
            must!(ping.ok(), "{from} does not reach {to} at {address}: {}", ping.all());
        }
    }
    Ok(())
}
