//! The desired state, edited: a verb says what is to be otherwise, and the files that say so, what
//! they mean, the leases and all else follow. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{NewImage, Refusal, Scope, Swap, Wanted, guests, kept_beside, settle_those};
use crate::emit::ini::Ini;
use crate::emit::{ManagedFile, Owner, nftables_unit};
use crate::identity;
use crate::name::MachineName;
use crate::observed::Observed;
use crate::pool::{Lease, Pool};
use crate::snapshot::image;
use crate::spec::edit::{self, EditError};
use crate::spec::{
    Definitions, HOST_FILE, HostSpec, MACHINES_DIR, MachineSpec, PROFILES_DIR, Problem, Problems, SecretId,
    Spec, definition_path, profile_path,
};
use crate::state::State;

/// Why a change cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("the file cannot be edited")]
    Edit(#[from] EditError),
    #[error("what would be written could not be read again")]
    Unreadable(Problems),
    #[error("it is refused")]
    Refused(Vec<Refusal>),
}

/// A change of the desired state, before it is planned.
#[derive(Debug, Clone)]
pub struct Change<'o> {
    observed: &'o Observed,
    before: &'o Spec,
    /// What is wanted; its spec and leases follow from its inputs.
    wanted: Wanted,
    /// Where a new guest will be, as far as that is known already.
    chosen: Option<(MachineName, Option<u64>)>,
    /// What machines are to be that a verb has edited.
    edited: Vec<(MachineName, MachineSpec)>,
}

