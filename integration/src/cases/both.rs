//! A machine that is routed and on a bridge at once: reached by its prefix from the world, and by the
//! addresses of its second interface from the LAN; each answers where it was asked. The same on a
//! bridge of somebody else's. VLANs need a kernel that has them: here their files are read, and
//! a host whose kernel has none says so.

use std::time::Duration;

use anyhow::{Context, Result};

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const PREFIX: &str = "2001:db8:a:1::2";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    lab.nsctl_ok("create web --routed --bridge vbr0 --image debian-13 --ipv4 nat")?;
    reached(lab, "web", "vbr0")?;
    ways_of_its_own(lab)?;
    let mac = lab.machine("web")?["mac"].as_str().context("no MAC")?.to_owned();
    let inside = lab.inside("web", "ip -o link show lan0")?.stdout;
    must!(inside.contains(&mac), "lan0 has {inside}, and `list` says {mac}");
    let reserved = lab.nsctl_ok("reservation web --format dnsmasq --address 192.168.5.50")?;
    must!(reserved.contains(&mac), "{reserved}");

    // A restart, and the bridge of somebody else.
    lab.nsctl_ok("restart web")?;
    reached(lab, "web", "vbr0")?;
    lab.sh("ip link add br9 type bridge && ip link set br9 up && ip addr add 192.168.9.1/24 dev br9")?;
    lab.nsctl_ok("attach web --routed --bridge br9")?;
    must!(lab.sh("ip -o link show vb-web")?.contains("master br9"), "not on br9");
    // The guest's networkd takes away what it did not set when it begins with a link: set until that is over.
    until(Duration::from_secs(30), "web reaches who is on br9", || {
        Ok(lab.inside("web", "ip addr replace 192.168.9.2/24 dev lan0; ping -c1 -W1 192.168.9.1")?.ok())
    })?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // Taken off, it is brought back; and then it has none any more.
    lab.sh("ip link set vb-web nomaster")?;
    must!(lab.nsctl("doctor")?.stdout.contains("vb-web is not a port of br9"), "doctor says nothing");
    lab.nsctl_ok("apply --yes")?;
    must!(lab.sh("ip -o link show vb-web")?.contains("master br9"), "not on br9 again");
    lab.nsctl_ok("attach web --routed")?;
    must!(!lab.run(&["ip", "link", "show", "vb-web"])?.ok(), "vb-web is left");
    must!(!lab.inside("web", "ip link show lan0")?.ok(), "lan0 is left");
    must!(lab.machine("web")?["network"]["address"] == PREFIX, "{}", lab.machine("web")?);

    // A name longer than an interface's.
    let name = "a-machine-with-a-long-name";
    lab.nsctl_ok(&format!("create {name} --routed --bridge vbr0 --image debian-13"))?;
    until(Duration::from_secs(30), "a lease of the LAN", || {
        Ok(lab.machine(name)?["addresses"].to_string().contains("192.168.5."))
    })?;
    lab.nsctl_ok(&format!("remove -y {name}"))?;
    must!(
        lab.sh("ls /sys/class/net /var/lib/nsctl/guest")?.contains("a-machine").eq(&false),
        "something is left"
    );
    vlans(lab)
}

