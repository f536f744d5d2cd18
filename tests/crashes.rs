//! Whatever verb, whatever host, whatever goes wrong at whichever operation: nothing is lost,
//! nothing is left over, and nobody else is touched. A host in memory stands for the live one.

#![allow(clippy::unwrap_used)]

mod model;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt;
use model::{Host, Trouble};
use nsctl::apply::{self, Failure, Verified};
use nsctl::emit::{self, ManagedFile, names, render};
use nsctl::name::MachineName;
use nsctl::observed::Observed;
use nsctl::plan::{NewImage, Plan, Scope, Source, Wanted, Whole, plan, settle, whole, wrong_link};
use nsctl::provision::FirstBoot;
use nsctl::spec::{Definitions, HOST_FILE, MACHINES_DIR, Spec, definition_path};
use nsctl::state::{self, State};
use proptest::prelude::*;

const HOST: &str = "pool = \"2001:db8:a::/48\"\n[dns]\nzone = \"machines.internal\"\nlisten = true\n[bridge.vbr0]\nuplink = \"enp6s0\"\nvlans = [20, 30]\n[bridge.vbr1]\nuplink = \"enp7s0\"\n";

/// What somebody does to a host.
#[derive(Debug, Clone)]
enum Action {
    Create(u8, u8),
    Attach(u8, u8),
    Remove(u8),
    Rename(u8, u8),
    /// Edits definitions by hand, or breaks or deletes them; then `apply`.
    Edit(u8, u8),
    Break(u8),
    Delete(u8),
    Apply,
    /// Behind nsctl's back: a tree goes, or one is made by hand.
    TreeGoes(u8),
    TreeByHand(u8),
    /// Both.
    TreeSwapped(u8),
    /// `attach` of a machine that nsctl did not make.
    Adopt(u8, u8),
}

const MACHINES: u8 = 2;

fn action() -> impl Strategy<Value = Action> {
    let (machine, network) = (0..MACHINES, 0..10u8);
    prop_oneof![
        4 => (machine.clone(), network.clone()).prop_map(|(k, n)| Action::Create(k, n)),
        2 => (machine.clone(), network.clone()).prop_map(|(k, n)| Action::Attach(k, n)),
        2 => machine.clone().prop_map(Action::Remove),
        1 => (machine.clone(), machine.clone()).prop_map(|(k, n)| Action::Rename(k, n)),
        2 => (machine.clone(), network.clone()).prop_map(|(k, n)| Action::Edit(k, n)),
        1 => machine.clone().prop_map(Action::Break),
        1 => machine.clone().prop_map(Action::Delete),
        2 => Just(Action::Apply),
        1 => machine.clone().prop_map(Action::TreeGoes),
        1 => machine.clone().prop_map(Action::TreeByHand),
        1 => machine.clone().prop_map(Action::TreeSwapped),
        1 => (machine, network).prop_map(|(k, n)| Action::Adopt(k, n)),
    ]
}

/// What goes wrong, and how far in a plan, in percent.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Fails,
    Killed,
    PowerCut(u64),
}

fn trouble() -> impl Strategy<Value = (Kind, u32)> {
    let kind = prop_oneof![
        2 => Just(Kind::Fails),
        2 => Just(Kind::Killed),
        3 => any::<u64>().prop_map(Kind::PowerCut),
    ];
    (kind, 0..100u32)
}

/// At which operation, in a plan of so many steps.
fn at((kind, percent): (Kind, u32), operations: u32) -> Trouble {
    let at = 1 + percent * operations / 100;
    match kind {
        Kind::Fails => Trouble::Fails(at),
        Kind::Killed => Trouble::Killed(at),
        Kind::PowerCut(seed) => Trouble::PowerCut(at, seed),
    }
}

fn machine(k: u8) -> MachineName {
    format!("m{k}").parse().unwrap()
}

