//! What must hold after every blow, each by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use nsctl::emit::{ManagedFile, Origin};

use super::actions::{Action, Blow, Edit, name};
use super::look::Sight;

/// How a blow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused,
    CutShort,
}

/// What we know of a host beside what it shows.
#[derive(Debug, Default)]
pub struct Memory {
    /// Files by which the trees are known that nsctl did not make.
    pub foreign: BTreeSet<String>,
    /// Lines that somebody added to /etc/hosts.
    pub lines: BTreeSet<String>,
    /// Trees that nsctl made, and has not forgotten.
    pub made: BTreeSet<String>,
    /// Trees that may be there without a machine.
    pub loose: BTreeSet<String>,
}

/// A blow, and what was before and after it.
#[derive(Debug)]
pub struct Scene<'a> {
    pub blow: &'a Blow,
    pub outcome: Outcome,
    /// Whether the host ended and booted again.
    pub rebooted: bool,
    pub before: &'a Sight,
    pub after: &'a Sight,
    pub memory: &'a Memory,
}

/// What somebody adds to a file of ours.
pub const EDIT: &str = "# somebody's own";

type Invariant = fn(&Scene) -> Result<()>;

/// All of them; and whether it is one of definitions and what is made of them, which an edit that
/// is not yet applied has left behind.
pub const ALL: [(&str, bool, Invariant); 9] = [
    ("leases are unique", false, |scene| leases_are_unique(scene.after)),
    ("leases are those of the definitions", true, |scene| leases_are_of_definitions(scene.after)),
    ("rendered files are as definitions and leases say", true, files_agree),
    ("the rules loaded are those of the files", true, |scene| rules_agree(scene.after)),
    ("the block of /etc/hosts is as leases say", true, |scene| names_agree(scene.after)),
    ("nothing is stray", true, nothing_is_stray),
    ("what said success is there", false, what_said_success_is_there),
    ("other machines are untouched", false, others_are_untouched),
    ("what is not nsctl's stays", false, the_foreign_stays),
];

fn leases(sight: &Sight) -> Result<BTreeMap<String, String>> {
    let state = nsctl::state::parse(sight.text("var/lib/nsctl/state.toml"))?;
    Ok(state.leases.held().iter().map(|(name, subnet)| (name.to_string(), subnet.to_string())).collect())
}

fn is_routed(definition: &str) -> bool {
    definition.contains("mode = \"routed\"")
}

fn routed(sight: &Sight) -> BTreeSet<String> {
    let defined = sight.defined().into_iter();
    defined.filter(|name| sight.definition(name).is_some_and(is_routed)).map(str::to_owned).collect()
}

fn leases_are_unique(sight: &Sight) -> Result<()> {
    let state = nsctl::state::parse(sight.text("var/lib/nsctl/state.toml"))?;
    let all = state
        .leases
        .held()
        .values()
        .chain(state.leases.resting().iter().map(|rested| &rested.lease))
        .map(ToString::to_string);
    let mut seen = BTreeSet::new();
    for subnet in all {
        ensure!(seen.insert(subnet.clone()), "{subnet} twice");
    }
    Ok(())
}

fn leases_are_of_definitions(sight: &Sight) -> Result<()> {
    let (held, routed) = (leases(sight)?.into_keys().collect::<BTreeSet<_>>(), routed(sight));
    ensure!(held == routed, "leases of {held:?}, definitions of {routed:?}");
    Ok(())
}

fn files_agree(scene: &Scene) -> Result<()> {
    let sight = scene.after;
    let leases = leases(sight)?;
    for name in sight.defined() {
        ensure!(sight.text(&format!("etc/systemd/nspawn/{name}.nspawn")).is_some(), "{name} has no .nspawn");
        let file = format!("etc/systemd/network/05-nsctl-ve-{name}.network");
        let network = sight.text(&file).unwrap_or_default();
        let word = match leases.get(name) {
            Some(subnet) => format!("Prefix={subnet}"),
            None => "Bridge=vbr0".into(),
        };
        let firewall = sight.text(&format!("var/lib/nsctl/firewall/{name}.nft")).is_some();
        ensure!(network.contains(&word), "no {word} in {file}:\n{network}");
        ensure!(firewall == leases.contains_key(name), "{name} is of the wrong side of the firewall");
    }
    Ok(())
}

/// Before the first routed machine starts after a boot, nothing needs them.
fn rules_agree(sight: &Sight) -> Result<()> {
    let idle = routed(sight).iter().all(|name| !sight.leaders.contains_key(name));
    if idle && sight.loaded.is_empty() {
        return Ok(());
    }
    let missing = |all: &[String], of: &[String]| {
        let mut rest = of.to_vec();
        let extra = all.iter().filter(|word| match rest.iter().position(|other| other == *word) {
            Some(at) => {
                rest.swap_remove(at);
                false
            }
            None => true,
        });
        extra.cloned().collect::<Vec<_>>().join(" ")
    };
    ensure!(
        sight.loaded == sight.written,
        "loaded alone: {}\nin the file alone: {}",
        missing(&sight.loaded, &sight.written),
        missing(&sight.written, &sight.loaded)
    );
    Ok(())
}