/// By its prefix from the world, and by DHCP and SLAAC from the LAN.
fn reached(lab: &Lab, name: &str, bridge: &str) -> Result<()> {
    until(Duration::from_secs(30), "DHCPv4 and SLAAC addresses beside its own", || {
        let all = lab.machine(name)?["addresses"].to_string();
        Ok(all.contains(PREFIX) && all.contains("192.168.5.") && all.contains("2001:db8:5:"))
    })?;
    let machine = lab.machine(name)?;
    must!(machine["network"]["mode"] == "routed" && machine["network"]["bridge"] == bridge, "{machine}");
    let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", PREFIX])?;
    must!(
        ping.ok(),
        "not by its prefix: {}\n{}",
        ping.all(),
        lab.inside(name, "ip addr; ip -6 route")?.all()
    );
    let all = machine["addresses"].as_array().into_iter().flatten().filter_map(|one| one.as_str());
    for address in all.filter(|one| one.starts_with("192.168.5.") || one.starts_with("2001:db8:5:")) {
        // One that has just come is still looked for by its guest (RFC 4862 5.4).
        let pinged = || Ok(lab.lan.run(&["ping", "-c1", "-W1", address])?.ok());
        until(Duration::from_secs(10), &format!("the LAN reaches {address}"), pinged)?;
    }
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    let found = lab.nsctl("doctor")?;
    must!(!found.stdout.contains("web"), "{}", found.stdout);
    Ok(())
}

/// What it sends to the world goes by its prefix, whatever the LAN's router says of itself.
fn ways_of_its_own(lab: &Lab) -> Result<()> {
    let way = lab.inside("web", "ip -6 route get 2001:db8:ffff::1")?.stdout;
    must!(way.contains("dev host0") && way.contains(PREFIX), "{way}");
    let out = lab.inside("web", "ping -6 -c1 -W5 2001:db8:ffff::1")?;
    must!(out.ok(), "{}", out.all());
    let defaults = lab.inside("web", "ip -6 route show default")?.stdout;
    must!(!defaults.contains("lan0"), "{defaults}");
    // IPv4 goes by the host's, which has a lower metric than the LAN's router.
    let way = lab.inside("web", "ip route get 198.51.100.1")?.stdout;
    must!(way.contains("dev host0"), "{way}\n{}", lab.inside("web", "ip route")?.stdout);
    Ok(())
}

/// networkd takes each line of the files; a kernel without VLANs is told of, and nothing is left.
fn vlans(lab: &Lab) -> Result<()> {
    refused(lab, "create red --bridge vbr0 --vlan 20 --image debian-13", 1, "does not carry that")?;
    refused(lab, "create red --bridge br9 --vlan 20 --image debian-13", 1, "which nsctl did not make")?;
    refused(lab, "create red --routed --vlan 20", 2, "--bridge")?;
    lab.sh("mkdir -p /root/host/etc/systemd /root/host/var/lib/machines/tagged")?;
    lab.nsctl_ok("--root /root/host bridge create vbr7 --uplink eth7 --vlan 20 --vlan 30")?;
    lab.nsctl_ok("--root /root/host create tagged --bridge vbr7 --vlan 20")?;
    lab.sh(
        "cp -a /root/host/etc/systemd/network/05-nsctl-* /etc/systemd/network/; networkctl reload; journalctl --sync",
    )?;
    let journal = "journalctl -b -u systemd-networkd --no-pager | grep -e vbr7 -e eth7 -e ve-tagged || true";
    let journal = lab.sh(journal)?;
    must!(!journal.contains(".netdev:") && !journal.contains(".network:"), "networkd: {journal}");
    lab.sh(
        "rm /etc/systemd/network/05-nsctl-*vbr7* /etc/systemd/network/05-nsctl-*eth7* /etc/systemd/network/05-nsctl-ve-tagged*
         networkctl reload; ip link del vbr7 2> /dev/null || true",
    )?;
    let has = lab.run(&[
        "sh",
        "-c",
        "ip link add br8 type bridge && test -e /sys/class/net/br8/bridge/vlan_filtering",
    ])?;
    if !has.ok() {
        lab.sh("ip link add eth7 type veth peer name eth8")?;
        let said = lab.nsctl("bridge create vbr7 --uplink eth7 --vlan 20 --yes")?;
        must!(!said.ok() && said.stderr.contains("does not keep VLANs apart"), "{}", said.all());
        let left = lab.sh("ls /etc/systemd/network /sys/class/net | grep -e vbr7 -e eth7.network || true")?;
        must!(left.is_empty(), "what was begun is still there: {left}");
    }
    Ok(())
}
