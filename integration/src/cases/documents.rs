//! What programs read of a host that runs is as docs/schema.json says.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::must;

const SCHEMA: &str = include_str!("../../../docs/schema.json");

pub fn run(lab: &mut Lab) -> Result<()> {
    for (line, name) in [
        ("doctor", "doctor"),
        ("init --pool 2001:db8:a::/48 --uplink wan0", "change"),
        ("create web --routed --image debian-13 --open tcp/22", "change"),
        ("bridge create vbr0 --uplink enp6s0 --yes", "change"),
        ("create lan --bridge vbr0 --image debian-13", "change"),
        ("list", "list"),
        ("stats", "stats"),
        ("top -n 1 -d 0.2", "top"),
        ("show web", "machine"),
        ("show lan", "machine"),
        ("image list", "images"),
        ("set web check.tcp=22 check.within=1 restart=on-failure after=[\"lan\"]", "change"),
        ("snapshot web first", "change"),
        ("snapshot list", "snapshots"),
        ("snapshot show web first", "snapshot"),
        ("rollback web first --yes", "change"),
        ("list -o name,disk,check", "list"),
        ("prune --dry-run", "prunable"),
        ("bridge list", "bridges"),
        ("plan", "plan"),
        ("doctor", "doctor"),
        ("doctor --online 2001:db8:ffff::1", "online"),
        ("pool", "pool"),
        ("restart web", "change"),
        ("shell nobody true", "failure"),
        ("start nobody", "failure"),
        ("stop web lan", "change"),
    ] {
        let done = lab.nsctl(&format!("--json {line}"))?;
        let document: Value =
            serde_json::from_str(&done.stdout).with_context(|| format!("{line}: {}", done.all()))?;
        fits(name, &document).with_context(|| format!("{line}:\n{}", done.stdout))?;
    }
    for line in lab.nsctl_ok("--json events")?.lines() {
        fits("event", &serde_json::from_str(line)?)?;
    }
    // Something is wrong now, and it is told so.
    lab.sh("sysctl -q net.ipv6.conf.all.forwarding=0")?;
    let findings: Value = serde_json::from_str(&lab.nsctl("doctor --json")?.stdout)?;
    must!(findings.as_array().is_some_and(|all| !all.is_empty()), "{findings}");
    fits("doctor", &findings)
}

/// Whether a document is what the schema calls so.
pub(super) fn fits(name: &str, document: &Value) -> Result<()> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let wanted = json!({ "$ref": format!("#/$defs/{name}"), "$defs": schema["$defs"] });
    let validator = jsonschema::validator_for(&wanted)?;
    let wrong: Vec<String> = validator.iter_errors(document).map(|error| error.to_string()).collect();
    must!(wrong.is_empty(), "is no {name}: {wrong:?}");
    Ok(())
}
