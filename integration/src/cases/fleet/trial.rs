//! A trial without TLS: etcd on a socket that root of this host alone may use.

use std::time::Duration;

use anyhow::Result;

use super::super::refused;
use crate::lab::{Lab, until};
use crate::must;

const JOIN: &str = "fleet join --etcd unix:///run/trial/etcd:0";

pub fn on_a_socket(lab: &Lab) -> Result<()> {
    let names = lab.sh("ls /etc/nsctl/machines.d | sed 's/.toml$//'")?;
    let names: Vec<&str> = names.lines().collect();
    lab.sh("sed -i '/^\\[fleet\\]/,$d' /etc/nsctl/nsctl.toml; rm /var/lib/nsctl/fleet.toml")?;
    lab.nsctl_ok(&format!("remove {} --yes", names.join(" ")))?;
    refused(lab, JOIN, 1, "cannot be asked")?;
    lab.sh("mkdir -m 700 /run/trial; systemd-run -q --unit=trial --property=WorkingDirectory=/run/trial etcd --data-dir /root/trial \
         --listen-client-urls unix://etcd:0 --advertise-client-urls unix://etcd:0 --listen-peer-urls unix://peer:0 \
         --initial-advertise-peer-urls unix://peer:0 --initial-cluster default=unix://peer:0")?;
    until(Duration::from_secs(20), "etcd's socket", || {
        Ok(lab.run(&["test", "-S", "/run/trial/etcd:0"])?.ok())
    })?;
    until(Duration::from_secs(20), "etcd answers", || Ok(lab.nsctl(JOIN)?.ok()))?;
    lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    let listed = lab.nsctl_ok("fleet list")?;
    must!(listed.contains("web"), "{listed}");
    lab.nsctl_ok("remove web --yes")?;
    lab.nsctl_ok("deinit --yes").map(drop)
}
