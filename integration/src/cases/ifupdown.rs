//! A guest whose network is ifupdown's: it reads no file of networkd's, and is planned, published
//! and found at the address that it gives itself.

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

/// A tree of Debian's with ifupdown in networkd's place, as it is on many servers.
const IMAGE: &str = "machinectl clone debian-13 old-image; cd /var/lib/machines/old-image
    dpkg -L ifupdown | while read -r path; do test -d \"$path\" || echo \"${path#/}\"; done > /root/list
    tar -C / -cf - -T /root/list | tar -C . --keep-directory-symlink -xf -
    mkdir -p etc/network/if-pre-up.d etc/network/if-post-down.d etc/systemd/system/multi-user.target.wants
    printf 'auto lo\\niface lo inet loopback\\nauto host0\\niface host0 inet6 auto\\n' > etc/network/interfaces
    find etc/systemd/system -name 'systemd-networkd*' -delete
    ln -s /dev/null etc/systemd/system/systemd-networkd.service
    ln -sf /usr/lib/systemd/system/networking.service etc/systemd/system/multi-user.target.wants/networking.service";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.install("ifupdown")?;
    // It would take the host's own network over.
    lab.sh("systemctl mask --now networking.service 2> /dev/null; rm -f /etc/network/interfaces")?;
    lab.sh(IMAGE)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let said = lab.nsctl_ok("create old --routed --image old-image")?;
    let machine = lab.machine("old")?;
    let address = machine["addresses"][0].as_str().unwrap_or_default().to_owned();
    must!(address.starts_with("2001:db8:a:1:") && !address.ends_with("::2"), "{machine}");
    must!(said.contains(&format!("old answers at {address} (")), "{address}: {said}");
    must!(
        machine["network"]["address"] == *address && machine["drift"] == serde_json::json!([]),
        "{machine}"
    );
    must!(lab.sh("getent ahostsv6 old")?.starts_with(&address), "{}", lab.sh("cat /etc/hosts")?);
    lab.booted("old")?;
    let runs = lab.sh(
        "nsctl shell old sh -c 'cat /run/network/ifstate; systemctl is-active systemd-networkd || true'",
    )?;
    must!(runs.contains("host0=host0") && runs.contains("inactive"), "another than ifupdown: {runs}");
    let ping = lab.router.run(&["ping", "-6", "-c2", "-i0.2", "-W5", &address])?;
    must!(ping.ok(), "{}", ping.all());
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.sh("systemctl restart systemd-nspawn@old")?;
    let there = || Ok(lab.machine("old")?["addresses"][0] == *address);
    until(std::time::Duration::from_secs(20), "its address again", there)?;
    Ok(())
}
