//! Which step comes when.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{self, FileChange, kept_beside};
use super::{NewImage, Stale, Step, Swap, Wanted, machines, unreachable, vlans};
use crate::emit::ini::Ini;
use crate::emit::{self, ManagedFile, Owner, Reader, nat64};
use crate::name::{IfName, MachineName};
use crate::observed::{FORWARDING, Nftables, Observed};

/// The order matters: the lease is on disk before anything uses it, a machine
/// is stopped before its files change, everybody has read the files before a
/// machine starts with them, and what cannot be undone comes last.
pub fn steps(
    wanted: &Wanted,
    observed: &Observed,
    changes: &[FileChange],
    actions: &machines::MachineActions,
) -> Vec<Step> {
    let mut steps = files::records(wanted, observed);
    steps.extend(actions.stop());
    let (listen, deafen) = sockets(observed, changes);
    steps.extend(deafen.filter(|_| observed.live));
    let read: Vec<Step> = changes.iter().map(FileChange::step).chain(actions.with_host()).collect();
    let mut stale = Stale::beside(observed.units.keys().cloned().collect());
    for step in steps.iter().chain(&read) {
        stale.note(step);
    }
    if flushed(wanted, observed) {
        stale.note_firewall();
    }
    steps.extend(read);
    if observed.live {
        let renamed = wanted.rename_tree.clone();
        steps.extend(renamed.map(|(from, to)| Step::RenameTree { from, to }));
        let moved = wanted.move_trees.iter().cloned();
        steps.extend(moved.map(|(from, to)| Step::MoveTree { from, to }));
        let tunnels = made_tunnels(wanted, observed, changes);
        // networkd of systemd 252 does not change a tunnel that is there: it is made anew.
        let again = tunnels.iter().filter(|(_, is_new)| !**is_new);
        steps.extend(again.map(|(link, _)| Step::DeleteLink { name: link.clone() }));
        // Before networkd reads that a bridge keeps VLANs apart: where it does so by itself (systemd 258
        // and later), ports are in none for a moment.
        steps.extend(vlan_steps(wanted, observed, changes, true));
        // Before systemd reads its files anew: what it is told here is in the way of those.
        steps.extend_from_slice(actions.limits());
        steps.append(&mut stale.reloads());
        // After the .nspawn file: machined copies the image's where there is none,
        // and when a tree is deleted its .nspawn goes with it.
        steps.extend(wanted.images.iter().flat_map(|image| image_steps(image, observed)));
        steps.extend(wanted.swap.iter().flat_map(swap_steps));
        steps.append(&mut bridge_steps(wanted, observed, changes));
        let read = changes.iter().map(|change| (&change.file, change.old.as_deref(), change.new.as_deref()));
        steps.extend(unreachable::dropped(read));
        steps.append(&mut host_steps(wanted, observed, changes));
    }
    steps.extend(listen.filter(|_| observed.live));
    steps.append(&mut actions.after_files(wanted));
    if observed.live {
        steps.extend(wanted.drop_images.iter().flat_map(|name| drop_image(name, observed)));
    }
    steps
}

/// Our table is not what its files say: somebody flushed all rules, or changed some.
pub fn flushed(wanted: &Wanted, observed: &Observed) -> bool {
    let there = observed.file(Path::new(emit::FIREWALL_FILE)).is_some();
    let loaded = |nftables: &Nftables| nftables.ours && nftables.drift.is_empty();
    there && !observed.nftables.as_ref().is_none_or(loaded) && wanted.holds(&Owner::Firewall)
}

