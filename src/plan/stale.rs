//! Who has to read changed files again.

use std::collections::BTreeSet;

use super::Step;
use crate::emit::{Origin, Reader};
use crate::name::MachineName;
use crate::nftables::part;

/// How many units systemd is asked about before it reads all of them again.
const FEW_UNITS: usize = 8;

/// How many machines' parts of the firewall's table change by themselves; of more it is loaded whole.
const FEW_PARTS: usize = 32;

/// Who has to read changed files again.
#[derive(Debug, Default)]
pub struct Stale {
    systemd: bool,
    /// Machines whose units systemd has loaded; none: that is not known.
    loaded: Option<BTreeSet<MachineName>>,
    /// Units whose files change, and which systemd has not loaded.
    fresh: BTreeSet<String>,
    networkd: bool,
    /// All of the firewall's table.
    firewall: bool,
    /// Files of machines' parts of it that change.
    parts: Vec<part::FileChange>,
    /// Chains of the firewall may be left to which nothing leads.
    prune: bool,
    resolved: bool,
    bird: bool,
}

impl Stale {
    /// For a host on which systemd has loaded the units of these machines.
    pub fn beside(loaded: BTreeSet<MachineName>) -> Stale {
        Stale { loaded: Some(loaded), ..Stale::default() }
    }

    /// Whether systemd will read the unit of this machine when it starts.
    fn is_fresh(&self, machine: &MachineName) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| !loaded.contains(machine))
    }

    /// systemd reads what it has not loaded when it needs it. What it has loaded, it looks for
    /// changes of, but before version 257 not for a first drop-in (systemd issue 31752).
    fn note_unit(&mut self, unit: String) {
        match MachineName::from_unit(&unit).filter(|machine| self.is_fresh(machine)) {
            Some(_) => _ = self.fresh.insert(unit),
            None => self.systemd = true,
        }
    }

    /// Remembers who reads what this step changes; whether it is a step that anybody reads.
    pub fn note(&mut self, step: &Step) -> bool {
        match step {
            Step::Write { path, old, new, .. } => match Reader::of(path) {
                Reader::Systemd(unit) => self.note_unit(unit),
                Reader::Networkd => self.networkd = true,
                Reader::Resolved => self.resolved = true,
                Reader::Bird => self.bird = true,
                Reader::Firewall { whole } => {
                    // What is undone is loaded as its files say; what somebody wrote in one may be anything.
                    let edited = old.as_deref().is_some_and(|old| Origin::of(old) != Origin::Ours);
                    self.firewall |= whole || edited || self.loaded.is_none();
                    self.parts.push((old.clone(), new.clone()));
                    // Of a table that is not there yet nothing is too much.
                    self.prune |= new.is_none() || (whole && old.is_some());
                }
                Reader::Start | Reader::Nobody => {}
            },
            Step::Enable { machines } => {
                self.systemd |= !machines.iter().all(|machine| self.is_fresh(machine));
            }
            // What no longer starts with the host would still be named by the target.
            Step::Disable { .. } => self.systemd = true,
            _ => return false,
        }
        true
    }

    /// The firewall's table is not what its files say.
    pub fn note_firewall(&mut self) {
        (self.firewall, self.prune) = (true, true);
    }

    /// The reloads that are due; none are due afterwards.
    pub fn reloads(&mut self) -> Vec<Step> {
        let loaded = self.loaded.clone();
        let Stale { systemd, fresh: units, networkd, firewall, parts, prune, resolved, bird, .. } =
            std::mem::replace(self, Stale { loaded, ..Stale::default() });
        let part = (!firewall && parts.len() <= FEW_PARTS).then(|| part::commands(&parts));
        let anyway = systemd || units.len() > FEW_UNITS;
        let due = [
            (anyway, Step::ReloadSystemd { units: BTreeSet::new() }),
            (!anyway && !units.is_empty(), Step::ReloadSystemd { units }),
            (networkd, Step::ReloadNetworkd),
            (firewall || !parts.is_empty(), Step::ReloadFirewall { prune, part }),
            (resolved, Step::RestartResolved),
            (bird, Step::ReloadBird),
        ];
        due.into_iter().filter(|(is_due, _)| *is_due).map(|(_, step)| step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_reads_all_units_again_for_one_that_it_has_loaded() {
        let reload = |path: &str, stale: &mut Stale| {
            stale.note(&Step::Write { path: path.into(), old: None, new: Some("2".into()), mode: None });
            stale.reloads()
        };
        let drop_in =
            |name: &str| format!("/etc/systemd/system/systemd-nspawn@{name}.service.d/50-nsctl.conf");
        let all = [Step::ReloadSystemd { units: BTreeSet::new() }];
        let mut stale = Stale::beside(["old".parse().unwrap()].into());
        assert_eq!(reload(&drop_in("old"), &mut stale), all);
        let one = ["systemd-nspawn@new.service".to_owned()].into();
        assert_eq!(reload(&drop_in("new"), &mut stale), [Step::ReloadSystemd { units: one }]);
        assert_eq!(reload("/etc/systemd/system/nsctl-firewall.service", &mut stale), all);
        assert_eq!(reload(&drop_in("new"), &mut Stale::default()), all);
    }
}
