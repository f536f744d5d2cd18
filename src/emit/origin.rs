//! Who wrote a file: its first line says so, with a checksum of the rest.

use super::Owner;
use crate::spec;

const MARK: &str = "# Written by nsctl";

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// nsctl, and nobody touched it since.
    Ours,
    /// nsctl, and somebody edited it.
    Edited,
    /// Somebody else.
    Foreign,
}

impl Origin {
    /// A text without the line that tells who wrote it.
    pub fn body(text: &str) -> &str {
        let signed = text.split_once('\n').filter(|(first, _)| first.starts_with(MARK));
        signed.map_or(text, |(_, body)| body)
    }

    pub fn of(text: &str) -> Origin {
        let Some((first, body)) = text.split_once('\n') else { return Origin::Foreign };
        if !first.starts_with(MARK) {
            return Origin::Foreign;
        }
        if first.contains(&checksum(body)) { Origin::Ours } else { Origin::Edited }
    }
}

/// Puts the first line before a text.
pub fn sign(owner: &Owner, body: &str) -> String {
    let source = match owner {
        Owner::Host
        | Owner::Firewall
        | Owner::Names
        | Owner::Snapshots
        | Owner::Routing
        | Owner::Bridge(_)
        | Owner::Port(_) => spec::HOST_FILE.to_owned(),
        Owner::Machine(name) => spec::definition_path(name).display().to_string(),
    };
    format!("{MARK} {}; edit {source} and run `nsctl apply` instead.\n{body}", checksum(body))
}

fn checksum(body: &str) -> String {
    format!("({:08x})", crc32fast::hash(body.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_seen() {
        let text = sign(&Owner::Host, "[Match]\nName=lo\n");
        assert_eq!(Origin::of(&text), Origin::Ours);
        assert_eq!(Origin::of(&format!("{text}# mine\n")), Origin::Edited);
        assert_eq!(Origin::of("[Match]\nName=lo\n"), Origin::Foreign);
        assert_eq!(Origin::of(""), Origin::Foreign);
    }
}
