//! A guest that does not read the file bound into it gets an address by RA, and
//! the uplink's MTU on its end of the veth.

use anyhow::Result;

use crate::lab::{Lab, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    tiny_guest(lab, "tiny")?;
    let said = lab.nsctl_ok("create tiny --routed")?;
    must!(said.contains("which its guest chose by RA"), "{said}");
    let machine = lab.machine("tiny")?;
    let address = machine["addresses"][0].as_str().unwrap_or_default().to_owned();
    must!(address.starts_with("2001:db8:a:1:"), "{machine}");
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
