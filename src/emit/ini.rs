//! systemd's file format (systemd.syntax(7)), written and read.

/// A file as sections of settings, in order; a key may stand several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    sections: Vec<(String, Vec<(String, String)>)>,
}

impl Ini {
    pub fn new() -> Ini {
        Ini::default()
    }

    /// Begins a section; one of the same name may stand before it.
    #[must_use]
    pub fn section(mut self, name: &str) -> Ini {
        self.sections.push((name.to_owned(), Vec::new()));
        self
    }

    /// Adds a setting to the section begun last.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Ini {
        if let Some((_, settings)) = self.sections.last_mut() {
            settings.push((key.to_owned(), value.to_string()));
        }
        self
    }

    /// Adds a setting for each value that there is, if there is one.
    #[must_use]
    pub fn set_some(self, key: &str, values: impl IntoIterator<Item: ToString>) -> Ini {
        values.into_iter().fold(self, |ini, value| ini.set(key, value))
    }

    /// The same without the settings that the filter takes.
    #[must_use]
    pub fn without(mut self, takes: impl Fn(&str, &str) -> bool) -> Ini {
        for (_, settings) in &mut self.sections {
            settings.retain(|(key, value)| !takes(key, value));
        }
        self
    }

    pub fn sections(&self) -> impl Iterator<Item = (&str, &[(String, String)])> {
        self.sections.iter().map(|(name, settings)| (name.as_str(), settings.as_slice()))
    }

    /// All values of a key, in any section of that name.
    pub fn values(&self, section: &str, key: &str) -> impl DoubleEndedIterator<Item = &str> {
        let named = self.sections.iter().filter(move |(name, _)| name == section);
        let settings = named.flat_map(|(_, settings)| settings).filter(move |(found, _)| found == key);
        settings.map(|(_, value)| value.as_str())
    }

    /// The last of them.
    pub fn get(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).next_back()
    }

    pub fn render(&self) -> String {
        let sections = self.sections.iter().map(|(name, settings)| {
            let lines: String = settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            format!("[{name}]\n{lines}")
        });
        sections.collect::<Vec<_>>().join("\n")
    }

    /// Reads a text as systemd does: comments and blank lines are passed over,
    /// a backslash at the end of a line joins it with the next, and what is no
    /// setting or stands before the first section is ignored.
    pub fn parse(text: &str) -> Ini {
        let mut ini = Ini::new();
        for line in logical_lines(text) {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                ini = ini.section(name);
            } else if let Some((key, value)) = line.split_once('=') {
                ini = ini.set(key.trim_end(), value.trim_start());
            }
        }
        ini
    }
}

fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        let comment = line.trim_start().starts_with(['#', ';']);
        if comment || (line.trim().is_empty() && pending.is_empty()) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => pending += &format!("{begun} "),
            None => lines.push(std::mem::take(&mut pending) + line),
        }
    }
    if !pending.is_empty() {
        lines.push(pending);
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        let ini = Ini::parse(
            "x=1\n[Exec]\n; no\nBoot = yes\nParameters=a \\\n# between\n  b\n\n[Files]\nBind=/a\nBind=/b\n",
        );
        assert_eq!(ini.get("Exec", "Boot"), Some("yes"));
        assert_eq!(ini.get("Exec", "Parameters"), Some("a    b"));
        assert_eq!(ini.get("Files", "Bind"), Some("/b"));
        assert_eq!(ini.get("Files", "x"), None);
    }

    proptest! {
        #[test]
        fn rendered_parses_back(
            sections in proptest::collection::vec(
                ("[A-Z][a-z]{0,8}", proptest::collection::vec(("[A-Z][A-Za-z]{0,8}", "[a-z0-9:/%.-]{0,12}"), 0..5)),
                0..5,
            )
        ) {
            let ini = Ini { sections };
            prop_assert_eq!(Ini::parse(&ini.render()), ini);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}", lines in "[\\[\\]a=\\\\\n #;]{0,100}") {
            let _ = Ini::parse(&text);
            let _ = Ini::parse(&lines);
        }
    }
}