impl<'o> Change<'o> {
    pub fn of(before: &'o Spec, state: &State, observed: &'o Observed, scope: Scope) -> Change<'o> {
        let wanted = Wanted::new(Spec::default(), state.clone(), scope);
        Change { observed, before, wanted, chosen: None, edited: Vec::new() }
    }

    /// The text of a file of the user's, as it is to be by now.
    fn text(&self, path: &Path) -> &str {
        let edited = self.wanted.inputs.get(path).map(Option::as_deref);
        edited.unwrap_or_else(|| self.observed.file(path)).unwrap_or_default()
    }

    /// nsctl.toml as it is to be.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn host(mut self, host: &HostSpec) -> Result<Self, ChangeError> {
        let text = edit::host(self.text(Path::new(HOST_FILE)), &self.before.host, host)?;
        self.wanted.inputs.insert(HOST_FILE.into(), Some(text));
        Ok(self)
    }

    /// A new definition.
    ///
    /// # Errors
    /// When it cannot be written as TOML.
    pub fn define(self, name: &MachineName, machine: &MachineSpec) -> Result<Self, ChangeError> {
        let base = self.before.profiles.of(&machine.profile);
        let text = edit::fresh_beside(machine, &base)?;
        Ok(self.write(name, text))
    }

    /// A definition of these words.
    #[must_use]
    pub fn write(mut self, name: &MachineName, text: String) -> Self {
        self.wanted.inputs.insert(definition_path(name), Some(text));
        self
    }

    /// A machine's definition as it is to be.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn edit(self, name: &MachineName, machine: &MachineSpec) -> Result<Self, ChangeError> {
        self.derive(name, name, machine)
    }

    /// The same, of another machine's definition.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn derive(
        self,
        from: &MachineName,
        name: &MachineName,
        machine: &MachineSpec,
    ) -> Result<Self, ChangeError> {
        let text = match self.before.machines.get(from) {
            Some(old) => {
                let text = self.text(&definition_path(from));
                edit::definition(text, old, machine, &self.before.profiles.of(&machine.profile))?
            }
            None => edit::fresh(machine)?,
        };
        let mut change = self.write(name, text);
        change.edited.push((name.clone(), machine.clone()));
        Ok(change)
    }

    /// The machine is one of ours no longer. What stood in the place of its files before comes back,
    /// and what somebody edited of them goes, too.
    #[must_use]
    pub fn forget(mut self, name: &MachineName) -> Self {
        self.wanted.inputs.insert(definition_path(name), None);
        let kept = kept_beside(&ManagedFile::Nspawn(name.clone()).path());
        if self.observed.file(&kept).is_some() {
            self.wanted.inputs.insert(kept, None);
        }
        self.wanted.take_over.extend(self.observed.edited(name));
        let backups = ManagedFile::Backups(name.clone()).path();
        if self.observed.file(&backups).is_some() {
            self.wanted.inputs.insert(backups, None);
        }
        self.drop_secrets(name)
    }

    /// The machine gets another name, and with it its definition, its lease and its tree.
    #[must_use]
    pub fn rename(mut self, name: &MachineName, new: &MachineName) -> Self {
        let nspawn = |name: &MachineName| ManagedFile::Nspawn(name.clone()).path();
        let files = [
            (definition_path(name), definition_path(new)),
            (kept_beside(&nspawn(name)), kept_beside(&nspawn(new))),
            (ManagedFile::Backups(name.clone()).path(), ManagedFile::Backups(new.clone()).path()),
        ];
        for (old, new) in files {
            if let Some(text) = self.observed.file(&old) {
                self.wanted.inputs.insert(new, Some(text.to_owned()));
                self.wanted.inputs.insert(old, None);
            }
        }
        for (label, _) in self.observed.snapshots_of(name) {
            let path = |name: &MachineName| ManagedFile::Snapshot(name.clone(), label.clone()).path();
            let text = self.observed.file(&path(name)).map(str::to_owned);
            self.wanted.inputs.insert(path(new), text);
            self.wanted.inputs.insert(path(name), None);
            self.wanted.move_trees.push((image(name, &label), image(new, &label)));
        }
        self = self.share_secrets(name, new).drop_secrets(name);
        self.wanted.leases.rename(name, new);
        let has_tree = self.observed.images.contains(name.as_str());
        self.wanted.rename_tree = has_tree.then(|| (name.clone(), new.clone()));
        self
    }

    /// A file of somebody else's is kept under this name, and ours may take its place.
    #[must_use]
    pub fn take_over(mut self, path: PathBuf, text: String) -> Self {
        self.wanted.inputs.insert(kept_beside(&path), Some(text));
        self.wanted.take_over.insert(path);
        self
    }

    /// The keys of tunnels, and no others: root and networkd may read them (systemd.netdev(5)).
    #[must_use]
    pub fn keys(mut self, keys: &BTreeMap<PathBuf, String>) -> Self {
        let is_key = |path: &&PathBuf| matches!(ManagedFile::parse(path), Some(ManagedFile::TunnelKey(..)));
        self.wanted.inputs.extend(self.observed.files.keys().filter(is_key).map(|path| (path.clone(), None)));
        for (path, key) in keys {
            self.wanted.inputs.insert(path.clone(), Some(key.clone()));
            self.wanted.modes.insert(path.clone(), 0o640);
        }
        self
    }

    /// What it had of the pool before, where nobody else has it.
    #[must_use]
    pub fn lease_again(mut self, name: &MachineName, lease: Option<Lease>) -> Self {
        if let (Some(lease), Some(pool), None) =
            (lease, self.before.host.pool(), self.wanted.leases.get(name))
        {
            // Where it cannot be had, it gets another.
            let _ = self.wanted.leases.lease(pool, name, Some(lease));
        }
        self
    }

    /// A secret of a machine's, encrypted; none: it goes.
    #[must_use]
    pub fn secret(mut self, name: &MachineName, id: &SecretId, text: Option<String>) -> Self {
        self.wanted.inputs.insert(ManagedFile::Secret(name.clone(), id.clone()).path(), text);
        self
    }

    /// A machine gets the secrets that another has.
    #[must_use]
    pub fn share_secrets(mut self, from: &MachineName, to: &MachineName) -> Self {
        for id in self.observed.secrets_of(from) {
            let text = self.observed.file(&ManagedFile::Secret(from.clone(), id.clone()).path());
            self = self.secret(to, &id, text.map(str::to_owned));
        }
        self
    }

    fn drop_secrets(mut self, name: &MachineName) -> Self {
        for id in self.observed.secrets_of(name) {
            self = self.secret(name, &id, None);
        }
        self
    }

    /// The permissions of a file that is written, where they are known.
    #[must_use]
    pub fn mode(mut self, path: PathBuf, mode: Option<u32>) -> Self {
        self.wanted.modes.extend(mode.map(|mode| (path, mode)));
        self
    }

    #[must_use]
    pub fn image(mut self, image: Option<NewImage>) -> Self {
        self.wanted.images.extend(image);
        self
    }

    /// It runs at once, on a host that does.
    #[must_use]
    pub fn start(mut self, name: &MachineName, now: bool) -> Self {
        self.wanted.start.extend((now && self.observed.live).then(|| name.clone()));
        self
    }

    /// Their definitions, trees and leases stay, and nothing else of them.
    #[must_use]
    pub fn park<'n>(mut self, names: impl IntoIterator<Item = &'n MachineName>) -> Self {
        self.wanted.parked.extend(names.into_iter().cloned());
        self
    }

    /// Machines get subnets of another pool, where that has them those of the same number.
    #[must_use]
    pub fn renumber(mut self, from: Option<Pool>, to: Pool) -> Self {
        let own = super::v6(self.before.own_addresses.iter().copied()).collect();
        self.wanted.leases = self.wanted.leases.renumbered(from, to, &own);
        self
    }

    /// The machine's tree becomes that of a snapshot with this record; the machine gets another.
    #[must_use]
    pub fn swap(mut self, swap: Swap, (path, text): (PathBuf, String)) -> Self {
        self.wanted.inputs.insert(path, Some(text));
        // Which tree is the machine's own is written down again once it has the other.
        let claim = ManagedFile::Claim(swap.machine.clone()).path();
        if self.observed.file(&claim).is_some() {
            self.wanted.inputs.insert(claim, None);
        }
        self.wanted.swap = Some(swap);
        self
    }

    /// Its tree is deleted.
    #[must_use]
    pub fn drop_tree(mut self, name: &MachineName) -> Self {
        self.wanted.drop_images.push(name.clone());
        self
    }

    /// Where the guest of a new tree will be; none: where it is planned.
    #[must_use]
    pub fn chosen(mut self, name: &MachineName, host_part: Option<u64>) -> Self {
        self.chosen = Some((name.clone(), host_part));
        self
    }

    /// Reads what would be written, and gives each machine of the scope the lease that it needs.
    ///
    /// # Errors
    /// When it could not be read again, or a machine cannot get a lease.
    pub fn settle(self) -> Result<Wanted, ChangeError> {
        let mut spec = self.after()?;
        let kept = self.edited.iter().filter_map(|(name, edited)| held_by_profile(name, edited, &spec));
        let kept: Vec<Refusal> = kept.collect();
        if !kept.is_empty() {
            return Err(ChangeError::Refused(kept));
        }
        if let Some((name, host_part)) = &self.chosen
            && let Some(machine) = spec.machines.get_mut(name)
        {
            machine.network.choose(*host_part);
        }
        let wanted = self.wanted;
        spec.machines.retain(|name, _| !wanted.parked.contains(name));
        let takes = |name: &MachineName| {
            wanted.scope.holds(&Owner::Machine(name.clone())) && !wanted.parked.contains(name)
        };
        let (leases, refusals) = settle_those(&spec, wanted.leases.clone(), takes);
        if !refusals.is_empty() {
            return Err(ChangeError::Refused(refusals));
        }
        let left_out = spec.broken.keys().cloned().collect();
        Ok(Wanted { spec, leases, left_out, ..wanted })
    }

    /// What is wanted afterwards.
    fn after(&self) -> Result<Spec, ChangeError> {
        let mut files = self.observed.files.clone();
        for (path, text) in &self.wanted.inputs {
            match text {
                Some(text) => _ = files.insert(path.clone(), text.clone()),
                None => _ = files.remove(path),
            }
        }
        let spec = read(&files, self.observed).map_err(ChangeError::Unreadable)?;
        let news =
            spec.broken.iter().filter(|(name, problems)| self.before.broken.get(*name) != Some(*problems));
        let news: Vec<Problem> = news.flat_map(|(_, problems)| problems).cloned().collect();
        if news.is_empty() { Ok(spec) } else { Err(ChangeError::Unreadable(Problems(news))) }
    }
}

