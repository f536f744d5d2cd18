//! `nsctl upgrade`: the packages of machines, with a way back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::apply::upgrade::last_lines;
use crate::apply::{self, Interrupt, Listener};
use crate::cli::machine::run::Names;
use crate::cli::machine::snapshot::{HowArgs, Taking, file, free, record, take};
use crate::cli::progress::Progress;
use crate::cli::session::{About, Session, live_bus};
use crate::cli::text::{agree, joined, out, sanitize, table};
use crate::cli::{Fault, Global, audit};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::plan::{Plan, Scope, Step, Wanted, disk_limit, proof};
use crate::snapshot::{How, Label};
use crate::spec::HealthCheck;
use crate::sys::{self, Bus, Disk, guest, health, vitals};
use crate::upgrade::{ASKS_FOR_RESTART, PREPARE, PackageChange, PackageManager, Vitals, WayBack, changes};

/// Upgrade the packages of machines by their own package managers: apt, dnf, pacman or apk
///
/// A snapshot is taken before. A machine whose package manager fails, or that does not do afterwards what it did
/// before (it answers, its open ports answer, no other unit has failed, its check passes), becomes what it was;
/// what became of it is kept as a snapshot.
#[derive(Debug, Clone, Args)]
pub struct Upgrade {
    #[command(flatten)]
    names: Names,
    /// Only list what would be upgraded
    #[arg(long, conflicts_with_all = ["no_restart", "freeze", "stop", "yes"])]
    list: bool,
    /// Leave a guest running that asks for a restart
    #[arg(long)]
    no_restart: bool,
    #[command(flatten)]
    how: HowArgs,
    /// How many at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// How long each package manager may take
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = time_span)]
    within: Duration,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// One of `upgrade --json`.
#[derive(Debug, Serialize)]
struct Row {
    machine: MachineName,
    result: Outcome,
    /// With --list: what would be upgraded, as its package manager says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<Vec<String>>,
    packages: Vec<PackageChange>,
    restarted: bool,
    /// Why a guest that was not restarted asks for it.
    restart: Vec<String>,
    /// What it was before.
    snapshot: Option<Label>,
    /// What became of it, where that was taken back.
    kept: Option<Label>,
    why: Option<String>,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Available,
    UpToDate,
    Upgraded,
    RolledBack,
    Failed,
    NotRunning,
}

impl Outcome {
    fn words(self) -> &'static str {
        match self {
            Outcome::Available => "available",
            Outcome::UpToDate => "up to date",
            Outcome::Upgraded => "upgraded",
            Outcome::RolledBack => "rolled back",
            Outcome::Failed => "failed",
            Outcome::NotRunning => "not running",
        }
    }

    fn is_good(self) -> bool {
        !matches!(self, Outcome::RolledBack | Outcome::Failed)
    }
}

