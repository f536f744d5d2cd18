//! Planned, configured and live are told apart.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    // Its networkd gives it its address, too, as soon as it has begun.
    lab.booted("web")?;
    must!(lab.machine("web")?["drift"] == serde_json::json!([]), "{}", lab.machine("web")?);

    lab.sh("nsenter -t $(machinectl show web -p Leader | cut -d= -f2) -n ip addr del 2001:db8:a:1::2/64 dev host0")?;
    drifts(lab, "2001:db8:a:1::2 is planned, and not there")?;
    lab.sh("echo LLDP=yes >> /etc/systemd/network/05-nsctl-ve-web.network")?;
    drifts(lab, "was edited by hand")?;
    lab.sh("rm /etc/systemd/network/05-nsctl-ve-web.network")?;
    drifts(lab, "05-nsctl-ve-web.network is missing")?;
    lab.nsctl_ok("restart web")?;
    lab.nsctl_ok("apply --yes")?;
    lab.sh("sed -i 's/^mode.*/&\\ntoken = \"::7\"/' /etc/nsctl/machines.d/web.toml")?;
    drifts(lab, "is not yet what the definition says")?;
    must!(
        lab.nsctl_ok("apply --yes")?.contains("web answers at 2001:db8:a:1::7"),
        "apply does not repair it"
    );

    lab.nsctl_ok("stop web")?;
    lab.sh("systemd-run -q systemd-nspawn -q --boot -M web --network-veth -U --settings=override
         until machinectl show web -p State 2>/dev/null | grep -q running; do :; done")?;
    drifts(lab, "somebody started it otherwise")?;
    lab.sh("machinectl terminate web")?;
    Ok(())
}

fn drifts(lab: &Lab, says: &str) -> Result<()> {
    let machine = lab.machine("web")?;
    must!(machine["drift"].to_string().contains(says), "list --json does not say '{says}': {machine}");
    let list = lab.nsctl("list")?;
    must!(list.stderr.contains(says), "list does not say '{says}':\n{}", list.all());
    let show = lab.nsctl_ok("show web")?;
    must!(show.contains(says), "show does not say '{says}':\n{show}");
    Ok(())
}
