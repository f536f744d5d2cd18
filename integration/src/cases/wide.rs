//! More than a /64 for a machine that routes on, and a prefix beside the pool: who reaches what, who
//! may send as whom, and what is left. nsctl inside such a machine has machines of its own.

use anyhow::Result;
use serde_json::json;

use crate::lab::{Lab, install_tiny_guest};
use crate::must;

use super::refused;

pub fn run(lab: &mut Lab) -> Result<()> {
    // Below a tree on btrfs no machined finds images: it asks btrfs what only the host's root may.
    lab.move_to_ext4()?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.router.script("ip -6 route add 2001:db8:c::/56 via 2001:db8:ffff::2 dev up0 || true")?;
    refused(lab, "create inner --routed --prefix 48 --image debian-13", 1, "is no part of the pool")?;
    refused(lab, "create inner --routed --prefix 65 --image debian-13", 2, "65")?;
    refused(lab, "create inner --routed --route 2001:db8:a:7::/64 --image debian-13", 1, "overlap")?;
    refused(lab, "create inner --routed --route 2001:db8:c::7/64 --image debian-13", 2, "host bits")?;
    refused(
        lab,
        "create inner --routed --route 2001:db8:ffff::/48 --image debian-13",
        1,
        "this host or its router",
    )?;
    refused(lab, "create inner --bridge br0 --prefix 60 --image debian-13", 2, "--prefix")?;
    own_host(lab)?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.nsctl_ok("create inner --routed --prefix 60 --route 2001:db8:c::/56 --image /root/tree")?;
    let inner = lab.machine("inner")?;
    must!(inner["network"]["prefix"] == "2001:db8:a:10::/60" && inner["drift"] == json!([]), "{inner}");
    must!(inner["network"]["routes"] == json!(["2001:db8:c::/56"]), "{inner}");
    must!(lab.machine("web")?["network"]["prefix"] == "2001:db8:a:1::/64", "room is lost");
    lab.booted("inner")?;
    behind(lab)?;
    pinned(lab)?;
    senders(lab)?;
    what_nobody_has(lab)?;
    two_levels(lab)?;
    its_life(lab)
}

/// Two addresses that somebody behind the machine has, one of its prefix and one of its route.
const BEHIND: [&str; 2] = ["2001:db8:a:1f::9", "2001:db8:c:ff::9"];

/// A tree of a host of this suite, as the laboratory's own.
fn own_host(lab: &Lab) -> Result<()> {
    lab.sh(
        "mkdir -p /root/tree; cd /
         tar --one-file-system --exclude=./usr/share/doc --exclude=./usr/share/locale --exclude=./usr/share/man \
             --exclude=./usr/lib/modules --exclude=./var/lib/machines --exclude=./var/lib/nsctl \
             --exclude=./etc/nsctl --exclude='./etc/systemd/network/*' --exclude='*nsctl*.conf' \
             --exclude='*nsctl*.service' --exclude=./etc/machine-id --exclude=./etc/hostname \
             -cf - ./usr ./etc ./bin ./sbin ./lib* ./var | tar -C /root/tree -xf -
         cd /root/tree; mkdir -p proc sys dev run tmp root var/lib/machines",
    )?;
    let inner = lab.root()?.join("root/tree/var/lib/machines/tiny");
    fs_err::create_dir_all(&inner)?;
    install_tiny_guest(&inner)
}

