//! `nsctl list`: all machines, with the addresses that they really have.

use std::cmp::Ordering;

use clap::{Args, ValueEnum};

use crate::cli::fault::unknown;
use crate::cli::machine::look::{Looked, look, mark_old};
use crate::cli::machine::show::{duration, with_ages};
use crate::cli::machine::view::Row;
use crate::cli::text::{self, err, out};
use crate::cli::{Fault, Global};
use crate::sys::{self, usage};

/// Show all machines, those of others too
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Just these machines [default: all]
    #[arg(add = crate::cli::complete::any_machines())]
    names: Vec<String>,
    /// Only those that run
    #[arg(long, short)]
    running: bool,
    /// Only those on this bridge
    #[arg(long, value_name = "BR", add = crate::cli::complete::bridges())]
    bridge: Option<String>,
    /// What to show of each, separated by commas [default: name, state, network, addresses and
    /// interface, as far as there is room]
    #[arg(long, short = 'o', value_enum, value_delimiter = ',', value_name = "COLUMN,...")]
    columns: Vec<Column>,
    /// By what they are sorted
    #[arg(long, value_enum, default_value_t = Column::Name, hide_possible_values = true, value_name = "COLUMN")]
    sort: Column,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    Name,
    State,
    Network,
    Addresses,
    Interface,
    Image,
    Autostart,
    Uptime,
    Pid,
    Mac,
    Open,
    Memory,
    Check,
    /// What its tree takes of the disk, and what of that it shares; takes a while
    Disk,
    /// How old the latest backup is, and when one was proved at last
    Backup,
}

/// What is shown where nobody says, what goes first for want of room at the end.
const USUAL: [Column; 5] =
    [Column::Name, Column::State, Column::Addresses, Column::Network, Column::Interface];

pub async fn run(global: &Global, args: List) -> Result<u8, Fault> {
    let Looked { mut rows, is_whole } = look(global, &args.names).await?;
    if let Some(nobody) = args.names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        return Err(unknown(nobody, rows.iter().map(|row| row.name.as_str())));
    }
    rows.retain(|row| args.names.is_empty() || args.names.contains(&row.name));
    rows.retain(|row| !args.running || row.state == "running");
    rows.retain(|row| args.bridge.is_none() || row.network.bridge == args.bridge);
    with_ages(&mut rows);
    if args.columns.contains(&Column::Disk) || args.sort == Column::Disk {
        let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
        let mut all = usage::of_images(&names);
        rows.iter_mut().for_each(|row| row.disk = all.remove(&row.name));
    }
    rows.sort_by(|a, b| args.sort.order(a, b).then_with(|| a.name.cmp(&b.name)));
    let status = u8::from(!is_whole);
    if global.json {
        global.report.answer(&rows)?;
        return Ok(status);
    }
    if rows.is_empty() {
        let all = args.names.is_empty() && !args.running && args.bridge.is_none();
        let hint =
            if all { "; `nsctl create NAME --routed --image IMAGE` makes one" } else { " such as that" };
        out!("no machines{hint}");
        return Ok(status);
    }
    let columns = if args.columns.is_empty() { fitting(&rows, text::width()) } else { args.columns };
    let header: Vec<String> = columns.iter().map(|column| column.title()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|column| column.cell(row)).collect());
    out!("{}", text::table(&header, &cells.collect::<Vec<Vec<String>>>()));
    tell_drift(&rows);
    Ok(status)
}

/// As many as one reads.
const NOTES: usize = 5;

fn tell_drift(rows: &[Row]) {
    let all = rows.iter().flat_map(|row| row.drift.iter().map(move |line| (&row.name, line)));
    for (name, line) in all.clone().take(NOTES) {
        err!("note: {}: {}", text::sanitize(name), text::sanitize(line));
    }
    match all.count().saturating_sub(NOTES) {
        0 => {}
        more => err!("note: and {more} more; `nsctl show NAME` and `nsctl doctor` tell"),
    }
}

