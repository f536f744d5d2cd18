//! Twenty `create` at once give twenty different subnets, and all answer.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let out = lab.sh(
        "for k in $(seq 20); do nsctl -q create m$k --routed --image debian-13 > /tmp/out.$k 2>&1 || echo m$k: $(cat /tmp/out.$k) & done
         wait",
    )?;
    must!(out.is_empty(), "{out}");
    let list = lab.list()?;
    let machines: Vec<_> = list.as_array().into_iter().flatten().collect();
    must!(machines.len() == 20, "{} machines", machines.len());
    let prefixes: BTreeSet<String> = machines.iter().map(|m| m["network"]["prefix"].to_string()).collect();
    must!(prefixes.len() == 20, "{prefixes:?}");
    for machine in machines {
        must!(machine["addresses"][0] == machine["network"]["address"], "{machine}");
    }
    for k in 1..=20 {
        let address = format!("2001:db8:a:{k:x}::2");
        let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", &address])?;
        must!(ping.ok(), "{}", ping.all());
    }
    Ok(())
}
