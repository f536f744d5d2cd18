//! What stands last in a run's output, where a log that is cut still shows it:
//! which cases took longest, and why each failed, without the journals.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Cases whose time is printed.
const SLOWEST: usize = 12;
/// Longest reason printed, in characters, of its end.
const REASON: usize = 1500;
/// The same of its beginning.
const BEGINNING: usize = 250;

#[derive(Debug, Default)]
pub struct Report(Mutex<Vec<Line>>);

#[derive(Debug)]
struct Line {
    case: String,
    took: Duration,
    failed: Option<String>,
}

impl Report {
    pub fn add(&self, case: &str, took: Duration, failed: Option<&str>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Line { case: case.to_owned(), took, failed: failed.map(str::to_owned) });
    }

    pub fn print(&self) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.sort_by_key(|line| std::cmp::Reverse(line.took));
        if lines.len() > 1 {
            eprintln!("\nslowest:");
        }
        for line in lines.iter().take(SLOWEST).filter(|_| lines.len() > 1) {
            eprintln!("{:5} s  {}", line.took.as_secs(), line.case);
        }
        for line in lines.iter() {
            if let Some(why) = &line.failed {
                eprintln!("\n{} failed: {}", line.case, end_of(why));
            }
        }
        // Once more in a line each: the end of one long reason must not hide the others.
        for line in lines.iter() {
            if let Some(why) = &line.failed {
                eprintln!("FAILED {}: {}", line.case, beginning_of(why));
            }
        }
    }
}

fn beginning_of(text: &str) -> String {
    text.chars().take(BEGINNING).map(|letter| if letter == '\n' { ' ' } else { letter }).collect()
}

fn end_of(text: &str) -> &str {
    let start = text.char_indices().rev().nth(REASON).map_or(0, |(at, _)| at);
    &text[start..]
}
