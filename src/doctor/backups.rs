//! Backups: they are made as often as they should be, and one comes up.

use super::{Facts, Finding, Trap};
use crate::backup::{History, age, overdue};
use crate::name::MachineName;
use crate::spec::BackupSchedule;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let machines = facts.spec.machines.iter();
    let scheduled = machines.filter_map(|(name, machine)| Some((name, machine.backup.as_ref()?)));
    scheduled
        .flat_map(|(name, schedule)| {
            let history = facts.observed.history(name);
            made(name, schedule, &history, facts.now)
                .into_iter()
                .chain(proved(name, schedule, &history, facts.now))
        })
        .collect()
}

fn made(name: &MachineName, schedule: &BackupSchedule, history: &History, now: u64) -> Option<Finding> {
    let every = schedule.every?;
    let fix = format!("nsctl backup {name}");
    if let Some(why) = &history.fails {
        let what = format!("its last backup failed: {why}");
        return Some(
            Finding::error(Trap::BackupOld, name.as_str(), what, "what it has now is on this host alone")
                .fix(fix),
        );
    }
    let what = match &history.last {
        None => "was never backed up".to_owned(),
        Some(last) if now.saturating_sub(last.taken) <= overdue(every) => return None,
        Some(last) => format!("was backed up {} ago, and is to be {}", age(now, last.taken), every.word()),
    };
    let finding =
        Finding::error(Trap::BackupOld, name.as_str(), what, "what it has now is on this host alone");
    // A timer that has just been set up has not run yet.
    Some(
        if history.last.is_none() { Finding { level: super::Level::Warning, ..finding } } else { finding }
            .fix(fix),
    )
}

fn proved(name: &MachineName, schedule: &BackupSchedule, history: &History, now: u64) -> Option<Finding> {
    let fix = format!("nsctl backup verify {name}");
    let (what, is_error) = match (&history.proof, schedule.verify) {
        (Some(proof), _) if proof.why.is_some() => {
            let why = proof.why.as_deref().unwrap_or_default();
            (format!("its backup {} was not proved: {why}", proof.id), true)
        }
        (Some(proof), Some(every)) if now.saturating_sub(proof.when) > overdue(every) => (
            format!("its backup was proved {} ago, and is to be {}", age(now, proof.when), every.word()),
            false,
        ),
        (None, Some(_)) if history.last.is_some() => ("its backup was never proved".to_owned(), false),
        _ => return None,
    };
    let causes = "nobody knows whether it comes back";
    let finding = if is_error {
        Finding::error(Trap::BackupUnproved, name.as_str(), what, causes)
    } else {
        Finding::warning(Trap::BackupUnproved, name.as_str(), what, causes)
    };
    Some(finding.fix(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{Made, Proof};
    use crate::emit::ManagedFile;
    use crate::spec::{Spec, definition_path};

    const DAY: u64 = 86_400;

    fn found(history: &History) -> Vec<String> {
        let name: MachineName = "web".parse().unwrap();
        let text = "[network]\nmode = \"routed\"\n[backup]\nevery = \"daily\"\nverify = \"weekly\"\n";
        let files = [(definition_path(&name), text.to_owned())].into();
        let spec = Spec::parse(Some("pool = \"2001:db8:a::/48\""), &crate::spec::readable(&files)).unwrap();
        let mut facts = Facts { spec, now: 100 * DAY, ..Facts::default() };
        facts.observed.files.insert(ManagedFile::Backups(name).path(), history.render());
        check(&facts).into_iter().map(|finding| format!("{:?}: {}", finding.level, finding.what)).collect()
    }

    #[test]
    fn what_is_old_or_not_proved_is_told() {
        let made = |days| Made { taken: days * DAY, id: "0123abcd".parse().unwrap(), to: "/x".into() };
        let proof = |days, why: Option<&str>| Proof {
            when: days * DAY,
            taken: days * DAY,
            id: "0123abcd".parse().unwrap(),
            why: why.map(str::to_owned),
        };
        assert_eq!(found(&History::default()), ["Warning: was never backed up"]);
        let good = History { last: Some(made(99)), proof: Some(proof(95, None)), fails: None };
        assert_eq!(found(&good), Vec::<String>::new());
        let old = History { last: Some(made(97)), proof: Some(proof(80, None)), fails: None };
        let told = [
            "was backed up 3 d ago, and is to be daily",
            "its backup was proved 20 d ago, and is to be weekly",
        ];
        assert_eq!(found(&old), [format!("Error: {}", told[0]), format!("Warning: {}", told[1])]);
        let bad =
            History { fails: Some("full".into()), proof: Some(proof(99, Some("no port"))), ..good.clone() };
        let told = ["its last backup failed: full", "its backup 0123abcd was not proved: no port"];
        assert_eq!(found(&bad), told.map(|told| format!("Error: {told}")));
        assert_eq!(found(&History { proof: None, ..good }), ["Warning: its backup was never proved"]);
    }
}
