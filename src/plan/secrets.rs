//! Secrets that a machine does not start without.

use std::path::Path;

use super::definitions::place;
use super::{Plan, Refusal, Step, Wanted};
use crate::emit::ini::Ini;
use crate::emit::{CREDENTIALS, ManagedFile, passes_on};
use crate::name::MachineName;
use crate::observed::Observed;
use crate::spec::{MachineSpec, SecretId, definition_path};
use crate::visible::joined;

/// What systemd gives a unit of credentials, in bytes (systemd.exec(5)).
const MOST: usize = 1024 * 1024;

/// Those that are not here, or do not get to it: its unit does not start, or its services find none.
pub fn lacking(
    name: &MachineName,
    machine: &MachineSpec,
    wanted: &Wanted,
    observed: &Observed,
) -> Vec<Refusal> {
    if machine.secret.is_empty() {
        return Vec::new();
    }
    let path = |id: &SecretId| ManagedFile::Secret(name.clone(), id.clone()).path();
    let is_there = |id: &&SecretId| match wanted.inputs.get(&path(id)) {
        Some(input) => input.is_some(),
        None => observed.has_secret(name, id),
    };
    let missing = machine.secret.iter().filter(|id| !is_there(id));
    let mut refusals: Vec<Refusal> = missing.map(|id| missed(name, id, wanted, observed)).collect();
    let text = |id| match wanted.inputs.get(&path(id)) {
        Some(input) => input.as_deref(),
        None => observed.file(&path(id)),
    };
    // They are in base64.
    let bytes: usize = machine.secret.iter().filter_map(text).map(|text| text.len() / 4 * 3).sum();
    if bytes > MOST {
        let what = format!("all secrets of '{name}' together have more than {} KiB", MOST / 1024);
        refusals.push(Refusal::of(name, what, "put what is as large into the machine's tree: `nsctl cp`"));
    }
    refusals.extend(unpassed(name, machine, observed));
    refusals
}

fn missed(name: &MachineName, id: &SecretId, wanted: &Wanted, observed: &Observed) -> Refusal {
    let message = format!("the secret {id} is not on this host, and '{name}' does not start without it");
    let place = place(name, wanted, observed, &[], "secret", Some(id.as_str()), message);
    let defined = observed.file(&definition_path(name)).is_some();
    let hint = if defined {
        format!("`nsctl secret set {name} {id}` asks for it; or take it out of the definition")
    } else {
        format!("with --no-start it can be made, and `nsctl secret set {name} {id}` gives it that then")
    };
    Refusal::of(name, place, hint)
}

/// A file of somebody else's that has the machine started by other words, which hand no secrets on; or that ours would
/// take the place of.
fn unpassed(name: &MachineName, machine: &MachineSpec, observed: &Observed) -> Option<Refusal> {
    let ours = ManagedFile::UnitDropIn(name.clone()).path();
    let starts = observed.starts.iter().filter(|start| start.is_of(name));
    // systemd reads drop-ins by their names, wherever they are (systemd.unit(5)).
    let start = starts.max_by_key(|start| (start.is_drop_in(), start.path.file_name()))?;
    let words: Vec<&str> = start.command.split_whitespace().collect();
    let path = start.path.display();
    if !start.is_drop_in() || start.path.file_name() <= ours.file_name() {
        let what = format!(
            "{path} has '{name}' started by an ExecStart= of its own, and nsctl's, which hands on its secrets, would \
             take the place of that"
        );
        let all = joined(machine.secret.iter().map(passes_on), " ");
        let hint = format!("move that ExecStart= to a drop-in that comes after 50-nsctl.conf, with: {all}");
        return Some(Refusal::of(name, what, hint));
    }
    let lacks: Vec<String> =
        machine.secret.iter().map(passes_on).filter(|word| !words.contains(&word.as_str())).collect();
    if lacks.is_empty() {
        return None;
    }
    let what = format!("{path} starts '{name}' by an ExecStart= of its own, which hands it no secrets");
    Some(Refusal::of(name, what, format!("add to that: {}", joined(&lacks, " "))))
}

