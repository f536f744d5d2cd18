//! Without machined, networkd or the bus nothing is begun.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let create = "create web --routed --image debian-13";
    lab.sh("systemctl mask --now systemd-machined 2>/dev/null; systemctl stop systemd-machined")?;
    refused(lab, create, 1, "systemd-machined cannot be reached")?;
    refused(lab, "list", 1, "systemd-machined cannot be reached")?;
    lab.sh("systemctl unmask systemd-machined 2>/dev/null")?;
    lab.sh("systemctl stop systemd-networkd.socket systemd-networkd 2>/dev/null
         systemctl disable systemd-networkd 2>/dev/null; systemctl mask systemd-networkd 2>/dev/null
         systemctl daemon-reload")?;
    refused(lab, create, 1, "systemd-networkd cannot be reached")?;
    lab.sh(
        "systemctl unmask systemd-networkd 2>/dev/null; systemctl enable --now systemd-networkd 2>/dev/null",
    )?;
    lab.nsctl_ok(create)?;
    Ok(())
}
