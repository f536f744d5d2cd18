//! Interfaces of the host that two things would want to name alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{HOST_FILE, Problem, Spec, definition_path};
use crate::name::{MachineName, kernel_name};

/// Machines whose veths would have one name, or that of a bridge or an uplink.
pub fn collisions(spec: &Spec, host: &str, definitions: &BTreeMap<PathBuf, String>) -> Vec<Problem> {
    let mut machines: BTreeMap<String, &MachineName> = BTreeMap::new();
    let mut problems = Vec::new();
    for name in spec.machines.keys() {
        for link in links(name) {
            if let Some(other) = machines.insert(link.clone(), name) {
                let path = definition_path(name);
                let text = definitions.get(&path).map_or("", String::as_str);
                let message =
                    format!("the interface of '{name}' would be named {link}, as that of '{other}' is");
                problems.push(Problem::at_value(&path, text, "mode", message));
            }
        }
    }
    for (bridge, machine) in
        spec.host.bridges.keys().filter_map(|bridge| Some((bridge, machines.get(bridge.as_str())?)))
    {
        let message = format!("{bridge} is the name of the interface of the machine '{machine}'");
        problems.push(Problem::at_table(Path::new(HOST_FILE), host, "bridge", bridge.as_str(), message));
    }
    problems
}

/// The names that the host's end of a machine's veth can have.
fn links(name: &MachineName) -> [String; 2] {
    [name.routed_link(), name.bridged_link()].map(|link| kernel_name(&link))
}