impl Row {
    fn new(machine: &MachineName, result: Outcome, begun: Instant) -> Row {
        Row {
            machine: machine.clone(),
            result,
            available: None,
            packages: Vec::new(),
            restarted: false,
            restart: Vec::new(),
            snapshot: None,
            kept: None,
            why: None,
            seconds: begun.elapsed().as_secs_f64(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let count = self.available.as_ref().map_or(self.packages.len(), Vec::len);
        let count = if count == 0 { String::new() } else { count.to_string() };
        let restart = match (self.restarted, self.restart.is_empty()) {
            (true, _) => "restarted",
            (false, false) => "asks for it",
            _ => "",
        };
        let label = |label: &Option<Label>| label.as_ref().map(Label::to_string).unwrap_or_default();
        let mut cells = vec![self.machine.to_string(), self.result.words().to_owned(), count];
        let snapshot = if self.kept.is_some() { &self.kept } else { &self.snapshot };
        cells.extend([restart.to_owned(), label(snapshot), format!("{:.1} s", self.seconds)]);
        cells
    }
}

/// What a machine's package manager has for it.
struct Pending {
    machine: MachineName,
    manager: PackageManager,
    available: Vec<String>,
}

pub async fn run(global: &Global, args: Upgrade) -> Result<u8, Fault> {
    let bus = live_bus(global, "machines are upgraded").await?;
    let names = args.names.machines(global)?;
    if !args.list {
        // What was cut short is fixed first: a guest is not asked what it is in the middle of.
        drop(Session::begin(global, About::Nobody).await?);
    }
    let running = bus.machines().await?;
    let (up, down): (Vec<MachineName>, Vec<MachineName>) =
        names.into_iter().partition(|name| running.contains_key(name.as_str()));
    if let Some(name) = down.first().filter(|_| !args.names.is_all()) {
        return Err(not_running(global, &bus, name).await?);
    }
    let begun = sys::now();
    let mut rows: Vec<Row> = down.iter().map(|name| Row::new(name, Outcome::NotRunning, begun)).collect();
    let pending = refresh(global, &bus, &args, up, &mut rows).await;
    if args.list {
        let listed = pending.into_iter().map(|pending| Row {
            available: Some(pending.available),
            ..Row::new(&pending.machine, Outcome::Available, begun)
        });
        rows.extend(listed);
        return tell(global, rows);
    }
    if !pending.is_empty() {
        ask(global, &args, &pending)?;
        let (interrupted, turn) = (Cell::new(false), tokio::sync::Mutex::default());
        let work = Work { global, bus: &bus, args: &args, interrupted, turn };
        let upgraded =
            stream::iter(&pending).map(|pending| one(&work, pending)).buffer_unordered(args.jobs.into());
        let mut upgraded = std::pin::pin!(upgraded.collect::<Vec<Row>>());
        let mut interrupt = Interrupt::begin();
        let upgraded = loop {
            tokio::select! {
                done = &mut upgraded => break done,
                // Those that are at it hear it themselves; no other is begun.
                () = interrupt.came() => work.interrupted.set(true),
            }
        };
        rows.extend(upgraded);
    }
    tell(global, rows)
}

async fn not_running(global: &Global, bus: &Bus, name: &MachineName) -> Result<Fault, Fault> {
    let is_ours = Disk::new(&global.root).exists(&crate::spec::definition_path(name));
    if is_ours || bus.has_image(name.as_str()).await? {
        return Ok(Fault::new(format!("'{name}' is not running: its own package manager upgrades it"))
            .hint(format!("`nsctl start {name}`")));
    }
    let files = Disk::new(&global.root).names(std::path::Path::new(crate::spec::MACHINES_DIR))?;
    Ok(crate::cli::fault::unknown(name.as_str(), files.iter().filter_map(|file| file.strip_suffix(".toml"))))
}

/// Hears from each machine's package manager what there is. Those that have nothing, or cannot tell, are done.
async fn refresh(
    global: &Global,
    bus: &Bus,
    args: &Upgrade,
    names: Vec<MachineName>,
    rows: &mut Vec<Row>,
) -> Vec<Pending> {
    let limit = args.within;
    let asked = stream::iter(names).map(async |machine: MachineName| {
        let begun = sys::now();
        let progress = Progress::new(global);
        progress.at(&format!("ask the package manager of '{machine}'"));
        let known = available(bus, &machine, limit, &progress).await;
        (machine, begun, known)
    });
    let mut asked = asked.buffer_unordered(args.jobs.into());
    let mut pending = Vec::new();
    while let Some((machine, begun, known)) = asked.next().await {
        match known {
            Ok((_, available)) if available.is_empty() => {
                rows.push(Row::new(&machine, Outcome::UpToDate, begun));
            }
            Ok((manager, available)) => pending.push(Pending { machine, manager, available }),
            Err(fault) => {
                rows.push(Row { why: Some(fault.to_string()), ..Row::new(&machine, Outcome::Failed, begun) });
                global.report.fault(&fault);
            }
        }
    }
    pending.sort_by(|a, b| a.machine.cmp(&b.machine));
    pending
}

/// A number of seconds, minutes or hours: "90s", "30m", "2h".
fn time_span(word: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let known = units.into_iter().find_map(|(unit, seconds)| Some((word.strip_suffix(unit)?, seconds)));
    let seconds = known.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
    let fits = seconds.filter(|seconds| (1..=24 * 3600).contains(seconds));
    fits.map(Duration::from_secs).ok_or_else(|| "it is 90s, 30m or 2h, and a day at the most".to_owned())
}

async fn available(
    bus: &Bus,
    machine: &MachineName,
    limit: Duration,
    progress: &Progress,
) -> Result<(PackageManager, Vec<String>), Fault> {
    let release = "head -c 65536 /etc/os-release 2> /dev/null || head -c 65536 /usr/lib/os-release";
    let release =
        guest::run(bus, machine, release, &[]).await.map_err(|error| unreachable(machine, error))?;
    let manager = PackageManager::of(&release).ok_or_else(|| {
        Fault::new(format!("nsctl does not know the package manager of '{machine}'")).hint(format!(
            "it knows apt, dnf, pacman and apk, and goes by ID= and ID_LIKE= in the guest's /etc/os-release; by \
             hand: `nsctl snapshot {machine}`, `nsctl shell {machine}`, `nsctl rollback {machine} LABEL`"
        ))
    })?;
    let script = format!("{PREPARE}{}", manager.refresh());
    let heard = |line: &str| progress.hears(machine, line);
    let said = guest::follow(bus, machine, &script, &[], limit, heard).await;
    let lines = said.map_err(|error| unreachable(machine, error))?;
    Ok((manager, lines.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()))
}

fn unreachable(machine: &MachineName, error: sys::GuestError) -> Fault {
    match error {
        sys::GuestError::Failed { said, .. } => {
            let last = last_lines(&said, 6);
            Fault::new(format!("the package manager of '{machine}' cannot tell what there is:\n{last}"))
                .hint(format!("`nsctl shell {machine}` shows what it sees; nothing was changed"))
        }
        error => Fault::from(error)
            .hint("guests without systemd and D-Bus of their own are upgraded by hand: `machinectl login`"),
    }
}

fn ask(global: &Global, args: &Upgrade, pending: &[Pending]) -> Result<(), Fault> {
    let count = |pending: &Pending| match pending.available.len() {
        1 => format!("1 package of {}", pending.machine),
        count => format!("{count} packages of {}", pending.machine),
    };
    if !args.yes && !global.quiet {
        for one in pending {
            crate::cli::text::err!("{}:", one.machine);
            one.available.iter().for_each(|line| crate::cli::text::err!("  {}", sanitize(line)));
        }
    }
    let restarts = if args.no_restart { "" } else { ", and restarts what asks for it" };
    agree(args.yes, &format!("This upgrades {}{restarts}. Go on?", joined(pending.iter().map(count), ", ")))
}

/// Upgrades one machine; whatever happens to it is in its row.
async fn one(work: &Work<'_>, pending: &Pending) -> Row {
    let (name, begun) = (&pending.machine, sys::now());
    let mut row = Row::new(name, Outcome::Failed, begun);
    if let Err(fault) = whole(work, pending, &mut row).await {
        row.why = Some(fault.to_string());
        let fault = match &row.kept {
            Some(kept) => Fault::new(fault.to_string()).hint(format!(
                "'{name}' is what it was before; what became of it is kept: `nsctl snapshot show {name} {kept}`"
            )),
            None => fault,
        };
        work.global.report.fault(&fault);
    }
    row.seconds = begun.elapsed().as_secs_f64();
    row
}

/// What those have in common who are upgraded at the same time.
struct Work<'w> {
    global: &'w Global,
    bus: &'w Bus,
    args: &'w Upgrade,
    interrupted: Cell<bool>,
    /// One of them at a time waits for the host: the others would give up while it works.
    turn: tokio::sync::Mutex<()>,
}

impl Work<'_> {
    fn goes_on(&self) -> Result<(), Fault> {
        if self.interrupted.get() { Err(Fault::new("interrupted before it was begun")) } else { Ok(()) }
    }
}

