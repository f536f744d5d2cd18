//! Machines are found by name: from the host, from each other, and in what
//! `nsctl dns` prints; the servers reach guests by file and by RA.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let hosts = lab.sh("cat /etc/hosts 2>/dev/null || true")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    let printed = lab.nsctl_ok("dns --zone example.org")?;
    must!(
        printed == "$ORIGIN example.org.\nweb IN AAAA 2001:db8:a:1::2\n",
        "before the first boot: {printed}"
    );
    must!(
        lab.nsctl_ok("dns --format hosts")? == "2001:db8:a:1::2 web.machines.internal web\n",
        "{}",
        lab.nsctl_ok("dns --format hosts")?
    );
    must!(
        lab.nsctl_ok("dns --format reverse")?.contains(" IN PTR web.machines.internal."),
        "{}",
        lab.nsctl_ok("dns --format reverse")?
    );
    refused(lab, "dns --zone a..b", 2, "is not a domain")?;

    not_to_be_had(lab)?;
    must!(lab.sh("getent ahostsv6 web")?.starts_with("2001:db8:a:1::2"), "the host does not know it");
    lab.nsctl_ok("create db --routed --image debian-13")?;
    lab.nsctl_ok("start web")?;
    for name in ["web", "web.machines.internal"] {
        let seen = || {
            let leader = lab.sh("machinectl show db -p Leader --value")?;
            let asked = lab.run(&["nsenter", "-t", leader.trim(), "-n", "-m", "getent", "ahostsv6", name])?;
            Ok(asked.stdout.starts_with("2001:db8:a:1::2"))
        };
        until(Duration::from_secs(20), "a machine knows another by name", seen)?;
    }
    // The same in the router advertisement, for guests that read no file.
    let sent = lab.sh("cat /etc/systemd/network/05-nsctl-ve-db.network")?;
    must!(sent.contains("DNS=2001:db8:a::1") && sent.contains("Domains=machines.internal"), "{sent}");
    must!(lab.list()?.as_array().is_some_and(|all| all.len() == 2), "{}", lab.list()?);
    let one: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("list db --json")?)?;
    must!(one.as_array().is_some_and(|all| all.len() == 1 && all[0]["name"] == "db"), "{one}");
    refused(lab, "list nobody", 1, "there is no machine")?;

    for name in ["web", "db"] {
        lab.nsctl_ok(&format!("remove -y {name}"))?;
    }
    must!(
        lab.sh("cat /etc/hosts 2>/dev/null || true")? == hosts,
        "a name is left: {}",
        lab.sh("cat /etc/hosts")?
    );
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

/// What means something else, or is somebody's already; and where a name with dots is.
fn not_to_be_had(lab: &Lab) -> Result<()> {
    let own = lab.sh("cat /proc/sys/kernel/hostname; echo '192.0.2.1 Printer' >> /etc/hosts")?;
    let own = own.trim().to_uppercase();
    for name in [
        "LOCALHOST",
        "ip6-localhost",
        "wpad",
        "isatap",
        "metadata.google.internal",
        "gateway",
        &own,
        "printer",
        "WEB",
    ] {
        refused(
            lab,
            &format!("create {name} --routed --image debian-13 --no-start"),
            1,
            "cannot be a machine's name",
        )?;
        refused(lab, &format!("clone web {name} --no-start"), 1, "cannot be a machine's name")?;
        refused(lab, &format!("rename web {name}"), 1, "cannot be a machine's name")?;
    }
    refused(lab, "create db --routed --image debian-13 --hostname wpad", 2, "is no name for a host")?;
    lab.sh("machinectl clone debian-13 wpad")?;
    refused(lab, "attach wpad --routed", 1, "cannot be a machine's name")?;
    lab.sh("printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/wpad.toml")?;
    // All others are as they should be already.
    lab.nsctl_ok("start web")?;
    refused(lab, "apply --yes", 1, "cannot be a machine's name")?;
    lab.sh("rm /etc/nsctl/machines.d/wpad.toml; machinectl remove wpad; sed -i '/Printer/d' /etc/hosts")?;
    lab.nsctl_ok("create www.Example.org --routed --image debian-13 --no-start")?;
    let hosts = lab.sh("cat /etc/hosts")?;
    must!(hosts.contains(" www.example.org.machines.internal\n"), "{hosts}");
    must!(!lab.run(&["getent", "ahostsv6", "www.example.org"])?.stdout.contains("2001:db8:a:"), "{hosts}");
    lab.nsctl_ok("remove -y www.Example.org").map(drop)
}
