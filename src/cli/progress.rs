//! What happens, as it happens: a spinner on a terminal and a line for each phase that is done, plain
//! lines in a log, nothing when quiet, each step when verbose.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::apply::Listener;
use crate::cli::Global;
use crate::cli::text::{err, sanitize};
use crate::name::MachineName;
use crate::plan::{Phase, Step, phases};
use crate::sys;

/// Hears of the steps for the person at the terminal.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
    quiet: bool,
    verbose: bool,
    phases: RefCell<Phases>,
}

/// What is to come, and what is at work since when.
#[derive(Debug, Default)]
struct Phases {
    planned: VecDeque<(Phase, String)>,
    current: Option<(Phase, String, Instant)>,
}

impl Phases {
    /// What a step that begins makes of them: the phase that is over, and the line of the new one;
    /// none while the same goes on.
    fn begin(&mut self, step: &Step, now: Instant) -> Option<(Option<String>, String)> {
        let phase = step.phase();
        if self.current.as_ref().is_some_and(|(current, ..)| *current == phase) {
            return None;
        }
        let over = self.end(now);
        // What is undone was not planned.
        let planned = self.planned.front().is_some_and(|(next, _)| *next == phase);
        let line = if planned { self.planned.pop_front().map(|(_, line)| line) } else { None };
        let line = line.unwrap_or_else(|| step.describe());
        self.current = Some((phase, line.clone(), now));
        Some((over, line))
    }

    fn end(&mut self, now: Instant) -> Option<String> {
        let (_, line, begun) = self.current.take()?;
        Some(format!("{line} ({:.2} s)", now.duration_since(begun).as_secs_f64()))
    }
}

impl Progress {
    pub fn new(global: &Global) -> Progress {
        let is_shown = !global.quiet && !global.verbose && std::io::stderr().is_terminal();
        let spinner = is_shown.then(|| spinner(&global.lines));
        Progress { spinner, quiet: global.quiet, verbose: global.verbose, phases: RefCell::default() }
    }

    /// What is at work that is no step.
    pub fn at(&self, line: &str) {
        self.says_in_passing(line);
    }

    /// Takes the spinner away.
    pub fn end(&self) {
        let over = self.phases.borrow_mut().end(sys::now());
        if let Some(spinner) = &self.spinner {
            over.iter().filter(|_| !self.verbose).for_each(|line| spinner.println(sanitize(line)));
            spinner.finish_and_clear();
        }
    }

    /// A spinner has no length; a bar has one.
    fn spin(&self) {
        if let Some(spinner) = self.spinner.as_ref().filter(|spinner| spinner.length().is_some()) {
            spinner.unset_length();
            style(spinner, SPINNER);
        }
    }
}

const SPINNER: &str = "{spinner} {wide_msg} {elapsed}";

fn spinner(lines: &MultiProgress) -> ProgressBar {
    let spinner = lines.add(ProgressBar::new_spinner());
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
    fn plans(&self, steps: &[Step]) {
        self.phases.borrow_mut().planned = phases(steps).into();
    }

    fn begins(&self, step: &Step) {
        self.spin();
        let begun = self.phases.borrow_mut().begin(step, sys::now());
        if self.verbose {
            self.says(&step.describe());
            return;
        }
        let Some((over, line)) = begun else { return };
        if let (Some(spinner), Some(over)) = (&self.spinner, over) {
            spinner.println(sanitize(&over));
        }
        self.says_in_passing(&line);
    }

    fn says_in_passing(&self, line: &str) {
        let line = sanitize(line);
        match &self.spinner {
            Some(spinner) => spinner.set_message(line),
            None if self.quiet => {}
            None => err!("{line}"),
        }
    }

    fn hears(&self, machine: &MachineName, line: &str) {
        let line = format!("{machine}: {line}");
        match &self.spinner {
            Some(spinner) => spinner.set_message(sanitize(&line)),
            None if self.verbose => self.says(&line),
            None => {}
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

    fn counts(&self, bytes: u64) {
        if let Some(spinner) = &self.spinner {
            if spinner.length().is_none() {
                style(spinner, "{spinner} {wide_msg} {bytes} {elapsed}");
                spinner.set_length(u64::MAX);
            }
            spinner.set_position(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_told_once_and_with_its_time() {
        let steps =
            [Step::ReloadNetworkd, Step::ReloadFirewall { prune: true, part: None }, Step::Delegation];
        let mut phases = Phases { planned: phases(&steps).into(), current: None };
        let begin = sys::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let first = phases.begin(&steps[0], begin);
        assert_eq!(first, Some((None, "reload networkd; load the firewall".to_owned())));
        assert_eq!(phases.begin(&steps[1], after(200)), None);
        let (over, line) = phases.begin(&steps[2], after(1250)).unwrap();
        assert_eq!(over.as_deref(), Some("reload networkd; load the firewall (1.25 s)"));
        assert_eq!(line, "wait for the delegated prefix");
        // What is undone says what it is itself.
        let undone = phases.begin(&steps[0], after(1300)).unwrap();
        assert_eq!(undone.1, "reload networkd");
        assert_eq!(phases.end(after(1300)).as_deref(), Some("reload networkd (0.00 s)"));
        assert_eq!(phases.end(after(1300)), None);
    }
}
