//! Text as it may be shown: what a terminal would obey, or nobody would see, comes as an
//! escape. With marks of direction, say, a line reads otherwise than it is (CVE-2021-42574). Pure.

use std::fmt::Display;

/// Characters of Unicode's class Cf, those that are ignorable by default, and the
/// separators of lines and paragraphs, as the first and the last of each range (UAX #44; DerivedCoreProperties.txt).
const UNSEEN: [u32; 52] = [
    0xad, 0xad, 0x34f, 0x34f, 0x600, 0x605, 0x61c, 0x61c, 0x6dd, 0x6dd, 0x70f, 0x70f, 0x890, 0x891, 0x8e2,
    0x8e2, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180f, 0x200b, 0x200f, 0x2028, 0x202e, 0x2060, 0x206f,
    0x2800, 0x2800, 0x3164, 0x3164, 0xfe00, 0xfe0f, 0xfeff, 0xfeff, 0xffa0, 0xffa0, 0xfff0, 0xfffb, 0x110bd,
    0x110bd, 0x110cd, 0x110cd, 0x13430, 0x1343f, 0x1bca0, 0x1bca3, 0x1d173, 0x1d17a, 0xe0000, 0xe0fff,
];

fn is_seen(c: char) -> bool {
    let code = u32::from(c);
    !c.is_control() && !UNSEEN.chunks(2).any(|range| range[0] <= code && code <= range[1])
}

/// The text with escapes for all that is not seen, but line ends and tabs.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_seen(c) || matches!(c, '\n' | '\t') {
            shown.push(c);
        } else {
            shown.extend(c.escape_unicode());
        }
    }
    shown
}

/// The first words of a list, and how many more there are: a line that one reads.
pub fn few<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    const FEW: usize = 8;
    let all: Vec<T> = all.into_iter().collect();
    let more = all.len().saturating_sub(FEW);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", joined(all.iter().take(FEW), ", "))
}

/// Words in a row, with this between them.
pub fn joined(words: impl IntoIterator<Item: ToString>, between: &str) -> String {
    words.into_iter().map(|word| word.to_string()).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_words_are_enough() {
        assert_eq!(few(["a", "b"]), "a, b");
        assert_eq!(few(0..10), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }

    #[test]
    fn nothing_unseen_is_shown() {
        assert_eq!(visible("a\tü\n漢"), "a\tü\n漢");
        assert_eq!(visible("\u{1b}[2J\u{202e}x\u{200b}"), "\\u{1b}[2J\\u{202e}x\\u{200b}");
        for c in "\u{9b}\u{7f}\r\u{2028}\u{2066}\u{feff}\u{fe0f}\u{e0041}\u{ad}\u{3164}".chars() {
            assert!(visible(&c.to_string()).starts_with("\\u{"), "{:x}", u32::from(c));
        }
    }
}