async fn whole(work: &Work<'_>, pending: &Pending, row: &mut Row) -> Result<(), Fault> {
    let Work { global, bus, args, .. } = work;
    let (name, manager) = (&pending.machine, pending.manager);
    work.goes_on()?;
    let installed = guest::run(bus, name, manager.installed(), &[]).await?;
    let before = before(work, name).await?;
    let turn = work.turn.lock().await;
    work.goes_on()?;
    let how = args.how.how();
    let why = Some("before an upgrade".to_owned());
    let taking = Taking { how, word: "before-upgrade-", why, ..Taking::default() };
    let snapshot = take(global, name, taking).await?;
    row.snapshot = Some(snapshot.clone());
    let leader = bus.leader(name).await?;
    work.goes_on()?;
    let session = Session::begin(global, About::Those(&[name])).await?;
    drop(turn);
    must_be_there(&session, name, &snapshot)?;
    let back = way_back(&session, name, snapshot, args.within, &before);
    let aside = back.aside.clone();
    let plan = Plan { steps: steps(name, manager, args, back, &before), ..Plan::default() };
    session.must_decrypt(&plan).await?;
    let done = apply::apply(&session.world(), &plan, &sys::command_line()).await;
    session.progress.end();
    audit::write_down(&plan, done.as_ref().err().map(|failure| failure as &dyn std::fmt::Display));
    if let Err(failure) = done {
        if failure.left().is_empty() && is_kept(&session, name, &aside) {
            (row.result, row.kept, row.snapshot) = (Outcome::RolledBack, Some(aside), None);
        }
        session.release();
        answers_again(&session, &before).await;
        return Err(failure.into());
    }
    row.result = Outcome::Upgraded;
    // What is told of it does not change what it is.
    row.restarted = bus.leader(name).await.is_ok_and(|now| now != leader);
    let now = guest::run(bus, name, manager.installed(), &[]).await.unwrap_or_default();
    row.packages = changes(&installed, &now);
    if args.no_restart {
        let asks = guest::run(bus, name, &format!("{PREPARE}{ASKS_FOR_RESTART}"), &[]).await;
        row.restart = asks.unwrap_or_default().lines().map(|line| line.trim().to_owned()).collect();
    }
    Ok(())
}

