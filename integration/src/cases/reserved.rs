//! What `nsctl reservation` prints gives a bridged machine the address that was
//! asked for, from a real dnsmasq and from a real Kea.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::{Value, json};

use super::refused;
use crate::lab::{Daemon, LAN, Lab, kea, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create bot --bridge vbr0 --image debian-13")?;
    let shown = lab.nsctl_ok("show bot")?;
    let mac = lab.inside("bot", "ip -br link show dev host0")?.stdout;
    let own = mac
        .split_whitespace()
        .find(|word| word.len() == 17 && word.contains(':'))
        .context("no MAC")?
        .to_owned();
    must!(shown.contains(&format!("MAC  {own}")), "not the MAC that it has, {own}:\n{shown}");
    let leases = fs::read_to_string(lab.scratch("lan.leases"))?;
    let duid =
        shown.lines().find_map(|line| line.trim().strip_prefix("DUID  ")).context("no DUID")?.to_owned();
    let asked = || Ok(fs::read_to_string(lab.scratch("lan.leases"))?.contains(&duid));
    until(Duration::from_secs(20), "the LAN's server knows that DUID", asked).with_context(|| leases)?;
    let now = || {
        Ok(lab
            .nsctl("reservation bot --format dnsmasq")?
            .stdout
            .starts_with(&format!("dhcp-host={own},bot,192.168.5.")))
    };
    until(Duration::from_secs(20), "without an address, the one of now", now)?;
    refused(lab, "reservation nobody --format isc", 1, "there is no machine")?;

    from_dnsmasq(lab)?;
    from_kea(lab)
}

fn has(lab: &Lab, v4: &str, v6: &str) -> Result<()> {
    lab.nsctl_ok("restart bot")?;
    let has = || {
        let addresses = lab.machine("bot")?["addresses"].to_string();
        Ok(addresses.contains(&format!("\"{v4}\"")) && addresses.contains(&format!("\"{v6}\"")))
    };
    until(Duration::from_secs(30), "the machine has the reserved addresses", has)
        .with_context(|| lab.machine("bot").map(|m| m.to_string()).unwrap_or_default())
}

fn from_dnsmasq(lab: &mut Lab) -> Result<()> {
    let lines =
        lab.nsctl_ok("reservation bot --format dnsmasq --address 192.168.5.50 --address 2001:db8:5::50")?;
    let options: Vec<String> = lines.lines().map(|line| format!("--{line}")).collect();
    must!(options.len() == 2, "{lines}");
    let all: Vec<&str> = LAN.into_iter().chain(options.iter().map(String::as_str)).collect();
    lab.lan_serves(&all)?;
    has(lab, "192.168.5.50", "2001:db8:5::50")
}

fn from_kea(lab: &mut Lab) -> Result<()> {
    let lines =
        lab.nsctl_ok("reservation bot --format kea --address 192.168.5.60 --address 2001:db8:5::60")?;
    let mut entries = lines.lines().map(serde_json::from_str::<Value>);
    let (v4, v6) = (entries.next().context("no v4")??, entries.next().context("no v6")??);
    lab.lan_serves(&[])?;
    let _radvd = radvd(lab)?;
    let _servers = [server(lab, 4, v4)?, server(lab, 6, v6)?];
    has(lab, "192.168.5.60", "2001:db8:5::60")
}

/// Tells machines to ask for their addresses by DHCPv6.
fn radvd(lab: &Lab) -> Result<Daemon> {
    let file = lab.scratch("radvd.conf");
    let prefix = "prefix 2001:db8:5::/64 { };";
    fs::write(
        &file,
        format!(
            "interface lan0 {{ AdvSendAdvert on; AdvManagedFlag on; MinRtrAdvInterval 3; MaxRtrAdvInterval 5; {prefix} }};"
        ),
    )?;
    lab.lan.script("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    let (file, pid) =
        (file.to_string_lossy().into_owned(), lab.scratch("radvd.pid").to_string_lossy().into_owned());
    let mut command = lab.lan.command(&["radvd", "-n", "-m", "stderr", "-C", &file, "-p", &pid]);
    Daemon::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

fn server(lab: &Lab, family: u8, reservation: Value) -> Result<Daemon> {
    let (net, pool) = match family {
        4 => ("192.168.5.0/24", "192.168.5.100 - 192.168.5.200"),
        _ => ("2001:db8:5::/64", "2001:db8:5::1000 - 2001:db8:5::1fff"),
    };
    let dir = lab.scratch(&format!("kea{family}"));
    let mut subnet =
        json!({ "id": 1, "subnet": net, "pools": [{ "pool": pool }], "reservations": [reservation] });
    let mut config = json!({
        "interfaces-config": { "interfaces": ["lan0"] },
        "lease-database": { "type": "memfile", "persist": false },
        "valid-lifetime": 600,
    });
    if family == 6 {
        subnet["interface"] = "lan0".into();
        config["preferred-lifetime"] = 300.into();
        config["data-directory"] = dir.to_string_lossy().into_owned().into();
    }
    config[format!("subnet{family}")] = json!([subnet]);
    let program = format!("kea-dhcp{family}");
    kea(&lab.lan, &program, "lan0", &dir, &json!({ format!("Dhcp{family}"): config }))
}
