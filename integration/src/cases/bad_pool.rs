//! Broken files: state that is damaged or newer is never overwritten; an
//! unknown key is shown with its line and a caret.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    of_the_router(lab)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    for (text, says) in [
        ("garbage", "is damaged"),
        ("version = 99\\nmood = 3\\n", "newer than this nsctl"),
        ("version = 1\\n[leases]\\nweb = \"2001:db8:a:1::/64\"\\nother = \"2001:db8:a:1::/64\"\\n", "twice"),
        ("", "is damaged"),
    ] {
        lab.sh(&format!(
            "cp -n /var/lib/nsctl/state.toml /root/state.toml; printf '{text}' > /var/lib/nsctl/state.toml"
        ))?;
        for line in ["create db --routed --image debian-13", "remove -y web", "list", "apply --yes", "pool"] {
            refused(lab, line, 1, says)?;
        }
    }
    lab.sh("cp /root/state.toml /var/lib/nsctl/state.toml")?;

    lab.sh("cp /etc/nsctl/machines.d/web.toml /root; echo 'colour = \"red\"' > /etc/nsctl/machines.d/web.toml; cat /root/web.toml >> /etc/nsctl/machines.d/web.toml")?;
    refused(lab, "open web tcp/1", 1, "web.toml:1:1")?;
    let done = lab.nsctl("plan")?;
    must!(
        done.stderr.contains("1 | colour = \"red\"") && done.stderr.contains("  | ^^^^^^"),
        "{}",
        done.stderr
    );
    must!(lab.nsctl("list")?.stdout.contains("web"), "a broken definition hides the list");
    lab.sh("cp /root/web.toml /etc/nsctl/machines.d/web.toml")?;
    lab.sh("echo 'pol = 3' >> /etc/nsctl/nsctl.toml")?;
    refused(lab, "apply --yes", 1, "nsctl.toml:")?;
    lab.sh("sed -i '/^pol = /d' /etc/nsctl/nsctl.toml")?;
    pool_goes(lab)
}

/// This host would take the address of its own gateway.
fn of_the_router(lab: &Lab) -> Result<()> {
    // networkd takes what is not its own off an uplink that it is still setting up.
    lab.sh("timeout 20 sh -c 'until networkctl status wan0 | grep -q \"(configured)\"; do sleep 0.1; done'
            ip -6 addr add 2001:db8:a::9/64 dev wan0 nodad; ip -6 route add default via 2001:db8:a::1 dev wan0 metric 10")?;
    refused(
        lab,
        "init --pool 2001:db8:a::/48 --uplink wan0",
        1,
        "holds 2001:db8:a::1, which is this host's router",
    )?;
    lab.sh("ip -6 route del default via 2001:db8:a::1 dev wan0 metric 10; ip -6 addr del 2001:db8:a::9/64 dev wan0").map(drop)
}

/// A host's file that loses its pool, or goes, takes nothing from under a machine that is routed by it.
fn pool_goes(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("start web")?;
    lab.sh("cp /etc/nsctl/nsctl.toml /root")?;
    for gone in ["sed -i '/^pool/d' /etc/nsctl/nsctl.toml", "rm /etc/nsctl/nsctl.toml"] {
        // One that has only just begun to boot does not hear that it should stop.
        lab.booted("web")?;
        lab.sh(gone)?;
        refused(lab, "apply --yes", 1, "names no pool any more")?;
        lab.sh("nft list chain inet nsctl to-web; systemctl restart systemd-nspawn@web")?;
        lab.sh("cp /root/nsctl.toml /etc/nsctl")?;
    }
    must!(lab.nsctl_ok("plan")?.ends_with("nothing to do\n"), "{}", lab.nsctl_ok("plan")?);
    // With the machine all of it may go.
    lab.sh("rm /etc/nsctl/nsctl.toml /etc/nsctl/machines.d/web.toml")?;
    lab.nsctl_ok("apply --yes")?;
    let left =
        lab.sh(
        "nft list tables; find /var/lib/nsctl/firewall* /etc/systemd/nspawn /etc/systemd/network -name '*nsctl*' -o -name 'web*' -o -name '*.nft'",
    )?;
    must!(left.trim().is_empty(), "something is left:\n{left}");
    Ok(())
}
