//! What a machine may take changes while it runs: systemd is told, and the machine's own file has the
//! say again at its next start.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

/// What is set, and what systemd says of it: what the kernel makes of that is seen in the emulated machine.
const ALL: [(&str, &str, &str); 9] = [
    ("memory=1G", "MemoryMax", "1073741824"),
    ("memory-high=768M", "MemoryHigh", "805306368"),
    ("swap=0", "MemorySwapMax", "0"),
    ("cpu=150%", "CPUQuotaPerSecUSec", "1.500000s"),
    ("cpu-weight=200", "CPUWeight", "200"),
    ("cpus=0", "AllowedCPUs", "0"),
    ("io-weight=50", "IOWeight", "50"),
    ("io-write=20M", "IOWriteBandwidthMax", "/var/lib/machines/web 20000000"),
    ("tasks=500", "TasksMax", "500"),
];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    let leader = lab.sh("machinectl show web -p Leader")?;
    let usual = has(lab)?;
    for wrong in
        ["memory=much", "swap=2X", "cpu=2", "cpu-weight=0", "cpus=3-1", "io-weight=10001", "io-read=5%"]
    {
        refused(lab, &format!("set web limits.{wrong}"), 1, "hint:")?;
    }
    let all: Vec<String> = ALL.iter().map(|(set, ..)| format!("limits.{set}")).collect();
    lab.nsctl_ok(&format!("set web {}", all.join(" ")))?;
    are_set(lab, "while it runs")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    told_once(lab)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.nsctl_ok("restart web")?;
    are_set(lab, "after its start")?;

    // One that cannot be set changes nothing.
    let before = lab.sh("cat /etc/nsctl/machines.d/web.toml")?;
    lab.sh("printf '#!/bin/sh\\ntest \"$1\" != set-property || exit 1\\nexec /usr/bin/systemctl \"$@\"\\n' > /usr/local/sbin/systemctl; chmod 755 /usr/local/sbin/systemctl")?;
    let done = lab.nsctl("set web limits.tasks=700")?;
    lab.sh("rm /usr/local/sbin/systemctl")?;
    must!(!done.ok() && done.stderr.contains("does not take the limits"), "{}", done.all());
    must!(lab.sh("cat /etc/nsctl/machines.d/web.toml")? == before, "the definition is another");
    are_set(lab, "after one that failed")?;

    // Killed at any point, it has the old ones or the new ones, and its file says the same.
    for point in 1..40 {
        let done = lab.run(&[
            "env",
            &format!("NSCTL_KILL_AT={point}"),
            "nsctl-faults",
            "set",
            "web",
            "limits.tasks=600",
        ])?;
        lab.nsctl_ok("apply --yes")?;
        let tasks = lab.sh("systemctl show systemd-nspawn@web -P TasksMax")?;
        let said = lab.machine("web")?["limits"]["tasks"].to_string();
        must!(tasks.trim() == said, "killed at {point}: systemd has {tasks}, the definition {said}");
        told_once(lab)?;
        if done.ok() {
            must!(point > 3, "it was killed nowhere");
            break;
        }
        lab.nsctl_ok("set web limits.tasks=500")?;
    }

    let none: Vec<String> =
        ALL.iter().filter_map(|(set, ..)| Some(format!("limits.{}=", set.split_once('=')?.0))).collect();
    lab.nsctl_ok(&format!("set web {}", none.join(" ")))?;
    must!(has(lab)? == usual, "some stay:\n{usual}\n{}", has(lab)?);
    lab.nsctl_ok("restart web")?;
    must!(has(lab)? == usual, "some are back:\n{usual}\n{}", has(lab)?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());
    Ok(())
}

fn has(lab: &Lab) -> Result<String> {
    let names: Vec<String> = ALL.iter().map(|(_, property, _)| format!("-p {property}")).collect();
    lab.sh(&format!("systemctl show systemd-nspawn@web {} | sort", names.join(" ")))
}

fn are_set(lab: &Lab, when: &str) -> Result<()> {
    let has = has(lab)?;
    for (set, property, value) in ALL {
        must!(has.lines().any(|line| line == format!("{property}={value}")), "{set}, {when}:\n{has}");
    }
    Ok(())
}

/// Nothing of it is left where it would outlive the next change of the file.
fn told_once(lab: &Lab) -> Result<()> {
    let left =
        lab.sh("find /run/systemd/system.control /etc/systemd/system.control -type f 2> /dev/null || true")?;
    must!(left.is_empty(), "systemd keeps limits of its own:\n{left}");
    Ok(())
}
