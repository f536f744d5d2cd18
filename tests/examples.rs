//! Every definition in machines.d parses, gets its lease and its files, and
//! needs nothing more once they are there.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use nsctl::observed::Observed;
use nsctl::plan::{Scope, Step, Wanted, plan, settle};
use nsctl::spec::{MACHINES_DIR, Spec};
use nsctl::state::State;

const HOST: &str = "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"enp6s0\"\n";

#[test]
fn every_example_is_planned_and_then_at_rest() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines.d");
    let definitions: BTreeMap<_, _> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (Path::new(MACHINES_DIR).join(path.file_name().unwrap()), Ok(text))
        })
        .collect();
    assert!(definitions.len() >= 3);
    let spec = Spec::parse(Some(HOST), &definitions).unwrap();
    let leases = settle(&spec, State::default().leases, &Scope::All).unwrap();
    let wanted = Wanted::new(spec, State { leases, ..State::default() }, Scope::All);

    let mut observed = Observed::default();
    let first = plan(&wanted, &observed).unwrap();
    for (name, machine) in &wanted.spec.machines {
        let written = |step: &Step| matches!(step, Step::Write { path, .. } if path.ends_with(format!("{name}.nspawn")));
        assert!(first.steps.iter().any(written), "{name}");
        if machine.autostart {
            observed.enabled.insert(name.clone());
        }
    }
    for step in first.steps {
        if let Step::Write { path, new: Some(text), .. } = step {
            observed.files.insert(path, text);
        }
    }
    assert_eq!(plan(&wanted, &observed).unwrap().steps, []);
}