/// Several kinds of machines; some differ by a setting that only a restart brings in.
fn definition(k: u8, kind: u8) -> String {
    let (before, network) = match kind {
        0 => ("", "mode = \"routed\"".to_owned()),
        1 => ("", "mode = \"routed\"\ntoken = \"::7\"".to_owned()),
        2 => ("", format!("mode = \"routed\"\nsubnet = \"2001:db8:a:{:x}::/64\"", k + 2)),
        3 => ("limits = { memory = \"2G\" }\nenvironment = { A = \"b\" }\n", "mode = \"routed\"".to_owned()),
        4 => ("autostart = false\n", "mode = \"routed\"".to_owned()),
        5 => ("", "mode = \"routed\"\nbridge = \"vbr0\"\nvlan = 20".to_owned()),
        6 => ("", "mode = \"routed\"\nbridge = \"vbr1\"".to_owned()),
        7 => ("", "mode = \"bridge\"\nbridge = \"vbr0\"\nvlan = 30".to_owned()),
        bridge => ("", format!("mode = \"bridge\"\nbridge = \"vbr{}\"", bridge - 8)),
    };
    format!("image = \"base\"\n{before}[network]\n{network}\n")
}

fn definitions(observed: &Observed) -> Definitions {
    let all = observed.files.iter().filter(|(path, _)| path.starts_with(MACHINES_DIR));
    all.map(|(path, text)| (path.clone(), Ok(text.clone()))).collect()
}

fn spec(observed: &Observed) -> Spec {
    Spec::parse(observed.file(HOST_FILE.as_ref()), &definitions(observed)).unwrap()
}

fn state(observed: &Observed) -> State {
    state::parse(observed.file(state::path())).unwrap()
}

fn new_image(name: &MachineName) -> NewImage {
    NewImage {
        source: Source::Clone("base".into()),
        to: name.clone(),
        first_boot: Some(FirstBoot::default()),
    }
}

/// The whole host as its files say.
fn everything(observed: &Observed) -> Whole {
    let spec = spec(observed);
    let treeless = spec.machines.keys().filter(|name| !observed.images.contains(name.as_str()));
    let images = treeless.map(|name| (name.clone(), Ok(new_image(name)))).collect();
    whole(&spec, &state(observed), observed, &images, BTreeSet::new(), Vec::new()).unwrap()
}

/// Who cannot be as his definition says: it cannot be read, or wants another's subnet.
fn left_out(observed: &Observed) -> BTreeSet<MachineName> {
    everything(observed).left_out.iter().filter_map(|refusal| refusal.machine.clone()).collect()
}

