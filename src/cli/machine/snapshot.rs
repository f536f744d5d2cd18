//! `nsctl snapshot`: a machine as it is now, kept.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::fault::argument;
use crate::cli::session::{About, Session, live_bus, must_be_root};
use crate::cli::text::{self, agree, joined, out, sanitize};
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::observe;
use crate::observed::{Observed, Sharing};
use crate::plan::{Plan, Scope, Step, diff, health, proof};
use crate::pool::Lease;
use crate::snapshot::{Every, How, Keep, Label, Record, Schedule, image};
use crate::spec::{MachineSpec, definition_path};
use crate::sys::compare::{self, Count, Difference};
use crate::sys::{self, Disk};

/// Keep a machine as it is now: its files, its definition and its lease
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Snapshot {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The machine's name
    #[arg(required_unless_present = "every", add = crate::cli::complete::machines())]
    name: Option<String>,
    /// What to call it [default: the time]
    label: Option<String>,
    #[command(flatten)]
    how: HowArgs,
    /// Take those that are due so often, and delete those that have expired, as the timer does
    #[arg(long, value_enum, conflicts_with_all = ["name", "freeze", "stop"])]
    every: Option<Every>,
}

/// How a machine is while its snapshot is taken.
#[derive(Debug, Clone, Args)]
pub struct HowArgs {
    /// Let the machine stand still while its snapshot is taken
    #[arg(long, conflicts_with = "stop")]
    freeze: bool,
    /// Stop the machine before its snapshot is taken, and start it again
    #[arg(long)]
    stop: bool,
}

