//! The shipped units pass `systemd-analyze verify`, and do what they say at boot
//! and at an edit.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

const APPLY: &str = include_str!("../../../units/nsctl-apply.service");
const PATH: &str = include_str!("../../../units/nsctl-apply.path");

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh(&format!(
        "cp /usr/local/bin/nsctl /usr/bin/nsctl
         printf '%s' '{APPLY}' > /etc/systemd/system/nsctl-apply.service
         printf '%s' '{PATH}' > /etc/systemd/system/nsctl-apply.path
         systemctl daemon-reload"
    ))?;
    let said = lab.run(&["systemd-analyze", "verify", "nsctl-apply.service", "nsctl-apply.path"])?;
    must!(said.ok() && said.all().is_empty(), "{}", said.all());
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(
        "mkdir -p /etc/nsctl/machines.d; systemctl -q enable nsctl-apply.service; systemctl -q enable --now nsctl-apply.path
         machinectl clone debian-13 web
         printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/web.toml",
    )?;
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:a:1::2"])?.ok());
    until(Duration::from_secs(30), "an edit is applied at once", answers)?;

    lab.sh("systemctl stop nsctl-apply.path; rm /etc/systemd/network/05-nsctl-ve-web.network; sync")?;
    lab.power_off()?;
    lab.power_on()?;
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", "2001:db8:a:1::2"])?.ok());
    until(Duration::from_secs(30), "what was missing is there after a boot", answers)
}