/// A verb's plan, as the command line makes it; none where it is refused.
fn planned(action: &Action, observed: &Observed) -> Option<Plan> {
    let mut spec = spec(observed);
    let state = state(observed);
    let scoped = |spec: Spec, scope: Scope| {
        let leases = settle(&spec, state.leases.clone(), &scope).ok()?;
        Some(Wanted::new(spec, State { leases, ..state.clone() }, scope))
    };
    let insert = |spec: &mut Spec, name: &MachineName, text: &str| {
        spec.machines
            .insert(name.clone(), nsctl::spec::MachineSpec::parse(&definition_path(name), text).unwrap());
    };
    let wanted = match action {
        Action::Apply | Action::Edit(..) | Action::Break(_) | Action::Delete(_) => {
            return Some(everything(observed).plan);
        }
        Action::Create(k, network) | Action::Adopt(k, network) | Action::Attach(k, network) => {
            let (name, text) = (machine(*k), definition(*k, *network));
            let (known, there) = (spec.machines.contains_key(&name), observed.images.contains(name.as_str()));
            let fits = match action {
                Action::Create(..) => !known && !observed.is_running(&name),
                Action::Attach(..) => known,
                _ => !known && there,
            };
            if !fits || spec.broken.contains_key(&name) {
                return None;
            }
            insert(&mut spec, &name, &text);
            let mut wanted = scoped(spec, Scope::Machine(name.clone()))?;
            wanted.inputs.insert(definition_path(&name), Some(text));
            if matches!(action, Action::Create(..)) {
                wanted.images.extend((!there).then(|| new_image(&name)));
                wanted.start.insert(name);
            }
            wanted
        }
        Action::Remove(k) => {
            let name = machine(*k);
            if !(spec.machines.remove(&name).is_some() | spec.broken.remove(&name).is_some()) {
                return None;
            }
            let mut wanted = scoped(spec, Scope::Machine(name.clone()))?;
            wanted.inputs.insert(definition_path(&name), None);
            wanted.drop_images.extend(observed.tree_is_ours(&name).then_some(name));
            wanted
        }
        Action::Rename(k, n) => {
            let (name, new) = (machine(*k), machine(*n));
            let taken = spec.machines.contains_key(&new) || observed.images.contains(new.as_str());
            if taken || spec.broken.contains_key(&new) || observed.is_running(&name) {
                return None;
            }
            let old = spec.machines.remove(&name)?;
            spec.machines.insert(new.clone(), old);
            let mut leases = state.leases.clone();
            leases.rename(&name, &new);
            let scope = Scope::Renamed(name.clone(), new.clone());
            let leases = settle(&spec, leases, &scope).ok()?;
            let mut wanted = Wanted::new(spec, State { leases, ..state.clone() }, scope);
            let text = observed.file(&definition_path(&name)).map(str::to_owned);
            wanted.inputs.insert(definition_path(&name), None);
            wanted.inputs.insert(definition_path(&new), text);
            if observed.images.contains(name.as_str()) {
                wanted.rename_tree = Some((name, new));
            }
            wanted
        }
        Action::TreeGoes(_) | Action::TreeByHand(_) | Action::TreeSwapped(_) => return None,
    };
    plan(&wanted, observed).ok()
}

/// What happens before, or without, nsctl.
fn behind_its_back(action: &Action, host: &Host) {
    let observed = host.observed();
    match action {
        Action::Edit(k, network) => host.write(definition_path(&machine(*k)), Some(definition(*k, *network))),
        Action::Break(k) => host.write(definition_path(&machine(*k)), Some("[netw".into())),
        Action::Delete(k) => host.write(definition_path(&machine(*k)), None),
        Action::TreeGoes(k) | Action::TreeSwapped(k) if host.has_tree(&machine(*k)) => {
            host.stop(&machine(*k));
            host.drop_tree(&machine(*k));
            if matches!(action, Action::TreeSwapped(_)) {
                host.make_tree(&machine(*k), true);
            }
        }
        Action::TreeByHand(k) if !observed.images.contains(machine(*k).as_str()) => {
            host.make_tree(&machine(*k), true);
        }
        _ => {}
    }
}

/// Runs a verb to its end, or to nsctl's; none where it was refused.
fn verb(host: &Host, action: &Action) -> Option<Result<Vec<Verified>, Failure>> {
    let plan = planned(action, &host.observed())?;
    apply::apply(host, &plan, "verb").now_or_never()
}

fn host() -> Host {
    let host = Host::new();
    host.write(HOST_FILE.into(), Some(HOST.into()));
    assert!(verb(&host, &Action::Apply).unwrap().is_ok());
    host
}

/// Machines whose definitions somebody edited since the last `apply`.
type Edited = BTreeSet<MachineName>;

// The invariants.

/// What failed and was undone left nothing, and took nothing away.
fn is_as_before(host: &Host, before: &Observed) {
    let now = host.observed();
    let all = |observed: &Observed| {
        let running: BTreeSet<String> = observed.machines.keys().cloned().collect();
        let links: BTreeSet<String> =
            observed.links.iter().map(|link| format!("{} {:?}", link.name, link.master)).collect();
        (
            observed.files.clone(),
            observed.images.clone(),
            observed.trees.clone(),
            observed.enabled.clone(),
            running,
            links,
        )
    };
    assert_eq!(all(&now), all(before));
}

/// No two machines have one subnet, and the state can be read.
fn leases_are_unique(observed: &Observed) {
    let held = state(observed).leases.held().clone();
    let subnets: BTreeSet<_> = held.values().collect();
    assert_eq!(subnets.len(), held.len(), "{held:?}");
}

