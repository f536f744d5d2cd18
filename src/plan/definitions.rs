//! What in a definition would let its machine down once it is touched: found before.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::files::FileChange;
use super::live::read_at_start;
use super::{Refusal, Wanted, secrets};
use crate::emit::Owner;
use crate::name::MachineName;
use crate::observed::Observed;
use crate::settings::{Program, VERSIONS, Verdict, judge};
use crate::spec::{Ipv4, MachineSpec, Problem, definition_path};

/// Of machines that would be started, or whose files would change.
pub fn refusals(wanted: &Wanted, observed: &Observed, changes: &[FileChange]) -> Vec<Refusal> {
    if !observed.live {
        return Vec::new();
    }
    let touched: BTreeSet<Owner> = changes.iter().map(|change| change.file.owner()).collect();
    let mut refusals = Vec::new();
    for (name, machine) in &wanted.spec.machines {
        let owner = Owner::Machine(name.clone());
        if !wanted.holds(&owner) {
            continue;
        }
        let changed = touched.contains(&owner);
        let starts = wanted.start.contains(name) && !observed.is_running(name);
        if changed || starts {
            refusals.extend(unbound(name, machine, wanted, observed));
        }
        let swapped = wanted.swap.as_ref().is_some_and(|swap| swap.machine == *name);
        let restarts = observed.is_running(name) && (swapped || changes.iter().any(|c| is_read(c, name)));
        if starts || restarts {
            refusals.extend(secrets::lacking(name, machine, wanted, observed));
        }
        if changed {
            refusals.extend(taken(name, machine, wanted, observed));
            refusals.extend(astray(name, machine, wanted, observed));
            refusals.extend(misspelt(name, machine, wanted, observed));
        }
    }
    refusals
}

/// What a machine does not start without, and is not there.
pub fn lacking(
    name: &MachineName,
    machine: &MachineSpec,
    wanted: &Wanted,
    observed: &Observed,
) -> Vec<Refusal> {
    let mut refusals = unbound(name, machine, wanted, observed);
    refusals.extend(secrets::lacking(name, machine, wanted, observed));
    refusals
}

/// Whether it is a change of this machine's that its start reads.
fn is_read(change: &FileChange, name: &MachineName) -> bool {
    change.file.owner() == Owner::Machine(name.clone()) && read_at_start(change)
}

/// Mounts whose source is not there: nspawn does not start.
fn unbound(name: &MachineName, machine: &MachineSpec, wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    let missing = machine.bind_sources().into_iter().filter(|source| observed.missing.contains(&source.path));
    missing
        .map(|source| {
            let path = source.path.display();
            let message = format!("{path} is not there, and '{name}' does not start without it");
            let place =
                place(name, wanted, observed, source.tables, source.key, Some(&source.value), message);
            let hint = format!("make it, `mkdir -p {path}` say, or take it out of the definition");
            Refusal::of(name, place, hint)
        })
        .collect()
}

/// An IPv4 address that this host has itself, or its router.
fn taken(name: &MachineName, machine: &MachineSpec, wanted: &Wanted, observed: &Observed) -> Option<Refusal> {
    let address = machine.ipv4.and_then(Ipv4::address)?;
    if !wanted.spec.own_addresses.contains(&address.into()) {
        return None;
    }
    let message = format!("{address} is this host's own, or its router's");
    let place = place(name, wanted, observed, &[], "ipv4", Some(&address.to_string()), message);
    let hint = "name one that the provider has given you for a machine; ipv4 = \"nat\" shares the host's";
    Some(Refusal::of(name, place, hint))
}

/// A route that would lead what is this host's own, or its router's, to a machine.
fn astray(
    name: &MachineName,
    machine: &MachineSpec,
    wanted: &Wanted,
    observed: &Observed,
) -> Option<Refusal> {
    let routes = machine.network.routed()?.routes.iter().map(|route| IpNet::V6(*route));
    let holds = |route: &IpNet| wanted.spec.own_addresses.iter().copied().find(|own| route.contains(own));
    let (route, own) = routes.filter_map(|route| Some((route, holds(&route)?))).next()?;
    let message = format!("{route} holds {own}, which this host or its router has");
    let place = place(name, wanted, observed, &["network"], "routes", Some(&route.to_string()), message);
    let hint = "name a prefix that the provider routes to this host beside its pool";
    Some(Refusal::of(name, place, hint))
}

