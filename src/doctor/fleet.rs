//! The other hosts of a fleet: etcd answers, and has what this host has.

use super::{Facts, Finding, Trap};
use crate::visible::few;

/// What does not agree.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let differences = match &facts.fleet {
        None => return Vec::new(),
        Some(Err(why)) => {
            let causes = "what is there goes on; nothing new can be had, and nobody hears of what is gone";
            let why = why.strip_prefix("the fleet's etcd ").unwrap_or(why).to_owned();
            return vec![
                Finding::warning(Trap::FleetSilent, "the fleet's etcd", why, causes)
                    .fix("nsctl fleet status"),
            ];
        }
        Some(Ok(differences)) => differences,
    };
    let mut findings = Vec::new();
    for conflict in &differences.conflicts {
        let causes = "two machines have one name or one prefix: packets for the one reach the other";
        let finding = Finding::error(
            Trap::FleetDiffers,
            "the fleet",
            format!("and this host have the same: {conflict}"),
            causes,
        );
        findings.push(finding.fix("nsctl remove or nsctl rename one of the two"));
    }
    let (missing, left) = (&differences.missing, &differences.left);
    if !missing.is_empty() || !left.is_empty() {
        let parts = [("does not know", missing), ("still has", left)];
        let parts = parts.iter().filter(|(_, list)| !list.is_empty());
        let what =
            parts.map(|(verb, list)| format!("{verb} {}", few(*list))).collect::<Vec<_>>().join(", and ");
        let causes = "what it does not know it may give to another host; what it still has nobody gets";
        findings.push(
            Finding::error(Trap::FleetDiffers, "the fleet", what, causes)
                .fix_safely("nsctl fleet check --fix"),
        );
    }
    if !differences.silent.is_empty() {
        let what = format!(
            "has forgotten something, and {} did not say what they have since",
            few(&differences.silent)
        );
        let causes = "nothing is leased until they do";
        findings.push(
            Finding::warning(Trap::FleetDiffers, "the fleet", what, causes)
                .fix("nsctl fleet check --fix, on each of them"),
        );
    }
    findings
}