impl HowArgs {
    pub fn how(&self) -> How {
        match (self.freeze, self.stop) {
            (true, _) => How::Frozen,
            (_, true) => How::Stopped,
            _ => How::Running,
        }
    }
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// List snapshots
    List {
        /// Those of this machine [default: all]
        #[arg(add = crate::cli::complete::machines())]
        name: Option<String>,
    },
    /// Show a snapshot, and what is otherwise now
    Show {
        /// The machine's name
        #[arg(add = crate::cli::complete::machines())]
        name: String,
        /// The snapshot's label
        #[arg(add = crate::cli::complete::snapshots())]
        label: String,
    },
    /// Delete snapshots
    Remove {
        /// The machine's name
        #[arg(add = crate::cli::complete::machines())]
        name: String,
        /// The snapshots' labels
        #[arg(required = true, add = crate::cli::complete::snapshots())]
        labels: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// One of `snapshot list --json`.
#[derive(Serialize)]
struct Row {
    machine: MachineName,
    label: Label,
    /// Seconds since 1970.
    taken: Option<u64>,
    how: Option<How>,
    scheduled: bool,
    why: Option<String>,
    lease: Option<Lease>,
}

/// `snapshot show --json`.
#[derive(Serialize)]
struct Sheet {
    #[serde(flatten)]
    row: Row,
    definition: String,
    /// What the machine has now, seen from the snapshot; none of disk images, and where it has no tree.
    now: Option<Difference>,
}

pub async fn run(global: &Global, args: Snapshot) -> Result<u8, Fault> {
    match (args.verb, args.every) {
        (Some(Verb::List { name }), _) => list(global, name.as_deref()),
        (Some(Verb::Show { name, label }), _) => show(global, &argument(&name)?, &argument(&label)?),
        (Some(Verb::Remove { name, labels, yes }), _) => remove(global, &name, &labels, yes).await,
        (None, Some(every)) => scheduled(global, every).await,
        (None, None) => {
            let name: MachineName = argument(args.name.as_deref().unwrap_or_default())?;
            let label = args.label.as_deref().map(argument).transpose()?;
            let how = args.how.how();
            let label = take(global, &name, Taking { label, how, ..Taking::default() }).await?;
            global.report.say(format!("{name} as it is now is its snapshot {label}"));
            Ok(0)
        }
    }
}

/// Records of snapshots, without a lock: who looks never waits.
fn recorded(global: &Global) -> Result<Observed, Fault> {
    let disk = Disk::new(&global.root);
    Ok(Observed { files: observe::snapshots(&disk)?, ..Observed::default() })
}

fn row(machine: MachineName, label: Label, record: Option<&Record>) -> Row {
    Row {
        machine,
        label,
        taken: record.map(|record| record.taken),
        how: record.map(|record| record.how),
        scheduled: record.is_some_and(|record| record.scheduled),
        why: record.and_then(|record| record.why.clone()),
        lease: record.and_then(|record| record.lease),
    }
}

fn list(global: &Global, name: Option<&str>) -> Result<u8, Fault> {
    let only: Option<MachineName> = name.map(argument).transpose()?;
    let all = recorded(global)?.snapshots();
    let mine = all.iter().filter(|((machine, _), _)| only.as_ref().is_none_or(|only| machine == only));
    let mut rows: Vec<Row> =
        mine.map(|((machine, label), record)| row(machine.clone(), label.clone(), record.as_ref())).collect();
    rows.sort_by(|a, b| (&a.machine, a.taken).cmp(&(&b.machine, b.taken)));
    if global.json {
        global.report.answer(&rows)?;
        return Ok(0);
    }
    if rows.is_empty() {
        let of = only.map_or(String::new(), |name| format!(" of {name}"));
        out!("no snapshots{of}; `nsctl snapshot NAME` takes one");
        return Ok(0);
    }
    let header = ["MACHINE", "LABEL", "TAKEN", "HOW", "WHY"].map(str::to_owned);
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    out!("{}", text::table(&header, &cells));
    Ok(0)
}

fn cells(row: &Row) -> Vec<String> {
    let taken = row.taken.map_or("its record is damaged".to_owned(), moment);
    let why = if row.scheduled { "scheduled".to_owned() } else { row.why.clone().unwrap_or_default() };
    let how = row.how.map_or("?", How::word).to_owned();
    vec![row.machine.to_string(), row.label.to_string(), taken, how, sanitize(&why)]
}

/// As people write it, UTC.
pub fn moment(seconds: u64) -> String {
    let label = Label::at("", seconds).to_string();
    let part = |from: usize, to: usize| label.get(from..to).unwrap_or_default();
    format!("{}-{}-{} {}:{} UTC", part(0, 4), part(4, 6), part(6, 8), part(9, 11), part(11, 13))
}

pub fn record_of(observed: &Observed, name: &MachineName, label: &Label) -> Result<Record, Fault> {
    let all = observed.snapshots_of(name);
    match all.get(label) {
        Some(Some(record)) => Ok(record.clone()),
        Some(None) => Err(Fault::new(format!("the record of the snapshot '{label}' of '{name}' is damaged"))
            .hint(format!("its files are in /var/lib/machines/{}", image(name, label)))),
        None if all.is_empty() => Err(Fault::new(format!("'{name}' has no snapshots"))
            .hint(format!("`nsctl snapshot {name}` takes one"))),
        None => Err(Fault::new(format!("'{name}' has no snapshot '{label}'"))
            .hint(format!("it has: {}", joined(all.keys(), ", ")))),
    }
}

fn show(global: &Global, name: &MachineName, label: &Label) -> Result<u8, Fault> {
    let record = record_of(&recorded(global)?, name, label)?;
    let disk = Disk::new(&global.root);
    let now = disk.read_definition(&definition_path(name))?;
    let live = crate::cli::session::is_live(global);
    let difference = if live { difference(global, name, label) } else { None };
    if global.json {
        let row = row(name.clone(), label.clone(), Some(&record));
        global.report.answer(&Sheet { row, definition: record.definition, now: difference })?;
        return Ok(0);
    }
    out!("{name}, snapshot {label}, taken {} ({})", moment(record.taken), record.how.word());
    if let Some(why) = &record.why {
        out!("why: {}", sanitize(why));
    }
    if let Some(lease) = record.lease {
        out!("it had {lease}");
    }
    if let Some(difference) = difference {
        out!("{}", told(difference));
    }
    let definition = now.unwrap_or_default();
    if definition == record.definition {
        out!("its definition is the same now");
    } else {
        out!(
            "its definition since then:\n{}",
            sanitize(&diff(&definition_path(name), &record.definition, &definition))
        );
    }
    Ok(0)
}

/// What the machine has now, seen from a snapshot. A guest may make folders so deep that nobody can look
/// into them: that keeps nobody from a rollback.
pub fn difference(global: &Global, name: &MachineName, label: &Label) -> Option<Difference> {
    match compare::trees(name.as_str(), &image(name, label)) {
        Ok(difference) => difference,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let note = format!("what has changed of the files of {name} cannot be told: {error}");
            global.report.tell(&note);
            None
        }
    }
}

pub fn told(difference: Difference) -> String {
    let part = |count: Count, what: &str| {
        let (file, what) = match count.files {
            0 => return None,
            1 => ("file", what.replacen("are", "is", 1).replacen("have", "has", 1)),
            _ => ("files", what.to_owned()),
        };
        Some(format!("{} {file} {what} ({})", count.files, text::bytes(count.bytes)))
    };
    let parts = [
        part(difference.more, "are new"),
        part(difference.changed, "have changed"),
        part(difference.less, "are gone"),
    ];
    let all = joined(parts.into_iter().flatten(), ", ");
    if all.is_empty() { "no file is another since then".to_owned() } else { format!("since then {all}") }
}

/// How one is taken.
#[derive(Debug, Default)]
pub struct Taking {
    /// None: the time, behind this word.
    pub label: Option<Label>,
    pub word: &'static str,
    pub how: How,
    pub every: Option<Every>,
    pub why: Option<String>,
}

/// Takes one; gives its label.
pub async fn take(global: &Global, name: &MachineName, taking: Taking) -> Result<Label, Fault> {
    let Taking { label, word, how, every, why } = taking;
    live_bus(global, "snapshots are taken").await?;
    let session = Session::begin(global, About::Those(&[name])).await?;
    let machine = session.machine(name)?.clone();
    let held = session.held(|one| one == name);
    if !held.is_empty() {
        return Err(held.into());
    }
    if !session.observed.images.contains(name.as_str()) {
        return Err(vec![crate::plan::Refusal::no_tree(name)].into());
    }
    let now = sys::seconds_since_1970();
    let label = label.unwrap_or_else(|| {
        let word = every.map_or(word.to_owned(), |every| format!("{}-", every.word()));
        free(&session.observed, name, &word, now)
    });
    if session.observed.snapshots_of(name).contains_key(&label) {
        return Err(Fault::new(format!("'{name}' has a snapshot '{label}' already"))
            .hint(format!("choose another label, or `nsctl snapshot remove {name} {label}`")));
    }
    let runs = session.observed.is_running(name) || session.observed.is_coming(name);
    let how = if runs { how } else { How::Stopped };
    tell_price(&session, name, how).await;
    let record = record(&session, name, now, how, every.is_some(), why);
    let mut steps = Vec::new();
    let stops = runs && how == How::Stopped;
    steps.extend(stops.then(|| Step::Stop { machines: vec![name.clone()] }));
    let (path, text) = file(name, &label, &record);
    steps.push(Step::Write { path, old: None, new: Some(text), mode: None });
    let freeze = how == How::Frozen;
    steps.push(Step::Snapshot { machine: name.clone(), image: image(name, &label), freeze });
    if stops {
        let wanted = crate::plan::Wanted::new(session.spec.clone(), session.state.clone(), Scope::All);
        let mut checks = proof(name, &machine, &wanted);
        checks.extend(health(name, &machine));
        steps.push(Step::start(vec![name.clone()], &checks));
        steps.extend(checks);
    }
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    Ok(label)
}

/// A label of this moment that no snapshot of the machine has.
pub fn free(observed: &Observed, name: &MachineName, word: &str, now: u64) -> Label {
    let taken = observed.snapshots_of(name);
    let mut moments = (now..).map(|moment| Label::at(word, moment));
    // The clock may go back, and people are quick.
    moments.find(|label| !taken.contains_key(label)).unwrap_or_else(|| Label::at(word, now))
}

/// What a machine is now, written down.
pub fn record(
    session: &Session,
    name: &MachineName,
    taken: u64,
    how: How,
    scheduled: bool,
    why: Option<String>,
) -> Record {
    let definition = session.observed.file(&definition_path(name)).unwrap_or_default().to_owned();
    Record { taken, how, scheduled, why, lease: session.state.leases.get(name), definition }
}

pub fn file(name: &MachineName, label: &Label, record: &Record) -> (PathBuf, String) {
    (ManagedFile::Snapshot(name.clone(), label.clone()).path(), record.render())
}

/// Where the file system shares nothing, a snapshot is a copy: how large, and how long that takes, is said before.
async fn tell_price(session: &Session, name: &MachineName, how: How) {
    if session.observed.sharing != Sharing::Copy {
        return;
    }
    let of = name.to_string();
    let asked = tokio::task::spawn_blocking(move || (compare::size(&of), sys::disk_speed()));
    let price = match asked.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        (Ok(size), Ok(speed)) => {
            let seconds = size.bytes / speed.max(1) + 1;
            format!("{} are copied, which takes about {seconds} s", text::bytes(size.bytes))
        }
        // Who is in the way of the looking may be in the way of the copying, which then says so.
        (Err(error), _) | (_, Err(error)) => {
            format!("all files are copied, and how many cannot be told: {error}")
        }
    };
    let torn = match how {
        How::Running => "; what '{name}' writes meanwhile may be torn: --freeze, or --stop, if that matters",
        How::Frozen => "; '{name}' stands still meanwhile",
        How::Stopped => "",
    };
    session.note(format!(
        "the file system shares nothing between files: {price}{}",
        torn.replace("{name}", name.as_str())
    ));
}

