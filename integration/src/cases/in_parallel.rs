//! Fifty creates and removes at once, in any order: leases stay unique, and the
//! end is the sum of all. Reads do not wait meanwhile.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::lab::{Lab, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("for k in $(seq 25); do nsctl -q create old$k --routed --image tiny --no-start; done")?;
    let out = lab.sh("for k in $(seq 25 | shuf); do
             nsctl -q create new$k --routed --image tiny --no-start > /tmp/new.$k 2>&1 || cat /tmp/new.$k &
             nsctl -q remove -y old$k > /tmp/old.$k 2>&1 || cat /tmp/old.$k &
             nsctl list > /dev/null || echo list failed
         done; wait")?;
    must!(out.is_empty(), "{out}");
    let list = lab.list()?;
    let machines: Vec<_> = list.as_array().into_iter().flatten().collect();
    let names: BTreeSet<&str> = machines.iter().filter_map(|m| m["name"].as_str()).collect();
    must!(names.len() == 25 && names.iter().all(|name| name.starts_with("new")), "{names:?}");
    let prefixes: BTreeSet<String> = machines.iter().map(|m| m["network"]["prefix"].to_string()).collect();
    must!(prefixes.len() == 25, "{prefixes:?}");
    let trees = lab.sh("ls /var/lib/machines")?;
    must!(!trees.contains("old") && trees.matches("new").count() == 25, "{trees}");

    // Who waits says for whom, and gives up.
    let busy = lab.sh("exec 9>> /var/lib/nsctl/lock; flock 9
         nsctl --wait 1 create x --routed --image tiny 2>&1 || echo status $?; nsctl list > /dev/null")?;
    must!(
        busy.contains("waiting for") && busy.contains("gave up after 1 s") && busy.contains("status 1"),
        "{busy}"
    );
    Ok(())
}