/// What is rendered is what the definitions and leases say; no file is left over.
fn files_are_those_of_records(observed: &Observed) {
    let (spec, state) = (spec(observed), state(observed));
    let wanted = render(&spec, &state.leases);
    let ours =
        observed.files.keys().filter(|path| ManagedFile::parse(path).is_some_and(|file| file.is_rendered()));
    let of_broken = |path: &&std::path::PathBuf| {
        ManagedFile::parse(path)
            .and_then(|file| file.machine())
            .is_some_and(|name| spec.broken.contains_key(&name))
    };
    let there: BTreeMap<_, _> =
        ours.filter(|path| !of_broken(path)).map(|path| (path, observed.file(path))).collect();
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(path, file)| (path, Some(file.text.as_str()))).collect();
    assert_eq!(there, wanted);
}

/// The block of /etc/hosts names whom the records name, but for whom somebody edited since.
fn names_are_those_of_records(observed: &Observed, edited: &Edited) {
    let (spec, state) = (spec(observed), state(observed));
    let listed =
        names::listed(observed.file(emit::HOSTS_FILE.as_ref()).unwrap_or_default(), "machines.internal");
    let known = |entry: &names::Entry| !edited.iter().any(|name| name.as_str() == entry.name);
    let listed: Vec<_> = listed.into_iter().filter(known).collect();
    let entries: Vec<_> =
        names::entries(&spec, &state.leases, &observed.hostnames).into_iter().filter(known).collect();
    assert_eq!(listed, entries);
}

/// What runs does so where its definition says.
fn running_machines_are_in_their_places(observed: &Observed, edited: &Edited) {
    for (name, machine) in &spec(observed).machines {
        if observed.is_running(name) && !edited.contains(name) {
            assert_eq!(wrong_link(name, machine, observed), None, "{name}");
        }
    }
}

/// No machine's tree lost its content to a power cut.
fn trees_are_whole(host: &Host) {
    let spec = spec(&host.observed());
    for (name, tree) in host.trees.borrow().iter().filter(|(name, _)| spec.machines.contains_key(*name)) {
        assert!(tree.settled, "the tree of {name} is not on the disk");
    }
}

/// What somebody made by hand is never taken for nsctl's, nor deleted.
fn trees_by_hand_are_nobody_elses(host: &Host, before: &BTreeMap<MachineName, model::Tree>) {
    let trees = host.trees.borrow();
    for tree in before.values().filter(|tree| tree.by_hand) {
        assert!(trees.values().any(|other| other.id == tree.id), "{tree:?} is gone");
    }
    let observed = host.observed();
    for (name, tree) in trees.iter().filter(|(_, tree)| tree.by_hand) {
        assert!(!observed.tree_is_ours(name), "{name}: {tree:?} is claimed");
    }
}

/// Whom no verb named goes on running, unless the host was off.
fn others_are_untouched(host: &Host, action: &Action, before: &Observed, boots: u32) {
    let (Action::Create(k, _) | Action::Attach(k, _) | Action::Remove(k) | Action::Adopt(k, _)) = action
    else {
        return;
    };
    if host.boots.get() != boots {
        return;
    }
    let now = host.observed();
    for (name, running) in before.machines.iter().filter(|(name, _)| **name != machine(*k).to_string()) {
        let leader = now.machines.get(name).map(|running| running.leader);
        assert_eq!(leader, Some(running.leader), "{name}");
    }
}

fn invariants(host: &Host, edited: &Edited) {
    let observed = host.observed();
    assert_eq!(host.journals(), 0, "a journal is left");
    leases_are_unique(&observed);
    trees_are_whole(host);
    names_are_those_of_records(&observed, edited);
    running_machines_are_in_their_places(&observed, edited);
}

/// Does what the next nsctl does first.
fn recovers(host: &Host) {
    let left = apply::recover(host).now_or_never().unwrap();
    assert!(left.unwrap().is_empty(), "something cannot be fixed");
}