async fn remove(global: &Global, name: &str, labels: &[String], yes: bool) -> Result<u8, Fault> {
    let name: MachineName = argument(name)?;
    let labels: Vec<Label> = labels.iter().map(|label| argument(label)).collect::<Result<_, _>>()?;
    live_bus(global, "snapshots are deleted").await?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    let there = session.observed.snapshots_of(&name);
    if let Some(none) = labels.iter().find(|label| !there.contains_key(*label)) {
        record_of(&session.observed, &name, none)?;
    }
    session.progress.end();
    let which = if labels.len() == 1 { "the snapshot" } else { "the snapshots" };
    agree(yes, &format!("This deletes {which} {} of {name}. Go on?", joined(&labels, ", ")))?;
    delete(&session, &name, &labels).await?;
    session.say(format!("deleted {which} {} of {name}", joined(&labels, ", ")));
    Ok(0)
}

async fn delete(session: &Session, name: &MachineName, labels: &[Label]) -> Result<(), Fault> {
    let steps = removal(&session.observed, name, labels);
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    Ok(())
}

/// The record first: a tree without one is found by nobody, and the next nsctl finishes that.
pub fn removal(observed: &Observed, name: &MachineName, labels: &[Label]) -> Vec<Step> {
    let paths = labels.iter().map(|label| ManagedFile::Snapshot(name.clone(), label.clone()).path());
    let records = paths.map(|path| {
        let old = observed.file(&path).map(str::to_owned);
        Step::Write { path, old, new: None, mode: None }
    });
    let trees = labels.iter().map(|label| Step::RemoveSnapshot { image: image(name, label) });
    records.chain(trees).collect()
}

