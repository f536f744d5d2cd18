//! `nsctl start|stop|restart`.

use std::path::Path;
use std::time::Instant;

use clap::Args;

use crate::apply;
use crate::cli::fault::{argument, unknown};
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::plan::{Plan, Refusal, Scope, Step, Wanted, flushed, health, lacking, mixed, probe, proof};
use crate::spec::{MACHINES_DIR, definition_path};
use crate::sys::{self, Disk, Net, tree};

/// Which machines
#[derive(Debug, Clone, Args)]
pub struct Names {
    /// The machines' names
    #[arg(required_unless_present = "all", value_name = "NAME", add = crate::cli::complete::any_machines())]
    names: Vec<String>,
    /// All of nsctl's machines
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

impl Names {
    /// Whether nobody is named.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Which those are, each once.
    ///
    /// # Errors
    /// When one is no name, or the folder of definitions cannot be read.
    pub fn machines(&self, global: &Global) -> Result<Vec<MachineName>, Fault> {
        let mut names: Vec<MachineName> = if self.all {
            let files = Disk::new(&global.root).names(Path::new(MACHINES_DIR))?;
            files.iter().filter_map(|file| file.strip_suffix(".toml")?.parse().ok()).collect()
        } else {
            self.names.iter().map(|name| argument(name)).collect::<Result<_, _>>()?
        };
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// End machines at once, or send them a signal
#[derive(Debug, Clone, Args)]
pub struct Kill {
    #[command(flatten)]
    names: Names,
    /// A signal for the first process of each, such as TERM or RTMIN+4, instead
    #[arg(long, short, value_name = "SIGNAL", value_parser = signal_number)]
    signal: Option<i32>,
}

/// What to do with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Start,
    Stop,
    /// At once.
    Kill,
    Restart,
}

impl Way {
    /// Whether they run afterwards.
    fn starts(self) -> bool {
        matches!(self, Way::Start | Way::Restart)
    }
}

pub async fn kill(global: &Global, args: Kill) -> Result<u8, Fault> {
    let Some(signal) = args.signal else { return run(global, args.names, Way::Kill).await };
    let names = args.names.machines(global)?;
    let session = Session::begin_to_stop(global).await?;
    for name in &names {
        refuse_unknown(&session, name).await?;
        if !session.observed.is_running(name) {
            return Err(Fault::new(format!("'{name}' is not running")).hint(format!("`nsctl start {name}`")));
        }
    }
    if let Some(bus) = &session.bus {
        for name in &names {
            bus.send_signal(name, signal).await?;
        }
    }
    names.iter().for_each(|name| session.say(format!("{name} has been sent the signal {signal}")));
    Ok(0)
}

/// A signal by its name or number (signal(7)).
fn signal_number(word: &str) -> Result<i32, String> {
    let name = word.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let (first, last) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
    let real_time = name.strip_prefix("RTMIN").map(|more| match more {
        "" => Some(first),
        more => more.strip_prefix('+')?.parse::<i32>().ok().and_then(|more| first.checked_add(more)),
    });
    let number = match real_time {
        Some(number) => number,
        None => name.parse().ok().or_else(|| {
            format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
        }),
    };
    number
        .filter(|number| (1..=last).contains(number))
        .ok_or_else(|| "it is TERM, INT, RTMIN+4, 15, …".to_owned())
}

pub async fn run(global: &Global, args: Names, way: Way) -> Result<u8, Fault> {
    let names = args.machines(global)?;
    let session = match way {
        Way::Stop | Way::Kill => Session::begin_to_stop(global).await?,
        Way::Start | Way::Restart => {
            let about: Vec<&MachineName> = names.iter().collect();
            Session::begin_to_start(global, About::Those(&about)).await?
        }
    };
    for name in &names {
        refuse_unknown(&session, name).await?;
    }
    if way.starts()
        && let Some(refusal) = session.held(|name| names.contains(name)).into_iter().next()
    {
        return Err(vec![refusal].into());
    }
    let idle = |name: &&MachineName| match way {
        Way::Start => session.observed.is_running(name),
        // systemd may be about to start it again.
        Way::Stop | Way::Kill => !session.observed.is_running(name) && !session.observed.is_coming(name),
        Way::Restart => false,
    };
    let (idle, busy): (Vec<_>, Vec<_>) = names.iter().partition(idle);
    for name in idle {
        session.say(format!("{name} is {} already", if way == Way::Start { "running" } else { "stopped" }));
    }
    let machines: Vec<MachineName> = busy.into_iter().cloned().collect();
    let machines = session.spec.in_order(&machines);
    if machines.is_empty() {
        return Ok(0);
    }
    let started = sys::now();
    let wanted = Wanted::new(session.spec.clone(), session.state.clone(), Scope::All);
    let ours = machines.iter().filter_map(|name| Some((name, wanted.spec.machines.get(name)?)));
    if way.starts() {
        let each = ours.clone();
        let missing: Vec<Refusal> =
            each.flat_map(|(name, machine)| lacking(name, machine, &wanted, &session.observed)).collect();
        if !missing.is_empty() {
            return Err(missing.into());
        }
        must_have_trees(&session, &machines).await?;
        must_be_apart(&session, &machines).await?;
    }
    // How those of the machines that are ours are proved to be where they should be.
    let prove = |(name, machine)| proof(name, machine, &wanted).into_iter().chain(health(name, machine));
    let checks: Vec<Step> = ours.flat_map(prove).collect();
    let up = |name: &&MachineName| session.observed.is_running(name) || session.observed.is_coming(name);
    let running = machines.iter().filter(up).cloned().collect();
    let asked = probe(&wanted, &machines);
    let steps = steps(way, &machines, running, &checks, asked, flushed(&wanted, &session.observed));
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    match way {
        Way::Stop | Way::Kill => {
            apply::remember_stopped(&session.disk, &machines);
            machines.iter().for_each(|name| session.say(format!("{name} is stopped")));
        }
        Way::Start | Way::Restart => verify(&session, &machines, &checks, started).await?,
    }
    Ok(0)
}

/// A machine whose tree has gone would only fail, and so would its start when that is undone.
async fn must_have_trees(session: &Session, machines: &[MachineName]) -> Result<(), Fault> {
    let Some(bus) = &session.bus else { return Ok(()) };
    let is_there =
        |name: &&MachineName| session.observed.is_running(name) || tree::identity(name.as_str()).is_some();
    let doubtful: Vec<&MachineName> = machines.iter().filter(|name| !is_there(name)).collect();
    if doubtful.is_empty() {
        return Ok(());
    }
    // machined looks in more places than one (systemd-nspawn(1)).
    let images = bus.images().await?;
    let missing: Vec<Refusal> =
        doubtful.into_iter().filter(|name| !images.contains(name.as_str())).map(Refusal::no_tree).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.into()) }
}

