//! Text for a terminal. What a guest, a file or the network says is sanitized first.

use comfy_table::{ContentArrangement, Table};

pub use crate::visible::joined;

/// A line to standard output. Nobody may be listening any more (`nsctl list |
/// head`): that is no reason to end in the middle of a change.
macro_rules! out {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(anstream::stdout(), $($text)*);
    }};
}

/// The same to standard error.
macro_rules! err {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(anstream::stderr(), $($text)*);
    }};
}

pub(super) use {err, out};

/// A text with escapes for what a terminal would obey, or nobody would see.
pub fn sanitize(text: &str) -> String {
    crate::visible::visible(text)
}

/// The columns of the terminal that standard output is; none where it is a pipe or a file.
pub fn width() -> Option<usize> {
    Table::new().width().map(usize::from)
}

/// A table without lines, as wide as it must be.
pub fn table(header: &[impl AsRef<str>], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| title.as_ref().to_owned()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(|cell| sanitize(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    joined(table.lines().map(|line| line.trim_end().to_owned()), "\n")
}

/// So many bytes, as people read them.
pub fn bytes(count: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| count >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", count as f64 / (1u64 << shift) as f64),
        None => format!("{count} B"),
    }
}

/// Asks for a yes at the terminal, whatever standard error is, unless that was said already. Where
/// nobody can be asked, what deletes or replaces is not done.
pub fn agree(yes: bool, question: &str) -> Result<(), super::Fault> {
    use std::io::{IsTerminal, Write};
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let statement = question.strip_suffix(" Go on?").map(|text| text.trim_end_matches('.'));
        let before = statement.map(|text| format!("{text}: ")).unwrap_or_default();
        return Err(super::Fault::new(format!("{before}nobody can be asked whether that is meant"))
            .hint("--yes says so; nothing was changed"));
    }
    let mut terminal = crate::sys::pty::terminal()?;
    write!(terminal, "{} [y/N] ", sanitize(question))?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if agreed { Ok(()) } else { Err(super::Fault::new("nothing was changed")) }
}
