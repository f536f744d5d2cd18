//! networkd refuses to reload, and machined goes away, in the middle of a verb:
//! what was done is undone, or the next nsctl fixes it.

use std::time::Duration;

use anyhow::Result;

use super::fingerprint;
use crate::lab::{Lab, until};
use crate::must;

const DENY: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy context="mandatory"><deny send_destination="org.freedesktop.network1" send_interface="org.freedesktop.network1.Manager" send_member="Reload"/></policy></busconfig>"#;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create keeper --routed --image debian-13")?;
    networkd_refuses(lab)?;
    machined_goes_away(lab)
}

fn networkd_refuses(lab: &Lab) -> Result<()> {
    let before = fingerprint(lab)?;
    lab.sh(&format!("printf '%s' '{DENY}' > /etc/dbus-1/system.d/deny.conf; systemctl reload dbus"))?;
    let said = lab.nsctl("create web --routed --image debian-13")?;
    must!(said.status == 1 && said.stderr.contains("networkd does not reload"), "{}", said.all());
    must!(said.stderr.contains("not undone: cannot reload networkd"), "{}", said.all());
    must!(
        lab.nsctl("list")?.stderr.contains("is not fixed yet: cannot reload networkd"),
        "{}",
        lab.nsctl("list")?.all()
    );
    lab.sh("rm /etc/dbus-1/system.d/deny.conf; systemctl reload dbus")?;
    let next = lab.nsctl("init --pool 2001:db8:a::/48 --uplink wan0")?;
    must!(next.ok() && next.stderr.contains("is undone at last"), "{}", next.all());
    must!(fingerprint(lab)? == before, "something is left:\n{before}\n---\n{}", fingerprint(lab)?);
    lab.sh("! ls /var/lib/nsctl/journal/*.json 2> /dev/null")?;
    Ok(())
}

/// nsctl stops itself at each point in turn; machined is masked and killed, and
/// nsctl goes on.
fn machined_goes_away(lab: &Lab) -> Result<()> {
    let mut failed = 0;
    for point in (1..60).step_by(4) {
        let before = fingerprint(lab)?;
        lab.sh(&format!(
            "rm -f /tmp/said; systemd-run -q --unit=victim -p Type=exec -p StandardError=file:/tmp/said -E NSCTL_STOP_AT={point} nsctl-faults create web --routed --image debian-13"
        ))?;
        let stopped = || {
            let state = lab.sh("ps -o stat= -p $(systemctl show victim -p MainPID --value) || echo gone")?;
            Ok(state.starts_with('T') || state.contains("gone"))
        };
        until(Duration::from_secs(60), "nsctl stops at the point", stopped)?;
        lab.sh("systemctl mask --runtime systemd-machined dbus-org.freedesktop.machine1 2>/dev/null; systemctl kill -s KILL systemd-machined || true
                until systemctl show systemd-machined -p ActiveState --value | grep -q 'inactive\\|failed'; do :; done")?;
        lab.sh("systemctl kill -s CONT victim 2>/dev/null || true")?;
        let over = || Ok(!lab.run(&["systemctl", "-q", "is-active", "victim"])?.ok());
        until(Duration::from_secs(100), "nsctl ends", over)?;
        let ok = lab.sh("systemctl show victim -p Result --value")?.trim() == "success";
        let said = lab.sh("cat /tmp/said")?;
        lab.sh("systemctl reset-failed victim 2>/dev/null || true; systemctl unmask --runtime systemd-machined dbus-org.freedesktop.machine1 2>/dev/null; systemctl reset-failed systemd-machined; systemctl start systemd-machined")?;
        let next = lab.nsctl("init --pool 2001:db8:a::/48 --uplink wan0")?;
        must!(next.ok(), "machined away at {point}:\n{said}\nnext:\n{}", next.all());
        if ok {
            lab.nsctl_ok("remove -y web")?;
            lab.sh("rm -f /var/lib/nsctl/state.toml")?;
        } else {
            failed += 1;
            must!(said.contains("error:"), "machined away at {point}: {said}");
            must!(
                fingerprint(lab)? == before,
                "machined away at {point}:\n{said}\n{before}\n---\n{}",
                fingerprint(lab)?
            );
        }
    }
    must!(failed > 2, "machined was missed {failed} times only");
    Ok(())
}
