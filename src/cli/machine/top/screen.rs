//! `nsctl top` in a terminal: one screen, which changes.

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as Cells, Table, TableState};
use ratatui::{DefaultTerminal, Frame};

use super::Watch;
use super::sheet::{Row, Sheet, Sort, TITLES, fitting};
use crate::apply::Interrupt;
use crate::cli::Fault;

const KEYS: &str = "q quit   sort: n name  c CPU  m memory  i disk  t traffic";

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Sort(Sort),
    Move(isize),
    End,
}

/// Until it is ended by a key or a signal.
pub async fn run(watch: &mut Watch, sort: Sort) -> Result<(), Fault> {
    let mut terminal = ratatui::try_init()?;
    let done = watch_on(&mut terminal, watch, sort).await;
    ratatui::try_restore()?;
    done
}

async fn watch_on(terminal: &mut DefaultTerminal, watch: &mut Watch, mut sort: Sort) -> Result<(), Fault> {
    let mut interrupt = Interrupt::begin();
    let mut keys = EventStream::new();
    let mut sheet = Sheet::default();
    let mut state = TableState::default();
    let mut seen = false;
    loop {
        terminal.draw(|frame| draw(frame, &sheet, sort, &mut state, seen))?;
        tokio::select! {
            () = watch.next() => {
                sheet = watch.sheet(sort).await?;
                seen = true;
            }
            key = keys.next() => match key.transpose()? {
                Some(Event::Key(key)) => match wish(key) {
                    Some(Wish::End) => return Ok(()),
                    Some(Wish::Sort(by)) => {
                        sort = by;
                        sheet.sort(sort);
                    }
                    Some(Wish::Move(lines)) => {
                        let last = sheet.machines.len().saturating_sub(1);
                        *state.offset_mut() = state.offset().saturating_add_signed(lines).min(last);
                    }
                    None => {}
                },
                // Its size is another, say: it is drawn again.
                Some(_) => {}
                None => return Ok(()),
            },
            () = interrupt.came() => return Ok(()),
        }
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
        KeyCode::Char('n') => Some(Wish::Sort(Sort::Name)),
        KeyCode::Char('c') => Some(Wish::Sort(Sort::Cpu)),
        KeyCode::Char('m') => Some(Wish::Sort(Sort::Memory)),
        KeyCode::Char('i') => Some(Wish::Sort(Sort::Io)),
        KeyCode::Char('t') => Some(Wish::Sort(Sort::Network)),
        KeyCode::Down => Some(Wish::Move(1)),
        KeyCode::Up => Some(Wish::Move(-1)),
        KeyCode::PageDown => Some(Wish::Move(10)),
        KeyCode::PageUp => Some(Wish::Move(-10)),
        _ => None,
    }
}

fn draw(frame: &mut Frame<'_>, sheet: &Sheet, sort: Sort, state: &mut TableState, seen: bool) {
    let rows = [Constraint::Length(1), Constraint::Min(2), Constraint::Length(1)];
    let [head, body, foot] = Layout::vertical(rows).areas(frame.area());
    let title = match (seen, sheet.machines.is_empty()) {
        (false, _) => "looking …".to_owned(),
        (true, true) => "no machine runs".to_owned(),
        (true, false) => sheet.total(),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(format!("nsctl top: {title}"), bold), head);
    frame.render_stateful_widget(table(sheet, sort, body.width.into()), body, state);
    frame.render_widget(Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)), foot);
}

fn table(sheet: &Sheet, sort: Sort, width: usize) -> Table<'static> {
    let columns = fitting(width);
    let titles = TITLES.iter().take(columns).enumerate().map(|(at, title)| {
        let by = if sorted_by(sort).contains(&at) { Modifier::REVERSED } else { Modifier::UNDERLINED };
        Cell::new(aligned(at, (*title).to_owned())).style(Style::new().add_modifier(by))
    });
    let rows = sheet.machines.iter().map(|row| line(row, columns));
    let widths = (0..columns).map(|at| match at {
        0 => Constraint::Fill(1),
        5 | 1 => Constraint::Length(6),
        6 => Constraint::Length(7),
        _ => Constraint::Length(10),
    });
    Table::new(rows, widths).header(Cells::new(titles)).column_spacing(1)
}

/// Which columns it is that they are sorted by.
fn sorted_by(sort: Sort) -> &'static [usize] {
    match sort {
        Sort::Name => &[0],
        Sort::Cpu => &[1],
        Sort::Memory => &[2],
        Sort::Network => &[3, 4],
        Sort::Io => &[7, 8],
    }
}

fn aligned(at: usize, text: String) -> Line<'static> {
    let line = Line::from(text);
    if at == 0 { line.left_aligned() } else { line.right_aligned() }
}

/// What is dropped, or was killed for want of memory, stands out.
fn line(row: &Row, columns: usize) -> Cells<'static> {
    let cells = row.cells().into_iter().take(columns).enumerate().map(|(at, text)| {
        let alarms = match at {
            2 => row.oom_kills.is_some_and(|kills| kills > 0),
            6 => row.rates.dropped > 0.0,
            _ => false,
        };
        let style = if alarms { Style::new().red().add_modifier(Modifier::BOLD) } else { Style::new() };
        Cell::new(aligned(at, text)).style(style)
    });
    Cells::new(cells)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::stats::{Sample, Stats};

    fn drawn(width: u16, height: u16) -> String {
        let machines = [("web", 1), ("a-machine-with-a-long-name", 70)].map(|(name, percent)| {
            let stats = Stats {
                cpu_usec: percent * 10_000,
                memory: Some(123 << 20),
                tasks: Some(12),
                ..Stats::default()
            };
            (name.to_owned(), stats)
        });
        let sample = Sample { at: Duration::from_secs(1), machines: machines.into() };
        let machines = sample.machines.keys().map(|name| (name.clone(), Stats::default())).collect();
        let before = Sample { machines, ..Sample::default() };
        let sheet = Sheet::of(&sample, &before, Sort::Cpu);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &sheet, Sort::Cpu, &mut TableState::default(), true)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn it_fits() {
        insta::assert_snapshot!([drawn(60, 6), drawn(100, 6), drawn(20, 4)].join("\n"));
    }

    #[test]
    fn keys() {
        let press = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(press(KeyCode::Char('q')), Some(Wish::End));
        assert_eq!(press(KeyCode::Char('c')), Some(Wish::Sort(Sort::Cpu)));
        assert_eq!(wish(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Wish::End));
        assert_eq!(press(KeyCode::Char('x')), None);
    }
}
