//! Whatever the definitions: once a plan is carried out nothing is left to do,
//! and undone after any step it leaves the host as it was.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use nsctl::emit::FIREWALL_FILE;
use nsctl::fit::Wishes;
use nsctl::observed::{Link, Nftables, Observed, Running};
use nsctl::plan::{NewImage, Scope, Source, Step, Wanted, plan, settle, undo};
use nsctl::spec::{Spec, definition_path};
use nsctl::state::State;
use proptest::prelude::*;

const HOST: &str = "pool = \"2001:db8:a::/48\"\n[dns]\nzone = \"machines.internal\"\nlisten = true\n[bridge.vbr0]\nuplink = \"enp6s0\"\n[bridge.vbr1]\nuplink = \"enp7s0\"\n";

/// One machine of a random host: its network, whether it starts with the host,
/// and a setting that only a restart brings in.
#[derive(Debug, Clone)]
struct Machine {
    network: u8,
    autostart: bool,
    memory: Option<u16>,
}

fn machine() -> impl Strategy<Value = Machine> {
    (0..4u8, any::<bool>(), proptest::option::of(1..9u16)).prop_map(|(network, autostart, memory)| Machine {
        network,
        autostart,
        memory,
    })
}

fn machines() -> impl Strategy<Value = BTreeMap<u8, Machine>> {
    proptest::collection::btree_map(0..6u8, machine(), 0..6)
}

fn spec(machines: &BTreeMap<u8, Machine>) -> Spec {
    let definitions = machines.iter().map(|(k, machine)| {
        let network = match machine.network {
            0 => "mode = \"routed\"".to_owned(),
            1 => format!("mode = \"routed\"\nsubnet = \"2001:db8:a:{:x}::/64\"", k + 2),
            bridge => format!("mode = \"bridge\"\nbridge = \"vbr{}\"", bridge - 2),
        };
        let limits = machine
            .memory
            .map_or(String::new(), |gigabytes| format!("[limits]\nmemory = \"{gigabytes}G\"\n"));
        let text =
            format!("image = \"base\"\nautostart = {}\n[network]\n{network}\n{limits}", machine.autostart);
        (definition_path(&format!("m{k}").parse().unwrap()), text)
    });
    Spec::parse(Some(HOST), &definitions.collect()).unwrap()
}

fn empty_host() -> Observed {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        alternative_names: Vec::new(),
        mtu: 1500,
        kind: None,
        master: None,
        peer: None,
        up: true,
    };
    Observed {
        live: true,
        images: ["base".to_owned()].into(),
        links: vec![link(2, "enp6s0"), link(3, "enp7s0")],
        nftables: Some(Nftables::default()),
        sysctls: [("net/ipv6/conf/all/forwarding".to_owned(), "0".to_owned())].into(),
        ..Observed::default()
    }
}

/// None where a pin is held by a machine that keeps it: that is refused.
fn wanted(spec: Spec, observed: &Observed) -> Option<Wanted> {
    let state = nsctl::state::parse(observed.file(nsctl::state::path())).unwrap();
    let leases = settle(&spec, state.leases.clone(), &Scope::All).ok()?;
    let start = spec.machines.iter().filter(|(_, m)| m.autostart).map(|(name, _)| name.clone()).collect();
    let treeless = spec.machines.keys().filter(|name| !observed.images.contains(name.as_str()));
    let images = treeless
        .map(|name| NewImage {
            source: Source::Clone("base".into()),
            to: name.clone(),
            wishes: Some(Wishes::default()),
        })
        .collect();
    Some(Wanted { start, images, ..Wanted::new(spec, State { leases, ..state }, Scope::All) })
}

/// The host after a step.
fn carry_out(observed: &mut Observed, step: &Step) {
    match step.clone() {
        Step::Write { path, new: Some(text), .. } => _ = observed.files.insert(path, text),
        Step::Write { path, new: None, .. } => _ = observed.files.remove(&path),
        Step::MakeTree { to, .. } => _ = observed.images.insert(to.to_string()),
        Step::RemoveImage { name } => _ = observed.images.remove(name.as_str()),
        Step::Enable { machines } => observed.enabled.extend(machines),
        Step::Disable { machines } => observed.enabled.retain(|name| !machines.contains(name)),
        Step::ReloadFirewall { .. } => {
            let ours = observed.file(FIREWALL_FILE.as_ref()).is_some();
            observed.nftables = Some(Nftables { ours, ..Nftables::default() });
        }
        Step::Switch { key, new, .. } => _ = observed.sysctls.insert(key, new),
        Step::Start { machines, .. } => observed
            .machines
            .extend(machines.iter().map(|name| (name.to_string(), Running { leader: 1, uid_shift: None }))),
        Step::Stop { machines } | Step::Kill { machines } => {
            observed.machines.retain(|name, _| !machines.iter().any(|gone| gone.as_str() == name));
        }
        _ => {}
    }
}

fn show(observed: &Observed) -> String {
    serde_json::to_string_pretty(observed).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn after_apply_the_plan_is_empty(first in machines(), second in machines()) {
        let mut observed = empty_host();
        for machines in [first, second] {
            let Some(todo) = wanted(spec(&machines), &observed) else { continue };
            for step in &plan(&todo, &observed).unwrap().steps {
                carry_out(&mut observed, step);
            }
            let again = plan(&wanted(spec(&machines), &observed).unwrap(), &observed).unwrap();
            prop_assert_eq!(again.steps, vec![]);
        }
    }

    #[test]
    fn undone_after_any_step_the_host_is_as_it_was(first in machines(), second in machines()) {
        let mut observed = empty_host();
        for step in plan(&wanted(spec(&first), &observed).unwrap(), &observed).unwrap().steps {
            carry_out(&mut observed, &step);
        }
        let Some(second) = wanted(spec(&second), &observed) else { return Ok(()) };
        let steps = plan(&second, &observed).unwrap().steps;
        for k in 0..=steps.len() {
            let mut tried = observed.clone();
            for step in &steps[..k] {
                carry_out(&mut tried, step);
            }
            for step in undo(&steps[..k]) {
                carry_out(&mut tried, &step);
            }
            prop_assert_eq!(show(&tried), show(&observed), "after {} of {:?}", k, steps);
        }
    }
}