/// They are reached, from outside and from other machines, and take no place among the host's neighbours.
fn behind(lab: &Lab) -> Result<()> {
    for address in BEHIND {
        lab.inside("inner", &format!("ip -6 addr add {address}/128 dev lo"))?;
        let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", address])?;
        must!(ping.ok(), "{address} does not answer:\n{}", ping.all());
        let ping = lab.inside("web", &format!("ping -6 -c2 -i0.2 -W5 {address}"))?;
        must!(ping.ok(), "web does not reach {address}:\n{}", ping.all());
        let back = lab.inside("inner", &format!("ping -6 -c2 -i0.2 -W5 -I {address} 2001:db8:ffff::1"))?;
        must!(back.ok(), "{address} reaches nobody:\n{}", back.all());
    }
    // More than a machine may have of neighbours at once.
    lab.router
        .script("for k in $(seq 300); do ping -6 -c1 -W0.01 2001:db8:a:1e::$k > /dev/null & done; wait")?;
    let near = lab.sh("ip -6 neigh show dev ve-inner | wc -l")?;
    must!(near.trim().parse::<u32>()? < 6, "each has a place:\n{}", lab.sh("ip -6 neigh show dev ve-inner")?);
    // What is not open to the machine is not open to those behind it.
    let knock = |address: &str| {
        lab.router.run(&["timeout", "3", "bash", "-c", &format!("echo > /dev/tcp/{address}/80")])
    };
    for address in BEHIND {
        let closed = knock(address)?;
        must!(closed.status == 124, "{address} is not dropped:\n{}", closed.all());
    }
    lab.nsctl_ok("open inner tcp/80")?;
    for address in BEHIND {
        let open = knock(address)?;
        must!(open.all().contains("refused"), "it does not come through to {address}:\n{}", open.all());
    }
    lab.nsctl_ok("close inner tcp/80").map(drop)
}

/// A prefix of the user's choice.
fn pinned(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create pinned --routed --prefix 60 --image debian-13 --no-start")?;
    lab.sh("sed -i 's|^prefix = 60|subnet = \"2001:db8:a:f0::/60\"|' /etc/nsctl/machines.d/pinned.toml; nsctl apply --yes; nsctl start pinned")?;
    lab.inside("pinned", "ip -6 addr add 2001:db8:a:ff::9/128 dev lo")?;
    for address in ["2001:db8:a:f0::2", "2001:db8:a:ff::9"] {
        let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", address])?;
        must!(ping.ok(), "{address} does not answer:\n{}", ping.all());
    }
    lab.nsctl_ok("remove -y pinned").map(drop)
}

/// It may send as whoever is behind it, and as nobody else.
fn senders(lab: &Lab) -> Result<()> {
    let feigned = ["2001:db8:a:1::2", "2001:db8:a:20::9", "2001:db8:a::1", "2001:db8:c:100::9"];
    lab.router.watch("ip6", &format!("ip6 saddr {{ {} }} icmpv6 type echo-request", feigned.join(", ")))?;
    for address in feigned {
        lab.inside(
            "inner",
            &format!(
                "ip -6 addr add {address}/128 dev lo; ping -6 -c1 -W1 -I {address} 2001:db8:ffff::1
                 ip -6 addr del {address}/128 dev lo"
            ),
        )?;
    }
    must!(lab.router.watched("ip6")? == 0, "it feigns another's address");
    Ok(())
}

/// What nobody behind the machine has is unreachable; and where the machine sends it back, for want of
/// the file bound into it, it goes no further.
fn what_nobody_has(lab: &Lab) -> Result<()> {
    for nobody in ["2001:db8:a:1d::9", "2001:db8:c:1::9"] {
        let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", nobody])?;
        must!(!ping.ok() && ping.stdout.contains("Destination unreachable"), "{}", ping.all());
    }
    lab.inside(
        "inner",
        "ip -6 route del unreachable 2001:db8:a:10::/60; ip -6 route del unreachable 2001:db8:c::/56
         sysctl -qw net.ipv6.conf.all.forwarding=1",
    )?;
    let count = || -> Result<u64> {
        Ok(lab.sh("cat /sys/class/net/ve-inner/statistics/tx_packets")?.trim().parse()?)
    };
    let before = count()?;
    for nobody in ["2001:db8:a:1d::9", "2001:db8:c:1::9"] {
        let ping = lab.router.run(&["ping", "-6", "-c1", "-W1", nobody])?;
        must!(!ping.ok() && !ping.stdout.contains("Time exceeded"), "it goes to and fro:\n{}", ping.all());
    }
    must!(count()? < before + 20, "packets go to and fro: {} of them", count()? - before);
    lab.sh("nsctl restart inner").map(drop)
}

