//! `nsctl deinit`: what `init` set up is taken back.

use clap::Args;

use crate::cli::host::fleet;
use crate::cli::planned::whole;
use crate::cli::session::{About, Session};
use crate::cli::text::{self, err};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::plan::Scope;
use crate::visible::{few, joined};

/// Take back what `init` set up: forwarding, routes, rules, names and drop-ins
///
/// Definitions, trees and leases stay: after another `init`, `nsctl apply` has the machines back.
#[derive(Debug, Clone, Args)]
pub struct Deinit {
    /// Also where machines need it: they stop, and what is rendered for them goes
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Deinit) -> Result<u8, Fault> {
    let session = Session::begin(global, About::Everybody).await?;
    let host = &session.spec.host;
    let Some(pool) = host.pool() else {
        session.say("this host has no pool: there is nothing to take back");
        return Ok(0);
    };
    let routed: Vec<&MachineName> = session
        .spec
        .machines
        .iter()
        .filter(|(_, m)| m.network.routed().is_some())
        .map(|(name, _)| name)
        .collect();
    if !routed.is_empty() && !args.force {
        return Err(Fault::new(format!("machines are routed by this host: {}", few(&routed))).hint(
            "`nsctl remove NAME`, or `nsctl attach NAME --bridge BR`, first; `--force` stops them, and keeps their \
             definitions, trees and leases",
        ));
    }
    let held: Vec<&MachineName> = session.state.leases.held().keys().collect();
    if host.fleet.is_some() && !(routed.is_empty() && held.is_empty()) {
        return Err(Fault::new("who leaves a fleet has no machines in its pool")
            .hint("`nsctl remove` them, or `nsctl attach NAME --bridge BR`, first"));
    }
    let mut host = host.clone();
    (host.whole, host.share, host.local, host.uplink) = (None, None, None, None);
    (host.routing, host.fleet, host.dns) = (None, None, None);
    let change =
        session.change(Scope::All).host(&host)?.park(routed.iter().copied()).keys(&Default::default());
    let wanted = change.settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    plan.notes.iter().for_each(|note| session.report.note(note));
    err!("{}", whole(&plan));
    let running: Vec<_> = routed.iter().filter(|name| session.observed.is_running(name)).collect();
    let stops =
        if running.is_empty() { String::new() } else { format!("It stops {}. ", joined(running, ", ")) };
    text::agree(args.yes, &format!("This takes back what routes {pool}. {stops}Go on?"))?;
    session.perform(&plan).await?;
    if let Err(fault) = fleet::leave(&session).await {
        session
            .note(format!("{fault}; `nsctl fleet forget` on another host frees what etcd has for this one"));
    }
    session.say(format!("this host routes {pool} no longer"));
    if !routed.is_empty() {
        session.say("`nsctl init` and `nsctl apply` have the machines back");
    }
    Ok(0)
}
