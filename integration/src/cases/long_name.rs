//! A name of 40 characters: the interface has a short name, and everything works.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let name = "a-machine-with-a-name-of-forty-character";
    must!(name.len() == 40, "the name has {} characters", name.len());
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok(&format!("create {name} --routed --image debian-13"))?;
    let machine = lab.machine(name)?;
    let interface = machine["host_interface"].as_str().context("no interface")?;
    must!(interface.len() <= 15 && interface.starts_with("ve-a-machin"), "{machine}");
    let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:a:1::2"])?;
    must!(ping.ok(), "{}", ping.all());
    let port = "timeout 2 bash -c 'exec 3<>/dev/tcp/2001:db8:a:1::2/7777 && head -c5 <&3'";
    // The guest's service is up a moment after its address.
    let up = || Ok(lab.run(&["bash", "-c", port])?.stdout == "hello");
    until(Duration::from_secs(30), "the service answers", up)?;
    // The firewall knows the interface by its short name.
    must!(!lab.router.run(&["bash", "-c", port])?.ok(), "a closed port is open");
    lab.nsctl_ok(&format!("open {name} tcp/7777"))?;
    must!(lab.router.run(&["bash", "-c", port])?.stdout == "hello", "an open port is closed");
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok(&format!("attach {name} --bridge vbr0"))?;
    lab.nsctl_ok(&format!("remove -y {name}"))?;
    must!(lab.list()?.as_array().is_some_and(Vec::is_empty), "{}", lab.list()?);
    Ok(())
}
