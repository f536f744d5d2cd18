//! Snapshots of machines: a tree that stays as it was, and what its machine was then. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::name::MachineName;
use crate::pool::Lease;

/// What a snapshot is called, beside its machine's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a word is no label.
#[derive(Debug, thiserror::Error)]
#[error("'{}' cannot be the label of a snapshot", .0.escape_debug())]
pub struct LabelError(String);

impl Hint for LabelError {
    fn hint(&self) -> Option<String> {
        Some(
            "a label has at most 64 letters, digits, '-', '_' and '.', and begins with a letter or a digit"
                .into(),
        )
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(word: &str) -> Result<Label, LabelError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = word.len() <= 64
            && word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(plain);
        if good { Ok(Label(word.to_owned())) } else { Err(LabelError(word.to_owned())) }
    }
}

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(word: String) -> Result<Label, LabelError> {
        word.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Label {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a moment, in seconds since 1970, UTC: "20261129-105924", with a word before it.
    pub fn at(word: &str, seconds: u64) -> Label {
        let (year, month, day) = date(seconds / DAY);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Label(format!("{word}{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}"))
    }
}

/// The image that a snapshot's tree is: hidden, as machined hides what begins with a dot
/// (machinectl(1)), and no machine's name.
pub fn image(machine: &MachineName, label: &Label) -> String {
    format!(".{machine}@{label}")
}

/// Whether an image is a snapshot's tree.
pub fn is_snapshot(image: &str) -> bool {
    image.strip_prefix('.').and_then(|rest| rest.split_once('@')).is_some()
}

/// How a machine was while its snapshot was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It ran on: the files are as after a power cut.
    #[default]
    Running,
    /// It stood still meanwhile (systemctl(1), freeze).
    Frozen,
    /// It did not run.
    Stopped,
}

impl How {
    pub fn word(self) -> &'static str {
        match self {
            How::Running => "running",
            How::Frozen => "frozen",
            How::Stopped => "stopped",
        }
    }
}

/// What is known of a snapshot beside its tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// Seconds since 1970.
    pub taken: u64,
    pub how: How,
    /// Taken by a schedule, and expiring by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
    /// Why, where nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What its machine had of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The text of the machine's definition.
    pub definition: String,
}

impl Record {
    pub fn render(&self) -> String {
        // Nothing in it cannot be written.
        toml::to_string(self).unwrap_or_default()
    }

    /// None where the text is damaged.
    pub fn parse(text: &str) -> Option<Record> {
        toml::from_str(text).ok()
    }
}

/// How often a machine's snapshot is taken by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    Hourly,
    Daily,
    Weekly,
    Monthly,
}

impl Every {
    pub const ALL: [Every; 4] = [Every::Hourly, Every::Daily, Every::Weekly, Every::Monthly];

    /// As in `OnCalendar=` (systemd.time(7)).
    pub fn word(self) -> &'static str {
        match self {
            Every::Hourly => "hourly",
            Every::Daily => "daily",
            Every::Weekly => "weekly",
            Every::Monthly => "monthly",
        }
    }

    /// Which one a moment is in, counted from 1970, UTC; weeks begin on Monday.
    fn number(self, seconds: u64) -> u64 {
        let day = seconds / DAY;
        match self {
            Every::Hourly => seconds / 3600,
            Every::Daily => day,
            // The first of January 1970 was a Thursday.
            Every::Weekly => (day + 3) / 7,
            Every::Monthly => {
                let (year, month, _) = date(day);
                u64::from(year) * 12 + u64::from(month)
            }
        }
    }
}

/// `[snapshots]` of a definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Schedule {
    /// How often one is taken.
    pub every: Option<Every>,
    /// Whether the machine stands still meanwhile.
    pub freeze: Option<bool>,
    /// How many of the scheduled ones stay; none: all.
    pub keep: Option<Keep>,
}

/// Of so many of the latest hours, days, weeks and months that have one, the last one stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "lowercase")]
pub struct Keep {
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
}

