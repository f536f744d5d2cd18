//! The settings that systemd knows, by version: what it would pass over in silence is told
//! before. Pure.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const KEYS: &str = include_str!("settings.txt");
/// The versions whose columns the table has.
pub const VERSIONS: [u32; 3] = [252, 257, 262];

/// Settings that have another name by now (systemd's NEWS): program, section, key,
/// from which version on the other is known, and the other.
const RENAMED: [(&str, &str, &str, u32, &str); 2] = [
    ("networkd", "Network", "IPv6AcceptRouterAdvertisements", 0, "IPv6AcceptRA"),
    ("networkd", "Network", "IPForward", 256, "IPv4Forwarding"),
];

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Networkd,
    Nspawn,
}

impl Program {
    fn word(self) -> &'static str {
        match self {
            Program::Networkd => "networkd",
            Program::Nspawn => "nspawn",
        }
    }
}

/// What a version of systemd makes of a setting that it does not know as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has another name by now.
    Renamed(&'static str),
    /// Systemd knows it from this version on.
    Since(u32),
    /// There is no such setting in its section; perhaps this one was meant.
    NoSetting(Option<&'static str>),
    /// There is no such section; perhaps this one was meant.
    NoSection(Option<&'static str>),
}

type Known = BTreeMap<(&'static str, &'static str), BTreeMap<&'static str, [bool; 3]>>;

/// Every setting, by program and section.
fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Known::new();
        for line in KEYS.lines().filter(|line| !line.starts_with('#')) {
            if let [program, section, key, marks] = line.split(' ').collect::<Vec<_>>()[..] {
                let mut marks = marks.chars().map(|mark| mark == 'y');
                let marks = [0; 3].map(|_| marks.next().unwrap_or(false));
                known.entry((program, section)).or_default().insert(key, marks);
            }
        }
        known
    })
}

/// Whether a version may know a setting with these marks: one between two that we
/// have read may have what the next has.
fn knows(marks: [bool; 3], version: u32) -> bool {
    let from = VERSIONS.iter().rposition(|known| *known <= version).unwrap_or(0);
    let exact = VERSIONS[from] == version;
    let next = if exact { from } else { (from + 1).min(2) };
    marks[from] || marks[next]
}

/// What is wrong with a setting; none where all is well.
pub fn judge(program: Program, section: &str, key: &str, version: u32) -> Option<Verdict> {
    // Sections and settings whose name begins so are the user's own (systemd.syntax(7)).
    if section.starts_with("X-") || key.starts_with("X-") {
        return None;
    }
    let word = program.word();
    let renamed = RENAMED.iter().find(|(of, within, old, since, _)| {
        *of == word && *within == section && *old == key && version >= *since
    });
    if let Some((_, _, _, _, new)) = renamed {
        return Some(Verdict::Renamed(new));
    }
    let Some(keys) = known().get(&(word, section)) else {
        let sections = known().keys().filter(|(of, _)| *of == word).map(|(_, section)| *section);
        return Some(Verdict::NoSection(nearest(section, sections)));
    };
    match keys.get(key) {
        Some(marks) if knows(*marks, version) => None,
        Some(marks) => {
            let since = VERSIONS.iter().zip(marks).find(|(_, known)| **known);
            Some(Verdict::Since(since.map_or(0, |(since, _)| *since)))
        }
        None => Some(Verdict::NoSetting(nearest(key, keys.keys().copied()))),
    }
}

/// The word that somebody meant: the same but for its case, or one or two letters away.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_ascii_lowercase();
    let measured = known.map(|known| (distance(&lower, &known.to_ascii_lowercase()), known));
    let limit = if word.len() > 3 { 2 } else { 1 };
    measured.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

/// Levenshtein's: how many letters are to be added, taken away or exchanged.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let cost = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_judged_by_its_version() {
        let of = |section, key, version| judge(Program::Networkd, section, key, version);
        assert_eq!(of("Network", "LLDP", 252), None);
        assert_eq!(of("Network", "LLPD", 257), Some(Verdict::NoSetting(Some("LLDP"))));
        assert_eq!(of("Netwrok", "DHCP", 257), Some(Verdict::NoSection(Some("Network"))));
        assert_eq!(of("Network", "IPv6Forwarding", 252), Some(Verdict::Since(257)));
        assert_eq!(of("X-Mine", "a", 252), None);
        assert_eq!(
            judge(Program::Nspawn, "Exec", "Hostnam", 252),
            Some(Verdict::NoSetting(Some("Hostname")))
        );
    }
}