/// A machine in a VLAN starts only where its bridge keeps that apart.
async fn must_be_apart(session: &Session, machines: &[MachineName]) -> Result<(), Fault> {
    let all =
        machines.iter().filter_map(|name| Some((name, session.spec.machines.get(name)?.network.port()?)));
    let in_vlan: Vec<_> = all.filter(|(_, port)| port.vlan.is_some()).collect();
    if in_vlan.is_empty() {
        return Ok(());
    }
    let links = Net::host()?.links().await?;
    let refused: Vec<Refusal> =
        in_vlan.into_iter().filter_map(|(name, port)| mixed(name, port, &links)).collect();
    if refused.is_empty() { Ok(()) } else { Err(refused.into()) }
}

fn steps(
    way: Way,
    machines: &[MachineName],
    running: Vec<MachineName>,
    checks: &[Step],
    asked: Option<Step>,
    flushed: bool,
) -> Vec<Step> {
    if way == Way::Kill {
        return vec![Step::Kill { machines: running }];
    }
    let stop = Step::Stop { machines: running };
    let start = asked.into_iter().chain([Step::start(machines.to_vec(), checks)]);
    // A machine does not start without its firewall.
    let firewall = (flushed && way.starts()).then_some(Step::ReloadFirewall { prune: true, part: None });
    let steps: Vec<Step> = match way {
        Way::Start => start.collect(),
        Way::Stop | Way::Kill => vec![stop],
        Way::Restart if stop.machines().is_empty() => start.collect(),
        Way::Restart => [stop].into_iter().chain(start).collect(),
    };
    firewall.into_iter().chain(steps).collect()
}

async fn refuse_unknown(session: &Session, name: &MachineName) -> Result<(), Fault> {
    if session.spec.broken.contains_key(name) {
        session.machine(name)?;
    }
    if session.spec.machines.contains_key(name)
        || session.observed.is_running(name)
        || session.disk.exists(&definition_path(name))
    {
        return Ok(());
    }
    if let Some(bus) = &session.bus
        && bus.images().await?.contains(name.as_str())
    {
        return Ok(());
    }
    let known = session.disk.names(Path::new(MACHINES_DIR))?;
    Err(unknown(name.as_str(), known.iter().filter_map(|file| file.strip_suffix(".toml"))))
}

/// Sees that each of our machines is where it should be. One that does not
/// answer stays up: it was asked for, and somebody may want to look at it.
async fn verify(
    session: &Session,
    machines: &[MachineName],
    checks: &[Step],
    started: Instant,
) -> Result<(), Fault> {
    let seen = apply::verify(session.world(), checks, started).await?;
    let mut fault = None;
    for verified in seen {
        match verified {
            Ok(verified) => verified.iter().for_each(|verified| session.report.saw(verified)),
            Err(error) => fault = Some(error),
        }
    }
    for name in machines.iter().filter(|name| !session.spec.machines.contains_key(*name)) {
        session.say(format!("{name} is started"));
    }
    fault.map_or(Ok(()), |error| Err(error.into()))
}