/// The usual columns, as many as there is room for; the first three in any case.
fn fitting(rows: &[Row], room: Option<usize>) -> Vec<Column> {
    let width = |column: &Column| {
        let cells = rows.iter().map(|row| column.cell(row));
        let lines = cells.flat_map(|cell| cell.lines().map(|line| line.chars().count()).max());
        lines.max().unwrap_or_default().max(column.title().len()) + 2
    };
    let mut shown = USUAL.to_vec();
    let fits = |shown: &[Column]| room.is_none_or(|room| shown.iter().map(width).sum::<usize>() <= room + 2);
    while shown.len() > 3 && !fits(&shown) {
        shown.pop();
    }
    // Where each has its place.
    shown.sort_by_key(|column| *column as u8);
    shown
}

impl Column {
    fn title(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_uppercase()).unwrap_or_default()
    }

    fn cell(self, row: &Row) -> String {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        match self {
            Column::Name => row.name.clone(),
            Column::State => row.state.clone(),
            Column::Network => network(row),
            // One address a line: the table stays narrow, and each can be copied.
            Column::Addresses => {
                let all = row.addresses.iter().map(|address| mark_old(row, address));
                or_none(Some(text::joined(all, "\n")).filter(|all| !all.is_empty()))
            }
            Column::Interface => or_none(row.host_interface.clone()),
            Column::Image => or_none(row.image.clone()),
            Column::Autostart => or_none(row.autostart.map(|on| if on { "yes" } else { "no" }.to_owned())),
            Column::Uptime => or_none(row.uptime.map(duration)),
            Column::Pid => or_none(row.pid.map(|pid| pid.to_string())),
            Column::Mac => or_none(row.mac.clone()),
            Column::Open => or_none(
                row.open.as_ref().map(|open| text::joined(open, "\n")).filter(|open| !open.is_empty()),
            ),
            Column::Check => or_none(row.check.as_ref().map(|check| match check.passes {
                true => "passes".to_owned(),
                false => "fails".to_owned(),
            })),
            Column::Disk => or_none(row.disk.map(|disk| match disk.shared {
                0 => text::bytes(disk.own),
                shared => format!("{}, {} shared", text::bytes(disk.own), text::bytes(shared)),
            })),
            Column::Backup => row.backup.words(sys::seconds_since_1970()),
            Column::Memory => or_none(row.limits.as_ref().and_then(|limits| limits.memory.clone())),
        }
    }

    fn order(self, a: &Row, b: &Row) -> Ordering {
        match self {
            Column::Uptime => a.uptime.cmp(&b.uptime),
            Column::Pid => a.pid.cmp(&b.pid),
            Column::Addresses => a.addresses.cmp(&b.addresses),
            // The largest first.
            Column::Disk => b.disk.cmp(&a.disk),
            Column::Backup => {
                let last = |row: &Row| row.backup.last.as_ref().map(|last| last.taken);
                last(a).cmp(&last(b))
            }
            _ => self.cell(a).cmp(&self.cell(b)),
        }
    }
}

fn network(row: &Row) -> String {
    match (&row.network.prefix, row.network.lan()) {
        (Some(prefix), None) => prefix.to_string(),
        (Some(prefix), Some(lan)) => format!("{prefix}\nbridge {lan}"),
        (None, Some(lan)) => format!("bridge {lan}"),
        (None, None) if row.network.number.is_some() => "delegated".to_owned(),
        (None, None) => row.network.mode.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_left_out() {
        let mut row = Row { name: "minecraft".into(), state: "running".into(), ..Row::default() };
        row.addresses = vec!["2001:db8:5:0:3cfd:f0ff:feb8:ea40".parse().unwrap()];
        row.host_interface = Some("ve-minecraft".into());
        let shown =
            |room| fitting(std::slice::from_ref(&row), room).iter().map(|c| c.title()).collect::<Vec<_>>();
        assert_eq!(shown(None), ["NAME", "STATE", "NETWORK", "ADDRESSES", "INTERFACE"]);
        assert_eq!(shown(Some(77)), ["NAME", "STATE", "NETWORK", "ADDRESSES", "INTERFACE"]);
        assert_eq!(shown(Some(76)), ["NAME", "STATE", "NETWORK", "ADDRESSES"]);
        assert_eq!(shown(Some(60)), ["NAME", "STATE", "ADDRESSES"]);
        assert_eq!(shown(Some(20)), ["NAME", "STATE", "ADDRESSES"]);
    }
}
