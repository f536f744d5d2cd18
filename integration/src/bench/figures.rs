//! Times of one thing, many times over.

use std::time::Duration;

use crate::lab::Suite;

#[derive(Debug, Default)]
pub struct Figures(Vec<Duration>);

impl Figures {
    pub fn new() -> Figures {
        Figures::default()
    }

    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
        self.0.sort();
    }

    fn median(&self) -> f64 {
        self.milliseconds(self.0.len() / 2)
    }

    fn milliseconds(&self, index: usize) -> f64 {
        self.0.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }

    fn show(&self) -> String {
        let last = self.0.len().saturating_sub(1);
        format!("{:.1}, **{:.1}**, {:.1} ms", self.milliseconds(0), self.median(), self.milliseconds(last))
    }
}

/// One line of the table: ours first.
pub fn row(suite: Suite, what: &str, sides: &[Figures; 2], against: &str, to_reach: &str) {
    let [ours, theirs] = sides;
    let ratio = ours.median() / theirs.median();
    println!(
        "| {} | {what} | {} | {against} | {} | {ratio:.2} | {to_reach} |",
        suite.systemd(),
        ours.show(),
        theirs.show()
    );
}
