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
    lab.sh("! ls /var/lib/nsctl/journal/*.json 2> /dev/null")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // A guest that takes no address: its answer is waited for in vain.
    lab.sh("machinectl clone debian-13 deaf && ln -sf /dev/null /var/lib/machines/deaf/etc/systemd/system/systemd-networkd.service")?;
    // Killed when all was done, it only waited for the answer: the machine, in
    // use perhaps, is kept, and the next run says so.
    let killed = lab.sh(
        "rm -f /tmp/out; touch /tmp/out; nsctl create slow --routed --image deaf > /tmp/out 2>&1 & pid=$!
         until grep -q 'wait until' /tmp/out; do :; done; kill -9 $pid; wait $pid || echo $?",
    )?;
    must!(killed.trim() == "137", "it was not killed: {killed}");
    let done = lab.nsctl("create other --routed --image debian-13")?;
    must!(
        done.ok()
            && done.stderr.contains("create slow --routed --image deaf` was cut short when all was done"),
        "{}",
        done.all()
    );
    must!(done.stdout.contains("other answers at 2001:db8:a:3::2"), "{}", done.all());
    must!(lab.machine("slow")?["state"] == "running", "{}", lab.machine("slow")?);
    lab.nsctl_ok("remove -y slow")?;

    // A tree that somebody else made under the name of one that was never begun stays.
    lab.sh("NSCTL_KILL_AT=8 nsctl-faults create slow --routed --image debian-13 > /dev/null 2>&1 || true
            ls /var/lib/nsctl/journal/*.json > /dev/null; ! test -e /var/lib/machines/slow || exit 1; machinectl clone debian-13 slow")?;
    let done = lab.nsctl("restart other")?;
    must!(done.stderr.contains("was cut short"), "{}", done.all());
    lab.sh("test -e /var/lib/machines/slow/etc/os-release; machinectl remove slow")?;

    // Ctrl-C: undone before it ends.
    let status = lab.sh(
        "rm -f /tmp/out; touch /tmp/out; nsctl create slow --routed --image deaf > /tmp/out 2>&1 & pid=$!
         until grep -q 'wait until' /tmp/out; do :; done; kill -INT $pid; wait $pid || echo $?; cat /tmp/out",
    )?;
    must!(status.starts_with("1\n") && status.contains("interrupted"), "{status}");
    let names =
        lab.sh("ls /var/lib/machines /etc/nsctl/machines.d /etc/systemd/nspawn /etc/systemd/network")?;
    must!(!names.contains("slow"), "something is left:\n{names}");

    // A hand-written file survives a create that fails, and a remove.
    lab.sh("printf '[Files]\\nBind=/nonexistent\\n' > /etc/systemd/nspawn/mine.nspawn")?;
    refused(lab, "create mine --routed --image debian-13", 1, "/nonexistent is not there")?;
    lab.sh("printf '[Files]\\nBind=/srv\\n' > /etc/systemd/nspawn/mine.nspawn")?;
    refused(lab, "create mine --routed --image broken", 1, "nothing is left over")?;
    lab.sh("printf '[Files]\\nBind=/srv\\n' > /etc/systemd/nspawn/mine.nspawn; chmod 600 /etc/systemd/nspawn/mine.nspawn")?;
    lab.nsctl_ok("create mine --routed --image debian-13")?;
    let modes = lab.sh("stat -c %a /etc/systemd/nspawn/mine.nspawn /etc/systemd/nspawn/mine.nspawn.before-nsctl /etc/nsctl/machines.d/mine.toml")?;
    must!(modes == "600\n600\n600\n", "a private file was made public: {modes}");
    lab.nsctl_ok("remove -y mine")?;
    must!(
        lab.sh("cat /etc/systemd/nspawn/mine.nspawn")? == "[Files]\nBind=/srv\n",
        "the hand-written file is gone"
    );
    must!(!lab.sh("ls /var/lib/machines")?.contains("mine"), "the tree is still there");

    // Ctrl-C during an import: importd ends it, and nothing appears later.
    lab.sh("tar -C /var/lib/machines/debian-13 -cf /root/tree.tar . && for k in 1 2 3; do tar -C /usr -rf /root/tree.tar lib; done")?;
    let out = lab.sh(
        "nsctl create imported --routed --image /root/tree.tar > /tmp/out 2>&1 & pid=$!
         until ls -A /var/lib/machines | grep -q '^.#imported[0-9a-f]'; do kill -0 $pid; done; kill -INT $pid; wait $pid || echo $?
         ls -A /var/lib/machines | grep -v '[.]lck$'; machinectl list-transfers --no-legend",
    )?;
    must!(out.starts_with("1\n") && !out.contains("imported") && !out.contains(".#"), "{out}");
    Ok(())
}
