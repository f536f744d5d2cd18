//! `nsctl list`: all machines, with the addresses that they really have.

use super::text::{err, out};
use clap::Args;

use super::session::{bus, state, tell_of_journal};
use super::show::unknown;
use super::view::{self, Row};
use super::{Fault, Global, text};
use crate::identity;
use crate::name::MachineName;
use crate::observe;
use crate::plan::usable_spec_of;
use crate::spec::Problems;
use crate::state::rebuild;
use crate::sys::tree::Tree;
use crate::sys::{Disk, is_root};

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

/// What there is to see.
pub struct Looked {
    pub rows: Vec<Row>,
    /// Whether all of the user's files can be used.
    pub is_whole: bool,
}

/// Every machine as it is now. Takes no lock: it never waits. What is wrong in
/// the user's files is told, and does not hide what runs.
pub async fn look(global: &Global) -> Result<Looked, Fault> {
    let disk = Disk::new(&global.root);
    let bus = bus(global).await?;
    tell_of_journal(&disk);
    let (observed, addresses) = observe::machines(&disk, bus.as_ref()).await?;
    let (leases, state_fault) = match state(&observed) {
        Ok(state) => (state.leases, None),
        Err(error) => (rebuild(&observed.files).map(|state| state.leases).unwrap_or_default(), Some(error)),
    };
    let (spec, mut problems) = usable_spec_of(&observed);
    problems.extend(spec.strays.iter().cloned());
    let is_whole = problems.is_empty() && state_fault.is_none() && spec.broken.is_empty();
    if !problems.is_empty() {
        Fault::from(Problems(problems)).print();
    }
    if let Some(error) = state_fault {
        Fault::from(error).print();
    }
    if observed.live && !is_root() && !observed.machines.is_empty() && !global.quiet {
        err!("note: addresses are read from the machines' own networks, which takes root");
    }
    let mut rows = view::rows(&observed, &spec, &leases, &addresses);
    for row in rows.iter_mut().filter(|row| observed.live && row.network.mode.is_on_lan()) {
        row.duid = row.name.parse().ok().and_then(|name| duid(&name));
    }
    Ok(Looked { rows, is_whole })
}

/// The DUID of a guest that has been started once.
fn duid(name: &MachineName) -> Option<String> {
    Some(identity::duid(Tree::of(name.as_str())?.text("etc/machine-id")?.parse().ok()?).to_string())
}

fn cells(row: &Row) -> Vec<String> {
    let network = match (&row.network.prefix, &row.network.bridge) {
        (Some(prefix), _) => prefix.to_string(),
        (None, Some(bridge)) => format!("bridge {bridge}"),
        (None, None) if row.network.number.is_some() => "delegated".to_owned(),
        (None, None) => row.network.mode.word().to_owned(),
    };
    // One address a line: the table stays narrow, and each can be copied.
    let addresses: Vec<String> = row.addresses.iter().map(|address| mark_old(row, address)).collect();
    let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join("\n") };
    let interface = row.host_interface.clone().unwrap_or_else(|| "-".into());
    vec![row.name.clone(), row.state.clone(), network, addresses, interface]
}

/// An address, and whether its prefix is of yesterday.
pub fn mark_old(row: &Row, address: &std::net::IpAddr) -> String {
    if row.old_addresses.contains(address) { format!("{address} (old)") } else { address.to_string() }
}
