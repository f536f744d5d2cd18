//! What went wrong, for people: the chain of causes, then hints.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::iter;
use std::str::FromStr;

use crate::apply::{Failure, StepError};
use crate::cli::report::ErrorView;
use crate::cli::text::{err, joined, sanitize};
use crate::hint::Hint;
use crate::plan::{ChangeError, Refusal};
use crate::spec::{Problem, Problems};
use crate::visible::few;

/// Errors on their way to the terminal, each with what fixes it.
#[derive(Debug)]
pub struct Fault {
    errors: Vec<(anyhow::Error, Vec<String>)>,
    is_usage: bool,
    is_interrupt: bool,
    /// Somebody else was first, and another time it may go well.
    is_outrun: bool,
    /// Nobody answered.
    is_unheard: bool,
}

impl Fault {
    /// A fault that is found at the command line itself.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault::of(vec![(anyhow::Error::msg(message.into()), None)])
    }

    /// Somebody did not want to wait for the end.
    pub fn interrupted() -> Fault {
        Fault { is_interrupt: true, ..Fault::new("interrupted") }
    }

    /// The same, whatever the host is like.
    pub fn wrong(message: impl Into<String>) -> Fault {
        Fault::new(message).usage()
    }

    fn of(errors: Vec<(anyhow::Error, Option<String>)>) -> Fault {
        let with_hints = |(error, hint): (_, Option<String>)| (error, hint.into_iter().collect());
        let errors = errors.into_iter().map(with_hints).collect();
        Fault { errors, is_usage: false, is_interrupt: false, is_outrun: false, is_unheard: false }
    }

    /// Fixes the last of the errors.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        if let Some((_, hints)) = self.errors.last_mut() {
            hints.push(hint.into());
        }
        self
    }

    /// The command line itself is wrong, whatever the host is like.
    #[must_use]
    pub fn usage(mut self) -> Fault {
        self.is_usage = true;
        self
    }

    /// Nothing was begun, since somebody else was first.
    #[must_use]
    pub fn outrun(mut self) -> Fault {
        self.is_outrun = true;
        self
    }

    /// Nobody answered.
    #[must_use]
    pub fn unheard(mut self) -> Fault {
        self.is_unheard = true;
        self
    }

    pub fn is_unheard(&self) -> bool {
        self.is_unheard
    }

    /// Something was begun all the same.
    #[must_use]
    pub fn begun(mut self) -> Fault {
        self.is_outrun = false;
        self
    }

    pub fn is_outrun(&self) -> bool {
        self.is_outrun
    }

    /// The same, and what it stood in the way of.
    #[must_use]
    pub fn before(mut self, what: String) -> Fault {
        if let Some((error, _)) = self.errors.first_mut() {
            let cause = std::mem::replace(error, anyhow::Error::msg(what.clone()));
            *error = cause.context(what);
        }
        self
    }

    /// Whether nothing went wrong, and nobody wanted to wait for the end.
    pub fn is_interrupt(&self) -> bool {
        let interrupted = |error: &anyhow::Error| {
            matches!(error.downcast_ref::<Failure>(), Some(Failure::Interrupted { .. }))
        };
        self.is_interrupt || self.errors.iter().any(|(error, _)| interrupted(error))
    }

    /// Whether a backup was tried, and did not do what it should.
    pub fn is_unproved(&self) -> bool {
        let unproved = |error: &anyhow::Error| match error.downcast_ref::<Failure>() {
            Some(Failure::Step { source, .. }) => matches!(**source, StepError::NotProved(_)),
            _ => false,
        };
        self.errors.iter().any(|(error, _)| unproved(error))
    }

    /// The exit status: 2, as clap's own, for wrong usage.
    pub fn status(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }

    /// For a program: each error with what fixes it.
    pub fn views(&self) -> Vec<ErrorView> {
        let view = |(error, hints): &(anyhow::Error, Vec<String>)| ErrorView {
            message: describe(error),
            hint: (!hints.is_empty()).then(|| hints.join("; ")),
        };
        self.errors.iter().map(view).collect()
    }

    /// Prints it to standard error.
    pub fn print(&self) {
        let (red, bold, reset) = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m");
        for (index, (error, hints)) in self.errors.iter().enumerate() {
            err!("{red}error:{reset} {}", sanitize(&describe(error)));
            // What fixes several is said after the last of them.
            let later =
                |hint: &String| self.errors[index + 1..].iter().any(|(_, hints)| hints.contains(hint));
            for hint in hints.iter().filter(|hint| !later(hint)) {
                err!("{bold}hint:{reset} {}", sanitize(hint));
            }
        }
    }
}

