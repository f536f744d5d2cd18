//! Which files change: ours are replaced, those of others are left alone.

use std::path::{Path, PathBuf};

use super::{Refusal, Step, Wanted};
use crate::emit::{self, HOSTS_FILE, ManagedFile, Origin, Owner, Rendered, names};
use crate::name::{IfName, MachineName};
use crate::observed::Observed;
use crate::pool::Leases;
use crate::spec::BridgeSpec;
use crate::state;

/// One file that will not be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    pub file: ManagedFile,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl FileChange {
    /// Whether it is about a bridge, or its port.
    pub fn is_of_bridge(&self, name: &IfName, bridge: &BridgeSpec) -> bool {
        let owner = self.file.owner();
        owner == Owner::Bridge(name.clone()) || owner == Owner::Port(bridge.uplink.clone())
    }

    pub fn step(&self) -> Step {
        Step::Write { path: self.file.path(), old: self.old.clone(), new: self.new.clone(), mode: None }
    }
}

/// The rendered files that change, in the order of their paths; and every file in the way that is
/// not ours, or that somebody edited.
pub fn changes(wanted: &Wanted, observed: &Observed) -> (Vec<FileChange>, Vec<Refusal>) {
    let mut rendered = emit::render(&wanted.spec, &wanted.leases);
    rendered.retain(|_, rendered| wanted.holds(&rendered.file.owner()));
    let stale = stale(wanted, observed, &rendered);
    let mut changes = Vec::new();
    let mut refusals = Vec::new();
    let fresh = rendered.into_iter().map(|(path, Rendered { file, text })| (path, file, Some(text)));
    let differs = |(path, _, new): &(PathBuf, _, Option<String>)| observed.file(path) != new.as_deref();
    let gone = stale.into_iter().map(|(path, file)| (path, file, None));
    let mut differing: Vec<_> = fresh.chain(gone).filter(differs).collect();
    // By their bytes: part by part, as paths compare, it takes ten times as long.
    differing.sort_by(|(one, ..), (other, ..)| one.as_os_str().cmp(other.as_os_str()));
    for (path, file, new) in differing {
        let old = observed.file(&path);
        let origin = old.map(Origin::of);
        if matches!(origin, Some(Origin::Edited | Origin::Foreign)) && !wanted.take_over.contains(&path) {
            refusals.push(not_ours(path, old, origin, new.as_deref()));
            continue;
        }
        // What stood in the place of a file of ours before: its owner gets it back.
        let parked = file.machine().is_some_and(|name| wanted.parked.contains(&name));
        let before = || observed.file(&kept_beside(&path)).filter(|_| !parked).map(str::to_owned);
        let new = new.or_else(before);
        changes.push(FileChange { file, old: old.map(str::to_owned), new });
    }
    changes.extend(hosts(wanted, observed));
    changes.extend(secrets(wanted, observed));
    (changes, refusals)
}

/// Secrets that a verb changes: whom they are of must start again to see that.
fn secrets(wanted: &Wanted, observed: &Observed) -> Vec<FileChange> {
    let inputs = wanted.inputs.iter().filter_map(|(path, new)| {
        let file = ManagedFile::parse(path).filter(|file| matches!(file, ManagedFile::Secret(..)))?;
        Some(FileChange { file, old: observed.file(path).map(str::to_owned), new: new.clone() })
    });
    inputs.filter(|change| change.old != change.new && wanted.holds(&change.file.owner())).collect()
}

/// The block of machines in /etc/hosts, where nsctl keeps one.
fn hosts(wanted: &Wanted, observed: &Observed) -> Option<FileChange> {
    let old = observed.file(Path::new(HOSTS_FILE));
    let zone = wanted.spec.host.dns.as_ref().map(|dns| dns.zone.as_str());
    let mut entries =
        zone.map(|_| names::entries(&wanted.spec, &wanted.leases, &observed.hostnames)).unwrap_or_default();
    // Who is left out keeps the name and address that it runs with.
    let is_left_out =
        |name: &str| wanted.left_out.iter().any(|other| other.as_str().eq_ignore_ascii_case(name));
    entries.retain(|entry| !is_left_out(&entry.name));
    let there = names::listed(old.unwrap_or_default(), zone.unwrap_or_default());
    entries.extend(there.into_iter().filter(|entry| is_left_out(&entry.name)));
    entries.sort();
    let new = names::merge(old.unwrap_or_default(), &entries, zone.unwrap_or_default());
    let same = new == old.unwrap_or_default();
    let change = FileChange {
        file: ManagedFile::Hosts,
        old: old.map(str::to_owned),
        new: Some(new).filter(|text| !text.is_empty()),
    };
    // What is no UTF-8 would not be written back as it is.
    let same = same || old.is_some_and(|text| text.contains('\u{fffd}'));
    (!same && wanted.holds(&Owner::Names)).then_some(change)
}

/// What the name of a file ends in that stood in the place of one of ours.
const KEPT: &str = ".before-nsctl";

/// Where the file that stood in the place of one of ours is kept.
pub fn kept_beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(KEPT);
    PathBuf::from(beside)
}

/// The place of a file that is kept so.
pub fn origin_of_kept(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(path.file_name()?.to_str()?.strip_suffix(KEPT)?))
}

