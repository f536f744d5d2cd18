//! start, stop, restart, show and remove, and what they leave.

use anyhow::Result;

use super::{fingerprint, refused};
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let empty = fingerprint(lab)?;
    let said = lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    must!(said.contains("2001:db8:a:1::/64"), "{said}");
    must!(lab.machine("web")?["state"] == "stopped", "{}", lab.machine("web")?);
    let said = lab.nsctl_ok("start web")?;
    must!(said.contains("web answers at 2001:db8:a:1::2"), "{said}");
    must!(lab.nsctl_ok("start web")?.contains("running already"), "a second start");
    let leader = lab.sh("machinectl show web -p Leader")?;
    let said = lab.nsctl_ok("restart web")?;
    must!(said.contains("web answers at 2001:db8:a:1::2"), "{said}");
    must!(lab.sh("machinectl show web -p Leader")? != leader, "it was not restarted");
    let sheet = lab.nsctl_ok("show web")?;
    must!(sheet.contains("running") && sheet.contains("2001:db8:a:1::2"), "{sheet}");
    let json: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("show web --json")?)?;
    must!(json["network"]["address"] == "2001:db8:a:1::2", "{json}");
    // A machine that has only just begun to boot stops all the same, and soon.
    lab.sh("nsctl stop web; systemctl start systemd-nspawn@web; timeout 30 nsctl stop web")?;
    must!(lab.machine("web")?["state"] == "stopped", "{}", lab.machine("web")?);
    nspawn_killed(lab)?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    lab.nsctl_ok("remove -y web --keep-image")?;
    must!(lab.sh("ls /var/lib/machines")?.contains("web"), "--keep-image kept nothing");
    lab.sh("machinectl remove web")?;
    lab.nsctl_ok("remove -y db")?;
    let pool = lab.nsctl_ok("pool --json")?;
    let pool: serde_json::Value = serde_json::from_str(&pool)?;
    let resting = serde_json::json!(["2001:db8:a:1::/64", "2001:db8:a:2::/64"]);
    must!(pool["resting"] == resting, "{pool}");
    lab.sh("rm /var/lib/nsctl/state.toml")?;
    must!(fingerprint(lab)? == empty, "something is left:\n{empty}\n---\n{}", fingerprint(lab)?);
    for line in [
        "start nobody",
        "stop nobody",
        "restart nobody",
        "remove -y nobody",
        "show nobody",
        "attach nobody --routed",
    ] {
        refused(lab, line, 1, "there is no machine")?;
    }
    refused(lab, "remove -y debian-13", 1, "not one of nsctl's machines")
}

/// As the kernel ends it for want of memory: whatever it leaves, the machine starts again.
fn nspawn_killed(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("start web")?;
    lab.booted("web")?;
    lab.sh("systemctl kill --signal=KILL --kill-whom=main systemd-nspawn@web || \
            systemctl kill --signal=KILL --kill-who=main systemd-nspawn@web")?;
    lab.sh("until systemctl show -p ActiveState --value systemd-nspawn@web | grep -qxE 'failed|inactive'; do sleep 0.1; done")?;
    let said = lab.nsctl_ok("start web")?;
    must!(said.contains("web answers at"), "{said}");
    Ok(())
}