fn names_agree(sight: &Sight) -> Result<()> {
    let leases = leases(sight)?;
    let block = sight.hosts.lines().skip_while(|line| !line.starts_with("# Machines of nsctl"));
    let block = block.skip(1).take_while(|line| !line.starts_with('#'));
    let mut seen = BTreeSet::new();
    for line in block {
        let mut words = line.split_whitespace();
        let (address, full) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let machine = full.split('.').next().unwrap_or_default();
        let net: Option<ipnet::Ipv6Net> = leases.get(machine).and_then(|subnet| subnet.parse().ok());
        let inside = net
            .zip(address.parse().ok())
            .is_some_and(|(net, address)| net.contains::<&std::net::Ipv6Addr>(&address));
        ensure!(inside, "'{line}' is not of the lease {net:?}");
        seen.insert(machine.to_owned());
    }
    ensure!(seen == leases.into_keys().collect(), "only {seen:?} stand in /etc/hosts:\n{}", sight.hosts);
    Ok(())
}

fn nothing_is_stray(scene: &Scene) -> Result<()> {
    let (sight, defined) = (scene.after, scene.after.defined());
    let edited = matches!(scene.blow.action, Action::ForeignEdit { .. });
    for (path, text) in &sight.files {
        // What cannot be undone inside a guest without a bus waits until that is stopped.
        let waits = path.ends_with(".json") && text.contains("\"fate\":\"left\"");
        ensure!(!path.contains("/.nsctl") && (waits || !path.ends_with(".json")), "{path} is left:\n{text}");
        let Some(machine) = ManagedFile::parse(&Path::new("/").join(path)).and_then(|file| file.machine())
        else {
            continue;
        };
        if Origin::of(text) != Origin::Foreign {
            ensure!(defined.contains(machine.as_str()), "{path} is of no machine");
            ensure!(edited || Origin::of(text) == Origin::Ours, "{path} is not whole:\n{text}");
        }
    }
    for machine in sight.enabled() {
        ensure!(defined.contains(machine), "{machine} starts with the host, and is no machine");
    }
    for tree in sight.trees.keys() {
        let known = defined.contains(tree.as_str()) || scene.memory.loose.contains(tree) || tree == "tiny";
        ensure!(known, "the tree {tree} is nobody's");
    }
    Ok(())
}

/// After a refusal nothing has changed.
fn what_said_success_is_there(scene: &Scene) -> Result<()> {
    let Scene { before, after, .. } = scene;
    match scene.outcome {
        Outcome::CutShort => Ok(()),
        Outcome::Done => done(scene),
        Outcome::Refused if matches!(scene.blow.action, Action::Edit { .. } | Action::ForeignEdit { .. }) => {
            Ok(())
        }
        Outcome::Refused => {
            let other: Vec<_> =
                before.files.iter().filter(|(path, text)| after.text(path) != Some(text.as_str())).collect();
            ensure!(other.is_empty(), "refused, and changed or removed: {other:?}");
            let new: Vec<_> = after.files.keys().filter(|path| !before.files.contains_key(*path)).collect();
            ensure!(new.is_empty(), "refused, and made: {new:?}");
            ensure!(before.trees == after.trees, "refused, and changed trees");
            ensure!(before.hosts == after.hosts, "refused, and changed /etc/hosts");
            Ok(())
        }
    }
}

fn done(scene: &Scene) -> Result<()> {
    let Scene { before, after, rebooted, .. } = scene;
    let runs = |k: usize| after.leaders.contains_key(&name(k));
    let text = |k: usize| after.definition(&name(k)).unwrap_or_default();
    match &scene.blow.action {
        Action::Create { name: k, bridge, start, .. } => {
            ensure!(is_routed(text(*k)) != *bridge && !text(*k).is_empty(), "its definition: {}", text(*k));
            ensure!(after.trees.contains_key(&name(*k)), "it has no tree");
            ensure!(*rebooted || runs(*k) == *start, "it does not run, or does");
        }
        Action::Remove { name: k, keep } => {
            ensure!(text(*k).is_empty() && !runs(*k), "it is there");
            let ours = scene.memory.made.contains(&name(*k));
            ensure!(*keep || !ours || !after.trees.contains_key(&name(*k)), "its tree is there");
            ensure!(!*keep || after.trees.get(&name(*k)) == before.trees.get(&name(*k)), "its tree is gone");
        }
        Action::Unit { verb, name: k } => {
            ensure!(*rebooted || runs(*k) == (*verb != "stop"), "it does not run, or does");
            let (old, new) = (before.leaders.get(&name(*k)), after.leaders.get(&name(*k)));
            ensure!(*verb != "restart" || *rebooted || old != new, "it is the same as before");
        }
        Action::Attach { name: k, bridge } => {
            ensure!(is_routed(text(*k)) != *bridge && !text(*k).is_empty(), "its definition: {}", text(*k));
        }
        Action::Port { verb, name: k, port } => {
            let there = text(*k).contains(&format!("\"tcp/{port}\""));
            ensure!(there == (*verb == "open"), "its definition: {}", text(*k));
        }
        Action::Expose { verb, name: k } => {
            ensure!(text(*k).contains("tcp/8080") == (*verb == "expose"), "its definition: {}", text(*k));
        }
        Action::Clone { from, to, .. } => {
            ensure!(!text(*to).is_empty(), "the clone is not there");
            same_files(before, &name(*from), after, &name(*to), &["./etc/resolv.conf"])?;
        }
        Action::Rename { from, to } => {
            ensure!(text(*from).is_empty() && !text(*to).is_empty(), "it has its old name");
            same_files(before, &name(*from), after, &name(*to), &[])?;
            let (old, new) = (leases(before)?, leases(after)?);
            ensure!(new.get(&name(*to)) == old.get(&name(*from)), "it has another lease");
        }
        Action::Edit { name: k, edit } => edited(after, *k, *edit)?,
        _ => {}
    }
    Ok(())
}

