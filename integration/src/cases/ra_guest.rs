//! A guest that does not read the file bound into it gets an address by RA, and
//! the uplink's MTU on its end of the veth.

use anyhow::Result;

use crate::lab::{Lab, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    tiny_guest(lab, "tiny")?;
    let said = lab.nsctl_ok("create tiny --routed")?;
    let machine = lab.machine("tiny")?;
    let address = machine["addresses"][0].as_str().unwrap_or_default().to_owned();
    must!(address.starts_with("2001:db8:a:1:"), "{machine}");
    // Planned, published and real are one, before its start and after.
    must!(said.contains(&format!("tiny answers at {address} (")), "{address}: {said}");
    must!(
        machine["network"]["address"] == *address && machine["drift"].as_array().is_some_and(Vec::is_empty),
        "{machine}"
    );
    must!(
        lab.nsctl_ok("dns --format hosts")?.starts_with(&format!("{address} tiny.")),
        "{}",
        lab.nsctl_ok("dns --format hosts")?
    );
    must!(lab.sh("getent ahostsv6 tiny")?.starts_with(&address), "{}", lab.sh("cat /etc/hosts")?);
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(!lab.sh("cat /etc/nsctl/machines.d/tiny.toml")?.contains("token"), "its definition names a token");
    other_names(lab)?;
    let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", &address])?;
    must!(ping.ok(), "{}", ping.all());
    lab.nsctl_ok("stop tiny")?;

    lab.sh("sed -i 's/^interface = .*/&\\nmtu = 1400/' /etc/nsctl/nsctl.toml")?;
    lab.nsctl_ok("apply --yes")?;
    for start in ["nsctl restart tiny", "systemctl restart systemd-nspawn@tiny"] {
        lab.sh(start)?;
        let link = lab.inside("tiny", "ip link show host0")?.stdout;
        must!(link.contains("mtu 1400"), "after `{start}`: {link}");
    }
    Ok(())
}

/// Its address depends on its name, and on what it is made of.
fn other_names(lab: &Lab) -> Result<()> {
    let is_one = |name: &str| -> Result<()> {
        let machine = lab.machine(name)?;
        must!(machine["addresses"][0] == machine["network"]["address"], "{machine}");
        must!(machine["drift"].as_array().is_some_and(Vec::is_empty), "{machine}");
        must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{name}: {}", lab.nsctl_ok("plan")?);
        Ok(())
    };
    let said = lab.nsctl_ok("clone tiny other")?;
    must!(said.contains("other answers at"), "{said}");
    is_one("other")?;
    lab.nsctl_ok("stop other")?;
    lab.nsctl_ok("rename other another")?;
    lab.nsctl_ok("start another")?;
    is_one("another")?;
    lab.nsctl_ok("remove -y another").map(drop)
}
