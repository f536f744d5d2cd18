//! What changes in a machine while it runs, and what is read at its start alone.

use std::collections::BTreeMap;

use super::files::FileChange;
use super::vlans::{bridge_of, vlan_of};
use super::{Step, Wanted};
use crate::emit::expose::{Unit, without_bound};
use crate::emit::ini::Ini;
use crate::emit::{
    CREDENTIALS, DEVICES, DISK, GUEST_DIR, LIMITS, MOUNT_BURST, ManagedFile, OWN, Origin, Reader, forgotten,
    unset,
};
use crate::name::MachineName;
use crate::observed::Observed;
use crate::spec::{Bind, bytes};

/// Whether nspawn or the guest reads this change only when the machine starts.
pub(super) fn read_at_start(FileChange { file, old, new }: &FileChange) -> bool {
    let at_end = |name: &MachineName, text| {
        let mut all = service(text, "ExecStopPost");
        // This one is no matter of its start.
        all.retain(|command| *command != forgotten(name));
        all
    };
    match file {
        ManagedFile::Nspawn(_) => match (old, new) {
            (Some(old), Some(new)) => more_binds(old, new).is_none(),
            _ => old != new,
        },
        // They change while it runs.
        ManagedFile::BoundUnit(..) => false,
        // Whom the host answers for is said when it starts, and taken back when it ends.
        ManagedFile::UnitDropIn(name) => {
            let stays = |device: &String| service(new, DEVICES).contains(device);
            let other = |key| service(old, key) != service(new, key);
            at_end(name, old) != at_end(name, new)
                || other(CREDENTIALS)
                || !service(old, DEVICES).iter().all(stays)
        }
        // networkd of systemd 252 takes no port out of a VLAN; and the guest asks for addresses
        // of its second interface only when that is new.
        ManagedFile::HostEnd(_) => place(old, vlan_of) != place(new, vlan_of),
        ManagedFile::LanEnd(_) if old.is_none() || new.is_none() => false,
        ManagedFile::LanEnd(_) => {
            place(old, vlan_of) != place(new, vlan_of) || place(old, bridge_of) != place(new, bridge_of)
        }
        file => file.reader() == Reader::Start,
    }
}

fn place<T>(text: &Option<String>, of: fn(&str) -> Option<T>) -> Option<T> {
    text.as_deref().and_then(of)
}

/// The values of a key of a unit.
fn service(text: &Option<String>, key: &str) -> Vec<String> {
    let ini = Ini::parse(text.as_deref().unwrap_or_default());
    ini.values("Service", key).map(str::to_owned).collect()
}

/// Whether a machine that goes to another network while it runs misses nothing else that is read at its start.
pub(super) fn only_moves(changes: &[&FileChange]) -> bool {
    // Nothing but a start reads those.
    let of_secrets = |change: &&FileChange| match change.file {
        ManagedFile::Secret(..) => true,
        ManagedFile::UnitDropIn(_) => service(&change.old, CREDENTIALS) != service(&change.new, CREDENTIALS),
        _ => false,
    };
    if changes.iter().any(of_secrets) {
        return false;
    }
    let others = |text: &str| -> Vec<(String, Vec<(String, String)>)> {
        let ini = without_bound(text);
        let sections = ini.sections().filter(|(section, _)| !matches!(*section, "Network" | "Files"));
        sections.map(|(section, settings)| (section.to_owned(), settings.to_vec())).collect()
    };
    let mounts = |text: &str| -> Vec<String> {
        let ini = without_bound(text);
        let binds = ini.values("Files", "Bind").chain(ini.values("Files", "BindReadOnly"));
        let mut binds: Vec<String> =
            binds.filter(|value| !value.starts_with(GUEST_DIR)).map(str::to_owned).collect();
        binds.sort();
        binds
    };
    let nspawn = changes.iter().find(|change| matches!(change.file, ManagedFile::Nspawn(_)));
    let texts = nspawn.and_then(|change| Some((change.old.as_deref()?, change.new.as_deref()?)));
    // What somebody wrote by hand says the same in other words.
    let ours = texts.filter(|(old, _)| Origin::of(old) == Origin::Ours);
    ours.is_none_or(|(old, new)| others(old) == others(new) && mounts(old) == mounts(new))
}

/// The limits that change. systemd gives a file's to the kernel when it starts the unit, whatever
/// `systemctl show` says in between.
pub(super) fn limits(name: &MachineName, changes: &[&FileChange]) -> Option<Step> {
    let change = changes.iter().find(|change| matches!(change.file, ManagedFile::UnitDropIn(_)))?;
    let changed = || LIMITS.into_iter().filter(|key| service(&change.old, key) != service(&change.new, key));
    let values = |text: &Option<String>| -> BTreeMap<String, String> {
        changed()
            .map(|key| (key.to_owned(), service(text, key).pop().unwrap_or_else(|| unset(key).to_owned())))
            .collect()
    };
    let (old, new) = (values(&change.old), values(&change.new));
    (!new.is_empty()).then(|| Step::Limit { machine: name.clone(), old, new })
}

