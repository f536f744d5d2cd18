//! What `init --tunnel he` writes is what networkd reads: no key unknown, no
//! value refused, and the MTU on both ends of a veth. The tunnel itself is tried
//! in an emulated machine (`make tunnel`).

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

const INIT: &str =
    "--tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48";

pub fn run(lab: &mut Lab) -> Result<()> {
    refused(lab, "init --tunnel he --server 192.0.2.1 --pool 2001:db8:a::/48", 2, "--client-address")?;
    refused(
        lab,
        "init --tunnel he --server 2001:db8::1 --client-address 2001:db8::2/64 --pool 2001:db8:a::/48",
        2,
        "--server",
    )?;
    lab.sh("mkdir -p /root/host/etc/systemd /root/host/var/lib/machines/web")?;
    lab.nsctl_ok(&format!("--root /root/host init {INIT} --local 192.0.2.2"))?;
    lab.nsctl_ok("--root /root/host create web --routed")?;
    let netdev = lab.sh("cat /root/host/etc/systemd/network/05-nsctl-tunnel-he0.netdev")?;
    for line in
        ["Kind=sit", "TTL=255", "Remote=192.0.2.1", "Local=192.0.2.2", "MTUBytes=1480", "Independent=yes"]
    {
        must!(netdev.contains(line), "no {line}:\n{netdev}");
    }
    let ends = lab.sh("cat /root/host/etc/systemd/network/05-nsctl-ve-web.network /root/host/var/lib/nsctl/guest/web.network")?;
    must!(ends.matches("MTUBytes=1480").count() == 2, "the veth's ends:\n{ends}");
    // networkd tells of each key that it does not know, and of each value that it does not take.
    lab.sh("cp /root/host/etc/systemd/network/05-nsctl-tunnel-* /etc/systemd/network/; networkctl reload; journalctl --sync")?;
    let journal = lab.sh("journalctl -b -u systemd-networkd --no-pager | grep 05-nsctl-tunnel || true")?;
    must!(
        !journal.contains(".netdev:") && !journal.contains(".network:"),
        "networkd does not like a file:\n{journal}"
    );
    // This kernel has no 6in4: what was begun is undone.
    lab.sh(
        "rm /etc/systemd/network/05-nsctl-tunnel-*; networkctl reload; ip link del he0 2>/dev/null || true",
    )?;
    if !lab.run(&["sh", "-c", "ip link add sit9 type sit remote 192.0.2.1"])?.ok() {
        refused(lab, &format!("init {INIT}"), 1, "wait for the tunnel he0")?;
    }
    Ok(())
}
