//! A file of ours that somebody edited is reported with its diff, and left alone.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.sh("echo 'LLDP=yes' >> /etc/systemd/network/05-nsctl-ve-web.network")?;
    for line in ["attach web --bridge vbr0", "apply --yes", "remove web"] {
        refused(lab, line, 1, "was edited by hand")?;
    }
    let done = lab.nsctl("apply --yes")?;
    must!(done.stderr.contains("-LLDP=yes"), "no diff:\n{}", done.stderr);
    // A file of somebody else in the way is left alone too.
    lab.sh("mkdir -p /etc/sysctl.d; printf '[Match]\\nName=x\\n' > /etc/systemd/network/05-nsctl-ve-db.network")?;
    refused(lab, "create db --routed --image debian-13", 1, "not written by nsctl")?;
    lab.sh("rm /etc/systemd/network/05-nsctl-ve-web.network /etc/systemd/network/05-nsctl-ve-db.network")?;
    lab.nsctl_ok("apply --yes")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    Ok(())
}
