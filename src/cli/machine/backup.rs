//! `nsctl backup`: machines, kept off this host, and the proof that they come back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::FutureExt;

use crate::apply::{Interrupt, Listener};
use crate::backup::{Backup as Kept, BackupId, Contents, History, Made, ProfileText, tags};
use crate::cli::fault::{argument, unknown};
use crate::cli::machine::repository::{list, repository, spec, this_host};
use crate::cli::machine::snapshot::{HowArgs, Taking, file, record_of, removal, take};
use crate::cli::machine::verify::verify;
use crate::cli::progress::Progress;
use crate::cli::session::{About, Session, live_bus};
use crate::cli::text::{self, joined};
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Plan, Step};
use crate::snapshot::{Every, How, Keep, Label, image};
use crate::spec::{MachineSpec, Repository, Spec, definition_path, profile_path};
use crate::sys::backups::{Progress as Sent, Save, Store};
use crate::sys::{Bus, Disk, Lock, lock, tree, vitals};
use crate::upgrade::Vitals;

/// Keep machines off this host: their files, definitions and leases, by restic or btrfs send
///
/// A snapshot is taken, and what the repository does not have of it yet is put there: by restic(1), encrypted with
/// /etc/nsctl/backup.password, or, where it is btrfs:…, by btrfs-send(8), as it is.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backup {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The machines' names
    #[arg(required_unless_present_any = ["all", "every"], value_name = "NAME", add = crate::cli::complete::machines())]
    names: Vec<String>,
    /// All of nsctl's machines
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Where to: /mnt/usb/nsctl, sftp:USER@HOST:/PATH, rest:https://HOST/, s3:…, btrfs:USER@HOST:/PATH [default:
    /// [backup] of nsctl.toml]
    #[arg(long, value_name = "REPOSITORY")]
    to: Option<String>,
    #[command(flatten)]
    how: HowArgs,
    /// Make those that are due so often, and delete those that have expired, as the timer does
    #[arg(long, value_enum, conflicts_with_all = ["names", "all", "freeze", "stop"])]
    every: Option<Every>,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// List the backups in a repository
    List {
        /// Those of this machine [default: all]
        #[arg(add = crate::cli::complete::machines())]
        name: Option<String>,
        /// The repository [default: [backup] of nsctl.toml]
        #[arg(long, value_name = "REPOSITORY")]
        from: Option<String>,
    },
    /// Prove the latest backups: start each where nobody hears of it, see that it does what the machine did, and
    /// delete that again
    Verify {
        /// The machines' names
        #[arg(required_unless_present_any = ["all", "every"], value_name = "NAME", add = crate::cli::complete::machines())]
        names: Vec<String>,
        /// All machines that have been backed up from here
        #[arg(long, conflicts_with = "names")]
        all: bool,
        /// The repository [default: [backup] of nsctl.toml]
        #[arg(long, value_name = "REPOSITORY")]
        from: Option<String>,
        /// Prove those that are due so often, as the timer does
        #[arg(long, value_enum, conflicts_with_all = ["names", "all"])]
        every: Option<Every>,
    },
}

pub async fn run(global: &Global, args: Backup) -> Result<u8, Fault> {
    match args.verb {
        Some(Verb::List { name, from }) => list(global, name.as_deref(), from.as_deref()).await,
        Some(Verb::Verify { names, all, from, every }) => {
            live_bus(global, "backups are proved").await?;
            let due = match every {
                Some(every) => scheduled(global, |machine| machine.backup.as_ref()?.verify, every)?,
                None if all => known(global)?,
                None => named(global, &names, false)?,
            };
            each(global, &due, every.is_some(), async |name| verify(global, name, from.as_deref()).await)
                .await
        }
        None => {
            live_bus(global, "backups are made").await?;
            let due = match args.every {
                Some(every) => scheduled(global, |machine| machine.backup.as_ref()?.every, every)?,
                None => named(global, &args.names, args.all)?,
            };
            let how = args.how.how();
            let is_scheduled = args.every.is_some();
            let one =
                async |name: &MachineName| save(global, name, args.to.as_deref(), how, is_scheduled).await;
            let status = each(global, &due, is_scheduled, one).await;
            let Some(every) = args.every else { return status };
            // Whatever became of those, the others are proved.
            let status = match status {
                Err(fault) if fault.is_interrupt() => return Err(fault),
                status => status.unwrap_or_else(|fault| told(global, &fault)),
            };
            let due = scheduled(global, |machine| machine.backup.as_ref()?.verify, every)?;
            let one = async |name: &MachineName| verify(global, name, args.to.as_deref()).await;
            let proved = each(global, &due, true, one).await;
            Ok(status.max(proved.unwrap_or_else(|fault| told(global, &fault))))
        }
    }
}

