//! What nsctl changed, in the journal of the host: who asks later what happened finds it there (`nsctl events`).

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::events::CHANGED;
use crate::name::MachineName;
use crate::plan::{Plan, Step, phases};
use crate::sys::{self, journald};
use crate::visible::{joined, visible};

/// No entry is longer, in characters.
const LONGEST: usize = 400;

/// Writes a plan down that was carried out, or failed. Of the command only its verb: in the rest may be what is nobody's
/// business.
pub fn write_down(plan: &Plan, failed: Option<&dyn Display>) {
    if plan.steps.is_empty() {
        return;
    }
    let machines: BTreeSet<MachineName> = plan.steps.iter().flat_map(|step| step.machines()).collect();
    let verb = verb(sys::arguments().into_iter());
    let (told, checks) = apart(&plan.steps);
    let done = || joined(phases(&told).into_iter().map(|(_, line)| line), "; ");
    let what = failed
        .map_or_else(|| format!("nsctl {verb}: {}", done()), |error| format!("nsctl {verb} failed: {error}"));
    let what = checks.iter().fold(what, |text, check| text.replace(check, "…"));
    let text: String = visible(&what).chars().take(LONGEST).collect();
    journald::write(&[
        ("MESSAGE", &text),
        ("MESSAGE_ID", CHANGED),
        ("PRIORITY", if failed.is_some() { "4" } else { "6" }),
        ("SYSLOG_IDENTIFIER", "nsctl"),
        ("NSCTL_MACHINES", &joined(&machines, " ")),
        ("NSCTL_VERB", &verb),
    ]);
}

/// The steps, and what machines' checks ask: a command of a private definition may have anything in it.
fn apart(steps: &[Step]) -> (Vec<Step>, Vec<String>) {
    let (checks, told): (Vec<Step>, Vec<Step>) = steps.iter().cloned().partition(Step::is_health);
    let asked = checks.into_iter().filter_map(|step| match step {
        Step::Check { check, .. } => Some(check.to_string()),
        _ => None,
    });
    (told, asked.collect())
}

/// The first word that is no option, nor an option's value.
fn verb(words: impl Iterator<Item = String>) -> String {
    let mut words = words;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--root" | "--wait" => _ = words.next(),
            option if option.starts_with('-') => {}
            _ => return word,
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::HealthCheck;

    #[test]
    fn what_a_check_asks_is_nobodys_business() {
        let check: HealthCheck = toml::from_str("command = \"curl -H token\"").unwrap();
        let machine: MachineName = "web".parse().unwrap();
        let steps = [Step::ReloadNetworkd, Step::Check { machine, check }];
        let (told, checks) = apart(&steps);
        assert_eq!((told.len(), checks.len()), (1, 1));
        assert!(steps[1].describe().contains(&checks[0]) && checks[0].contains("curl"));
    }

    #[test]
    fn of_a_command_its_verb_alone_is_told() {
        let verb = |line: &str| super::verb(line.split(' ').map(str::to_owned));
        assert_eq!(verb("--wait 5 -q set web environment=TOKEN=x"), "set");
        assert_eq!(verb("--root=/x list"), "list");
        assert_eq!(verb("-v"), "");
    }
}