/// Settings that no systemd knows; those that it will know, or knew, are doctor's matter.
fn misspelt(name: &MachineName, machine: &MachineSpec, wanted: &Wanted, observed: &Observed) -> Vec<Refusal> {
    // What comes of somebody's hand-written files is not refused for what it is.
    if !is_written(name, wanted, observed) || VERSIONS.last().is_none_or(|last| observed.systemd > *last) {
        return Vec::new();
    }
    let nspawn = machine
        .nspawn
        .iter()
        .flat_map(|(section, keys)| keys.keys().map(move |key| (Program::Nspawn, "nspawn", section, key)));
    let networkd = machine.networkd.iter().flat_map(|(section, all)| {
        let keys = all.all().iter().flat_map(|keys| keys.keys());
        keys.map(move |key| (Program::Networkd, "networkd", section, key))
    });
    let judged = nspawn.chain(networkd).filter_map(|(program, table, section, key)| {
        let verdict = judge(program, section, key, observed.systemd)?;
        let (what, meant) = match verdict {
            Verdict::NoSetting(near) => (format!("{key} is no setting of [{section}]"), near),
            Verdict::NoSection(near) => (format!("[{section}] is no section"), near),
            Verdict::Renamed(_) | Verdict::Since(_) => return None,
        };
        let message = format!("{what}: systemd would pass over it in silence");
        let place = place(name, wanted, observed, &[table, section], key, None, message);
        let hint = match meant {
            Some(meant) => format!("{meant} is one"),
            None => "systemd.nspawn(5) and systemd.network(5) list them".into(),
        };
        Some(Refusal::of(name, place, hint))
    });
    judged.collect()
}

/// Whether the definition stands as its owner wrote it.
fn is_written(name: &MachineName, wanted: &Wanted, observed: &Observed) -> bool {
    let path = definition_path(name);
    observed.file(&path).is_some() && !wanted.inputs.contains_key(&path)
}

/// In the definition, where it has been written.
pub(super) fn place(
    name: &MachineName,
    wanted: &Wanted,
    observed: &Observed,
    tables: &[&str],
    key: &str,
    value: Option<&str>,
    message: String,
) -> Problem {
    let path = definition_path(name);
    let text = observed.file(&path).filter(|_| is_written(name, wanted, observed));
    Problem::at_setting(&path, text.unwrap_or_default(), tables, key, value, message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::{Scope, plan, settle};
    use crate::spec::Spec;
    use crate::state::State;

    const HOST: &str = "pool = \"2001:db8:a::/48\"\n";

    fn refused(definition: &str, missing: &[&str]) -> Vec<String> {
        let path = definition_path(&"web".parse().unwrap());
        let files = std::collections::BTreeMap::from([(path, definition.to_owned())]);
        let spec = Spec::parse(Some(HOST), &crate::spec::readable(&files)).unwrap();
        let mut observed = Observed { live: true, systemd: 257, files, ..Observed::default() };
        observed.nftables = Some(crate::observed::Nftables::default());
        observed.missing = missing.iter().map(|path| Path::new(path).to_owned()).collect();
        let leases = settle(&spec, State::default().leases, &Scope::All).unwrap();
        let wanted = Wanted::new(spec, State { leases, ..State::default() }, Scope::All);
        plan(&wanted, &observed).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_would_let_a_machine_down_is_shown_in_its_definition() {
        let text = "bind = [\"/srv\", \"/gone:/x\"]\n[network]\nmode = \"routed\"\n\
                    [nspawn.Exec]\nHostnam = \"x\"\n[nspawn.Files]\nBindReadOnly = \"/lost\"\n\
                    [networkd.Network]\nLLPD = true\n[[networkd.Rout]]\nGateway = \"fe80::1\"\n";
        insta::assert_snapshot!(refused(text, &["/gone", "/lost"]).join("\n"));
    }

    #[test]
    fn what_is_right_is_not_refused() {
        let text = "bind = [\"/srv\"]\n[network]\nmode = \"routed\"\n\
                    [nspawn.Exec]\nRestrictAddressFamilies = \"AF_INET6\"\n";
        assert_eq!(refused(text, &[]), Vec::<String>::new());
    }
}
