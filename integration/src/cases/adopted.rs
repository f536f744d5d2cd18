//! A machine made by hand is adopted: its definition renders back to the
//! settings that it has, shown before; it keeps its address.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const NSPAWN: &str = "[Exec]\nBoot=yes\nPrivateUsers=pick\nParameters=systemd.firstboot=no\nEnvironment=A=1\nHostname=hand\n\n[Files]\nBind=/srv\n\n[Network]\nVirtualEthernet=yes\n";
const ROUTED: &str = "# by hand\n[Match]\nName=ve-hand\n\n[Network]\nIPv6SendRA=yes\nLLDP=yes\nAddress=2001:db8:a:42::1/64\nAddress=fd00:42::1/64\nAddress=10.42.0.1/28\nDHCPServer=yes\n\n[IPv6Prefix]\nPrefix=2001:db8:a:42::/64\n\n[Route]\nDestination=2001:db8:f1::/64\nGateway=2001:db8:a:42::9\n\n[Route]\nDestination=2001:db8:f2::/64\nGateway=2001:db8:a:42::9\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh(&format!(
        "mkdir -p /etc/systemd/nspawn; printf '%s' '{NSPAWN}' > /etc/systemd/nspawn/hand.nspawn
         printf '%s' '{ROUTED}' > /etc/systemd/network/20-hand.network; networkctl reload
         machinectl clone debian-13 hand; systemctl start systemd-nspawn@hand"
    ))?;
    refused(lab, "adopt hand --yes", 1, "no pool")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let own = || Ok(lab.machine("hand")?["addresses"].to_string().contains("2001:db8:a:42:"));
    until(Duration::from_secs(20), "the machine has an address by RA", own)?;
    let before = lab.machine("hand")?["addresses"].clone();
    let address = before
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str())
        .find(|a| a.starts_with("2001:db8:a:42:"));

    let said = lab.nsctl("adopt hand --yes")?;
    must!(said.ok(), "{}", said.all());
    for shown in [
        "+mode = \"routed\"",
        "+subnet = \"2001:db8:a:42::/64\"",
        " Environment=A=1",
        "20-hand.network stays",
        "will be restarted",
    ] {
        must!(said.stderr.contains(shown), "not shown: {shown}\n{}", said.stderr);
    }
    let after = lab.machine("hand")?;
    must!(
        after["network"]["prefix"] == "2001:db8:a:42::/64" && after["network"]["address"].as_str() == address,
        "{before}\n{after}"
    );
    must!(after["drift"] == serde_json::json!([]), "{after}");
    let nspawn = lab.sh("cat /etc/systemd/nspawn/hand.nspawn")?;
    for setting in NSPAWN.lines().filter(|line| line.contains('=')) {
        must!(nspawn.contains(setting), "{setting} is lost:\n{nspawn}");
    }
    let network = lab.sh("cat /etc/systemd/network/05-nsctl-ve-hand.network")?;
    for setting in ROUTED.lines().filter(|line| line.contains('=')) {
        must!(network.contains(setting), "{setting} is lost:\n{network}");
    }
    must!(network.matches("[Route]").count() == 2, "{network}");
    must!(lab.sh("ip -6 addr show dev ve-hand")?.contains("fd00:42::1"), "the host's end is not what it was");
    let leased = || Ok(lab.machine("hand")?["addresses"].to_string().contains("10.42.0."));
    until(Duration::from_secs(20), "its IPv4 address comes from the same server", leased)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    refused(lab, "adopt hand --yes", 1, "already")?;
    refused(lab, "adopt nobody --yes", 1, "there is no machine or tree")?;

    // What was there before comes back.
    lab.nsctl_ok("remove -y hand")?;
    must!(lab.sh("cat /etc/systemd/nspawn/hand.nspawn")? == NSPAWN, "its own .nspawn is not back");
    must!(lab.sh("ls /etc/systemd/network")?.lines().all(|file| !file.contains("ve-hand")), "a file is left");

    // A bridged one.
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.sh("machinectl clone debian-13 lan; printf '[Network]\nBridge=vbr0\n' > /etc/systemd/nspawn/lan.nspawn; systemctl -q enable systemd-nspawn@lan")?;
    lab.nsctl_ok("adopt lan --yes")?;
    let definition = lab.sh("cat /etc/nsctl/machines.d/lan.toml")?;
    must!(definition.contains("bridge = \"vbr0\"") && !definition.contains("autostart"), "{definition}");
    Ok(())
}