/// What cannot be done to files alone.
pub fn live_only(what: &str) -> Fault {
    Fault::wrong(format!("{what} on a running host, not below --root"))
        .hint("leave --root away, on that host")
}

/// What a word of the command line means.
pub fn argument<T>(word: &str) -> Result<T, Fault>
where
    T: FromStr<Err: Hint>,
{
    word.parse().map_err(|error: T::Err| Fault::from(error).usage())
}

/// There is no machine of that name.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    let known: BTreeSet<&str> = known.collect();
    let fault = Fault::new(format!("there is no machine named '{}'", name.escape_debug()));
    if known.is_empty() {
        return fault.hint("`nsctl create NAME --routed --image IMAGE` makes one");
    }
    fault.hint(format!("there are: {}", few(known.iter())))
}

/// What went wrong, without hints.
impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&joined(self.errors.iter().map(|(error, _)| describe(error)), "; "))
    }
}

/// An error and its causes, each but once.
fn describe(error: &anyhow::Error) -> String {
    let mut whole = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !whole.contains(&cause) {
            let _ = write!(whole, ": {cause}");
        }
    }
    whole
}

/// Every error of ours brings its hint along.
impl<E: Hint> From<E> for Fault {
    fn from(error: E) -> Fault {
        Fault::of(vec![hinted(error)])
    }
}

fn hinted(error: impl Hint) -> (anyhow::Error, Option<String>) {
    let hint = error.hint();
    (anyhow::Error::new(error), hint)
}

impl From<Problems> for Fault {
    fn from(Problems(problems): Problems) -> Fault {
        let error = |problem: &Problem| (anyhow::Error::msg(problem.to_string()), None);
        Fault::of(problems.iter().map(error).collect()).hint("fix that in the file; nothing was changed")
    }
}

impl From<Vec<Refusal>> for Fault {
    fn from(refusals: Vec<Refusal>) -> Fault {
        Fault::of(refusals.into_iter().map(hinted).collect())
    }
}

impl From<ChangeError> for Fault {
    fn from(error: ChangeError) -> Fault {
        match error {
            ChangeError::Edit(error) => error.into(),
            ChangeError::Unreadable(problems) => problems.into(),
            ChangeError::Refused(refusals) => refusals.into(),
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        let left = failure.left().to_vec();
        let hint = match &failure {
            Failure::Step { source, .. }
            | Failure::Unfinished { source, .. }
            | Failure::NotSettled(source)
            | Failure::Other(source) => StepError::hint(source),
            Failure::Journal(error) => error.hint(),
            Failure::Interrupted { .. } => None,
        };
        let undone = matches!(failure, Failure::Step { .. } | Failure::Interrupted { .. }) && left.is_empty();
        let not_undone =
            left.into_iter().map(|text| (anyhow::Error::msg(format!("not undone: {text}")), None));
        let fault = Fault::of(iter::once((anyhow::Error::new(failure), hint)).chain(not_undone).collect());
        if undone {
            return fault.hint("what had been done was undone; nothing is left over");
        }
        if fault.errors.len() > 1 {
            return fault.hint("fix what is named there; each nsctl that changes the host tries it again");
        }
        fault
    }
}
