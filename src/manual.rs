//! What each key of nsctl's files means, as the man pages tell it. Pure.

/// The pages that describe keys, by the file that they are about.
const PAGES: [(&str, &str); 2] = [
    ("nsctl.toml(5)", include_str!("../man/nsctl.toml.5.md")),
    ("nsctl-machine(5)", include_str!("../man/nsctl-machine.5.md")),
];

/// One key, or table, of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The man page that it is from.
    pub page: &'static str,
    /// Its dotted path; what stands there in capitals is the user's to choose.
    pub key: &'static str,
    /// Its text, as it reads in a terminal.
    pub text: &'static str,
}

impl Entry {
    /// Whether a word is this key: a part in capitals stands for any.
    pub fn is_called(&self, word: &str) -> bool {
        let (mut own, mut asked) = (self.key.split('.'), word.split('.'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) => return true,
                (Some(own), Some(asked)) if own == asked || is_placeholder(own) => {}
                _ => return false,
            }
        }
    }
}

fn is_placeholder(part: &str) -> bool {
    part.chars().all(|c| c.is_ascii_uppercase())
}

/// All keys, in the order of the pages.
pub fn entries() -> Vec<Entry> {
    PAGES.iter().flat_map(|(page, text)| of_page(page, text)).collect()
}

fn of_page(page: &'static str, text: &'static str) -> impl Iterator<Item = Entry> {
    let sections = text.split("\n### `").skip(1);
    sections.filter_map(move |section| {
        let (key, text) = section.split_once("`\n")?;
        // The last key of a group ends where the next group begins.
        let text = text.split("\n## ").next().unwrap_or_default();
        Some(Entry { page, key, text: text.trim() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_says_its_type_and_has_an_example() {
        for Entry { key, text, .. } in entries() {
            assert!(text.starts_with("Type: ") && text.contains("Default: "), "{key}");
            assert!(text.contains("```toml\n"), "{key}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{key}");
        }
    }

    #[test]
    fn placeholders_stand_for_any_name() {
        let called = |word: &str| {
            entries().iter().filter(|entry| entry.is_called(word)).map(|e| e.key).collect::<Vec<_>>()
        };
        assert_eq!(called("bridge.vbr0.vlans"), ["bridge.BR.vlans"]);
        assert_eq!(called("limits.memory"), ["limits.memory"]);
        assert_eq!(called("nspawn.Exec.Hostname"), ["nspawn.SECTION.KEY"]);
        assert!(called("limits.memories").is_empty());
    }
}