/// Every machine whose turn it is, each for itself: one that cannot be does not hold up the others.
async fn scheduled(global: &Global, every: Every) -> Result<u8, Fault> {
    must_be_root(global)?;
    let session = Session::begin(global, About::Nobody).await?;
    let of =
        |machine: &MachineSpec| machine.snapshots.clone().filter(|schedule| schedule.every == Some(every));
    let due: Vec<(MachineName, Schedule)> = session
        .spec
        .machines
        .iter()
        .filter_map(|(name, machine)| Some((name.clone(), of(machine)?)))
        .collect();
    drop(session);
    let mut status = 0;
    for (name, schedule) in due {
        let how = if schedule.freeze == Some(true) { How::Frozen } else { How::Running };
        let taking = Taking { how, every: Some(every), ..Taking::default() };
        match take(global, &name, taking).await {
            Ok(label) => global.report.say(format!("{name} as it is now is its snapshot {label}")),
            Err(fault) => {
                global.report.fault(&fault);
                status = 1;
                // What there is stays until there is another.
                continue;
            }
        }
        if let Some(keep) = &schedule.keep
            && let Err(fault) = expire(global, &name, keep).await
        {
            global.report.fault(&fault);
            status = 1;
        }
    }
    Ok(status)
}

async fn expire(global: &Global, name: &MachineName, keep: &Keep) -> Result<(), Fault> {
    let session = Session::begin(global, About::Those(&[name])).await?;
    let all = session.observed.snapshots_of(name);
    let own: Vec<(&Label, u64)> = all
        .iter()
        .filter_map(|(label, record)| {
            record.as_ref().filter(|record| record.scheduled).map(|r| (label, r.taken))
        })
        .collect();
    let expired = keep.expired(&own.iter().map(|(_, taken)| *taken).collect::<Vec<_>>());
    let labels: Vec<Label> =
        own.iter().filter(|(_, taken)| expired.contains(taken)).map(|(label, _)| (*label).clone()).collect();
    if labels.is_empty() {
        return Ok(());
    }
    delete(&session, name, &labels).await?;
    global.report.say(format!("{name}: {} expired", joined(&labels, ", ")));
    Ok(())
}
