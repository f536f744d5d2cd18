//! What went wrong, for people: the chain of causes, then hints.

use std::fmt::Write;
use std::str::FromStr;

use crate::cli::text::err;

use crate::apply::{Failure, StepError};
use crate::cli::text;
use crate::hint::Hint;
use crate::plan::{ChangeError, Refusal};
use crate::spec::Problems;

/// An error on its way to the terminal.
#[derive(Debug)]
pub struct Fault {
    errors: Vec<anyhow::Error>,
    hints: Vec<String>,
    is_usage: bool,
}

impl Fault {
    /// A fault that is found at the command line itself.
    pub fn new(message: impl Into<String>) -> Fault {
        Fault { errors: vec![anyhow::Error::msg(message.into())], hints: Vec::new(), is_usage: false }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hints.push(hint.into());
        self
    }

    /// The command line itself is wrong, whatever the host is like.
    #[must_use]
    pub fn usage(mut self) -> Fault {
        self.is_usage = true;
        self
    }

    /// The exit status: 2, as clap's own, for wrong usage.
    pub fn status(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }

    #[must_use]
    fn hint_some(mut self, hint: Option<String>) -> Fault {
        self.hints.extend(hint);
        self
    }

    /// Prints it to standard error.
    pub fn print(&self) {
        let (red, bold, reset) = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m");
        for error in &self.errors {
            err!("{red}error:{reset} {}", text::sanitize(&describe(error)));
        }
        let mut said: Vec<&str> = Vec::new();
        for hint in self.hints.iter().map(String::as_str) {
            if !said.contains(&hint) {
                err!("{bold}hint:{reset} {}", text::sanitize(hint));
                said.push(hint);
            }
        }
    }
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
    let known: Vec<&str> = known.collect();
    let fault = Fault::new(format!("there is no machine named '{}'", name.escape_debug()));
    match known.as_slice() {
        [] => fault.hint("`nsctl create NAME --routed --image IMAGE` makes one"),
        known => fault.hint(format!("there are: {}", known.join(", "))),
    }
}

/// What went wrong, without hints.
impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errors: Vec<String> = self.errors.iter().map(describe).collect();
        f.write_str(&errors.join("; "))
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

fn plain(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault { errors: vec![anyhow::Error::new(error)], hints: Vec::new(), is_usage: false }
}

/// Every error of ours brings its hint along.
impl<E: Hint> From<E> for Fault {
    fn from(error: E) -> Fault {
        let hint = error.hint();
        plain(error).hint_some(hint)
    }
}

impl From<Problems> for Fault {
    fn from(Problems(problems): Problems) -> Fault {
        let errors = problems.iter().map(|problem| anyhow::Error::msg(problem.to_string())).collect();
        Fault { errors, hints: vec!["fix that in the file; nothing was changed".into()], is_usage: false }
    }
}

impl From<Vec<Refusal>> for Fault {
    fn from(refusals: Vec<Refusal>) -> Fault {
        let hints = refusals.iter().filter_map(Refusal::hint).collect();
        Fault { errors: refusals.into_iter().map(anyhow::Error::new).collect(), hints, is_usage: false }
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
        let mut fault = plain(failure).hint_some(hint);
        fault.errors.extend(left.into_iter().map(|text| anyhow::Error::msg(format!("not undone: {text}"))));
        if undone {
            return fault.hint("what had been done was undone; nothing is left over");
        }
        if fault.errors.len() > 1 {
            return fault.hint("fix what is named there; each nsctl that changes the host tries it again");
        }
        fault
    }
}
