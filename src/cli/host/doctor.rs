//! `nsctl doctor`: what is wrong, what it causes, and what fixes it.

use std::net::Ipv6Addr;

use clap::Args;
use serde::Serialize;

use super::{fleet, upstream};
use crate::cli::fault::unknown;
use crate::cli::host::reconcile::everything;
use crate::cli::machine::look::look;
use crate::cli::session::{bus, live_bus, must_be_root, state};
use crate::cli::text::{self, err, out};
use crate::cli::{Fault, Global};
use crate::doctor::{Finding, Level, OUR_TABLE, Trap, examine, services};
use crate::plan::{Step, Whole, spec_of};
use crate::sys::trace::{Packets, Route};
use crate::sys::{self, Disk, net};
use crate::{inspect, observe};

/// Find what is wrong with this host and its machines, and say what fixes it
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// Just this machine [default: the host and all machines]
    #[arg(add = crate::cli::complete::machines())]
    name: Option<String>,
    /// Run the commands that fix what they can fix without harm
    #[arg(long)]
    fix: bool,
    /// Ask each machine for its way to this address of the world: reached or not, from which
    /// address, over which hops
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["fix", "probe"])]
    online: Option<Ipv6Addr>,
    /// Ask the router whether it routes the pool here, or looks for it on the link; where it does
    /// not let see, wait so long for a ping from elsewhere to this host's address of the pool
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["fix", "name"])]
    probe: Option<u64>,
    /// Do not ask before that
    #[arg(long, short, requires = "fix")]
    yes: bool,
    /// Print the page about a trap: what one sees of it, why it is so, what fixes it. Each finding
    /// ends in the name of its trap
    #[arg(long, value_name = "TRAP", hide_possible_values = true,
          conflicts_with_all = ["name", "json", "fix", "online", "probe", "yes"])]
    explain: Option<Trap>,
}

pub async fn run(global: &Global, args: Doctor) -> Result<u8, Fault> {
    if let Some(trap) = args.explain {
        out!("{}", trap.page().trim_end());
        return Ok(0);
    }
    if let Some(to) = args.online {
        return online(global, &args, to).await;
    }
    if let Some(seconds) = args.probe {
        return upstream::probe(global, seconds).await;
    }
    let (mut findings, looked) = findings(global).await?;
    // What keeps doctor from looking at a machine is that machine's matter, too.
    if let Some(name) = args.name.as_ref().filter(|_| looked) {
        let rows = look(global, &[]).await?.rows;
        let Some(row) = rows.iter().find(|row| row.name == *name) else {
            return Err(unknown(name, rows.iter().map(|row| row.name.as_str())));
        };
        let link = row.host_interface.as_deref();
        let filtered = row.open.is_some();
        findings
            .retain(|finding| finding.is_of(&row.name, link) || (filtered && finding.object == OUR_TABLE));
    }
    if args.fix {
        fix(global, &args, &findings)?;
        return Ok(0);
    }
    if global.json {
        global.report.answer(&findings)?;
    } else if findings.is_empty() {
        global.report.say("all is well");
    } else {
        out!("{}", text::sanitize(&text::joined(findings.iter().map(sheet), "\n\n")));
    }
    let bad = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(u8::from(bad))
}

/// And whether all could be looked at.
async fn findings(global: &Global) -> Result<(Vec<Finding>, bool), Fault> {
    let Some(bus) = bus(global).await? else {
        return Err(Fault::wrong("doctor looks at a running host, not below --root")
            .hint("`nsctl --root DIR plan` shows what is out of step in files"));
    };
    if !sys::is_root() && !global.quiet {
        err!("note: firewalls and machines' own networks are looked at by root alone");
    }
    let hanging = services::hanging(&bus.hanging().await);
    if !hanging.is_empty() {
        return Ok((hanging, false));
    }
    // Who asks a service that is down would start it.
    let services = bus.services(&services::ASKED).await?;
    let down = services::first(&services);
    if !down.is_empty() {
        return Ok((down, false));
    }
    let disk = Disk::new(&global.root);
    let observed = observe::host(&disk, Some(&bus)).await?;
    let (spec, state) = (spec_of(&observed)?, state(&observed)?);
    let mut facts = inspect::host(&disk, &bus, observed, spec, state, services).await?;
    if sys::is_root() {
        facts.fleet = fleet::look(&disk, &facts.spec).await;
    }
    if facts.cut_short.is_none() {
        let whole = everything(&facts.spec, &facts.state, &facts.observed, Vec::new());
        match whole {
            Ok(Whole { plan, left_out, .. }) => {
                facts.pending = Some(plan.steps.iter().map(Step::describe).collect());
                facts.left_out = left_out;
            }
            Err(refusals) => facts.left_out = refusals,
        }
    }
    Ok((examine(&facts), true))
}

