//! `nsctl restore`: a machine out of a backup.

use std::time::Duration;

use clap::Args;

use crate::apply::Listener;
use crate::backup::{BackupId, Contents, ProfileText};
use crate::cli::fault::argument;
use crate::cli::machine::clone::must_be_free;
use crate::cli::machine::create::{must_be_its_own, resolver};
use crate::cli::machine::export::{at_home_here, told_reach};
use crate::cli::machine::repository::{contents_of, find, profiles_with, repository, this_host};
use crate::cli::machine::rollback::{Terms, roll};
use crate::cli::machine::snapshot::{file, free, moment, removal};
use crate::cli::session::{About, Session, live_bus};
use crate::cli::text::{self, agree, sanitize};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::plan::{Plan, Scope, Step, diff};
use crate::provision::FirstBoot;
use crate::snapshot::{Label, image};
use crate::spec::{
    MachineSpec, Problems, Profiles, Repository, SecretId, bytes, definition_path, edit, profile_path,
};
use crate::sys::backups::Store;
use crate::sys::{self, Lock, lock};

/// Bring a machine back from a backup; as it is now becomes a snapshot
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// The backup, as `nsctl backup list` shows it [default: the latest]
    id: Option<String>,
    /// The repository [default: [backup] of nsctl.toml]
    #[arg(long, value_name = "REPOSITORY")]
    from: Option<String>,
    /// The host that it was backed up on [default: this one, or the only one]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Make another machine of it, with this name, a subnet and a machine-id of its own
    #[arg(long = "as", value_name = "NAME")]
    new: Option<String>,
    /// Do not start a machine that is not there any more
    #[arg(long)]
    no_start: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Restore) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let new: Option<MachineName> = args.new.as_deref().map(argument).transpose()?;
    let id: Option<BackupId> = args.id.as_deref().map(argument).transpose()?;
    live_bus(global, "machines are restored").await?;
    let to = new.clone().unwrap_or_else(|| name.clone());
    let session = Session::begin(global, About::Nobody).await?;
    let from = repository(args.from.as_deref(), &session.spec)?;
    session.release();
    let store = Store::of(&session.disk, &from)?;
    let wait = Duration::from_secs(global.wait);
    let tell_wait = |holder: &str| session.progress.says(&format!("waiting for {holder}"));
    let _lock = Lock::take(&session.disk, lock::OF_BACKUPS, wait, tell_wait).await?;
    let backup = find(&store, &from, &name, id.as_ref(), args.host.as_deref()).await?;
    let is_other = backup.on != this_host();
    if is_other
        && new.is_none()
        && args.host.is_none()
        && id.is_none()
        && session.spec.machines.contains_key(&to)
    {
        return Err(Fault::new(format!(
            "the backups of '{name}' at {from} are of {}, and there is a {to} here",
            backup.host
        ))
        .hint(format!(
            "--host {} says that it is meant; --as NEW makes another machine of it",
            backup.host
        )));
    }
    let mut contents = contents_of(&store, &backup).await?;
    let profiles = profiles_with(&session.observed, &contents);
    let is_there = session.spec.machines.contains_key(&to) || session.spec.broken.contains_key(&to);
    if new.is_some() || !is_there {
        must_be_free(&session, &to)?;
        contents.record.definition = definition(&session, &profiles, &to, new.is_some(), &contents)?;
    }
    session.progress.end();
    let machine = tell(&session, &profiles, &to, &contents)?;
    // Before all of it is brought here.
    must_be_possible(&session, &to, &contents)?;
    let what = if is_there {
        format!("This makes {to} what it was")
    } else {
        format!("This makes {to} of what it was")
    };
    agree(
        args.yes,
        &format!("{what} {}, by its backup {} of {}. Go on?", moment(backup.taken), backup.id, backup.host),
    )?;
    let there = session.observed.secrets_of(&to);
    let has_secret = |id: &SecretId| there.contains(id);
    if new.is_some() {
        must_be_its_own(&session, &to, &machine.secret, &[])?;
    }
    drop(session);
    let label = bring(global, (&name, &to), from, &backup.id, &contents).await?;
    let terms = Terms {
        yes: true,
        is_new: new.is_some() || !is_there,
        // One whose secrets are elsewhere waits for them.
        start: !is_there && !args.no_start && machine.secret.iter().all(has_secret),
        lease: contents.record.lease.filter(|_| new.is_none()),
        first_boot: if new.is_some() { Some(first_boot(global, &contents, &to).await?) } else { None },
    };
    let rolled = roll_again(global, &to, &label, terms).await;
    // What it was made of is not needed twice; what went wrong may be tried again from it.
    if rolled.is_ok() {
        let session = Session::begin(global, About::Those(&[&to])).await?;
        let steps = removal(&session.observed, &to, std::slice::from_ref(&label));
        session.perform(&Plan { steps, ..Plan::default() }).await?;
    }
    rolled.map_err(|fault| {
        fault.hint(format!("what was brought back is kept: `nsctl rollback {to} {label}`"))
    })?;
    global.report.say(format!("{to} is back from its backup {}", backup.id));
    Ok(0)
}