impl Keep {
    fn of(&self, every: Every) -> u32 {
        let count = match every {
            Every::Hourly => self.hourly,
            Every::Daily => self.daily,
            Every::Weekly => self.weekly,
            Every::Monthly => self.monthly,
        };
        count.unwrap_or_default()
    }

    /// In the table of this name.
    pub fn faults(&self, table: &str) -> Vec<String> {
        let none = Every::ALL.iter().all(|every| self.of(*every) == 0);
        none.then(|| format!("{table}.keep: none would stay; `keep = {{ daily = 7 }}` keeps those of a week"))
            .into_iter()
            .collect()
    }

    /// Which of these moments have expired. The latest stays in any case.
    pub fn expired(&self, taken: &[u64]) -> Vec<u64> {
        let mut sorted = taken.to_vec();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut stay: Vec<u64> = sorted.first().copied().into_iter().collect();
        for every in Every::ALL {
            let mut seen = None;
            let last_ones = sorted.iter().filter(|moment| {
                let number = every.number(**moment);
                seen.replace(number) != Some(number)
            });
            stay.extend(last_ones.take(self.of(every) as usize));
        }
        sorted.retain(|moment| !stay.contains(moment));
        sorted
    }
}

/// Seconds.
const DAY: u64 = 86_400;

/// Year, month and day of a day since 1970, in the Gregorian calendar: counted in years that begin in March, of
/// which 400 have 146,097 days.
fn date(day: u64) -> (u32, u32, u32) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_plain_words() {
        for good in ["a", "before-upgrade", "20261129-105924", "v1.2_3"] {
            assert!(good.parse::<Label>().is_ok(), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a b", "ä", "../x", "a@b", &"x".repeat(65)] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_told_as_date_does() {
        for (seconds, told) in [
            (0, "19700101-000000"),
            (951_827_696, "20000229-123456"),
            (1_795_949_964, "20261129-105924"),
            (4_107_542_399, "21000228-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(Label::at("", seconds).as_str(), told);
        }
    }

    #[test]
    fn a_record_is_what_was_written() {
        let record = Record {
            taken: 7,
            how: How::Frozen,
            scheduled: true,
            why: Some("before a rollback".into()),
            lease: "2001:db8:a:1::/64".parse().ok(),
            definition: "# mine\n[network]\nmode = \"routed\" # \"x\"\n".into(),
        };
        assert_eq!(Record::parse(&record.render()), Some(record));
        assert_eq!(Record::parse("taken = -1"), None);
    }

    #[test]
    fn what_expires_is_what_no_count_keeps() {
        let day = |number: u64| number * DAY + 3600;
        let taken: Vec<u64> = (0..60).map(day).collect();
        let keep = Keep { daily: Some(3), weekly: Some(2), ..Keep::default() };
        let expired = keep.expired(&taken);
        let stay: Vec<u64> =
            taken.iter().filter(|moment| !expired.contains(moment)).map(|m| m / DAY).collect();
        // Day 59 is a Sunday, the last of its week.
        assert_eq!(stay, [52, 57, 58, 59]);
        assert_eq!(Keep::default().expired(&taken).len(), 59, "the latest stays");
        let hourly = Keep { hourly: Some(2), ..Keep::default() };
        assert_eq!(hourly.expired(&[10, 20, 4000, 4010, 9000]), [4000, 20, 10]);
    }

    proptest! {
        #[test]
        fn expiry_keeps_the_latest_and_never_more_than_it_counts(
            taken in proptest::collection::vec(0u64..100_000_000, 1..60),
            (hourly, daily, weekly, monthly) in (0u32..5, 0u32..5, 0u32..5, 0u32..5),
        ) {
            let keep = Keep { hourly: Some(hourly), daily: Some(daily), weekly: Some(weekly), monthly: Some(monthly) };
            let expired = keep.expired(&taken);
            prop_assert!(!expired.contains(taken.iter().max().unwrap()));
            let stay: std::collections::BTreeSet<u64> = taken.iter().filter(|m| !expired.contains(m)).copied().collect();
            prop_assert!(stay.len() as u32 <= (hourly + daily + weekly + monthly).max(1));
        }
    }
}
