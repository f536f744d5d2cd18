//! `nsctl pool`: the prefix, and who holds what.

use serde::Serialize;

use crate::cli::network::pool_map;
use crate::cli::session::{state, tell_of_journal};
use crate::cli::text::{self, out};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::plan::spec_of;
use crate::pool::{Lease, Leases, Pool, Prefix};
use crate::spec::HostSpec;
use crate::sys::Disk;

#[derive(Serialize)]
struct View<'a> {
    pool: Pool,
    /// This host's part of it, which the rest is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<Prefix>,
    /// How many machines it is for.
    size: u128,
    free: u128,
    leases: Vec<Held<'a>>,
    /// The one freed longest ago first.
    resting: Vec<Lease>,
}

#[derive(Serialize)]
struct Held<'a> {
    machine: &'a MachineName,
    subnet: Lease,
}

pub async fn run(global: &Global) -> Result<u8, Fault> {
    let disk = Disk::new(&global.root);
    tell_of_journal(&disk);
    let observed = observe::host(&disk, None).await?;
    let leases = state(&observed)?.leases;
    let host = spec_of(&observed)?.host;
    let Some(pool) = host.pool() else {
        return Err(Fault::new("this host has no pool").hint("`nsctl init --pool PREFIX --uplink INTERFACE`"));
    };
    if global.json {
        global.report.answer(&view(&host, pool, &leases))?;
    } else {
        let view = view(&host, pool, &leases);
        let held: Vec<Lease> = view.leases.iter().map(|lease| lease.subnet).collect();
        let map = pool_map::draw(pool, &held, &view.resting).map(|map| format!("\n{map}\n"));
        out!("{}{}", head(&view), map.unwrap_or_default());
        if let Some(table) = table(&view) {
            out!("{table}");
        }
    }
    Ok(0)
}

fn view<'l>(host: &HostSpec, pool: Pool, leases: &'l Leases) -> View<'l> {
    let resting = leases.resting().iter().map(|rested| rested.lease);
    let used: u128 = leases.held().values().copied().chain(resting.clone()).map(Lease::size).sum();
    let size = pool.size() - u128::from(pool.first());
    View {
        pool: host.share.and(host.whole).map_or(pool, Pool::Fixed),
        share: host.share,
        size,
        free: size.saturating_sub(used),
        leases: leases.held().iter().map(|(machine, subnet)| Held { machine, subnet: *subnet }).collect(),
        resting: resting.collect(),
    }
}

/// A number that somebody may want to read.
fn many(count: u128) -> String {
    if count < 1_000_000_000 { count.to_string() } else { "more than a billion".to_owned() }
}

fn head(view: &View) -> String {
    let share = view.share.map(|share| format!("{share}, this host's share of ")).unwrap_or_default();
    format!(
        "{share}{}: {} leased, {} resting, {} never used, of {}",
        view.pool,
        view.leases.len(),
        view.resting.len(),
        many(view.free),
        many(view.size)
    )
}

/// Who holds what.
fn table(view: &View) -> Option<String> {
    let rest = view.resting.iter().map(|subnet| vec![subnet.to_string(), "resting".into()]);
    let mut held: Vec<&Held> = view.leases.iter().collect();
    held.sort_by_key(|lease| lease.subnet);
    let held = held.iter().map(|lease| vec![lease.subnet.to_string(), lease.machine.to_string()]);
    let rows: Vec<Vec<String>> = held.chain(rest).collect();
    let header = [if view.pool.is_single() { "ADDRESS" } else { "SUBNET" }, "MACHINE"];
    (!rows.is_empty()).then(|| text::table(&header, &rows))
}
