//! A file of ours that somebody edited is reported with its diff, and left alone; it holds up
//! no other machine.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.sh("echo 'LLDP=yes' >> /etc/systemd/network/05-nsctl-ve-web.network")?;
    for line in ["attach web --bridge vbr0", "apply --yes"] {
        refused(lab, line, 1, "was edited by hand")?;
    }
    let done = lab.nsctl("apply --yes")?;
    must!(done.stderr.contains("-LLDP=yes"), "no diff:\n{}", done.stderr);
    // A file of somebody else in the way is left alone too.
    lab.sh(
        "mkdir -p /etc/sysctl.d; printf '[Match]\\nName=x\\n' > /etc/systemd/network/05-nsctl-ve-db.network",
    )?;
    refused(lab, "create db --routed --image debian-13", 1, "not written by nsctl")?;
    lab.sh("rm /etc/systemd/network/05-nsctl-ve-db.network")?;
    // It holds up no other machine, and `remove` takes it along.
    lab.nsctl_ok("create db --routed --image debian-13")?;
    lab.sh("cp /etc/nsctl/machines.d/db.toml /etc/nsctl/machines.d/new.toml")?;
    let done = lab.nsctl("apply --yes")?;
    must!(done.status == 1 && done.stdout.contains("new answers"), "{}", done.all());
    let done = lab.nsctl("plan")?;
    must!(
        done.status == 1 && done.stdout == "nothing to do\n" && done.stderr.contains("was edited by hand"),
        "{}",
        done.all()
    );
    let done = lab.nsctl("remove -y web")?;
    must!(done.ok() && done.stderr.contains("was edited by hand, and goes"), "{}", done.all());
    must!(!lab.sh("ls -R /etc/systemd /var/lib/nsctl")?.contains("web"), "something is left");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}