fn told(global: &Global, fault: &Fault) -> u8 {
    global.report.fault(fault);
    fault.status()
}

/// One after the other; one that cannot be does not hold up the others.
async fn each(
    global: &Global,
    due: &[MachineName],
    is_scheduled: bool,
    one: impl AsyncFn(&MachineName) -> Result<(), Fault>,
) -> Result<u8, Fault> {
    if due.is_empty() && !is_scheduled {
        global.report.say("no machines");
        return Ok(0);
    }
    if due.is_empty() {
        return Ok(0);
    }
    let mut interrupt = Interrupt::begin();
    let disk = Disk::new(&global.root);
    let progress = Progress::new(global);
    // A large one takes its time, and a timer has it.
    let wait = Duration::from_secs(if is_scheduled { 12 * 3600 } else { global.wait });
    let tell = |holder: &str| progress.says(&format!("waiting for {holder}"));
    let lock = tokio::select! {
        lock = Lock::take(&disk, lock::OF_BACKUPS, wait, tell) => lock?,
        () = interrupt.came() => return Err(Fault::interrupted()),
    };
    progress.end();
    let mut status = 0;
    for name in due {
        if interrupt.came().now_or_never().is_some() {
            return Err(Fault::interrupted());
        }
        if let Err(fault) = one(name).await {
            if due.len() == 1 || fault.is_interrupt() {
                return Err(fault);
            }
            global.report.fault(&fault);
            status = 1;
        }
    }
    drop(lock);
    Ok(status)
}

fn named(global: &Global, names: &[String], all: bool) -> Result<Vec<MachineName>, Fault> {
    if all {
        return Ok(spec(global)?.machines.into_keys().collect());
    }
    let names: BTreeSet<MachineName> = names.iter().map(|name| argument(name)).collect::<Result<_, _>>()?;
    Ok(names.into_iter().collect())
}

/// Those that have been backed up from here.
fn known(global: &Global) -> Result<Vec<MachineName>, Fault> {
    let files = observe::backups(&Disk::new(&global.root))?;
    let known = files.iter().filter(|(_, text)| History::parse(text).last.is_some());
    Ok(known.filter_map(|(path, _)| ManagedFile::parse(path)?.machine()).collect())
}

/// Those that a timer is due for.
fn scheduled(
    global: &Global,
    of: impl Fn(&MachineSpec) -> Option<Every>,
    every: Every,
) -> Result<Vec<MachineName>, Fault> {
    let machines = spec(global)?.machines.into_iter();
    Ok(machines.filter(|(_, machine)| of(machine) == Some(every)).map(|(name, _)| name).collect())
}

/// What the snapshot of a backup is told by, which goes again.
const WHY: &str = "for a backup";

/// Makes a backup of one machine.
async fn save(
    global: &Global,
    name: &MachineName,
    to: Option<&str>,
    how: How,
    is_scheduled: bool,
) -> Result<(), Fault> {
    let saved = save_once(global, name, to, how, is_scheduled).await;
    // Who asked for it sees it.
    if let Some(fault) = saved.as_ref().err().filter(|fault| is_scheduled && !fault.is_interrupt()) {
        let why = fault.to_string();
        note_down(global, name, |history| history.fails = Some(why)).await?;
    }
    let (store, keep) = saved?;
    // The backup is there, whatever becomes of the old ones.
    match keep.filter(|_| is_scheduled) {
        Some(keep) => expire(global, &store, name, &keep).await,
        None => Ok(()),
    }
}