/// What a verb took away from a machine, and its profiles give it again.
fn held_by_profile(name: &MachineName, edited: &MachineSpec, spec: &Spec) -> Option<Refusal> {
    let table = |machine: &MachineSpec| toml::Table::try_from(machine).unwrap_or_default();
    let (wanted, comes) =
        (table(edited), table(spec.machines.get(name).filter(|one| !one.profile.is_empty())?));
    let same = |one: &toml::Value, other: &toml::Value| match (one.as_array(), other.as_array()) {
        (Some(one), Some(other)) => one.len() == other.len() && one.iter().all(|entry| other.contains(entry)),
        _ => one == other,
    };
    let key =
        comes.iter().find(|(key, value)| !wanted.get(*key).is_some_and(|wanted| same(wanted, value)))?.0;
    let profiles = edited.profile.iter().rev().find(|profile| spec.profiles.says(profile, key));
    let from = profiles.map_or(String::new(), |profile| format!(" comes from its profile '{profile}'"));
    let file = profiles.map_or(PathBuf::from(PROFILES_DIR), |profile| profile_path(profile));
    let hint = format!("change that in {}, for all who have it, or leave the profile away", file.display());
    Some(Refusal::of(name, format!("'{name}' keeps what {key} says, which{from}"), hint))
}