/// The host's sockets for machines that run: those whose files are new or changed
/// listen, those whose files change or go did.
fn sockets(observed: &Observed, changes: &[FileChange]) -> (Option<Step>, Option<Step>) {
    let unit = |change: &FileChange| match (&change.file, change.file.reader()) {
        (ManagedFile::HostUnit(machine, _, "socket"), Reader::Systemd(unit)) => {
            Some((unit, observed.is_running(machine)))
        }
        _ => None,
    };
    let named = |takes: fn(&FileChange) -> bool| changes.iter().filter(move |c| takes(c)).filter_map(unit);
    let mut new: Vec<String> =
        named(|change| change.new.is_some()).filter(|(_, runs)| *runs).map(|(file, _)| file).collect();
    let mut old: Vec<String> = named(|change| change.old.is_some()).map(|(file, _)| file).collect();
    // What machines share reads its configuration when it starts, which it does again where one needs it.
    let shared = changes.iter().filter(|change| change.old.is_some());
    for (unit, stays) in shared.filter_map(|change| Some((translating(&change.file)?, change.new.is_some())))
    {
        old.extend((!old.contains(&unit)).then(|| unit.clone()));
        new.extend((stays && !new.contains(&unit)).then_some(unit));
    }
    let timers = changes.iter().find(|change| change.file == ManagedFile::TimersDropIn);
    let (had, has) =
        timers.map_or_else(Default::default, |change| (wanted_by(&change.old), wanted_by(&change.new)));
    old.extend(had.iter().filter(|unit| !has.contains(unit)).cloned());
    new.extend(has.into_iter().filter(|unit| !had.contains(unit)));
    let listen = (!new.is_empty()).then_some(Step::Listen { units: new });
    (listen, (!old.is_empty()).then_some(Step::Deafen { units: old }))
}

/// The units that a drop-in of a target has start.
fn wanted_by(text: &Option<String>) -> Vec<String> {
    let ini = Ini::parse(text.as_deref().unwrap_or_default());
    ini.values("Unit", "Wants").map(str::to_owned).collect()
}

/// The unit that a file of the translation is for.
fn translating(file: &ManagedFile) -> Option<String> {
    let unit = match file {
        ManagedFile::Nat64Netdev | ManagedFile::Nat64Config | ManagedFile::Nat64Unit => nat64::TRANSLATOR,
        ManagedFile::Dns64Config | ManagedFile::Dns64Unit => nat64::RESOLVER,
        _ => return None,
    };
    Some(unit.to_owned())
}

/// The tree goes, and with it the .nspawn file: one that its owner wrote comes back.
fn drop_image(name: &MachineName, observed: &Observed) -> Vec<Step> {
    let path = ManagedFile::Nspawn(name.clone()).path();
    let back = observed.file(&kept_beside(&path)).map(str::to_owned);
    let remove = Step::RemoveImage { name: name.clone(), tree: observed.trees.get(name).cloned() };
    let back = back.map(|text| Step::Write { path, old: None, new: Some(text), mode: None });
    std::iter::once(remove).chain(back).collect()
}

fn swap_steps(Swap { machine, from, aside }: &Swap) -> [Step; 2] {
    let (machine, from, aside) = (machine.clone(), from.clone(), aside.clone());
    [Step::SwapTree { machine: machine.clone(), from, aside }, Step::Claim { machine }]
}

fn image_steps(image: &NewImage, observed: &Observed) -> Vec<Step> {
    let NewImage { source, to, first_boot } = image.clone();
    let fit = first_boot.map(|first_boot| Step::Provision { machine: to.clone(), first_boot });
    let claim = Step::Claim { machine: to.clone() };
    let make = Step::MakeTree { source, to, sharing: observed.sharing };
    std::iter::once(make).chain(fit).chain([claim]).collect()
}

/// Bridges whose files are new: wait for them, and clean their ports. Those whose
/// files are gone: networkd does not delete what it made.
fn bridge_steps(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, bridge) in &wanted.spec.host.bridges {
        if changes.iter().any(|change| change.is_of_bridge(name, bridge)) {
            let is_new = observed.link(name.as_str()).is_none();
            let port = bridge.uplink.clone();
            steps.push(Step::BridgeUp { bridge: name.clone(), port: port.clone(), is_new });
            steps.push(Step::FlushPort { port });
        }
    }
    steps.extend(vlan_steps(wanted, observed, changes, false));
    let gone = changes.iter().filter(|change| change.new.is_none());
    steps.extend(gone.filter_map(|change| match &change.file {
        ManagedFile::TunnelNetdev(name) => Some(Step::DeleteLink { name: name.clone() }),
        ManagedFile::Nat64Netdev => Some(Step::DeleteLink { name: nat64::link()? }),
        ManagedFile::BridgeNetdev(name) if observed.is_bridge(name) => {
            Some(Step::DeleteLink { name: name.clone() })
        }
        _ => None,
    }));
    steps
}

