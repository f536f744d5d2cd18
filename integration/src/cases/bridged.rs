//! A machine on a bridge gets DHCPv4, DHCPv6 and SLAAC addresses from the LAN,
//! as does the host; the port holds none.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    // What a careless host has before: an address that the kernel took from the LAN's RA.
    lab.sh("sysctl -qw net.ipv6.conf.enp6s0.accept_ra=1 && ip link set enp6s0 up")?;
    let taken = || Ok(lab.sh("ip -6 route show dev enp6s0")?.contains("2001:db8:5::/64"));
    until(Duration::from_secs(20), "the port has a kernel SLAAC address", taken)?;

    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    lab.nsctl_ok("create buildbot --bridge vbr0 --image debian-13")?;
    until(Duration::from_secs(30), "DHCPv4, DHCPv6 and SLAAC addresses in buildbot", || has_all_three(lab))?;

    let port = lab.sh("ip addr show dev enp6s0")?;
    must!(!port.contains("inet"), "the port holds an address:\n{port}");
    let routes = lab.sh("ip -6 route show dev enp6s0; ip route show dev enp6s0")?;
    must!(routes.trim().is_empty(), "the port holds a route:\n{routes}");
    let host = || Ok(lab.sh("ip -br addr show dev vbr0")?.contains("192.168.5."));
    until(Duration::from_secs(20), "the host has its lease on the bridge", host)?;
    let host = || Ok(lab.sh("ip -br addr show dev vbr0")?.contains("2001:db8:5:"));
    until(Duration::from_secs(20), "the host has its IPv6 address on the bridge", host)?;
    lab.must(&["ping", "-6", "-c1", "-W5", "2001:db8:5::1"])?;

    let addresses = lab.machine("buildbot")?["addresses"].clone();
    for address in addresses.as_array().into_iter().flatten().filter_map(|a| a.as_str()) {
        let ping = lab.lan.run(&["ping", "-c1", "-W5", address])?;
        must!(ping.ok(), "the LAN does not reach {address}:\n{}", ping.all());
    }
    Ok(())
}

/// DHCPv6's range is 2001:db8:5::1000 to ::1fff; SLAAC's host parts are 64 bits long.
fn has_all_three(lab: &Lab) -> Result<bool> {
    let machine = lab.machine("buildbot")?;
    let addresses: Vec<&str> =
        machine["addresses"].as_array().into_iter().flatten().filter_map(|a| a.as_str()).collect();
    let dhcp4 = addresses.iter().any(|a| a.starts_with("192.168.5."));
    let dhcp6 = addresses.iter().any(|a| a.starts_with("2001:db8:5::1"));
    let slaac = addresses.iter().any(|a| a.starts_with("2001:db8:5:") && a.contains("ff:fe"));
    Ok(dhcp4 && dhcp6 && slaac)
}
