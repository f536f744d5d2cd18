//! Figures of one thing, measured many times over, and the table of them all.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use fs_err as fs;

/// Milliseconds, megabytes, percent: whatever the row says.
#[derive(Debug, Default, Clone)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn of(figures: Vec<f64>) -> Figures {
        Figures(figures)
    }

    pub fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// That which so large a part of all is no larger than.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() as f64 * part) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// What each round of two sides in turn says of them.
    fn by_round(&self, other: &Figures) -> Figures {
        Figures(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    fn show(&self, unit: &str) -> String {
        let figure =
            |figure: f64| if figure < 9.95 { format!("{figure:.2}") } else { format!("{figure:.0}") };
        let [first, median, last] = [0.0, 0.5, 1.0].map(|part| figure(self.quantile(part)));
        match self.0.len() {
            1 => format!("**{first}** {unit}"),
            _ => format!("{first}, **{median}**, {last} {unit}"),
        }
    }
}

/// What is to be reached.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// So many times the other side, at the most.
    Times(f64),
    /// So much of the other side, at the least: more is better.
    AtLeast(f64),
    /// No more than so much.
    Within(f64),
}

/// The table, as it grows.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: String,
    missed: Vec<String>,
}

impl Sheet {
    /// One side against another.
    pub fn pair(&mut self, what: &str, unit: &str, ours: &Figures, against: (&str, &Figures), goal: Goal) {
        let ratio = ours.median() / against.1.median();
        self.compared(what, unit, ours, against, goal, ratio);
    }

    /// The same of sides that were measured in turn, of what the machine that we run on is not as quick at all the
    /// time: round by round.
    pub fn in_turn(&mut self, what: &str, unit: &str, ours: &Figures, against: (&str, &Figures), goal: Goal) {
        let ratio = ours.by_round(against.1).median();
        self.compared(what, unit, ours, against, goal, ratio);
    }

    fn compared(
        &mut self,
        what: &str,
        unit: &str,
        ours: &Figures,
        (name, theirs): (&str, &Figures),
        goal: Goal,
        ratio: f64,
    ) {
        let (reached, wish) = match goal {
            Goal::Times(most) => (ratio <= most, format!("{most} times")),
            Goal::AtLeast(least) => (ratio >= least, format!("at least {least}")),
            Goal::Within(most) => (ours.median() <= most, format!("{most} {unit}")),
        };
        self.row(what, &ours.show(unit), name, &theirs.show(unit), &format!("{ratio:.3}"), &wish, reached);
    }

    /// One side alone.
    pub fn single(&mut self, what: &str, unit: &str, ours: &Figures, most: f64) {
        self.row(what, &ours.show(unit), "", "", "", &format!("{most} {unit}"), ours.median() <= most);
    }

    /// What has no goal.
    pub fn told(&mut self, what: &str, text: &str) {
        eprintln!("{what}: {text}");
        let _ = writeln!(self.rows, "| {what} | {text} | | | | | |");
    }

    #[allow(clippy::too_many_arguments)]
    fn row(
        &mut self,
        what: &str,
        ours: &str,
        against: &str,
        theirs: &str,
        ratio: &str,
        wish: &str,
        reached: bool,
    ) {
        let verdict = if reached { "yes" } else { "**no**" };
        eprintln!("{what}: {ours} | {against} {theirs} | {ratio} | {wish}: {verdict}");
        let _ =
            writeln!(self.rows, "| {what} | {ours} | {against} | {theirs} | {ratio} | {wish} | {verdict} |");
        if !reached {
            self.missed.push(format!("{what} {against}"));
        }
    }

    /// Puts the table of one subject into the file, in the place of what it was before.
    pub fn save(&mut self, subject: &str, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let before = fs::read_to_string(path).unwrap_or_default();
        let mut sections: Vec<(String, String)> = before
            .split("\n## ")
            .skip(1)
            .filter_map(|section| section.split_once('\n'))
            .map(|(name, text)| (name.to_owned(), text.trim().to_owned()))
            .collect();
        let table = format!("{HEADER}\n{}", std::mem::take(&mut self.rows).trim_end());
        match sections.iter_mut().find(|(name, _)| name == subject) {
            Some((_, text)) => *text = table,
            None => sections.push((subject.to_owned(), table)),
        }
        let sections: String =
            sections.iter().map(|(name, text)| format!("\n## {name}\n\n{text}\n")).collect();
        Ok(fs::write(path, format!("{}{sections}", include_str!("head.md")))?)
    }

    /// Says what did not reach its goal.
    pub fn judge(&self) {
        for missed in &self.missed {
            println!("missed: {missed}");
        }
    }
}

const HEADER: &str =
    "| what | nsctl | against | | ratio | to reach | reached |\n|---|---|---|---|---|---|---|";
