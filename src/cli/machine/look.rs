//! Every machine as it is now, for all who show them.

use std::time::Duration;

use crate::cli::machine::view::{self, Row};
use crate::cli::report::CheckView;
use crate::cli::session::{bus, state, tell_of_journal};
use crate::cli::text::err;
use crate::cli::{Fault, Global};
use crate::identity;
use crate::name::MachineName;
use crate::observe;
use crate::plan::usable_spec_of;
use crate::spec::{HealthCheck, Problems, Spec};
use crate::state::rebuild;
use crate::sys::tree::Tree;
use crate::sys::{Bus, Disk, health, is_root, together};

/// What there is to see.
pub struct Looked {
    pub rows: Vec<Row>,
    /// Whether all of the user's files can be used.
    pub is_whole: bool,
}

/// Every machine as it is now, and those of the trees asked for that belong to none. Takes no lock: it
/// never waits. What is wrong in the user's files is told, and does not hide what runs.
pub async fn look(global: &Global, asked: &[String]) -> Result<Looked, Fault> {
    let disk = Disk::new(&global.root);
    let bus = bus(global).await?;
    tell_of_journal(&disk);
    let (mut observed, addresses) = observe::machines(&disk, bus.as_ref()).await?;
    if let Some(bus) = &bus {
        for name in asked.iter().filter(|name| name.parse::<MachineName>().is_ok()) {
            observed.images.extend(bus.has_image(name).await?.then(|| name.clone()));
        }
    }
    let (leases, state_fault) = match state(&observed) {
        Ok(state) => (state.leases, None),
        Err(error) => (rebuild(&observed.files).map(|state| state.leases).unwrap_or_default(), Some(error)),
    };
    let (spec, mut problems) = usable_spec_of(&observed);
    problems.extend(spec.strays.iter().cloned());
    let is_whole = problems.is_empty() && state_fault.is_none() && spec.broken.is_empty();
    if !problems.is_empty() {
        global.report.fault(&Fault::from(Problems(problems)));
    }
    if let Some(error) = state_fault {
        global.report.fault(&Fault::from(error));
    }
    if observed.live && !is_root() && !observed.machines.is_empty() && !global.quiet {
        err!("note: addresses are read from the machines' own networks, which takes root");
    }
    let mut rows = view::rows(&observed, &spec, &leases, &addresses);
    for row in rows.iter_mut().filter(|row| observed.live && row.network.bridge.is_some()) {
        row.duid = row.name.parse().ok().and_then(|name| duid(&name));
    }
    if let Some(bus) = bus.as_ref().filter(|_| is_root()) {
        ask_all(bus, &spec, &mut rows).await;
    }
    Ok(Looked { rows, is_whole })
}

/// How long one who looks waits for a machine's check.
const ASK_TIME: Duration = Duration::from_secs(2);

/// Which of those that run do what they are for.
async fn ask_all(bus: &Bus, spec: &Spec, rows: &mut [Row]) {
    let running = rows.iter_mut().filter(|row| row.state == "running");
    let asked = running.filter_map(|row| {
        let (name, machine) = spec.machines.get_key_value(&row.name.parse::<MachineName>().ok()?)?;
        Some((machine.check.as_ref()?, name, row.pid?, row))
    });
    let all = asked.map(async |(check, name, leader, row): (&HealthCheck, &MachineName, u32, &mut Row)| {
        let why = health::ask(bus, name, leader, check, ASK_TIME).await.err().map(|why| why.to_string());
        row.drift.extend(why.as_ref().map(|why| format!("it fails its check, {check}: {why}")));
        row.check = Some(CheckView { asked: check.to_string(), passes: why.is_none(), why });
    });
    together(all).await;
}

/// The DUID of a guest that has been started once.
fn duid(name: &MachineName) -> Option<String> {
    Some(identity::duid(Tree::of(name.as_str())?.text("etc/machine-id")?.parse().ok()?).to_string())
}

/// An address, and whether its prefix is of yesterday.
pub fn mark_old(row: &Row, address: &std::net::IpAddr) -> String {
    if row.old_addresses.contains(address) { format!("{address} (old)") } else { address.to_string() }
}
