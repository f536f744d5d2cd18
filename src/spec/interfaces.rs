//! Interfaces of the host that two things would want to name alike.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Definitions, HOST_FILE, Problem, Spec, definition_path, text_of};
use crate::name::{MachineName, kernel_name};

/// Machines whose veths would have one name are broken, but for the first; gives the host's
/// problems: bridges and uplinks whose names machines' veths have.
pub fn collisions(spec: &mut Spec, host: &str, definitions: &Definitions) -> Vec<Problem> {
    let mut machines: BTreeMap<String, MachineName> = BTreeMap::new();
    let mut found = Vec::new();
    for name in spec.machines.keys() {
        for link in links(name) {
            if let Some(other) = machines.get(&link) {
                let (path, text) = (definition_path(name), text_of(definitions, name));
                let message =
                    format!("the interface of '{name}' would be named {link}, as that of '{other}' is");
                found.push((name.clone(), Problem::at_value(&path, text, "mode", message)));
            }
            machines.entry(link).or_insert_with(|| name.clone());
        }
    }
    found.into_iter().for_each(|(name, problem)| spec.breaks(&name, problem));
    let bridges = spec.host.bridges.keys();
    let taken = bridges.filter_map(|bridge| Some((bridge, machines.get(bridge.as_str())?)));
    let problem = |(bridge, machine): (&crate::name::IfName, &MachineName)| {
        let message = format!("{bridge} is the name of the interface of the machine '{machine}'");
        Problem::at_table(Path::new(HOST_FILE), host, "bridge", bridge.as_str(), message)
    };
    taken.map(problem).collect()
}

/// The names that the host's end of a machine's veth can have.
fn links(name: &MachineName) -> [String; 2] {
    [name.routed_link(), name.bridged_link()].map(|link| kernel_name(&link))
}
