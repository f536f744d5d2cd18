//! A missing state file is read back from the rendered files; a damaged one is
//! kept, and rebuilt when asked to.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    for name in ["one", "two", "three"] {
        lab.nsctl_ok(&format!("create {name} --routed --image debian-13 --no-start"))?;
    }
    lab.nsctl_ok("remove -y two")?;
    refused(lab, "state rebuild", 1, "in order")?;
    lab.sh("rm /var/lib/nsctl/state.toml")?;
    lab.nsctl_ok("create four --routed --image debian-13 --no-start")?;
    let expect = [("one", "1"), ("three", "3"), ("four", "2")];
    for (name, subnet) in expect {
        must!(
            lab.machine(name)?["network"]["prefix"] == format!("2001:db8:a:{subnet}::/64"),
            "{}",
            lab.machine(name)?
        );
    }
    lab.sh("echo garbage > /var/lib/nsctl/state.toml")?;
    refused(lab, "list", 1, "nsctl state rebuild")?;
    lab.nsctl_ok("state rebuild")?;
    must!(lab.sh("cat /var/lib/nsctl/state.toml.damaged")? == "garbage\n", "the damaged file was not kept");
    for (name, subnet) in expect {
        must!(
            lab.machine(name)?["network"]["prefix"] == format!("2001:db8:a:{subnet}::/64"),
            "{}",
            lab.machine(name)?
        );
    }
    let plan = lab.nsctl_ok("plan")?;
    must!(
        plan.lines().skip(1).all(|line| ["start ", "wait "].iter().any(|word| line.starts_with(word))
            || line.contains("is started")),
        "{plan}"
    );
    Ok(())
}