/// What systemd must decrypt when a plan starts machines, but for what the plan itself puts there; `read` gives the
/// text of a file as it is.
pub fn needed(plan: &Plan, read: impl Fn(&Path) -> Option<String>) -> Vec<(MachineName, SecretId)> {
    let written = |path: &Path| {
        plan.steps.iter().rev().find_map(|step| match step {
            Step::Write { path: written, new, .. } if written == path => Some(new.clone()),
            _ => None,
        })
    };
    let started = plan.steps.iter().flat_map(|step| match step {
        Step::Start { machines, .. } => machines.clone(),
        Step::RestartIfAsked { machine, .. } => vec![machine.clone()],
        _ => Vec::new(),
    });
    let mut needed = Vec::new();
    for name in started {
        let path = ManagedFile::UnitDropIn(name.clone()).path();
        let Some(text) = written(&path).unwrap_or_else(|| read(&path)) else { continue };
        let ini = Ini::parse(&text);
        let ids =
            ini.values("Service", CREDENTIALS).filter_map(|value| value.split_once(':')?.0.parse().ok());
        let is_new = |id: &SecretId| {
            matches!(written(&ManagedFile::Secret(name.clone(), id.clone()).path()), Some(Some(_)))
        };
        needed.extend(ids.filter(|id| !is_new(id)).map(|id| (name.clone(), id)));
    }
    needed.sort();
    needed.dedup();
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::ForeignStart;
    use crate::plan::Scope;
    use crate::spec::{Spec, readable};
    use crate::state::State;

    fn name() -> MachineName {
        "web".parse().unwrap()
    }

    fn write(file: ManagedFile, new: &str) -> Step {
        Step::Write { path: file.path(), old: None, new: Some(new.to_owned()), mode: None }
    }

    #[test]
    fn what_a_start_needs_is_what_its_unit_will_say_and_the_plan_does_not_bring() {
        let unit = |ids: &[&str]| {
            let lines = ids.iter().map(|id| format!("{CREDENTIALS}={id}:/etc/nsctl/secrets/web@{id}.cred\n"));
            format!("[Service]\n{}", lines.collect::<String>())
        };
        let start = Step::Start { machines: vec![name()], addresses: std::collections::BTreeMap::new() };
        let ids = |steps: Vec<Step>, there: &[&str]| -> Vec<String> {
            let text = unit(there);
            let plan = Plan { steps, ..Plan::default() };
            needed(&plan, |_| Some(text.clone())).into_iter().map(|(_, id)| id.to_string()).collect()
        };
        assert_eq!(ids(vec![start.clone()], &["a", "b"]), ["a", "b"]);
        let drop_in = write(ManagedFile::UnitDropIn(name()), &unit(&["b", "c"]));
        assert_eq!(ids(vec![drop_in.clone(), start.clone()], &["a"]), ["b", "c"]);
        let fresh = write(ManagedFile::Secret(name(), "c".parse().unwrap()), "x");
        assert_eq!(ids(vec![fresh, drop_in.clone(), start], &["a"]), ["b"]);
        assert_eq!(ids(vec![drop_in], &["a"]), Vec::<String>::new(), "nothing starts");
    }

    /// What is refused where somebody else's file starts machines.
    fn refused(path: &str, command: &str) -> Vec<String> {
        let path_of = crate::spec::definition_path(&name());
        let files = [(path_of, "secret = [\"db\"]\n[network]\nmode = \"routed\"\n".to_owned())].into();
        let spec = Spec::parse(Some("pool = \"2001:db8:a::/48\""), &readable(&files)).unwrap();
        let mut observed = Observed { files, ..Observed::default() };
        let secret = ManagedFile::Secret(name(), "db".parse().unwrap()).path();
        observed.files.insert(secret, "eA==".into());
        observed.starts = vec![ForeignStart { path: path.into(), command: command.into() }];
        let wanted = Wanted::new(spec, State::default(), Scope::All);
        let machine = &wanted.spec.machines[&name()];
        lacking(&name(), machine, &wanted, &observed).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whoever_starts_a_machine_must_hand_its_secrets_on() {
        const UNITS: &str = "/etc/systemd/system";
        let with = "systemd-nspawn --load-credential=db:db --machine=%i";
        for of in ["systemd-nspawn@web.service", "systemd-nspawn@.service"] {
            let late = format!("{UNITS}/{of}.d/override.conf");
            assert_eq!(refused(&late, with), Vec::<String>::new());
            assert!(
                refused(&late, "systemd-nspawn --load-credential=db:db2")[0].contains("hands it no secrets")
            );
            for early in [format!("{UNITS}/{of}.d/10-x.conf"), format!("{UNITS}/{of}")] {
                assert!(refused(&early, with)[0].contains("take the place of that"), "{early}");
            }
        }
        for others in
            ["systemd-nspawn@db.service.d/x.conf", "systemd-nspawn@db.service", "x.service.d/x.conf"]
        {
            assert_eq!(refused(&format!("{UNITS}/{others}"), "x"), Vec::<String>::new(), "{others}");
        }
    }
}
