//! Names that a machine must not take: others ask for them, and trust who answers.

use std::collections::BTreeMap;

use super::{Refusal, Wanted};
use crate::emit::names;
use crate::emit::{HOSTS_FILE, ManagedFile, Origin};
use crate::name::MachineName;
use crate::observed::Observed;
use crate::spec::Spec;

/// Why a new machine cannot have this name.
pub fn taken(name: &MachineName, spec: &Spec, observed: &Observed) -> Option<Refusal> {
    let of_others = spec.machines.keys().filter(|known| known.as_str().eq_ignore_ascii_case(name.as_str()));
    taken_by(name, &of_others.collect::<Vec<_>>(), observed)
}

/// The same; these are the machines that have it, in any case.
fn taken_by(name: &MachineName, same: &[&MachineName], observed: &Observed) -> Option<Refusal> {
    let word = name.as_str();
    let other = "choose another name";
    let reserved = |why: String, hint: String| {
        Some(Refusal::of(name, format!("'{name}' cannot be a machine's name: {why}"), hint))
    };
    if names::is_reserved(word) {
        return reserved(
            "everywhere it means something else, which others would ask this machine for".into(),
            other.into(),
        );
    }
    if names::is_the_hosts(word, &observed.hostnames) {
        return reserved("it is this host's own".into(), other.into());
    }
    if let Some(same) = same.iter().find(|known| **known != name) {
        return reserved(format!("'{same}' has it already, as names are the same in any case"), other.into());
    }
    let hosts = observed.file(HOSTS_FILE.as_ref()).unwrap_or_default();
    if names::is_in_hosts(word, hosts) {
        let hint = format!("{other}, or take its line out of {HOSTS_FILE}: nsctl writes its own");
        return reserved(format!("{HOSTS_FILE} has it for somebody else"), hint);
    }
    None
}

/// Machines that are new, and whose names are taken.
pub fn refusals(wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let mut alike: BTreeMap<String, Vec<&MachineName>> = BTreeMap::new();
    for name in wanted.spec.machines.keys() {
        alike.entry(name.as_str().to_ascii_lowercase()).or_default().push(name);
    }
    let is_new = |name: &MachineName| wanted.holds_machine(name) && !is_there(name, observed);
    let taken = alike.values().flat_map(|same| {
        same.iter().filter(|name| is_new(name)).filter_map(|name| {
            // Of two new ones the first by name may have it.
            let before = |other: &&MachineName| *other < *name || is_there(other, observed);
            let before: Vec<&MachineName> = same.iter().copied().filter(before).collect();
            taken_by(name, &before, observed)
        })
    });
    taken.collect()
}

/// What an older nsctl took: it runs on, and is not published.
pub fn notes(wanted: &Wanted, observed: &Observed) -> Vec<String> {
    let there =
        wanted.spec.machines.keys().filter(|name| wanted.holds_machine(name) && is_there(name, observed));
    let unheard = there.filter(|name| {
        names::is_reserved(name.as_str()) || names::is_the_hosts(name.as_str(), &observed.hostnames)
    });
    unheard
        .map(|name| {
            format!("'{name}' is not to be found by that name, which means something else; `nsctl rename {name} NEW`")
        })
        .collect()
}

fn is_there(name: &MachineName, observed: &Observed) -> bool {
    observed
        .file(&ManagedFile::Nspawn(name.clone()).path())
        .is_some_and(|text| Origin::of(text) != Origin::Foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Scope, plan, settle};
    use crate::spec::definition_path;
    use crate::state::State;

    fn planned(machines: &[&str], old: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let routed = "[network]\nmode = \"routed\"\n".to_owned();
        let mut files: std::collections::BTreeMap<_, _> =
            machines.iter().map(|name| (definition_path(&name.parse().unwrap()), routed.clone())).collect();
        let spec = Spec::parse(Some("pool = \"2001:db8:a::/48\""), &crate::spec::readable(&files)).unwrap();
        for name in old {
            let file = ManagedFile::Nspawn(name.parse().unwrap());
            files.insert(file.path(), crate::emit::sign(&file.owner(), "[Exec]\n"));
        }
        files.insert(HOSTS_FILE.into(), "127.0.0.1 localhost\n192.0.2.1 Printer # mine\n".into());
        let mut observed = Observed { files, ..Observed::default() };
        observed.hostnames = ["home.example.org".to_owned()].into();
        let leases = settle(&spec, State::default().leases, &Scope::All).unwrap();
        let wanted = Wanted::new(spec, State { leases, ..State::default() }, Scope::All);
        let words = |refusals: Vec<Refusal>| refusals.iter().map(ToString::to_string).collect();
        plan(&wanted, &observed).map(|plan| plan.notes).map_err(words)
    }

    #[test]
    fn new_machines_take_no_names() {
        for bad in ["LOCALHOST", "wpad", "metadata.google.internal", "Home", "home.example.org", "printer"] {
            let refused = planned(&[bad, "web"], &[]).unwrap_err();
            assert!(refused.len() == 1 && refused[0].contains(bad), "{bad}: {refused:?}");
        }
        assert_eq!(planned(&["www.example.org", "web"], &[]), Ok(Vec::new()));
        let refused = planned(&["Web", "web", "db"], &[]).unwrap_err();
        assert!(
            refused.len() == 1 && refused[0].contains("'web' cannot") && refused[0].contains("'Web'"),
            "{refused:?}"
        );
        let refused = planned(&["Web", "web"], &["web"]).unwrap_err();
        assert!(refused.len() == 1 && refused[0].contains("'Web' cannot"), "{refused:?}");
    }

    #[test]
    fn those_of_an_older_nsctl_run_on() {
        let notes = planned(&["wpad", "Web", "web"], &["wpad", "Web", "web"]).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("nsctl rename wpad NEW"), "{notes:?}");
    }
}