/// What its tree may take of the disk from now on.
pub(super) fn disk(
    name: &MachineName,
    wanted: &Wanted,
    observed: &Observed,
    changes: &[&FileChange],
) -> Option<Step> {
    let change = changes.iter().find(|change| matches!(change.file, ManagedFile::UnitDropIn(_)));
    let new = change.map_or_else(|| disk_limit(name, observed), |change| disk_in(change.new.as_deref()));
    // A tree that is new takes what it likes; one that gets another name keeps its limit, and one that
    // is given back has the one it had.
    let old = match &wanted.rename_tree {
        _ if wanted.images.iter().any(|image| image.to == *name) => None,
        Some((from, to)) if to == name => disk_limit(from, observed),
        _ => disk_limit(name, observed),
    };
    // One without a tree gets it with its limit.
    let has_tree = observed.images.contains(name.as_str())
        || wanted.images.iter().any(|image| image.to == *name)
        || wanted.rename_tree.as_ref().is_some_and(|(_, to)| to == name);
    let swapped = wanted.swap.as_ref().is_some_and(|swap| swap.machine == *name);
    let due = observed.live
        && has_tree
        && (old != new || (swapped && new.is_some()))
        && !matches!(&wanted.rename_tree, Some((from, _)) if from == name);
    due.then(|| Step::LimitDisk { machine: name.clone(), old, new })
}

/// What a machine's tree may take of the disk by now, in bytes.
pub fn disk_limit(name: &MachineName, observed: &Observed) -> Option<u64> {
    disk_in(observed.file(&ManagedFile::UnitDropIn(name.clone()).path()))
}

fn disk_in(unit: Option<&str>) -> Option<u64> {
    Ini::parse(unit.unwrap_or_default()).get(OWN, DISK).and_then(bytes)
}

/// What becomes of the listeners inside a machine that goes on running.
pub(super) fn listeners(name: &MachineName, changes: &[&FileChange]) -> Option<Step> {
    let units = |text: fn(&FileChange) -> Option<&str>| -> Vec<Unit> {
        changes.iter().filter_map(|change| Unit::of(&change.file, text(change))).collect()
    };
    let (old, new) = (units(|change| change.old.as_deref()), units(|change| change.new.as_deref()));
    let any = !old.is_empty() || !new.is_empty();
    any.then(|| Step::Inside { machine: name.clone(), old, new })
}

/// What a machine sees more of the host; none where its settings change in anything else, as what it is to see
/// no more, somebody in it may have open.
fn more_binds(old: &str, new: &str) -> Option<Vec<Bind>> {
    let bare = |text| without_bound(text).without(|_, value| value == MOUNT_BURST);
    let is_bind = |key: &str| matches!(key, "Bind" | "BindReadOnly");
    let (old, new) = (bare(old), bare(new));
    let binds = |ini: &Ini| -> Vec<(String, String)> {
        let settings = ini.sections().flat_map(|(_, settings)| settings);
        settings.filter(|(key, _)| is_bind(key)).cloned().collect()
    };
    let (had, has) = (binds(&old), binds(&new));
    let same = old.without(|key, _| is_bind(key)) == new.without(|key, _| is_bind(key));
    if !same || !had.iter().all(|bind| has.contains(bind)) {
        return None;
    }
    // What is shown to it later on it may remount as it likes: the kernel locks what is there at its start.
    let fresh = has.iter().filter(|bind| !had.contains(bind));
    let fresh: Vec<Bind> =
        fresh.map(|(key, value)| Bind::of(value).filter(|_| key == "Bind")).collect::<Option<_>>()?;
    let hides =
        |bind: &Bind| had.iter().any(|(_, value)| Bind::of(value).is_none_or(|old| bind.covers(&old)));
    (!fresh.iter().any(hides)).then_some(fresh)
}

/// What a machine that goes on running sees more of the host, and the devices that it may use.
pub(super) fn binds(name: &MachineName, changes: &[&FileChange]) -> Option<Step> {
    let of = |takes: fn(&ManagedFile) -> bool| changes.iter().find(|change| takes(&change.file));
    let nspawn = of(|file| matches!(file, ManagedFile::Nspawn(_)))?;
    let mut binds = more_binds(nspawn.old.as_deref()?, nspawn.new.as_deref()?)?;
    // The outer one first.
    binds.sort_by(|a, b| a.target.cmp(&b.target));
    let unit = of(|file| matches!(file, ManagedFile::UnitDropIn(_)));
    let devices = unit.map_or_else(Vec::new, |unit| {
        let had = service(&unit.old, DEVICES);
        service(&unit.new, DEVICES).into_iter().filter(|device| !had.contains(device)).collect()
    });
    let any = !binds.is_empty() || !devices.is_empty();
    any.then(|| Step::Bind { machine: name.clone(), binds, devices })
}
