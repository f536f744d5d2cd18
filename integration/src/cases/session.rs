//! The session of the README: init, create, a bridge, attach, list.

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let said = lab.nsctl_ok("create minecraft --routed --image debian-13")?;
    must!(said.contains("minecraft answers at 2001:db8:a:1::2"), "create says: {said}");
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.sh("machinectl clone debian-13 buildbot && systemctl start systemd-nspawn@buildbot")?;
    lab.nsctl_ok("attach buildbot --bridge vbr0")?;

    let minecraft = lab.machine("minecraft")?;
    must!(minecraft["state"] == "running", "{minecraft}");
    must!(minecraft["network"]["mode"] == "routed", "{minecraft}");
    must!(minecraft["network"]["prefix"] == "2001:db8:a:1::/64", "{minecraft}");
    must!(minecraft["network"]["address"] == "2001:db8:a:1::2", "{minecraft}");
    must!(minecraft["addresses"][0] == "2001:db8:a:1::2", "{minecraft}");
    must!(minecraft["host_interface"] == "ve-minecraft", "{minecraft}");
    let shift = minecraft["uid_shift"].as_u64().context("no uid_shift")?;
    must!(shift >= 65536 && shift % 65536 == 0, "the UIDs are not shifted: {shift}");
    let buildbot = lab.machine("buildbot")?;
    must!(buildbot["network"]["mode"] == "bridge", "{buildbot}");
    must!(buildbot["network"]["bridge"] == "vbr0", "{buildbot}");
    let table = lab.nsctl_ok("list")?;
    must!(table.lines().count() >= 3 && table.starts_with("NAME"), "{table}");
    must!(!table.contains('\u{1b}'), "colours in a pipe: {table:?}");
    let again = lab.nsctl_ok("plan --exit-code")?;
    must!(again == "nothing to do\n", "a plan after all that: {again}");
    Ok(())
}
