//! What trees take of the disk, and what of it nothing needs.

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, tiny_guest};
use crate::must;

const MIB: u64 = 1 << 20;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.booted("web")?;
    let (own, shared) = taken(lab)?;
    must!(shared > 50 * MIB, "it shares {shared} with its image");
    let write =
        "dd if=/dev/urandom of=/root/big bs=1M count=40 2> /dev/null; truncate -s 10G /root/holes; sync";
    must!(lab.run(&["nsctl", "shell", "web", "--", "sh", "-c", write])?.ok(), "it cannot write");
    let (more, _) = taken(lab)?;
    must!((own + 35 * MIB..own + 60 * MIB).contains(&more), "{own} and 40 MiB are {more}");
    // What a snapshot has as well is nobody's own.
    lab.nsctl_ok("snapshot web now")?;
    let (less, both) = taken(lab)?;
    must!(less < more - 30 * MIB && both > shared + 30 * MIB, "{less}, {both}");
    must!(lab.nsctl_ok("list -o name,disk")?.contains("shared"), "{}", lab.nsctl_ok("list -o name,disk")?);
    let listed = lab.list()?;
    must!(
        !listed.to_string().contains("\"disk\":{\"own\""),
        "who did not ask for it waited for it: {listed}"
    );
    let images: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("image list --json")?)?;
    let image = images.as_array().into_iter().flatten().find(|image| image["name"] == "debian-13").cloned();
    must!(image.is_some_and(|image| image["disk"]["shared"].as_u64() > Some(50 * MIB)), "{images}");
    prunes(lab)
}

/// What its tree takes for itself, and shares.
fn taken(lab: &Lab) -> Result<(u64, u64)> {
    let listed: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("list web -o name,disk --json")?)?;
    let part = |word: &str| listed[0]["disk"][word].as_u64().unwrap_or_default();
    Ok((part("own"), part("shared")))
}

fn prunes(lab: &Lab) -> Result<()> {
    // Nobody's: never booted, and named by no definition.
    lab.sh("cp -a --reflink=auto /var/lib/machines/debian-13 /var/lib/machines/spare; rm -f /var/lib/machines/spare/etc/machine-id")?;
    // Somebody's: booted once; with settings of its own; running; of no systemd, so that nobody can tell.
    lab.sh("cd /var/lib/machines; for name in booted written; do cp -a --reflink=auto spare $name; done
            cat /proc/sys/kernel/random/uuid | tr -d - > booted/etc/machine-id
            printf '[Network]\\nVirtualEthernet=yes\\n' > /etc/systemd/nspawn/written.nspawn")?;
    tiny_guest(lab, "tiny")?;
    let dry = lab.nsctl_ok("prune --dry-run")?;
    must!(dry.contains("spare"), "{dry}");
    for kept in ["web", "booted", "written", "tiny", "debian-13", "now"] {
        must!(!dry.contains(kept), "{kept} would go:\n{dry}");
    }
    refused(lab, "prune", 1, "--yes")?;
    lab.nsctl_ok("prune --yes")?;
    let trees = lab.sh("ls -A /var/lib/machines | grep -v lck")?;
    for kept in ["web", "booted", "written", "tiny", "debian-13", ".web@now"] {
        must!(trees.lines().any(|name| name == kept), "{kept} is gone:\n{trees}");
    }
    must!(!trees.lines().any(|name| name == "spare"), "spare is there:\n{trees}");
    // A snapshot whose machine is gone.
    lab.nsctl_ok("remove web --keep-image --yes")?;
    must!(lab.nsctl_ok("snapshot list")?.contains("now"), "it went with its machine");
    let gone = lab.nsctl_ok("prune --yes")?;
    must!(gone.contains("now of web"), "{gone}");
    let trees = lab.sh("ls -A /var/lib/machines")?;
    must!(!trees.contains(".web@now") && trees.lines().any(|name| name == "web"), "{trees}");
    Ok(())
}