fn not_ours(path: PathBuf, old: Option<&str>, origin: Option<Origin>, new: Option<&str>) -> Refusal {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let (diff, shown) = (diff(&path, old, new), path.display());
    let (what, hint) = if origin == Some(Origin::Edited) {
        let hint = format!(
            "move the change into the definition named in its first line, delete {shown}, and try again"
        );
        (format!("{shown} was edited by hand since nsctl wrote it:\n{diff}"), hint)
    } else {
        let what = format!("{shown} is in the way and was not written by nsctl:\n{diff}");
        (what, format!("move {shown} away and try again"))
    };
    let refusal = match ManagedFile::parse(&path).and_then(|file| file.machine()) {
        Some(machine) => Refusal::of(&machine, what, hint),
        None => Refusal::of_host(what, hint),
    };
    refusal.over_a_file()
}

/// A unified diff of a file as it is and as it would be, without the line that carries a checksum.
pub fn diff(path: &Path, old: &str, new: &str) -> String {
    let name = path.display().to_string();
    let (old, new) = (Origin::body(old), Origin::body(new));
    similar::TextDiff::from_lines(old, new).unified_diff().context_radius(2).header(&name, &name).to_string()
}

/// Files that nsctl wrote and that nothing asks for any more. What others
/// wrote beside them is theirs.
fn stale(wanted: &Wanted, observed: &Observed, rendered: &emit::Files) -> Vec<(PathBuf, ManagedFile)> {
    // A port's file does not tell whose it is: only a view of the whole host can call it stale, or who
    // takes its bridge away.
    let ports = match &wanted.scope {
        super::Scope::All => true,
        super::Scope::Bridge(bridge) => !wanted.spec.host.bridges.contains_key(bridge),
        _ => false,
    };
    let gone = observed.files.iter().filter(|(path, _)| !rendered.contains_key(*path));
    let ours = gone.filter(|(_, text)| Origin::of(text) != Origin::Foreign);
    ours.filter_map(|(path, _)| Some((path.clone(), ManagedFile::parse(path)?)))
        .filter(|(_, file)| file.is_rendered() && wanted.holds(&file.owner()))
        .filter(|(_, file)| ports || !matches!(file, ManagedFile::Port(_)))
        .collect()
}

/// The state and the user's own files, before anything else changes.
pub fn records(wanted: &Wanted, observed: &Observed) -> Vec<Step> {
    let path = state::path();
    let nothing_yet = observed.file(path).is_none() && wanted.leases == Leases::default();
    let state = (path.to_owned(), Some(state::render(&wanted.leases)));
    let is_secret = |path: &PathBuf| matches!(ManagedFile::parse(path), Some(ManagedFile::Secret(..)));
    // As a record of its own a secret would be no reason for a machine to restart.
    let recorded =
        wanted.inputs.iter().filter(|(path, _)| wanted.scope == super::Scope::Records || !is_secret(path));
    let inputs = recorded.map(|(path, text)| (path.clone(), text.clone()));
    std::iter::once(state)
        .filter(|_| !nothing_yet)
        .chain(inputs)
        .chain(claims(wanted, observed))
        .chain(orphans(wanted, observed))
        .filter_map(|(path, new)| {
            let old = observed.file(&path).map(str::to_owned);
            // A key comes back from an undo as private as it was.
            let of_key = || tunnel_of_key(&path).map(|_| 0o640);
            let mode = wanted.modes.get(&path).copied().or_else(of_key);
            (old != new).then_some(Step::Write { path, old, new, mode })
        })
        .collect()
}

/// Keys of tunnels that there are no more: a verb, or somebody's edit, has made the uplink another.
fn orphans(wanted: &Wanted, observed: &Observed) -> Vec<(PathBuf, Option<String>)> {
    let uplink = wanted.spec.host.uplink.as_ref().filter(|uplink| uplink.is_tunnel());
    let is_orphan = |path: &&PathBuf| {
        tunnel_of_key(path).is_some_and(|link| uplink.is_none_or(|uplink| uplink.interface != link))
            && !wanted.inputs.contains_key(*path)
            && wanted.holds(&Owner::Host)
    };
    observed.files.keys().filter(is_orphan).map(|path| (path.clone(), None)).collect()
}

fn tunnel_of_key(path: &Path) -> Option<IfName> {
    match ManagedFile::parse(path)? {
        ManagedFile::TunnelKey(link, _) => Some(link),
        _ => None,
    }
}

/// Which trees are nsctl's, as it is to be: forgotten where the definition has gone, or the tree,
/// or another is in its place; and taken over from an nsctl that wrote down names alone.
fn claims(wanted: &Wanted, observed: &Observed) -> Vec<(PathBuf, Option<String>)> {
    let mut claims = Vec::new();
    let renamed = wanted.rename_tree.as_ref();
    for (path, text) in observed.files.range(PathBuf::from(emit::TREES_DIR)..) {
        let Some(ManagedFile::Claim(name)) = ManagedFile::parse(path) else { continue };
        if !wanted.holds_machine(&name) {
            continue;
        }
        // Below --root nobody sees which tree it is.
        let is_ours = !observed.live || observed.tree_is_ours(&name);
        if let Some((_, new)) = renamed.filter(|(from, _)| *from == name && is_ours) {
            claims.push((ManagedFile::Claim(new.clone()).path(), Some(text.clone())));
        }
        let known = wanted.spec.machines.contains_key(&name)
            || wanted.spec.broken.contains_key(&name)
            || wanted.parked.contains(&name);
        if !known || !is_ours {
            claims.push((path.clone(), None));
        }
    }
    let claim_of = |name: &MachineName| ManagedFile::Claim(name.clone()).path();
    let old = wanted.unclaimed.iter().filter(|name| wanted.spec.machines.contains_key(*name));
    let old = old.filter(|name| observed.file(&claim_of(name)).is_none());
    claims.extend(
        old.filter_map(|name| Some((claim_of(name), Some(format!("{}\n", observed.trees.get(name)?))))),
    );
    claims
}