/// One machine's way to the world.
#[derive(Serialize)]
struct Online {
    name: String,
    reached: bool,
    source: Option<Ipv6Addr>,
    hops: Vec<Option<Ipv6Addr>>,
    /// The bytes of the largest packet that gets through, where that could be seen.
    packets: Option<u32>,
    /// Large packets are lost without a word.
    large_ones_vanish: bool,
}

/// The bytes that a packet on an Ethernet may have.
const USUAL: u32 = 1500;

/// Asks every machine at once.
async fn online(global: &Global, args: &Doctor, to: Ipv6Addr) -> Result<u8, Fault> {
    let bus = live_bus(global, "machines are asked").await?;
    let mut machines = bus.machines().await?;
    if let Some(name) = &args.name {
        machines.retain(|other, _| other == name);
        if machines.is_empty() {
            return Err(Fault::new(format!("'{}' is not running", name.escape_debug()))
                .hint(format!("`nsctl start {name}`")));
        }
    }
    let asked = machines.into_iter().map(async |(name, running)| {
        let Route { reached, source, hops, packets } = net::tracer(running.leader, to)?.run().await?;
        let (packets, large_ones_vanish) = match packets {
            Packets::UpTo(size) => (Some(size), false),
            Packets::Vanish(_) => (None, true),
            Packets::Unknown => (None, false),
        };
        Ok::<_, Fault>(Online { name, reached, source, hops, packets, large_ones_vanish })
    });
    let all = sys::together(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    if global.json {
        global.report.answer(&all)?;
    } else {
        for one in &all {
            out!("{}", text::sanitize(&told(one, to)));
        }
    }
    Ok(u8::from(all.iter().any(|one| !one.reached || one.large_ones_vanish)))
}

fn told(Online { name, reached, source, hops, packets, large_ones_vanish }: &Online, to: Ipv6Addr) -> String {
    let Some(source) = source else { return format!("{name} has no way to {to}: it has no route there") };
    let way = hops.iter().map(|hop| hop.map_or("?".to_owned(), |address| address.to_string()));
    let way = if hops.is_empty() { "nobody answers".to_owned() } else { text::joined(way, " > ") };
    let verb = if *reached { "reaches" } else { "does not reach" };
    let large = match packets {
        None if *large_ones_vanish => {
            "; large packets are lost without a word: somebody on the way filters packet-too-big (ICMPv6 type 2), so \
             large transfers hang\n    fix: ask them to let it through (RFC 4890 4.3.1), or set mtu = 1280 below \
             [uplink] in /etc/nsctl/nsctl.toml and run `nsctl apply`"
                .to_owned()
        }
        Some(size) if *size < USUAL => format!("; packets of up to {size} bytes get through"),
        _ => String::new(),
    };
    format!("{name} {verb} {to} from {source}, over {way}{large}")
}

/// A finding in a few lines.
fn sheet(finding: &Finding) -> String {
    let Finding { level, object, what, causes, fix, trap, .. } = finding;
    let level = if *level == Level::Error { "error" } else { "warning" };
    format!("{level}: {object} {what}\n    {causes}\n    fix: {fix}\n    more: nsctl doctor --explain {trap}")
}

fn fix(global: &Global, args: &Doctor, findings: &[Finding]) -> Result<(), Fault> {
    must_be_root(global)?;
    let safe: Vec<&Finding> = findings.iter().filter(|finding| finding.safe).collect();
    for finding in findings.iter().filter(|finding| !finding.safe) {
        err!("{}", text::sanitize(&sheet(finding)));
        err!("    left to you: it takes something away, or touches what is yours\n");
    }
    if safe.is_empty() {
        global.report.say("nothing that can be fixed without you");
        return Ok(());
    }
    for finding in &safe {
        err!("{}", text::sanitize(&sheet(finding)));
    }
    text::agree(args.yes, "Run these commands?")?;
    for finding in safe {
        let status = sys::run("sh", &["-c", &finding.fix])?;
        if status != 0 {
            return Err(Fault::new(format!("`{}` ended with {status}", finding.fix))
                .hint("`nsctl doctor` says what is left"));
        }
        global.report.say(format!("done: {}", finding.fix));
    }
    Ok(())
}
