//! What is wrong in a user's file, shown with its line and a caret.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use toml_edit::{Item, TableLike};

use crate::visible::joined;

/// One fault in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    file: PathBuf,
    message: String,
    place: Option<Span>,
}

/// A range of bytes of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    line: usize,
    text: String,
    range: Range<usize>,
}

impl Problem {
    /// A fault of the file as a whole.
    pub fn whole(file: &Path, message: impl Into<String>) -> Problem {
        Problem { file: file.to_owned(), message: message.into(), place: None }
    }

    /// A fault at a range of bytes of the file's text, where that is known.
    pub fn at(file: &Path, text: &str, span: Option<Range<usize>>, message: impl Into<String>) -> Problem {
        Problem { place: span.map(|span| locate(text, span)), ..Problem::whole(file, message) }
    }

    /// A fault at the value of `key`, in the table `[network]` or before all tables.
    pub fn at_value(file: &Path, text: &str, key: &str, message: impl Into<String>) -> Problem {
        let span = toml_edit::Document::parse(text).ok().and_then(|document| {
            document.get("network").and_then(|table| table.get(key)).or(document.get(key))?.span()
        });
        Problem::at(file, text, span, message)
    }

    /// A fault of a setting in a table of a table, such as `[nspawn.Files]`: at its name, or at one of
    /// its values.
    pub fn at_setting(
        file: &Path,
        text: &str,
        tables: &[&str],
        key: &str,
        value: Option<&str>,
        message: impl Into<String>,
    ) -> Problem {
        let span = toml_edit::Document::parse(text)
            .ok()
            .and_then(|document| setting_span(document.as_item(), tables, key, value));
        Problem::at(file, text, span, message)
    }

    /// The line that it is in, from 1 on.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// A fault of the name of a table, such as `[bridge.vbr0]`.
    pub fn at_table(file: &Path, text: &str, outer: &str, name: &str, message: impl Into<String>) -> Problem {
        let span = toml_edit::Document::parse(text)
            .ok()
            .and_then(|document| document.get(outer)?.as_table_like()?.key(name)?.span());
        Problem::at(file, text, span, message)
    }
}

/// Where a setting stands; a table may stand several times.
fn setting_span(item: &Item, tables: &[&str], key: &str, value: Option<&str>) -> Option<Range<usize>> {
    if let Some(several) = item.as_array_of_tables() {
        return several.iter().find_map(|table| span_in(table, tables, key, value));
    }
    if let Some(several) = item.as_array() {
        let mut inline = several.iter().filter_map(toml_edit::Value::as_inline_table);
        return inline.find_map(|table| span_in(table, tables, key, value));
    }
    span_in(item.as_table_like()?, tables, key, value)
}

fn span_in(table: &dyn TableLike, tables: &[&str], key: &str, value: Option<&str>) -> Option<Range<usize>> {
    if let [first, rest @ ..] = tables {
        return setting_span(table.get(first)?, rest, key, value);
    }
    let Some(value) = value else { return table.key(key)?.span() };
    let item = table.get(key)?;
    match item.as_array() {
        Some(values) => values.iter().find(|one| one.as_str() == Some(value))?.span(),
        None => item.span().filter(|_| item.as_str() == Some(value)),
    }
}

/// Where a range of a text is; of several lines, the first.
fn locate(text: &str, span: Range<usize>) -> Span {
    let start = text.floor_char_boundary(span.start);
    let begin = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    let end = text.floor_char_boundary(span.end).clamp(start, (begin + line.len()).max(start));
    Span {
        line: text[..start].matches('\n').count() + 1,
        text: line.to_owned(),
        range: start - begin..end - begin,
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        let Some(place) = &self.place else { return write!(f, "{file}: {}", self.message) };
        let line = Snippet::source(&place.text)
            .line_start(place.line)
            .path(file)
            .annotation(AnnotationKind::Primary.span(place.range.clone()));
        let title = Level::ERROR.no_name().primary_title(&self.message);
        f.write_str(&Renderer::plain().render(&[title.element(line)]))
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.0, "\n"))
    }
}
