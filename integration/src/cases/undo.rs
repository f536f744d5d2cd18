//! A step that fails, and everything before it is undone.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    // A tree without an init: nspawn cannot start it.
    lab.sh("machinectl clone debian-13 broken && rm /var/lib/machines/broken/sbin/init /var/lib/machines/broken/usr/lib/systemd/systemd")?;
    lab.sh("machinectl read-only broken true")?;
    refused(lab, "create new --routed --image broken", 1, "nothing is left over")?;
    lab.sh("! test -e /var/lib/nsctl/journal.json")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // Killed in the middle: the next run undoes it, and says so.
    let killed = lab.sh(
        "rm -f /tmp/out; touch /tmp/out; nsctl create slow --routed --image debian-13 > /tmp/out 2>&1 & pid=$!
         until grep -q 'wait until' /tmp/out; do :; done; kill -9 $pid; wait $pid || echo $?",
    )?;
    must!(killed.trim() == "137", "it was not killed: {killed}");
    let done = lab.nsctl("create other --routed --image debian-13")?;
    must!(done.ok() && done.stderr.contains("create slow --routed --image debian-13` was cut short"), "{}", done.all());
    must!(done.stdout.contains("other answers at 2001:db8:a:2::2"), "the undone lease is lost: {}", done.stdout);
    let names = lab.sh("ls /var/lib/machines /etc/nsctl/machines.d /etc/systemd/nspawn /etc/systemd/network")?;
    must!(!names.contains("slow"), "something is left:\n{names}");

    // Ctrl-C: undone before it ends.
    let status = lab.sh(
        "rm -f /tmp/out; touch /tmp/out; nsctl create slow --routed --image debian-13 > /tmp/out 2>&1 & pid=$!
         until grep -q 'wait until' /tmp/out; do :; done; kill -INT $pid; wait $pid || echo $?; cat /tmp/out",
    )?;
    must!(status.starts_with("1\n") && status.contains("interrupted"), "{status}");
    let names = lab.sh("ls /var/lib/machines /etc/nsctl/machines.d /etc/systemd/nspawn /etc/systemd/network")?;
    must!(!names.contains("slow"), "something is left:\n{names}");
    Ok(())
}
