//! A machine made by hand keeps its settings when it is attached, is listed
//! before, moves while it runs, and gets its own file back at the end.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

const NSPAWN: &str = "# mine\n[Exec]\nBoot=yes\nParameters=systemd.firstboot=no\nPrivateUsers=pick\nEnvironment=A=1\nEnvironment=B=2\n\n[Files]\nBind=/srv\n\n[Network]\nVirtualEthernet=yes\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.sh(&format!(
        "machinectl clone debian-13 buildbot
         mkdir -p /etc/systemd/nspawn; printf '%s' '{NSPAWN}' > /etc/systemd/nspawn/buildbot.nspawn
         systemctl start systemd-nspawn@buildbot"
    ))?;
    let before = lab.machine("buildbot")?;
    must!(before["network"]["mode"] == "unmanaged" && before["state"] == "running", "{before}");
    let address = || Ok(lab.machine("buildbot")?["addresses"].as_array().is_some_and(|a| !a.is_empty()));
    until(Duration::from_secs(20), "the stock set-up gives it an address", address)?;

    let leader = lab.sh("machinectl show buildbot -p Leader")?;
    let said = lab.nsctl("attach buildbot --bridge vbr0")?;
    must!(said.ok(), "{}", said.all());
    must!(said.stderr.contains("while it runs"), "{}", said.all());
    must!(said.stdout.contains("2001:db8:5:") || said.stdout.contains("192.168.5."), "{}", said.stdout);
    must!(lab.sh("machinectl show buildbot -p Leader")? == leader, "it was restarted");
    let lease = || Ok(lab.machine("buildbot")?["addresses"].to_string().contains("192.168.5."));
    until(Duration::from_secs(20), "it has a lease of the LAN", lease)?;

    let nspawn = lab.sh("cat /etc/systemd/nspawn/buildbot.nspawn")?;
    must!(nspawn.matches("systemd.firstboot=no").count() == 1, "told twice:\n{nspawn}");
    for kept in ["Environment=A=1", "Environment=B=2", "Bind=/srv", "Bridge=vbr0"] {
        must!(nspawn.contains(kept), "{kept} is lost:\n{nspawn}");
    }
    must!(!nspawn.contains("VirtualEthernet"), "{nspawn}");
    let definition = lab.sh("cat /etc/nsctl/machines.d/buildbot.toml")?;
    must!(definition.contains("[nspawn.Files]") && definition.contains("autostart = false"), "{definition}");

    // What it was started with by hand, it is started with by nsctl.
    lab.nsctl_ok("restart buildbot")?;
    let environment =
        lab.sh("tr '\\0' '\\n' < /proc/$(machinectl show buildbot -p Leader | cut -d= -f2)/environ")?;
    must!(environment.contains("A=1\n") && environment.contains("B=2\n"), "{environment}");
    let lease = || Ok(lab.machine("buildbot")?["addresses"].to_string().contains("192.168.5."));
    until(Duration::from_secs(20), "it has a lease of the LAN after a restart", lease)?;

    lab.nsctl_ok("remove -y buildbot")?;
    must!(lab.sh("cat /etc/systemd/nspawn/*")? == NSPAWN, "its own file is not back");
    must!(lab.sh("ls /var/lib/machines")?.contains("buildbot"), "a tree that nsctl did not make is gone");
    Ok(())
}
