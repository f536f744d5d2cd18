//! Definitions, state, rendered files and what runs: in step, or not.

use std::collections::BTreeMap;

use super::{Facts, Finding, Trap};
use crate::hint::Hint;
use crate::name::MachineName;
use crate::plan::Refusal;
use crate::spec::MACHINES_DIR;

/// How many user ids a machine has (systemd-nspawn(1), `--private-users=`).
const RANGE: u32 = 65_536;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.cut_short.as_ref().map(|command| {
        Finding::error(
            Trap::CutShort,
            "the journal",
            format!("`nsctl {command}` was cut short"),
            "half of it is done",
        )
        .fix_safely("nsctl apply --yes")
    }));
    findings.extend(facts.damaged_journal.as_ref().map(|(what, fix)| {
        Finding::error(Trap::CutShort, "the journal", what, "no command changes anything until it is gone")
            .fix(fix)
    }));
    findings.extend(leases(facts));
    findings.extend(left_out(facts));
    findings.extend(pending(facts));
    findings.extend(user_ids(facts));
    findings
}

fn leases(facts: &Facts) -> Vec<Finding> {
    let held = facts.state.leases.held();
    let routed = |name: &MachineName| {
        facts.spec.machines.get(name).is_some_and(|machine| machine.network.routed().is_some())
    };
    let idle = held.iter().filter(|(name, _)| !routed(name)).map(|(name, subnet)| {
        let what = format!("holds {subnet}, and no definition of a routed machine has that name");
        Finding::warning(Trap::OutOfStep, name.as_str(), what, "the subnet is not free for others")
            .fix("nsctl apply --yes")
    });
    let bare = facts.spec.machines.keys().filter(|name| routed(name) && !held.contains_key(*name));
    let bare = bare.map(|name| {
        Finding::error(
            Trap::OutOfStep,
            name.as_str(),
            "is defined and holds no subnet",
            "it cannot be started as it is",
        )
        .fix("nsctl apply --yes")
    });
    idle.chain(bare).collect()
}

/// Machines that cannot be as they should; each by itself.
fn left_out(facts: &Facts) -> Vec<Finding> {
    // What stands in the way of the host itself stops all.
    let whose =
        |refusal: &Refusal| refusal.machine.as_ref().map_or("the host".to_owned(), ToString::to_string);
    let machines = facts.left_out.iter().map(|refusal| (whose(refusal), refusal));
    let strays = facts.spec.strays.iter().map(|problem| {
        Finding::error(
            Trap::DefinitionLeftOut,
            "the definitions",
            problem.to_string(),
            "it defines no machine",
        )
        .fix(format!("ls -l {MACHINES_DIR}"))
    });
    let found = machines.map(|(name, refusal)| {
        let fix = refusal.hint().unwrap_or_else(|| "nsctl plan".to_owned());
        let what = format!("stays as it is: {refusal}");
        let trap = if refusal.over_a_file { Trap::EditedFile } else { Trap::DefinitionLeftOut };
        Finding::error(trap, name, what, "what its definition says has no effect").fix(fix)
    });
    found.chain(strays).collect()
}

/// What a reconcile would change.
fn pending(facts: &Facts) -> Option<Finding> {
    let steps = facts.pending.as_ref().filter(|steps| !steps.is_empty())?;
    let first = steps.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    let more = if steps.len() > 3 { format!("; and {} more", steps.len() - 3) } else { String::new() };
    let what = format!("is not as its files say: {first}{more}");
    let causes = "what was edited or lost has no effect, or another than one thinks";
    Some(Finding::warning(Trap::OutOfStep, "the host", what, causes).fix("nsctl apply --yes"))
}

/// Two machines whose users are the same to the kernel.
fn user_ids(facts: &Facts) -> Vec<Finding> {
    let shifts: BTreeMap<&str, u32> = facts
        .observed
        .machines
        .iter()
        .filter_map(|(name, running)| Some((name.as_str(), running.uid_shift.filter(|shift| *shift > 0)?)))
        .collect();
    let pairs = shifts.iter().filter_map(|(name, shift)| {
        let mut others = shifts.iter().filter(|(other, _)| *other > name);
        Some((name, others.find(|(_, theirs)| shift.abs_diff(**theirs) < RANGE)?.0))
    });
    let causes = "who breaks out of one of them is root in the other";
    let found = pairs.map(|(name, other)| {
        Finding::error(Trap::SharedUserIds, format!("{name}, {other}"), "share user ids on this host", causes)
            .fix(apart(facts, name, other))
    });
    found.collect()
}

/// A definition that names the range itself, or else chance, is what must change.
fn apart(facts: &Facts, name: &str, other: &str) -> String {
    let pinned = [other, name].into_iter().find(|name| {
        let machine = name.parse::<MachineName>().ok().and_then(|name| facts.spec.machines.get(&name));
        machine.is_some_and(|machine| {
            machine.nspawn.get("Exec").is_some_and(|exec| exec.contains_key("PrivateUsers"))
        })
    });
    match pinned {
        Some(name) => format!("sed -i '/^PrivateUsers/d' {MACHINES_DIR}/{name}.toml && nsctl apply --yes"),
        None => format!("nsctl restart {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Running;

    #[test]
    fn machines_have_user_ids_of_their_own() {
        let mut facts = Facts::default();
        for (name, uid_shift) in [("a", Some(65_536)), ("b", Some(131_072)), ("c", Some(0)), ("d", None)] {
            facts.observed.machines.insert(name.into(), Running { leader: 1, uid_shift });
        }
        assert_eq!(check(&facts), []);
        facts.observed.machines.insert("e".into(), Running { leader: 1, uid_shift: Some(100_000) });
        assert_eq!(check(&facts).len(), 2);
    }

    #[test]
    fn a_file_in_the_way_is_a_trap_of_its_own() {
        let refusal = Refusal::of(&"web".parse().unwrap(), "x", "y");
        let left_out = vec![refusal.clone(), refusal.over_a_file()];
        let traps: Vec<Trap> =
            check(&Facts { left_out, ..Facts::default() }).iter().map(|finding| finding.trap).collect();
        assert_eq!(traps, [Trap::DefinitionLeftOut, Trap::EditedFile]);
        let of_host = Facts { left_out: vec![Refusal::of_host("x", "y")], ..Facts::default() };
        assert_eq!(check(&of_host)[0].object, "the host");
    }

    #[test]
    fn a_journal_that_makes_no_sense_is_found() {
        let damaged_journal = Some(("1.json cannot be read".to_owned(), "delete it".to_owned()));
        let facts = Facts { damaged_journal, ..Facts::default() };
        assert!(check(&facts)[0].what.contains("cannot be read") && check(&facts)[0].fix == "delete it");
    }

    #[test]
    fn leases_and_machines_go_together() {
        let mut facts = Facts::default();
        let pool = crate::pool::Pool::Fixed("2001:db8:a::/48".parse().unwrap());
        facts.state.leases.lease(pool, &"gone".parse().unwrap(), None).unwrap();
        assert!(check(&facts)[0].what.contains("holds 2001:db8:a:1::/64"));
    }
}