async fn save_once(
    global: &Global,
    name: &MachineName,
    to: Option<&str>,
    how: How,
    is_scheduled: bool,
) -> Result<(Store, Option<Keep>), Fault> {
    let spec = spec(global)?;
    let machine = spec.machines.get(name).ok_or_else(|| nobody(&spec, name))?;
    let repository = repository(to, &spec)?;
    let disk = Disk::new(&global.root);
    let store = Store::of(&disk, &repository)?;
    // Before a machine is stopped for it.
    if disk.tree(name.as_str()).is_none() && tree::is_there(name.as_str())? {
        return Err(Fault::new(format!("'{name}' is a disk image, which is not backed up yet"))
            .hint(format!("`nsctl export {name} FILE` writes it to a file")));
    }
    store.takes(&Path::new("/var/lib/machines").join(name.as_str()))?;
    make_ready(global, name, &store, &repository, (how, is_scheduled)).await?;
    clear(global, name).await?;
    let bus = live_bus(global, "backups are made").await?;
    let vitals = vitals_of(global, &bus, name, machine).await?;
    let taking = Taking { how, word: "backup-", why: Some(WHY.to_owned()), ..Taking::default() };
    let label = take(global, name, taking).await?;
    let profiles = profiles_of(&disk, &machine.profile)?;
    let mode = disk.mode(&definition_path(name));
    let kept =
        keep(global, (&store, &repository), name, &label, (vitals, profiles, mode), is_scheduled).await;
    let (made, added) = match kept {
        Ok(kept) => kept,
        Err(fault) => {
            clear(global, name).await?;
            return Err(fault);
        }
    };
    if store.needs_the_last() {
        stays(global, name, &label, &repository).await?;
    } else {
        clear(global, name).await?;
    }
    let made = Made { to: repository.to_string(), ..made };
    global.report.say(format!(
        "{name} is backed up as {} at {repository}: {} of it were new",
        made.id,
        text::bytes(added)
    ));
    note_down(global, name, |history| (history.last, history.fails) = (Some(made), None)).await?;
    Ok((store, machine.backup.as_ref().and_then(|schedule| schedule.keep.clone())))
}

/// Makes a repository where there is none yet. One that was used before is looked for only before a machine stops
/// for it: a backup says itself that it is gone.
async fn make_ready(
    global: &Global,
    name: &MachineName,
    store: &Store,
    repository: &Repository,
    (how, is_scheduled): (How, bool),
) -> Result<(), Fault> {
    let was_there = was_there(&Disk::new(&global.root), name, repository)?;
    if (was_there && how != How::Stopped) || store.is_there().await? {
        return Ok(());
    }
    // Where one was, and is not, a disk is not mounted, or worse: a new one in its place would hide that.
    if is_scheduled || was_there {
        return Err(store.missing(repository).into());
    }
    store.init().await?;
    global.report.tell(&format!("a new repository was made at {repository}"));
    Ok(())
}

/// Whether something of this host has been put there before.
fn was_there(disk: &Disk, name: &MachineName, repository: &Repository) -> Result<bool, Fault> {
    let (known, shown) = (observe::backups(disk)?, repository.to_string());
    let is_last = known.values().filter_map(|text| History::parse(text).last).any(|last| last.to == shown);
    let observed = Observed { files: observe::snapshots(disk)?, ..Default::default() };
    Ok(is_last || sent_before(&observed, name, repository).next().is_some())
}

/// The texts of profiles: where the machine comes back, they may not be there.
fn profiles_of(disk: &Disk, names: &[String]) -> Result<BTreeMap<String, ProfileText>, Fault> {
    let mut texts = BTreeMap::new();
    for name in names {
        let path = profile_path(name);
        let mode = disk.mode(&path);
        texts.extend(disk.read(&path)?.map(|text| (name.clone(), ProfileText { text, mode })));
    }
    Ok(texts)
}

fn nobody(spec: &Spec, name: &MachineName) -> Fault {
    if let Some(problems) = spec.broken.get(name) {
        return crate::spec::Problems(problems.clone()).into();
    }
    unknown(name.as_str(), spec.machines.keys().map(MachineName::as_str))
}

/// What it does before its snapshot is taken, if it runs: its proof must do as much.
async fn vitals_of(
    global: &Global,
    bus: &Bus,
    name: &MachineName,
    machine: &MachineSpec,
) -> Result<Option<Vitals>, Fault> {
    let Some(leader) = bus.leader(name).await? else { return Ok(None) };
    let seen = vitals::look(bus, name, leader, |vitals| vitals.at(&machine.open)).await.ok();
    if seen.as_ref().is_none_or(|vitals| vitals.failed.is_none()) {
        let note =
            format!("what '{name}' does cannot be told: a proof of this backup sees only whether it boots");
        global.report.tell(&note);
    }
    Ok(seen)
}