/// What the files of a host say.
///
/// # Errors
/// Everything that is wrong, where it is the host's own file that cannot be used.
pub fn spec_of(observed: &Observed) -> Result<Spec, Problems> {
    read(&observed.files, observed)
}

/// The same as far as it can be used, and what is wrong in the host's own file.
pub fn usable_spec_of(observed: &Observed) -> (Spec, Vec<Problem>) {
    usable(&observed.files, observed)
}

fn read(files: &BTreeMap<PathBuf, String>, observed: &Observed) -> Result<Spec, Problems> {
    let (spec, mut problems) = usable(files, observed);
    if problems.is_empty() {
        return Ok(spec);
    }
    problems.extend(spec.broken.into_values().flatten().chain(spec.strays));
    Err(Problems(problems))
}

fn usable(files: &BTreeMap<PathBuf, String>, observed: &Observed) -> (Spec, Vec<Problem>) {
    let texts = files.iter().map(|(path, text)| (path, Ok(text.clone())));
    let all = texts.chain(observed.unreadable.iter().map(|(path, why)| (path, Err(why.clone()))));
    let is_in = |path: &Path, folder: &str| path.parent() == Some(Path::new(folder));
    let defined = all.filter(|(path, _)| is_in(path, MACHINES_DIR) || is_in(path, PROFILES_DIR));
    let definitions: Definitions = defined.map(|(path, text)| (path.clone(), text)).collect();
    let (mut spec, problems) = Spec::read(files.get(Path::new(HOST_FILE)).map(String::as_str), &definitions);
    guests::heed(&mut spec, observed);
    spec.debian_nftables = nftables_unit::is_known(files);
    let kept = |name: &MachineName| {
        let text = files.get(&ManagedFile::RoutesDropIn(name.clone()).path())?;
        let ini = Ini::parse(text);
        Some((name.clone(), ini.values("Route", "Destination").filter_map(|net| net.parse().ok()).collect()))
    };
    spec.kept_routes = spec.broken.keys().filter_map(kept).collect();
    let id = observed.machine_id.as_deref().and_then(|id| id.parse().ok());
    spec.router_id = id.map(identity::router_id);
    spec.own_addresses = observed.own_addresses().chain(observed.elsewhere.iter().copied()).collect();
    (spec, problems)
}