/// Somebody may have come between.
fn must_be_there(session: &Session, name: &MachineName, snapshot: &Label) -> Result<(), Fault> {
    let held = session.held(|one| one == name);
    if !held.is_empty() {
        return Err(held.into());
    }
    session.machine(name)?;
    if !session.observed.snapshots_of(name).contains_key(snapshot) {
        return Err(Fault::new(format!("the snapshot {snapshot} of '{name}' has gone meanwhile"))
            .hint(format!("nothing was upgraded; `nsctl upgrade {name}` tries again")));
    }
    Ok(())
}

fn is_kept(session: &Session, name: &MachineName, label: &Label) -> bool {
    session.disk.exists(&ManagedFile::Snapshot(name.clone(), label.clone()).path())
}

/// It was started again: whether it answers again is what people want to know now.
async fn answers_again(session: &Session, before: &Before) {
    let seen = apply::verify(session.world(), &before.answers, sys::now()).await;
    let faults = seen.into_iter().flatten().filter_map(Result::err);
    faults.for_each(|error| session.note(format!("it does not answer again: {error}")));
}

/// What a machine does before its upgrade.
struct Before {
    vitals: Vitals,
    /// Where it answers.
    answers: Vec<Step>,
    check: Option<HealthCheck>,
}

/// What it does not do now, it need not do then. Nobody waits for a guest that takes its time.
async fn before(work: &Work<'_>, name: &MachineName) -> Result<Before, Fault> {
    let (session, bus) = (Session::begin(work.global, About::Nobody).await?, work.bus);
    session.release();
    let machine = session.machine(name)?;
    let wanted = Wanted::new(session.spec.clone(), session.state.clone(), Scope::All);
    let proof = proof(name, machine, &wanted);
    let leader = bus.leader(name).await?.ok_or_else(|| Fault::new(format!("'{name}' ended meanwhile")))?;
    let at = |vitals: Vitals| vitals.at(&machine.open);
    let vitals = vitals::look(bus, name, leader, at).await;
    let vitals = vitals.map_err(|error| Fault::new(format!("'{name}' cannot be looked into: {error}")))?;
    let seen = apply::verify(session.world(), &proof, sys::now()).await?;
    let answers = proof.into_iter().zip(seen).filter_map(|(step, seen)| match seen {
        Ok(_) => Some(step),
        Err(error) => {
            session.note(format!("'{name}' does not answer before its upgrade either: {error}"));
            None
        }
    });
    let answers = answers.collect();
    let mut check = machine.check.clone();
    if let Some(asked) = &check
        && let Err(why) = health::ask(bus, name, leader, asked, asked.within()).await
    {
        session.note(format!("'{name}' fails its check before its upgrade: {why}; it is not asked for"));
        check = None;
    }
    Ok(Before { vitals, answers, check })
}