/// Puts a snapshot into the repository.
async fn keep(
    global: &Global,
    (store, repository): (&Store, &Repository),
    name: &MachineName,
    label: &Label,
    (vitals, profiles, mode): (Option<Vitals>, BTreeMap<String, ProfileText>, Option<u32>),
    is_scheduled: bool,
) -> Result<(Made, u64), Fault> {
    let disk = Disk::new(&global.root);
    let observed = Observed { files: observe::snapshots(&disk)?, ..Default::default() };
    let record = record_of(&observed, name, label)?;
    let place = place_of(name, label);
    let taken = record.taken;
    let contents = Contents { record, mode, vitals, profiles }.render();
    let progress = Progress::new(global);
    progress.at(&format!("back up '{name}'"));
    let mut interrupt = Interrupt::begin();
    let tags = tags(name, &this_host(), taken, is_scheduled);
    let sent: Vec<PathBuf> =
        sent_before(&observed, name, repository).map(|label| place_of(name, &label)).collect();
    let save = Save { machine: name, tree: &place, contents: &contents, tags: &tags, sent: &sent };
    let saving = store.save(&save, |sent| match sent {
        Sent::Part(part) => progress.progresses(part),
        Sent::Bytes(bytes) => progress.counts(bytes),
    });
    let saved = tokio::select! {
        saved = saving => saved,
        () = interrupt.came() => {
            return Err(Fault::interrupted().hint("what is in the repository already is not sent again"));
        }
    };
    progress.end();
    let saved = saved?;
    Ok((Made { taken, id: saved.id, to: String::new() }, saved.added))
}

fn place_of(name: &MachineName, label: &Label) -> PathBuf {
    Path::new("/var/lib/machines").join(image(name, label))
}

/// What the snapshot is told by that the next backup is the difference to.
fn why_it_stays(repository: &Repository) -> String {
    format!("the next backup to {repository} is the difference to it")
}

/// The snapshots that stay for the next backup to a repository.
fn sent_before(
    observed: &Observed,
    name: &MachineName,
    repository: &Repository,
) -> impl Iterator<Item = Label> + use<> {
    let why = why_it_stays(repository);
    let all = observed.snapshots_of(name).into_iter();
    all.filter(move |(_, record)| record.as_ref().and_then(|it| it.why.as_ref()) == Some(&why))
        .map(|(label, _)| label)
}

/// A snapshot that was sent stays, in the place of the one before.
async fn stays(
    global: &Global,
    name: &MachineName,
    label: &Label,
    repository: &Repository,
) -> Result<(), Fault> {
    let session = Session::begin(global, About::Nobody).await?;
    let mut record = record_of(&session.observed, name, label)?;
    record.why = Some(why_it_stays(repository));
    let (path, text) = file(name, label, &record);
    let old = session.observed.file(&path).map(str::to_owned);
    let before: Vec<Label> = sent_before(&session.observed, name, repository).collect();
    let mut steps = vec![Step::Write { path, old, new: Some(text), mode: None }];
    steps.extend(removal(&session.observed, name, &before));
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    session.progress.end();
    Ok(())
}

/// Deletes the snapshots of backups, also those of who was killed.
async fn clear(global: &Global, name: &MachineName) -> Result<(), Fault> {
    let session = Session::begin(global, About::Nobody).await?;
    let all = session.observed.snapshots_of(name);
    let ours = all
        .into_iter()
        .filter(|(_, record)| record.as_ref().is_some_and(|record| record.why.as_deref() == Some(WHY)));
    let labels: Vec<Label> = ours.map(|(label, _)| label).collect();
    if !labels.is_empty() {
        let steps = removal(&session.observed, name, &labels);
        session.perform(&Plan { steps, ..Plan::default() }).await?;
    }
    session.progress.end();
    Ok(())
}

/// Writes down what is known of a machine's backups; of one that is defined here.
pub async fn note_down(
    global: &Global,
    name: &MachineName,
    change: impl FnOnce(&mut History),
) -> Result<(), Fault> {
    let session = Session::begin(global, About::Nobody).await?;
    if !session.spec.machines.contains_key(name) {
        return Ok(());
    }
    let path = ManagedFile::Backups(name.clone()).path();
    let old = session.observed.file(&path).map(str::to_owned);
    let mut history = session.observed.history(name);
    change(&mut history);
    let steps = vec![Step::Write { path, old, new: Some(history.render()), mode: None }];
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    session.progress.end();
    Ok(())
}

/// Deletes the scheduled ones that no count keeps; of this host's.
async fn expire(global: &Global, store: &Store, name: &MachineName, keep: &Keep) -> Result<(), Fault> {
    let host = this_host();
    let all = store.backups(Some(name)).await?;
    let own: Vec<&Kept> = all.iter().filter(|one| one.scheduled && one.on == host).collect();
    let gone = keep.expired(&own.iter().map(|one| one.taken).collect::<Vec<_>>());
    let ids: Vec<BackupId> =
        own.iter().filter(|one| gone.contains(&one.taken)).map(|one| one.id.clone()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    store.forget(&ids).await?;
    global.report.say(format!("{name}: {} expired", joined(&ids, ", ")));
    Ok(())
}
