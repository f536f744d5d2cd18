//! Settings that systemd passes over in silence: misspelt, in the wrong case, of
//! another version, or out of date.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use super::{Facts, Finding};

const KEYS: &str = include_str!("keys.txt");
/// The versions whose columns the table has.
const VERSIONS: [u32; 3] = [252, 257, 262];

/// Settings that have another name by now (systemd's NEWS): program, section, key,
/// from which version on the other is known, and the other.
const RENAMED: [(&str, &str, &str, u32, &str); 2] = [
    ("networkd", "Network", "IPv6AcceptRouterAdvertisements", 0, "IPv6AcceptRA"),
    ("networkd", "Network", "IPForward", 256, "IPv4Forwarding"),
];

type Known = BTreeMap<(&'static str, &'static str), BTreeMap<&'static str, [bool; 3]>>;

/// Every setting, by program and section.
fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Known::new();
        for line in KEYS.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            if let (Some(program), Some(section), Some(key), Some(marks)) =
                (words.next(), words.next(), words.next(), words.next())
            {
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

pub fn check(facts: &Facts) -> Vec<Finding> {
    facts.settings.iter().flat_map(|(path, text)| in_file(path, text, facts.observed.systemd)).collect()
}

fn in_file(path: &Path, text: &str, version: u32) -> Vec<Finding> {
    let program = if path.extension().is_some_and(|end| end == "nspawn") { "nspawn" } else { "networkd" };
    let mut findings = Vec::new();
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) {
            let place = Place { path, line: index + 1, program, section: &section };
            findings.extend(place.look_at(key.trim(), version));
        }
    }
    findings
}

struct Place<'a> {
    path: &'a Path,
    line: usize,
    program: &'a str,
    section: &'a str,
}

impl Place<'_> {
    fn look_at(&self, key: &str, version: u32) -> Option<Finding> {
        let Place { path, line, program, section } = self;
        let object = format!("{}:{line}", path.display());
        // Sections whose name begins so are the user's own (systemd.syntax(7)).
        if section.starts_with("X-") || key.starts_with("X-") {
            return None;
        }
        let renamed = RENAMED.iter().find(|(of, within, old, since, _)| {
            of == program && within == section && *old == key && version >= *since
        });
        if let Some((_, _, _, _, new)) = renamed {
            let what = format!("{key}= is out of date; it is {new}= now");
            let causes = format!("systemd {version} logs it, and a later one will pass over it");
            return Some(Finding::warning(object, what, causes).mend(self.replace(key, new)));
        }
        let Some(keys) = known().get(&(*program, *section)) else { return self.wrong_section(object) };
        match keys.get(key) {
            Some(marks) if knows(*marks, version) => None,
            Some(marks) => {
                let since = VERSIONS.iter().zip(marks).find(|(_, known)| **known);
                let (since, _) = since.unwrap_or((&0, &true));
                let what = format!("systemd {version} does not know {key}= in [{section}]; {since} does");
                Some(Finding::warning(object, what, "it is passed over").mend(self.comment_out()))
            }
            None => {
                let near = nearest(key, keys.keys().copied());
                let what = match near {
                    Some(near) => format!("{key}= is no setting of [{section}]; {near}= is"),
                    None => format!("{key}= is no setting of [{section}]"),
                };
                let mend = near.map_or_else(|| self.comment_out(), |near| self.replace(key, near));
                Some(Finding::error(object, what, "systemd passes over it in silence").mend(mend))
            }
        }
    }

    /// The first setting of a section tells for all of it.
    fn wrong_section(&self, object: String) -> Option<Finding> {
        let Place { program, section, .. } = self;
        let sections = known().keys().filter(|(of, _)| of == program).map(|(_, section)| *section);
        let near = nearest(section, sections)?;
        let what = format!("[{section}] is no section; [{near}] is");
        let command = format!("sed -i 's/^\\[{section}\\]/[{near}]/' {}", self.path.display());
        Some(Finding::error(object, what, "systemd passes over all of it").mend(self.then_reload(command)))
    }

    fn replace(&self, key: &str, new: &str) -> String {
        let command = format!("sed -i '{}s/{key}/{new}/' {}", self.line, self.path.display());
        self.then_reload(command)
    }

    fn comment_out(&self) -> String {
        self.then_reload(format!("sed -i '{}s/^/#/' {}", self.line, self.path.display()))
    }

    fn then_reload(&self, command: String) -> String {
        if self.program == "networkd" { format!("{command} && networkctl reload") } else { command }
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

    fn found(file: &str, text: &str, version: u32) -> Vec<Finding> {
        in_file(Path::new(file), text, version)
    }

    #[test]
    fn the_right_spelling_is_told_with_the_line() {
        let one = &found("/x.network", "[Match]\nName=a\n[Network]\nbridge=vbr0\n", 257)[0];
        assert_eq!(one.object, "/x.network:4");
        assert!(one.what.contains("Bridge= is"), "{one:?}");
        assert_eq!(one.mend, "sed -i '4s/bridge/Bridge/' /x.network && networkctl reload");
        assert!(found("/x.network", "[Netwrok]\nDHCP=yes\n", 257)[0].what.contains("[Network] is"));
        assert!(found("/x.nspawn", "[Exec]\nBot=yes\n", 257)[0].what.contains("Boot= is"));
        assert_eq!(found("/x.network", "[Network]\n# bridge=x\nDHCP=yes\n[X-Mine]\na=b\n", 252), []);
    }

    #[test]
    fn versions_know_different_settings() {
        let text = "[Network]\nIPv6Forwarding=yes\n";
        assert!(found("/x.network", text, 252)[0].what.contains("does not know"));
        assert_eq!(found("/x.network", text, 255), []);
        assert_eq!(found("/x.network", text, 257), []);
        assert_eq!(found("/x.network", "[Network]\nIPForward=yes\n", 252), []);
        assert!(found("/x.network", "[Network]\nIPForward=yes\n", 257)[0].what.contains("out of date"));
        let old = "[Network]\nIPv6AcceptRouterAdvertisements=no\n";
        assert!(found("/x.network", old, 252)[0].what.contains("IPv6AcceptRA="));
    }

    #[test]
    fn what_nsctl_writes_is_known() {
        let sheet = include_str!("../emit/snapshots/nsctl__emit__tests__all_files.snap");
        for file in sheet.split("==> ").skip(1) {
            let (path, text) = file.split_once('\n').unwrap();
            if [".network", ".netdev", ".nspawn"].iter().any(|end| path.ends_with(end)) {
                for version in VERSIONS {
                    assert_eq!(found(path, text, version), [], "{path}");
                }
            }
        }
    }
}
