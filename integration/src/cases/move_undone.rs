//! A move to a bridge where nobody gives addresses, interrupted: the machine is back on its own
//! bridge, and has a lease of its LAN again.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --bridge vbr0 --image debian-13")?;
    let leased = || Ok(lab.machine("web")?["addresses"].to_string().contains("192.168.5."));
    until(Duration::from_secs(30), "it has a lease", leased)?;
    let master = || lab.sh("ip -o link | grep -E ' v[eb]-web' | grep -o 'master [a-z0-9]*'");
    lab.sh("ip link add br9 type bridge; ip link set br9 up
            systemd-run -q --unit=move -p KillSignal=SIGINT -p StandardError=file:/tmp/said nsctl attach web --bridge br9")?;
    let moved =
        || Ok(master()?.trim() == "master br9" && lab.sh("cat /tmp/said")?.contains("wait for addresses"));
    until(Duration::from_secs(30), "it is on the other bridge, and waits", moved)?;
    lab.sh("systemctl stop move")?;
    let said = lab.sh("cat /tmp/said")?;
    must!(said.contains("interrupted") && said.contains("move 'web' to vbr0"), "{said}");
    must!(master()?.trim() == "master vbr0", "it is on {}", master()?);
    until(Duration::from_secs(20), "it has a lease again", leased)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}