fn way_back(
    session: &Session,
    name: &MachineName,
    snapshot: Label,
    within: Duration,
    before: &Before,
) -> WayBack {
    let now = sys::seconds_since_1970();
    let aside = free(&session.observed, name, "failed-upgrade-", now);
    let why = Some("what became of an upgrade that was taken back".to_owned());
    let (_, record) = file(name, &aside, &record(session, name, now, How::Running, false, why));
    let addresses = match Step::start(vec![name.clone()], &before.answers) {
        Step::Start { addresses, .. } => addresses,
        _ => BTreeMap::new(),
    };
    let disk = disk_limit(name, &session.observed);
    // An hour for what comes after the packages, and for who was cut short to be found.
    let until = now + within.as_secs() + 3600;
    WayBack { snapshot, aside, record, disk, addresses, until }
}

fn steps(
    name: &MachineName,
    manager: PackageManager,
    args: &Upgrade,
    back: WayBack,
    before: &Before,
) -> Vec<Step> {
    let (machine, addresses) = (name.clone(), back.addresses.clone());
    let limit = args.within.as_secs();
    let mut steps = vec![Step::Upgrade { machine: machine.clone(), manager, limit, back }];
    steps.extend((!args.no_restart).then(|| Step::RestartIfAsked { machine: machine.clone(), addresses }));
    steps.extend(before.answers.iter().cloned());
    let (before, check) = (before.vitals.clone(), before.check.clone());
    steps.push(Step::WorksAsBefore { machine, before, check });
    steps
}

fn tell(global: &Global, mut rows: Vec<Row>) -> Result<u8, Fault> {
    rows.sort_by(|a, b| a.machine.cmp(&b.machine));
    let status = u8::from(!rows.iter().all(|row| row.result.is_good()));
    if global.json {
        global.report.answer(&rows)?;
        return Ok(status);
    }
    if rows.is_empty() {
        out!("no machine of nsctl's runs");
        return Ok(status);
    }
    let header = ["MACHINE", "RESULT", "PACKAGES", "RESTART", "SNAPSHOT", "TIME"];
    // Who only looks has nothing of the rest.
    let has_begun = rows.iter().any(|row| row.snapshot.is_some() || row.kept.is_some());
    let shown = if has_begun { header.len() } else { 3 };
    let cells = rows.iter().map(|row| row.cells().into_iter().take(shown).collect());
    out!("{}", table(&header[..shown], &cells.collect::<Vec<_>>()));
    for row in &rows {
        let details = row.available.iter().flatten().cloned();
        let details = details.chain(row.packages.iter().map(ToString::to_string));
        let restart = row.restart.iter().map(|why| format!("asks for a restart: {why}"));
        let lines: Vec<String> = details.chain(restart).collect();
        if !lines.is_empty() {
            out!("\n{}:", row.machine);
            lines.iter().for_each(|line| out!("  {}", sanitize(line)));
        }
    }
    Ok(status)
}
