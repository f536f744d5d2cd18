//! The ISP delegates a prefix, then another: machines keep their numbers, take
//! the new prefix without a restart, and the old addresses are told apart. Names
//! stay, as does the way in from the host's IPv4.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Daemon, Lab, kea, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router
        .script("for p in 1 2; do ip -6 route add 2001:db8:${p}00::/40 via 2001:db8:ffff::2 dev up0; done")?;
    super::refused(lab, "init --delegated wan0 --length 64", 2, "too long")?;
    let isp = delegate(lab, "2001:db8:100::")?;
    let said = lab.nsctl_ok("init --delegated wan0")?;
    must!(said.contains("today that is 2001:db8:100:"), "{said}");
    let said = lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7777")?;
    must!(said.contains("answers at 2001:db8:100:") && said.contains("today"), "{said}");
    lab.nsctl_ok("create db --routed --image debian-13")?;

    let web = lab.machine("web")?;
    must!(web["network"]["number"] == 1 && lab.machine("db")?["network"]["number"] == 2, "{}", lab.list()?);
    must!(web["drift"] == serde_json::json!([]), "{web}");
    let old = text(&web["network"]["address"]);
    must!(old.starts_with("2001:db8:100:") && old.ends_with("1::2"), "{web}");
    reached(lab, &old)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    named(lab)?;
    lab.nsctl_ok("expose web tcp/7777 --host 8080")?;
    // The numbers are read back from the files.
    lab.sh("rm /var/lib/nsctl/state.toml")?;
    must!(lab.machine("db")?["network"]["number"] == 2, "{}", lab.machine("db")?);

    let leaders = lab.sh("for m in web db; do machinectl show $m -p Leader; done")?;
    drop(isp);
    let _isp = delegate(lab, "2001:db8:200::")?;
    let moved = || Ok(text(&lab.machine("web")?["network"]["address"]).starts_with("2001:db8:200:"));
    until(Duration::from_secs(60), "the new prefix is here", moved)?;
    let new = text(&lab.machine("web")?["network"]["address"]);
    let has = || Ok(lab.machine("web")?["addresses"].to_string().contains(&new));
    until(Duration::from_secs(30), "the machine has its new address", has)?;
    reached(lab, &new)?;
    let web = lab.machine("web")?;
    must!(web["network"]["number"] == 1 && new.ends_with("1::2"), "{web}");
    must!(web["old_addresses"].to_string().contains(&old), "the old address is not told apart: {web}");
    must!(lab.nsctl_ok("list")?.contains(&format!("{old} (old)")), "{}", lab.nsctl_ok("list")?);
    must!(
        lab.sh("for m in web db; do machinectl show $m -p Leader; done")? == leaders,
        "a machine was restarted"
    );
    must!(lab.sh("ip -6 route show default")?.contains("dev wan0"), "the host's default route is gone");
    named(lab)?;
    let hello = || {
        Ok(lab.sh("timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 && head -c5 <&3' || true")? == "hello")
    };
    until(Duration::from_secs(10), "the host's port leads to the machine", hello)
}

/// The host and the other machine find the machine by its name.
fn named(lab: &Lab) -> Result<()> {
    let ask = "getent ahostsv6 web | head -1 | cut -d' ' -f1";
    let here = lab.sh(ask)?;
    must!(here.starts_with("fd") && here.trim_end().ends_with(":1::2"), "the host knows it as {here}");
    must!(lab.nsctl_ok("dns")?.contains(&format!("web IN AAAA {here}")), "{}", lab.nsctl_ok("dns")?);
    let leader = lab.sh("machinectl show db -p Leader --value")?;
    let there =
        || Ok(lab.run(&["nsenter", "-t", leader.trim(), "-n", "-m", "sh", "-c", ask])?.stdout == here);
    until(Duration::from_secs(20), "a machine knows another by name", there)?;
    let ping = || Ok(lab.inside("db", &format!("ping -6 -c1 -W1 {}", here.trim()))?.ok());
    until(Duration::from_secs(10), "a machine reaches the other by name", ping)
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The router reaches the machine: ping, and the open port.
fn reached(lab: &Lab, address: &str) -> Result<()> {
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
    until(Duration::from_secs(10), "the router reaches the machine", answers)?;
    let script = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/7777 && head -c5 <&3'");
    let hello = || Ok(lab.router.run(&["bash", "-c", &script])?.stdout == "hello");
    until(Duration::from_secs(10), "the open port answers", hello)
}

/// An ISP that delegates a /56 of this /48, for a short while at a time.
pub fn delegate(lab: &Lab, prefix: &str) -> Result<Daemon> {
    let config = serde_json::json!({ "Dhcp6": {
        "interfaces-config": { "interfaces": ["up0"] },
        "data-directory": lab.scratch("kea"),
        "lease-database": { "type": "memfile", "persist": false },
        "preferred-lifetime": 60, "valid-lifetime": 120, "renew-timer": 4, "rebind-timer": 8,
        "subnet6": [{ "id": 1, "subnet": "2001:db8:ffff::/64", "interface": "up0",
            "pd-pools": [{ "prefix": prefix, "prefix-len": 48, "delegated-len": 56 }] }],
    } });
    kea(&lab.router, "kea-dhcp6", "up0", &lab.scratch("kea"), &config)
}