/// nsctl inside, with machines of its own. In a user namespace it has all but those: nspawn mounts a
/// /proc, which the kernel refuses below one that is covered in part (mount_namespaces(7)).
fn two_levels(lab: &Lab) -> Result<()> {
    lab.booted("inner")?;
    let init = "nsctl init --pool 2001:db8:a:10::/60 --uplink host0";
    must!(
        lab.sh("nsctl shell inner nsctl init")?.contains(init),
        "{}",
        lab.sh("nsctl shell inner nsctl init")?
    );
    lab.sh(&format!("nsctl shell inner {init}"))?;
    lab.sh("printf '[nspawn.Exec]\\nPrivateUsers = \"no\"\\n' >> /etc/nsctl/machines.d/inner.toml; nsctl apply --yes")?;
    lab.booted("inner")?;
    lab.sh("nsctl shell inner nsctl create tiny --routed --open tcp/80")?;
    let list = lab.sh("nsctl shell inner nsctl list --json")?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    must!(list[0]["network"]["prefix"] == "2001:db8:a:11::/64" && list[0]["drift"] == json!([]), "{list}");
    must!(list[0]["uid_shift"].as_u64().is_some_and(|shift| shift > 0), "not in a user namespace: {list}");
    let address = list[0]["addresses"][0].as_str().unwrap_or_default().to_owned();
    let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", &address])?;
    must!(ping.ok(), "{address}, a machine's machine, does not answer:\n{}", ping.all());
    let ping = lab.inside("web", &format!("ping -6 -c2 -i0.2 -W5 {address}"))?;
    must!(ping.ok(), "web does not reach {address}:\n{}", ping.all());
    let said = lab.sh("nsctl shell inner nsctl doctor")?;
    must!(said.contains("all is well"), "{said}");
    let said = lab.sh("nsctl shell inner nsctl plan")?;
    must!(said.contains("nothing to do"), "{said}");
    Ok(())
}

/// Stops, reboots, other names and clones; and nothing is left.
fn its_life(lab: &mut Lab) -> Result<()> {
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());
    lab.sh("rm /var/lib/nsctl/state.toml; nsctl state rebuild; nsctl plan | grep -qx 'nothing to do'")?;
    lab.nsctl_ok("stop inner")?;
    for nobody in BEHIND {
        let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", nobody])?;
        must!(ping.stdout.contains("Destination unreachable"), "{nobody}: {}", ping.all());
    }
    let said = lab.nsctl("clone inner other --no-start")?;
    must!(said.ok() && said.stderr.contains("2001:db8:c::/56 stays with 'inner'"), "{}", said.all());
    let other = lab.machine("other")?;
    must!(
        other["network"]["prefix"] == "2001:db8:a:20::/60" && other["network"]["routes"] == json!([]),
        "{other}"
    );
    lab.sh("nsctl remove -y other; nsctl rename inner router; nsctl start router")?;
    lab.power_off()?;
    lab.power_on()?;
    lab.booted("router")?;
    let router = lab.machine("router")?;
    must!(router["network"]["prefix"] == "2001:db8:a:10::/60" && router["drift"] == json!([]), "{router}");
    let routes = lab.sh("ip -6 route show dev ve-router")?;
    must!(routes.contains("2001:db8:a:10::/60 via") && routes.contains("2001:db8:c::/56 via"), "{routes}");
    lab.nsctl_ok("remove -y router")?;
    // What the host takes for neighbours, or has taken of late, goes by itself.
    let left =
        lab.sh("ip -6 route; ls -R /etc/systemd/network; nft list table inet nsctl | grep -v expires")?;
    must!(
        !left.contains("2001:db8:c::") && !left.contains("ve-router") && !left.contains("db8:a:1f"),
        "{left}"
    );
    Ok(())
}
