//! `nsctl secret`: what a machine's services get as credentials, encrypted here.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::fault::{argument, unknown};
use crate::cli::machine::edit::restarts;
use crate::cli::remote::Named;
use crate::cli::session::{self, About, Session, is_live, must_be_root};
use crate::cli::text::{self, err, joined, out};
use crate::cli::{Fault, Global, fault};
use crate::emit::{CREDENTIALS, ManagedFile};
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Change, Plan, Scope, spec_of};
use crate::spec::{MachineSpec, SecretId, Spec, definition_path};
use crate::sys::Disk;
use crate::sys::credential::{self, MOST};

/// Secrets that machines get as credentials
///
/// A secret is encrypted by systemd-creds(1) with this host's own key, and lies in /etc/nsctl/secrets. In its
/// machine a service has it that asks for it with LoadCredential=ID (systemd.exec(5)).
#[derive(Debug, Clone, Subcommand)]
pub enum Secret {
    /// Give a machine a secret, or another in its place
    Set(Set),
    /// Show which secrets there are, and never what is in them
    List(List),
    /// Take a secret from a machine
    Remove(Remove),
}

impl Secret {
    /// The file that a secret is in.
    pub fn named(&self) -> Option<Named> {
        match self {
            Secret::Set(Set { file: Some(file), .. }) if file.as_os_str() != "-" => Some(Named::read(file)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct Set {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// What the secret is called: db-password
    #[arg(add = crate::cli::complete::secrets())]
    id: String,
    /// The file that it is in [default: what comes by standard input; on a terminal it is asked for]
    file: Option<PathBuf>,
    /// Do not ask before a machine that runs restarts
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Args)]
pub struct List {
    /// The machine's name [default: all]
    #[arg(add = crate::cli::complete::machines())]
    name: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Remove {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// What the secret is called
    #[arg(add = crate::cli::complete::secrets())]
    id: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, secret: Secret) -> Result<u8, Fault> {
    match secret {
        Secret::Set(args) => set(global, args).await,
        Secret::List(args) => list(global, args),
        Secret::Remove(args) => remove(global, args).await,
    }
}

/// Secrets as they are kept; they cannot be made for another host than this.
pub async fn encrypted(
    global: &Global,
    secrets: &[(SecretId, Vec<u8>)],
) -> Result<Vec<(SecretId, String)>, Fault> {
    must_be_here(global)?;
    let mut kept = Vec::new();
    for (id, secret) in secrets {
        kept.push((id.clone(), credential::encrypt(id, secret).await?));
    }
    Ok(kept)
}

fn must_be_here(global: &Global) -> Result<(), Fault> {
    if !is_live(global) {
        return Err(fault::live_only("a secret is encrypted with the key of a host, and is made"));
    }
    must_be_root(global)
}

/// What is in a file that the user names.
pub fn read_file(id: &SecretId, file: &Path) -> Result<Vec<u8>, Fault> {
    let failed = |error: std::io::Error| {
        Fault::new(format!("the secret {id} cannot be read from {}: {error}", file.display()))
            .hint("name a file that holds it, and nothing else")
    };
    of_size(id, credential::read(Some(file)).map_err(failed)?)
}

fn of_size(id: &SecretId, secret: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if secret.len() as u64 > MOST {
        return Err(Fault::new(format!("the secret {id} has more than {} KiB", MOST / 1024))
            .hint("put what is as large into the machine's tree: `nsctl cp`"));
    }
    if secret.is_empty() {
        return Err(Fault::new(format!("the secret {id} is empty"))
            .hint(format!("`nsctl secret set NAME {id} FILE`, or `… | nsctl secret set NAME {id}`")));
    }
    Ok(secret)
}

/// Twice, as nobody sees what he types.
fn ask(name: &MachineName, id: &SecretId) -> Result<Vec<u8>, Fault> {
    let first = rpassword::prompt_password(format!("The secret {id} of {name}, which is not shown: "))?;
    if first != rpassword::prompt_password("Again: ")? {
        return Err(Fault::new("the two are not the same").hint("try again; nothing was changed"));
    }
    of_size(id, first.into_bytes())
}

async fn set(global: &Global, args: Set) -> Result<u8, Fault> {
    let (name, id): (MachineName, SecretId) = (argument(&args.name)?, argument(&args.id)?);
    must_be_here(global)?;
    // Nobody types it for a machine that is not there, and no other nsctl waits for him to.
    let spec = spec_of(&looked_at(global)?)?;
    spec.machines.get(&name).ok_or_else(|| nobody(&spec, &name))?;
    credential::keep_no_core();
    let secret = match &args.file {
        Some(file) if file.as_os_str() != "-" => read_file(&id, file)?,
        _ if std::io::stdin().is_terminal() => ask(&name, &id)?,
        _ => of_size(&id, credential::read(None)?)?,
    };
    if secret.ends_with(b"\n") {
        global.report.tell("it ends with a line break, as `echo` writes one; `printf %s` does not");
    }
    let kept = encrypted(global, &[(id.clone(), secret)]).await?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    let mut machine = session.machine(&name)?.clone();
    let lacks = lacking(&session, &name, &machine, &id).await;
    if !machine.secret.contains(&id) {
        machine.secret.push(id.clone());
    }
    let waits = !session.held(|one| *one == name).is_empty();
    let mut change = session.change(scope(&name, &lacks, waits)).edit(&name, &machine)?;
    for (id, text) in kept {
        change = change.secret(&name, &id, Some(text));
    }
    carry_out(&session, &name, change, args.yes).await?;
    session.say(format!("{name} has the secret {id} now"));
    tell_lacking(&session, &lacks);
    Ok(0)
}

/// A machine that could not start again is not stopped: what is changed is written down, and no more.
fn scope(name: &MachineName, lacks: &[SecretId], waits: bool) -> Scope {
    if lacks.is_empty() && !waits { Scope::Machine(name.clone()) } else { Scope::Records }
}

/// The secrets beside this one that the machine is to have, and has not, or that this host cannot decrypt.
async fn lacking(
    session: &Session,
    name: &MachineName,
    machine: &MachineSpec,
    id: &SecretId,
) -> Vec<SecretId> {
    let others = machine.secret.iter().filter(|other| *other != id);
    let others: Vec<(MachineName, SecretId)> = others.map(|other| (name.clone(), other.clone())).collect();
    let lost = session::lost(&session.disk, &others).await;
    lost.into_iter().map(|((_, id), _)| id).collect()
}

fn tell_lacking(session: &Session, lacks: &[SecretId]) {
    if !lacks.is_empty() {
        session.note(format!("it lacks {} still: all is read at its next start", joined(lacks, ", ")));
    }
}

/// Asks where a machine that runs restarts for it.
async fn carry_out(
    session: &Session,
    name: &MachineName,
    change: Change<'_>,
    yes: bool,
) -> Result<(), Fault> {
    let plan: Plan = session.plan(&change.settle()?)?;
    session.progress.end();
    plan.notes.iter().for_each(|note| session.note(note));
    if restarts(&plan) {
        err!("{}", text::sanitize(&plan.summary()));
        text::agree(yes, &format!("This restarts {name}. Go on?"))?;
    }
    session.perform(&plan).await?;
    Ok(())
}

async fn remove(global: &Global, args: Remove) -> Result<u8, Fault> {
    let (name, id): (MachineName, SecretId) = (argument(&args.name)?, argument(&args.id)?);
    let session = Session::begin(global, About::Those(&[&name])).await?;
    let there = session.observed.has_secret(&name, &id);
    let known = session.spec.machines.get(&name);
    // What a definition asks for that cannot be read is not known.
    if session.spec.broken.contains_key(&name) {
        return Err(nobody(&session.spec, &name));
    }
    if !there && !known.is_some_and(|machine| machine.secret.contains(&id)) {
        known.ok_or_else(|| nobody(&session.spec, &name))?;
        let has = session.observed.secrets_of(&name);
        let hint =
            if has.is_empty() { "it has none".to_owned() } else { format!("it has: {}", joined(&has, ", ")) };
        return Err(Fault::new(format!("'{name}' has no secret {id}")).hint(hint));
    }
    let (scope, lacks, machine) = match known.filter(|machine| machine.secret.contains(&id)) {
        Some(machine) => {
            let mut machine = machine.clone();
            machine.secret.retain(|other| *other != id);
            let lacks = lacking(&session, &name, &machine, &id).await;
            let waits = !session.held(|one| *one == name).is_empty();
            (scope(&name, &lacks, waits), lacks, Some(machine))
        }
        // Nothing reads it.
        None => (Scope::Records, Vec::new(), None),
    };
    // As long as its unit is not told anything else, the machine could not start without it.
    let stays = scope == Scope::Records && asks(&session, &name, &id);
    let mut change = session.change(scope);
    if let Some(machine) = machine {
        change = change.edit(&name, &machine)?;
    }
    if there && !stays {
        session.progress.end();
        let question = format!("This deletes the secret {id} of {name}, which nothing brings back. Go on?");
        text::agree(args.yes, &question)?;
        change = change.secret(&name, &id, None);
    }
    carry_out(&session, &name, change, args.yes).await?;
    if stays {
        session.note(format!(
            "{id} is kept until the unit of {name} asks for it no longer: `nsctl apply`, then again"
        ));
        return Ok(0);
    }
    session.say(format!("{name} has no secret {id} any more"));
    tell_lacking(&session, &lacks);
    Ok(0)
}

/// Whether the machine's unit has systemd decrypt it.
fn asks(session: &Session, name: &MachineName, id: &SecretId) -> bool {
    let unit = session.observed.file(&ManagedFile::UnitDropIn(name.clone()).path()).unwrap_or_default();
    unit.contains(&format!("{CREDENTIALS}={id}:"))
}

/// One that there is, or is to be.
#[derive(Serialize)]
struct Row {
    machine: MachineName,
    secret: SecretId,
    state: &'static str,
}

fn list(global: &Global, args: List) -> Result<u8, Fault> {
    let asked: Option<MachineName> = args.name.as_deref().map(argument).transpose()?;
    let observed = looked_at(global)?;
    let spec = spec_of(&observed)?;
    let rows = rows(&observed, &spec);
    if let Some(name) = asked.as_ref().filter(|name| !spec.machines.contains_key(*name)) {
        rows.iter().find(|row| row.machine == *name).ok_or_else(|| nobody(&spec, name))?;
    }
    let rows: Vec<Row> =
        rows.into_iter().filter(|row| asked.as_ref().is_none_or(|name| row.machine == *name)).collect();
    if global.json {
        global.report.answer(&rows)?;
    } else if rows.is_empty() {
        global.report.say("no secrets");
    } else {
        let cells = rows
            .iter()
            .map(|row| vec![row.machine.to_string(), row.secret.to_string(), row.state.to_owned()]);
        out!("{}", text::table(&["MACHINE", "SECRET", "STATE"], &cells.collect::<Vec<_>>()));
    }
    Ok(0)
}

fn rows(observed: &Observed, spec: &Spec) -> Vec<Row> {
    let named = spec
        .machines
        .iter()
        .flat_map(|(name, machine)| machine.secret.iter().map(|id| (name.clone(), id.clone())));
    let named: std::collections::BTreeSet<_> = named.collect();
    let there = observed.secrets();
    let state = |both: &(MachineName, SecretId)| match (named.contains(both), there.contains(both)) {
        (true, true) => "set",
        (true, false) => "missing",
        // What a definition asks for that cannot be read is not known.
        (false, _) if spec.broken.contains_key(&both.0) => "set",
        (false, _) => "unused",
    };
    named
        .union(&there)
        .map(|both| Row { machine: both.0.clone(), secret: both.1.clone(), state: state(both) })
        .collect()
}

/// The definitions, and what lies beside them.
fn looked_at(global: &Global) -> Result<Observed, Fault> {
    Ok(observe::definitions(&Disk::new(&global.root))?)
}

fn nobody(spec: &Spec, name: &MachineName) -> Fault {
    match spec.broken.contains_key(name) {
        true => Fault::new(format!("the definition of '{name}' cannot be used"))
            .hint(format!("`nsctl plan` says what is wrong in {}", definition_path(name).display())),
        false => unknown(name.as_str(), spec.machines.keys().map(MachineName::as_str)),
    }
}
