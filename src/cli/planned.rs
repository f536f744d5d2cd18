//! A plan, for people.

use crate::cli::text::{joined, sanitize};
use crate::emit::{ManagedFile, Origin};
use crate::plan::{Effect, Plan, Step, diff};

/// A plan in a few lines: what is to be done, what to know, what becomes of machines, links and rules.
pub fn brief(plan: &Plan) -> String {
    let notes = plan.notes.iter().map(|note| format!("note: {note}"));
    let effects = plan.effects.iter().map(Effect::describe);
    sanitize(&joined(std::iter::once(plan.summary()).chain(notes).chain(effects), "\n"))
}

/// The same, and each step, with what changes in files.
pub fn whole(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|step| match step {
        // What nsctl wrote itself and takes away need not be read again.
        Step::Write { old: Some(old), new: None, .. } if Origin::of(old) == Origin::Ours => step.describe(),
        Step::Write { path, .. } if ManagedFile::parse(path).is_some_and(|file| file.is_confidential()) => {
            step.describe()
        }
        Step::Write { path, old, new, .. } => {
            let (old, new) = (old.as_deref().unwrap_or_default(), new.as_deref().unwrap_or_default());
            format!("{}\n{}", step.describe(), diff(path, old, new).trim_end())
        }
        step => step.describe(),
    });
    let steps: String = steps.map(|step| coloured(&sanitize(&step))).collect();
    format!("{}\n{steps}", brief(plan)).trim_end().to_owned()
}

/// What a diff adds in green, what it takes away in red.
pub fn coloured(text: &str) -> String {
    let line = |line: &str| match line.as_bytes().first() {
        Some(b'+') => format!("\x1b[32m{line}\x1b[0m\n"),
        Some(b'-') => format!("\x1b[31m{line}\x1b[0m\n"),
        Some(b'@') => format!("\x1b[36m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}