/// Where another host of a fleet was first to what the machine would have leased, it leases another; its tree is here.
async fn roll_again(global: &Global, to: &MachineName, label: &Label, terms: Terms) -> Result<(), Fault> {
    for _ in 1..20 {
        match roll(global, to, label, terms.clone()).await {
            Err(fault) if fault.is_outrun() => global.is_again.set(true),
            done => return done,
        }
    }
    roll(global, to, label, terms).await.map_err(Fault::begun)
}

/// As it can be here: what was pinned elsewhere is not, and what is another machine's is not another's.
fn definition(
    session: &Session,
    profiles: &Profiles,
    to: &MachineName,
    is_new: bool,
    contents: &Contents,
) -> Result<String, Fault> {
    let (path, text) = (definition_path(to), &contents.record.definition);
    let written = profiles.machine(&path, text).map_err(Problems)?;
    let mut machine = written.clone();
    at_home_here(session, &mut machine);
    if is_new {
        machine.network.unpin();
        machine.forget_host_ports();
        machine.network.forget_routes();
        machine.forget_own_ipv4();
    }
    Ok(edit::definition(text, &written, &machine, &profiles.of(&machine.profile))?)
}

/// What could not be here, nobody waits for.
fn must_be_possible(session: &Session, to: &MachineName, contents: &Contents) -> Result<(), Fault> {
    if contents.profiles.keys().any(|name| !session.disk.exists(&profile_path(name))) {
        return Ok(());
    }
    let change = session.change(Scope::Machine(to.clone())).write(to, contents.record.definition.clone());
    session.plan(&change.settle()?).map(drop)
}

/// What it may do here is seen before.
fn tell(
    session: &Session,
    profiles: &Profiles,
    to: &MachineName,
    contents: &Contents,
) -> Result<MachineSpec, Fault> {
    let path = definition_path(to);
    let then = &contents.record.definition;
    match session.observed.file(&path) {
        Some(now) if now == *then => {}
        Some(now) => text::err!("{}", sanitize(&diff(&path, now, then))),
        None => text::err!("{}", sanitize(&format!("the definition of {to}:\n{}", then.trim_end()))),
    }
    for (name, ProfileText { text, .. }) in &contents.profiles {
        let path = profile_path(name);
        match session.disk.read(&path)? {
            None => text::err!(
                "{}",
                sanitize(&format!("its profile {name}, which is not here:\n{}", text.trim_end()))
            ),
            Some(here) if here == *text => {}
            Some(_) => text::err!("note: its profile {} is another here than it was", sanitize(name)),
        }
    }
    let machine = profiles.machine(&path, then).map_err(Problems)?;
    told_reach(&machine);
    Ok(machine)
}

/// As a snapshot first, so that all that follows is a rollback.
async fn bring(
    global: &Global,
    (name, to): (&MachineName, &MachineName),
    from: Repository,
    id: &BackupId,
    contents: &Contents,
) -> Result<Label, Fault> {
    let session = Session::begin(global, About::Those(&[to])).await?;
    let label = free(&session.observed, to, "restored-", sys::seconds_since_1970());
    let mut record = contents.record.clone();
    record.why = Some(format!("from the backup {id}"));
    record.scheduled = false;
    let (path, text) = file(to, &label, &record);
    let mut steps =
        vec![Step::Write { path, old: None, new: Some(text), mode: Some(contents.mode.unwrap_or(0o600)) }];
    for (name, profile) in &contents.profiles {
        let (path, new) = (profile_path(name), Some(profile.text.clone()));
        if !session.disk.exists(&path) {
            steps.push(Step::Write { path, old: None, new, mode: Some(profile.mode.unwrap_or(0o600)) });
        }
    }
    let profiles = profiles_with(&session.observed, contents);
    let machine = profiles.machine(&definition_path(to), &record.definition).map_err(Problems)?;
    let disk = session.spec.host.limits(&machine).disk.as_deref().and_then(bytes);
    let (machine, image) = (name.clone(), image(to, &label));
    steps.push(Step::Restore { machine, image, from, id: id.clone(), disk });
    session.perform(&Plan { steps, ..Plan::default() }).await?;
    Ok(label)
}

async fn first_boot(global: &Global, contents: &Contents, to: &MachineName) -> Result<FirstBoot, Fault> {
    let session = Session::begin(global, About::Nobody).await?;
    let machine = session.spec.profiles.machine(&definition_path(to), &contents.record.definition);
    let (servers, zone) = resolver(&session, &machine.map_err(Problems)?);
    Ok(FirstBoot { servers, zone, ..FirstBoot::default() })
}
