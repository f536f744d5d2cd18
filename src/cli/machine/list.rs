//! `nsctl list`: all machines, with the addresses that they really have.

use clap::Args;

use crate::cli::fault::unknown;
use crate::cli::machine::look::{Looked, look, mark_old};
use crate::cli::machine::view::Row;
use crate::cli::text::{self, err, out};
use crate::cli::{Fault, Global};

/// Show all machines, those of others too
#[derive(Debug, Args)]
pub struct List {
    /// Just these machines [default: all]
    names: Vec<String>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

pub async fn run(global: &Global, args: List) -> Result<u8, Fault> {
    let Looked { mut rows, is_whole } = look(global).await?;
    if let Some(nobody) = args.names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        return Err(unknown(nobody, rows.iter().map(|row| row.name.as_str())));
    }
    rows.retain(|row| args.names.is_empty() || args.names.contains(&row.name));
    let status = u8::from(!is_whole);
    if args.json {
        text::json(&rows)?;
        return Ok(status);
    }
    if rows.is_empty() {
        out!("no machines; `nsctl create NAME --routed --image IMAGE` makes one");
        return Ok(status);
    }
    let header = ["NAME", "STATE", "NETWORK", "ADDRESSES", "INTERFACE"];
    out!("{}", text::table(&header, &rows.iter().map(cells).collect::<Vec<_>>()));
    for row in &rows {
        for line in &row.drift {
            err!("note: {}: {}", text::sanitize(&row.name), text::sanitize(line));
        }
    }
    Ok(status)
}

fn cells(row: &Row) -> Vec<String> {
    let network = match (&row.network.prefix, row.network.lan()) {
        (Some(prefix), None) => prefix.to_string(),
        (Some(prefix), Some(lan)) => format!("{prefix}\nbridge {lan}"),
        (None, Some(lan)) => format!("bridge {lan}"),
        (None, None) if row.network.number.is_some() => "delegated".to_owned(),
        (None, None) => row.network.mode.word().to_owned(),
    };
    // One address a line: the table stays narrow, and each can be copied.
    let addresses: Vec<String> = row.addresses.iter().map(|address| mark_old(row, address)).collect();
    let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join("\n") };
    let interface = row.host_interface.clone().unwrap_or_else(|| "-".into());
    vec![row.name.clone(), row.state.clone(), network, addresses, interface]
}