fn in_order(host: &Host) {
    host.again();
    assert!(verb(host, &Action::Apply).unwrap().is_ok(), "apply does not put it in order");
    invariants(host, &Edited::new());
    files_are_those_of_records(&host.observed());
    assert_eq!(everything(&host.observed()).plan.steps, vec![], "something is left to do");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whatever_goes_wrong(
        history in proptest::collection::vec(
            (action(), proptest::collection::vec(trouble(), 0..3), trouble()), 1..8,
        ),
    ) {
        let host = host();
        let mut edited = Edited::new();
        for (action, troubles, later) in history {
            let trees = host.trees.borrow().clone();
            behind_its_back(&action, &host);
            let (before, boots) = (host.observed(), host.boots.get());
            let steps = planned(&action, &before).map_or(0, |plan| plan.steps.len());
            // Beside the steps the journal is written, and files are synced.
            let operations = u32::try_from(steps).unwrap() + 8;
            let troubles: Vec<Trouble> = troubles.into_iter().map(|trouble| at(trouble, operations)).collect();
            host.troubles.borrow_mut().clone_from(&troubles);
            let done = verb(&host, &action);
            let died = host.is_dead();
            host.again();
            if let (Some(Trouble::PowerCut(_, seed)), false) = (troubles.first(), died) {
                // It goes right after, if not in the middle: what said that it was done is there.
                host.power_cut(*seed);
                host.again();
            }
            if died {
                // Who fixes is killed, too.
                host.troubles.borrow_mut().push(at(later, operations));
                let _ = apply::recover(&host).now_or_never();
                host.again();
            }
            let undone = matches!(done, Some(Err(Failure::Step { .. }))) && host.boots.get() == boots;
            recovers(&host);
            if undone && !died {
                is_as_before(&host, &before);
            }
            let succeeded = matches!(done, Some(Ok(_))) && !died;
            if succeeded {
                prop_assert_eq!(planned(&action, &host.observed()).map_or(0, |plan| {
                    plan.steps.iter().filter(|step| step.is_write()).count()
                }), 0, "what said that it was done is not");
            }
            match action {
                Action::Apply | Action::Edit(..) | Action::Break(_) | Action::Delete(_) if succeeded => {
                    edited = left_out(&host.observed());
                }
                Action::Edit(k, _) | Action::Break(k) | Action::Delete(k) => _ = edited.insert(machine(k)),
                _ => {}
            }
            edited.extend(spec(&host.observed()).broken.into_keys());
            invariants(&host, &edited);
            let kept: BTreeMap<_, _> = trees.into_iter().filter(|(name, _)| !matches!(action, Action::TreeGoes(k) | Action::TreeSwapped(k) if machine(k) == *name)).collect();
            trees_by_hand_are_nobody_elses(&host, &kept);
            others_are_untouched(&host, &action, &before, boots);
        }
        for name in left_out(&host.observed()) {
            let k = (0..MACHINES).find(|k| machine(*k) == name).unwrap();
            host.write(definition_path(&name), Some(definition(k, 0)));
        }
        in_order(&host);
    }
}

/// The disk takes nothing more, just before what cannot be undone; and then the power goes.
#[test]
fn what_cannot_be_synced_is_undone() {
    let (create, remove) = (Action::Create(0, 0), Action::Remove(0));
    let steps = {
        let host = host();
        assert!(verb(&host, &create).is_some());
        planned(&remove, &host.observed()).unwrap().steps.len()
    };
    for at in 1..=u32::try_from(steps).unwrap() + 8 {
        for seed in 0..32 {
            let host = host();
            assert!(verb(&host, &create).is_some());
            host.again();
            host.troubles.borrow_mut().push(Trouble::Fails(at));
            let _ = verb(&host, &remove);
            host.again();
            host.power_cut(seed);
            host.again();
            recovers(&host);
            invariants(&host, &Edited::new());
        }
    }
}