/// VLANs of bridges that are there, or of those that come.
fn vlan_steps(wanted: &Wanted, observed: &Observed, changes: &[FileChange], are_there: bool) -> Vec<Step> {
    let bridges = wanted.spec.host.bridges.iter();
    let mine = bridges.filter(|(name, _)| wanted.holds(&Owner::Bridge((*name).clone())));
    let due = mine.filter_map(|(name, bridge)| {
        let is_there = observed.link(name.as_str()).is_some();
        let comes = changes.iter().any(|change| change.is_of_bridge(name, bridge));
        let step = vlans::step(observed, changes, name, bridge)?;
        (is_there == are_there && (is_there || comes)).then_some(step)
    });
    due.collect()
}

/// Tunnels whose device, or whose keys, are written, and whether they are new.
fn made_tunnels(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> BTreeMap<IfName, bool> {
    let made = changes.iter().filter(|change| change.new.is_some());
    let devices = made.filter_map(|change| match &change.file {
        ManagedFile::TunnelNetdev(link) => Some((link.clone(), change.old.is_none())),
        ManagedFile::Nat64Netdev => Some((nat64::link()?, change.old.is_none())),
        _ => None,
    });
    let written = wanted.inputs.iter().filter(|(path, text)| observed.file(path) != text.as_deref());
    let keys = written.filter_map(|(path, text)| match ManagedFile::parse(path)? {
        ManagedFile::TunnelKey(link, _) => text.as_ref().map(|_| (link, false)),
        _ => None,
    });
    keys.chain(devices).collect()
}

/// The switches now, as the sysctl.d file is read at boot only, and the pool's route.
fn host_steps(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<Step> {
    let tunnels = made_tunnels(wanted, observed, changes).into_iter();
    let mut steps: Vec<Step> = tunnels.map(|(link, is_new)| Step::TunnelUp { link, is_new }).collect();
    if wanted.holds(&Owner::Host) {
        let all = emit::switches(&wanted.spec.host);
        steps.extend(all.into_iter().filter_map(|(key, value)| switch(observed, key, value)));
        steps.extend(switches_back(wanted, observed, changes));
        let changed = changes.iter().any(|change| change.file.owner() == Owner::Host);
        if changed {
            let host = &wanted.spec.host;
            let routed = host.fixed_pool().filter(|_| host.answers_on().is_none());
            steps.extend(routed.map(|pool| Step::PoolRoute { pool }));
            steps.extend(host.delegated().map(|_| Step::Delegation));
        }
    }
    steps
}

/// Switches that our file sets no longer are as the kernel has them by itself, the last of them first; those
/// that somebody else has set since stay.
fn switches_back(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<Step> {
    let file = changes.iter().find(|change| change.file == ManagedFile::Sysctl);
    let Some(before) = file.and_then(|change| change.old.as_deref()) else { return Vec::new() };
    let stay: BTreeMap<String, u32> = emit::switches(&wanted.spec.host).into_iter().collect();
    // While the host forwards, the kernel would drop the uplink's router advertisements.
    let forwards = stay.contains_key(FORWARDING) || observed.set_elsewhere.contains(FORWARDING);
    let bound = |key: &str| {
        stay.contains_key(key)
            || observed.set_elsewhere.contains(key)
            || (forwards && key.ends_with("/accept_ra"))
    };
    let back = emit::switches_of(before).filter(|(key, _)| !bound(key)).filter_map(|(key, ours)| {
        let old = observed.sysctls.get(key).filter(|now| *now == ours)?.clone();
        Some(Step::Switch { key: key.to_owned(), old, new: emit::kernels_own(key)?.to_string() })
    });
    let mut back: Vec<Step> = back.collect();
    back.reverse();
    back
}

/// A switch that is as it should be, or a limit that is higher, stays.
fn switch(observed: &Observed, key: String, value: u32) -> Option<Step> {
    let old = observed.sysctls.get(&key)?.clone();
    let enough = old.parse::<u32>().is_ok_and(|old| old == value || (old > value && value > 0));
    (!enough).then(|| Step::Switch { key, old, new: value.to_string() })
}
