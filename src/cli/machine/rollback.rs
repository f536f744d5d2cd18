//! `nsctl rollback`: a machine as it was.

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::machine::clone::must_be_free;
use crate::cli::machine::snapshot::{difference, file, free, moment, record as record_now, record_of, told};
use crate::cli::session::{About, Session, live_bus};
use crate::cli::text::{self, agree, sanitize};
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::plan::{NewImage, Scope, Source, Swap, diff};
use crate::pool::Lease;
use crate::provision::FirstBoot;
use crate::snapshot::{How, Label, Record, image};
use crate::spec::definition_path;
use crate::sys;
use crate::sys::compare::Difference;

/// Make a machine what it was at a snapshot; as it is now becomes a snapshot, too
#[derive(Debug, Clone, Args)]
pub struct Rollback {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// The snapshot's label
    #[arg(add = crate::cli::complete::snapshots())]
    label: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Rollback) -> Result<u8, Fault> {
    let (name, label): (MachineName, Label) = (argument(&args.name)?, argument(&args.label)?);
    roll(global, &name, &label, Terms { yes: args.yes, ..Terms::default() }).await?;
    Ok(0)
}

/// What is special about one that brings a backup back.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub yes: bool,
    /// Whether a machine starts that does not run.
    pub start: bool,
    /// Whether there must be no machine of that name: a backup takes its time to come.
    pub is_new: bool,
    /// What it had of a pool, elsewhere.
    pub lease: Option<Lease>,
    /// Of a machine that is another from now on.
    pub first_boot: Option<FirstBoot>,
}

/// Makes a machine what it was at a snapshot, or makes one of it.
pub async fn roll(global: &Global, name: &MachineName, label: &Label, terms: Terms) -> Result<(), Fault> {
    live_bus(global, "machines are rolled back").await?;
    let session = Session::begin(global, About::Those(&[name])).await?;
    let record = record_of(&session.observed, name, label)?;
    if terms.is_new {
        must_be_free(&session, name)?;
    }
    let bus = session.bus.as_ref();
    if let Some(bus) = bus
        && !bus.has_image(&image(name, label)).await?
    {
        return Err(Fault::new(format!("the files of the snapshot '{label}' of '{name}' are gone"))
            .hint(format!("`nsctl snapshot remove {name} {label}` forgets it")));
    }
    let has_tree = session.observed.images.contains(name.as_str());
    let runs = session.observed.is_running(name) || session.observed.is_coming(name);
    let change = session.change(Scope::Machine(name.clone())).write(name, record.definition.clone());
    // What only root could read then is not shown to others now.
    let mode = |path: std::path::PathBuf| session.disk.mode(&path);
    let (then, today) =
        (mode(ManagedFile::Snapshot(name.clone(), label.clone()).path()), mode(definition_path(name)));
    let change = change.mode(definition_path(name), then.map(|then| then & today.unwrap_or(0o777)));
    let from = image(name, label);
    let change = change.start(name, runs || terms.start).lease_again(name, terms.lease);
    let now = sys::seconds_since_1970();
    let aside = free(&session.observed, name, "before-rollback-", now);
    let change = if has_tree {
        let why = Some(format!("before a rollback to {label}"));
        let (path, text) = file(name, &aside, &record_now(&session, name, now, How::Stopped, false, why));
        change.swap(Swap { machine: name.clone(), from, aside: image(name, &aside) }, (path, text))
    } else {
        change.image(Some(NewImage {
            source: Source::Clone(from),
            to: name.clone(),
            first_boot: terms.first_boot,
        }))
    };
    let wanted = change.settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    // To look through all files takes longer than the rollback: who does not ask is not told.
    let now = if has_tree && !terms.yes { difference(global, name, label) } else { None };
    tell_rollback(&session, (name, &record), now, has_tree.then_some(&aside));
    plan.notes.iter().for_each(|note| session.note(note));
    let stop = if runs { "stops it, and " } else { "" };
    agree(terms.yes, &format!("This {stop}makes {name} what it was {}. Go on?", moment(record.taken)))?;
    session.perform(&plan).await?;
    let kept = if has_tree { format!("; as it was now is its snapshot {aside}") } else { String::new() };
    session.say(format!("{name} is as it was at its snapshot {label}{kept}"));
    Ok(())
}

/// What changes, and what is lost until somebody rolls that back.
fn tell_rollback(
    session: &Session,
    (name, record): (&MachineName, &Record),
    difference: Option<Difference>,
    aside: Option<&Label>,
) {
    let now = session.observed.file(&definition_path(name)).unwrap_or_default();
    if now != record.definition {
        text::err!("{}", sanitize(&diff(&definition_path(name), now, &record.definition)));
    }
    if let Some(difference) = difference {
        text::err!("{}", told(difference));
    }
    if let Some(aside) = aside {
        session.note(format!("what it has now is kept as its snapshot {aside}"));
    }
}