/// Whether a tree of now has the files of one of before; those that nsctl puts into a tree that it
/// makes may be new.
fn same_files(before: &Sight, from: &str, after: &Sight, to: &str, new: &[&str]) -> Result<()> {
    let lines = |sight: &Sight, name: &str| -> BTreeSet<String> {
        sight.trees.get(name).into_iter().flat_map(|tree| tree.lines()).map(str::to_owned).collect()
    };
    let (old, now) = (lines(before, from), lines(after, to));
    let is_put = |line: &&String| new.iter().any(|path| line.ends_with(path));
    let gone: Vec<_> = old.difference(&now).collect();
    let more: Vec<_> = now.difference(&old).filter(|line| !is_put(line)).collect();
    ensure!(gone.is_empty() && more.is_empty(), "it has other files: {gone:?} of before, now {more:?}");
    Ok(())
}

fn edited(after: &Sight, k: usize, edit: Edit) -> Result<()> {
    let nspawn = after.text(&format!("etc/systemd/nspawn/{}.nspawn", name(k))).unwrap_or_default();
    let defined = after.definition(&name(k)).is_some();
    match edit {
        Edit::Environment(n) => {
            ensure!(!defined || nspawn.contains(&format!("\"BLOW={n}\"\n")), "no {n} in it:\n{nspawn}");
        }
        Edit::Tasks(_) => {}
        Edit::New => ensure!(defined && after.trees.contains_key(&name(k)), "it is not there"),
        Edit::Delete => {
            ensure!(!defined && nspawn.is_empty() && !after.leaders.contains_key(&name(k)), "it is there");
        }
    }
    Ok(())
}

fn others_are_untouched(scene: &Scene) -> Result<()> {
    let Scene { before, after, rebooted, .. } = scene;
    let named = scene.blow.action.names();
    let known = before.defined().into_iter().chain(before.trees.keys().map(String::as_str));
    let all = known.chain(before.leaders.keys().map(String::as_str)).collect::<BTreeSet<_>>();
    // `apply` starts what does not run.
    let starts = *rebooted || matches!(scene.blow.action, Action::Edit { .. } | Action::ForeignEdit { .. });
    for machine in all.into_iter().filter(|machine| !named.iter().any(|name| name == machine)) {
        let (old, new) = (before.belongings(machine), after.belongings(machine));
        if old != new {
            let other: Vec<_> = old.iter().filter(|one| !new.contains(one)).collect();
            anyhow::bail!(
                "{machine} is another: of before {other:?}, now {:?}",
                new.iter().filter(|one| !old.contains(one)).collect::<Vec<_>>()
            );
        }
        let (old, new) = (before.leaders.get(machine), after.leaders.get(machine));
        if *rebooted {
            let back = !before.enabled().contains(machine) || old.is_none() || new.is_some();
            ensure!(back, "{machine} ran, and does not after the boot");
        } else if old.is_some() || !starts {
            ensure!(old == new, "{machine} was {old:?}, and is {new:?}");
        }
    }
    Ok(())
}

fn the_foreign_stays(scene: &Scene) -> Result<()> {
    for mark in &scene.memory.foreign {
        let there = scene.after.trees.values().any(|tree| tree.contains(mark));
        ensure!(there, "the tree with {mark} is gone, which nsctl did not make");
    }
    for line in &scene.memory.lines {
        ensure!(scene.after.hosts.lines().any(|other| other == line), "'{line}' is gone from /etc/hosts");
    }
    if let Action::ForeignEdit { name: k, .. } = &scene.blow.action {
        let edited = |sight: &Sight| {
            let all = sight.files.iter().filter(|(_, text)| text.contains(EDIT));
            all.map(|(path, _)| path.clone()).collect::<Vec<_>>()
        };
        ensure!(edited(scene.before) == edited(scene.after), "the edit of a file of {} is gone", name(*k));
    }
    Ok(())
}
