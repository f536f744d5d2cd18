//! What a plan does to units, links and rules, and why.

use std::path::Path;

use serde::Serialize;

use super::files::Change;
use super::{Plan, Step, Wanted, flushed};
use crate::emit::Owner;
use crate::name::kernel_name;
use crate::nftables::table::Difference;
use crate::observed::Observed;

/// The firewall, where something happens to it.
const TABLE_OBJECT: &str = "table inet nsctl";

/// What happens to one thing of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Effect {
    /// "unit web", "link ve-web", "table inet nsctl".
    pub object: String,
    pub what: &'static str,
    pub why: String,
}

impl Effect {
    fn new(object: impl Into<String>, what: &'static str, why: impl Into<String>) -> Effect {
        Effect { object: object.into(), what, why: why.into() }
    }

    /// In a sentence.
    pub fn describe(&self) -> String {
        let Effect { object, what, why } = self;
        format!("{object} {what}: {why}")
    }
}

/// Links that networkd configures anew, as their files change, and rules that are loaded.
pub fn of_files(changes: &[Change]) -> Vec<Effect> {
    let mut effects: Vec<Effect> = changes.iter().filter_map(of_file).collect();
    effects.sort();
    effects.dedup_by(|a, b| a.object == b.object);
    effects
}

fn of_file(change: &Change) -> Option<Effect> {
    let Change { owner, path, new, .. } = change;
    let file = path.file_name()?.to_str()?;
    let why = format!("{} {}", path.display(), if new.is_some() { "changes" } else { "goes" });
    let link = |name: &str| format!("link {name}");
    let what = if new.is_some() { "is configured anew" } else { "is left to other files" };
    if path.starts_with("/etc/systemd/network") {
        return match owner {
            Owner::Machine(name) => {
                let bridged = new.as_deref().is_some_and(|text| text.contains("Name=vb-"));
                let name = if bridged { name.bridged_link() } else { name.routed_link() };
                Some(Effect::new(link(&kernel_name(&name)), what, why))
            }
            Owner::Bridge(name) if file.ends_with(".netdev") => {
                let what = if new.is_some() { "is made or changed" } else { "is deleted" };
                Some(Effect::new(link(name.as_str()), what, why))
            }
            Owner::Bridge(name) => Some(Effect::new(link(port(file).unwrap_or(name.as_str())), what, why)),
            _ => Some(Effect::new(link(port(file).unwrap_or("lo")), what, why)),
        };
    }
    let firewall = file.ends_with(".nft");
    firewall.then(|| Effect::new(TABLE_OBJECT, "is loaded anew", why))
}

/// The table, where no file of it changes and it is not what they say.
pub fn of_firewall(wanted: &Wanted, observed: &Observed, files: &[Effect]) -> Option<Effect> {
    let told = files.iter().any(|effect| effect.object == TABLE_OBJECT);
    let drift = observed.nftables.as_ref().map(|nftables| &nftables.drift[..]).unwrap_or_default();
    let due = !told && flushed(wanted, observed) && !drift.is_empty();
    due.then(|| Effect::new(TABLE_OBJECT, "is loaded anew", few(drift)))
}

/// The first of them, and how many more there are.
pub fn few(drift: &[Difference]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = drift.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = drift.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

/// The interface of a port's file.
fn port(file: &str) -> Option<&str> {
    file.strip_prefix("05-nsctl-port-")?.strip_suffix(".network")
}

/// What becomes of units, as the steps say; `reasons` tells why machines restart.
pub fn of_units(plan: &Plan, reasons: &[(String, String)]) -> Vec<Effect> {
    let reason = |unit: &str| reasons.iter().find(|(name, _)| name == unit).map(|(_, why)| why.clone());
    let mut effects = Vec::new();
    for step in &plan.steps {
        let (machines, what, why) = match step {
            Step::Stop { machines } => (machines, "is stopped", "no definition wants it any more"),
            Step::Start { machines, .. } => (machines, "is started", "it is to run, and does not"),
            Step::Enable { machines } => {
                (machines, "starts with the host from now on", "its definition says so")
            }
            Step::Disable { machines } => {
                (machines, "starts with the host no longer", "its definition says so, or is gone")
            }
            _ => continue,
        };
        for unit in machines.iter().map(|name| name.unit()) {
            let effect = match (step, reason(&unit)) {
                // A restart is told once.
                (Step::Stop { .. }, Some(_)) => continue,
                (Step::Start { .. }, Some(why)) => Effect::new(unit, "is restarted", why),
                _ => Effect::new(unit, what, why),
            };
            effects.push(effect);
        }
    }
    effects
}

/// Why a machine restarts.
pub fn restart_reason(path: &Path) -> String {
    format!("{} changes, and is read when it starts", path.display())
}
