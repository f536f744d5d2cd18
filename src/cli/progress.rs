//! What happens, as it happens: a spinner on a terminal, lines in a log,
//! nothing when quiet.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::apply::Listener;
use crate::cli::text::{err, sanitize};
use crate::plan::Step;

/// Hears of the steps for the person at the terminal.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        let spinner = (!quiet && std::io::stderr().is_terminal()).then(spinner);
        Progress { spinner, quiet }
    }

    /// Takes the spinner away.
    pub fn end(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

const SPINNER: &str = "{spinner} {wide_msg} {elapsed}";

fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    style(&spinner, SPINNER);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn style(spinner: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        spinner.set_style(style);
    }
}

impl Listener for Progress {
    fn begins(&self, step: &Step) {
        if let Some(spinner) = self.spinner.as_ref().filter(|spinner| spinner.length().is_some()) {
            spinner.unset_length();
            style(spinner, SPINNER);
        }
        self.says_in_passing(&step.describe());
    }

    fn says_in_passing(&self, line: &str) {
        let line = sanitize(line);
        match &self.spinner {
            Some(spinner) => spinner.set_message(line),
            None if self.quiet => {}
            None => err!("{line}"),
        }
    }

    fn progresses(&self, part: f64) {
        if let Some(spinner) = self.spinner.as_ref().filter(|_| part > 0.0) {
            if spinner.length().is_none() {
                style(spinner, "{spinner} {wide_msg} {bar:24} {percent:>3} % {elapsed}");
                spinner.set_length(1000);
            }
            spinner.set_position((part.min(1.0) * 1000.0) as u64);
        }
    }

    fn says(&self, text: &str) {
        let line = sanitize(text);
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => err!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
