//! What a plan does to units, links and rules, and why.

use serde::Serialize;

use super::files::FileChange;
use super::{Plan, Step, Wanted, flushed};
use crate::emit::nat64::LINK;
use crate::emit::{ManagedFile, Reader};
use crate::name::kernel_name;
use crate::nftables::table::Difference;
use crate::observed::Observed;
use crate::spec::Spec;
use crate::visible::joined;

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
pub fn of_files(changes: &[FileChange], spec: &Spec) -> Vec<Effect> {
    let mut effects: Vec<Effect> = changes.iter().filter_map(|change| of_file(change, spec)).collect();
    effects.sort();
    effects.dedup_by(|a, b| a.object == b.object);
    effects
}

fn of_file(change: &FileChange, spec: &Spec) -> Option<Effect> {
    let FileChange { file, new, .. } = change;
    let stays = new.is_some();
    let why = format!("{} {}", file.path().display(), if stays { "changes" } else { "goes" });
    let what =
        match file {
            ManagedFile::BridgeNetdev(_) | ManagedFile::TunnelNetdev(_) | ManagedFile::Nat64Netdev => {
                if stays { "is made or changed" } else { "is deleted" }
            }
            _ if file.reader() == Reader::Networkd => {
                if stays {
                    "is configured anew"
                } else {
                    "is left to other files"
                }
            }
            _ => "is loaded anew",
        };
    Some(Effect::new(object_of(file, spec)?, what, why))
}

/// The link that networkd configures by a file, or the table that it is a part of.
fn object_of(file: &ManagedFile, spec: &Spec) -> Option<String> {
    let link = match file {
        ManagedFile::BridgeNetdev(link)
        | ManagedFile::BridgeNetwork(link)
        | ManagedFile::Port(link)
        | ManagedFile::TunnelNetdev(link)
        | ManagedFile::TunnelNetwork(link)
        | ManagedFile::TunnelKey(link, _) => link.to_string(),
        ManagedFile::Nat64Netdev | ManagedFile::Nat64Network => LINK.to_owned(),
        ManagedFile::PoolNetwork | ManagedFile::RoutesDropIn(_) => "lo".to_owned(),
        ManagedFile::UplinkDropIn(_) => spec.host.uplink.as_ref()?.interface.to_string(),
        ManagedFile::HostEnd(name) => {
            let machine = spec.machines.get(name);
            kernel_name(&machine.map_or_else(|| name.routed_link(), |machine| machine.network.host_end(name)))
        }
        ManagedFile::LanEnd(name) => name.lan_link(),
        ManagedFile::Firewall | ManagedFile::MachineFirewall(_) => return Some(TABLE_OBJECT.to_owned()),
        ManagedFile::HostDefinition
        | ManagedFile::Definition(_)
        | ManagedFile::State
        | ManagedFile::Claim(_)
        | ManagedFile::Snapshot(..)
        | ManagedFile::Secret(..)
        | ManagedFile::Backups(_)
        | ManagedFile::Hosts
        | ManagedFile::Sysctl
        | ManagedFile::ModuleDropIn(_)
        | ManagedFile::ImportdDropIn
        | ManagedFile::ResolvedDropIn
        | ManagedFile::BirdConfig
        | ManagedFile::FrrConfig
        | ManagedFile::NetworkdDropIn
        | ManagedFile::FirewallGuard
        | ManagedFile::FirewallUnit
        | ManagedFile::BootDropIn
        | ManagedFile::SnapshotService
        | ManagedFile::SnapshotTimer
        | ManagedFile::BackupService
        | ManagedFile::BackupTimer
        | ManagedFile::TimersDropIn
        | ManagedFile::NftablesDropIn
        | ManagedFile::NftablesStart
        | ManagedFile::NftablesStop
        | ManagedFile::Nat64Config
        | ManagedFile::Nat64Unit
        | ManagedFile::Dns64Config
        | ManagedFile::Dns64Unit
        | ManagedFile::Nspawn(_)
        | ManagedFile::GuestEnd(_)
        | ManagedFile::GuestLan(_)
        | ManagedFile::UnitDropIn(_)
        | ManagedFile::BoundUnit(..)
        | ManagedFile::HostUnit(..) => return None,
    };
    Some(format!("link {link}"))
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
    let more = drift.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", joined(drift.iter().take(SHOWN), "; "))
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
pub fn restart_reason(file: &ManagedFile) -> String {
    let why = match file {
        ManagedFile::HostEnd(_) | ManagedFile::LanEnd(_) => "a port gets to another network when it is new",
        _ => "is read when it starts",
    };
    format!("{} changes, and {why}", file.path().display())
}
