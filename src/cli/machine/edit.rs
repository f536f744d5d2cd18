//! `nsctl set`, `nsctl edit`, `nsctl enable` and `nsctl disable`: a definition that is there, changed.

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::planned::whole;
use crate::cli::session::{About, Session, must_be_root};
use crate::cli::text::{self, err};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Plan, Scope, Step};
use crate::spec::{Problems, Profiles, definition_path, edit as text_of};
use crate::sys::Disk;
use crate::sys::editor::Draft;

/// Change settings of a machine
///
/// `nsctl explain` lists the keys, nsctl-machine(5) describes them.
#[derive(Debug, Clone, Args)]
pub struct Set {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// limits.memory=2G, autostart=false, 'open=["tcp/443"]'; nothing after the '=' takes a setting
    /// away
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Do not ask before a machine that runs restarts
    #[arg(long, short)]
    yes: bool,
}

/// Edit a machine's definition in an editor, see what comes of it, and apply that
#[derive(Debug, Clone, Args)]
pub struct Edit {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Machines, and whether they start with the host
#[derive(Debug, Clone, Args)]
pub struct Names {
    /// The machines' names
    #[arg(required = true, value_name = "NAME", add = crate::cli::complete::machines())]
    names: Vec<String>,
}

pub async fn set(global: &Global, args: Set) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    session.machine(&name)?;
    let before = session.observed.file(&definition_path(&name)).unwrap_or_default();
    let mut text = before.to_owned();
    for word in &args.settings {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            Fault::wrong(format!("'{}' is no setting", word.escape_debug()))
                .hint("write it as KEY=VALUE, such as limits.memory=2G")
        })?;
        text = set_one(&session.spec.profiles, &name, &text, key.trim(), value.trim())?;
    }
    must_be_read(&session.spec.profiles, &name, &text, &args.settings)?;
    if text == before {
        session.say(format!("{name} is set so already"));
        return Ok(0);
    }
    let plan = planned(&session, &name, text)?;
    plan.notes.iter().for_each(|note| session.note(note));
    if restarts(&plan) {
        session.progress.end();
        err!("{}", text::sanitize(&plan.summary()));
        text::agree(args.yes, &format!("This restarts {name}. Go on?"))?;
    }
    session.perform(&plan).await?;
    let told = args
        .settings
        .iter()
        .map(|word| word.strip_suffix('=').map_or(word.clone(), |key| format!("no {key}")));
    session.say(format!("{name} has now {}", told.collect::<Vec<_>>().join(", ")));
    Ok(0)
}

/// A value is one of TOML, or, where the definition could not be read with that, a plain text.
fn set_one(
    profiles: &Profiles,
    name: &MachineName,
    text: &str,
    key: &str,
    value: &str,
) -> Result<String, Fault> {
    let typed = text_of::set(text, key, value)?;
    let quoted = text_of::set(text, key, &toml::Value::from(value).to_string())?;
    let is_read = |text: &str| profiles.machine(&definition_path(name), text).is_ok();
    Ok(if !is_read(&typed) && !value.is_empty() && is_read(&quoted) { quoted } else { typed })
}

/// Whether all of them together make a definition.
fn must_be_read(
    profiles: &Profiles,
    name: &MachineName,
    text: &str,
    settings: &[String],
) -> Result<(), Fault> {
    let Err(problems) = profiles.machine(&definition_path(name), text) else { return Ok(()) };
    let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let key = settings.first().and_then(|word| word.split('=').next()).unwrap_or_default();
    Err(Fault::new(format!(
        "with {} the definition of '{name}' could not be read: {why}",
        settings.join(", ")
    ))
    .hint(format!("nothing was changed; `nsctl explain {key}` tells what it takes")))
}

pub async fn edit(global: &Global, args: Edit) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    must_be_root(global)?;
    let path = definition_path(&name);
    let before = Disk::new(&global.root).read_definition(&path)?.ok_or_else(|| {
        Fault::new(format!("there is no {}", path.display())).hint(format!(
            "`nsctl create {name} --routed` makes a machine, `nsctl adopt {name}` takes one in"
        ))
    })?;
    let profiles = observe::profiles(&Disk::new(&global.root))?;
    let draft = Draft::new(name.as_str(), &before)?;
    let text = loop {
        let text = match draft.edit() {
            Ok(text) => text,
            Err(error) => return Err(kept(draft, &before, error.into())),
        };
        let Err(problems) = profiles.machine(&path, &text) else { break text };
        Fault::from(Problems(problems)).print();
        if let Err(fault) = text::agree(false, "Edit it again?") {
            return Err(kept(draft, &before, fault));
        }
    };
    if text == before {
        global.report.say("nothing was changed");
        return Ok(0);
    }
    match carry_out(global, &name, &before, text, args.yes).await {
        Ok(()) => Ok(0),
        // The editor does not open again by itself.
        Err(fault) => Err(kept(draft, &before, fault.begun())),
    }
}

/// What was written is not lost by what went wrong.
fn kept(draft: Draft, before: &str, fault: Fault) -> Fault {
    match draft.keep_unless(before) {
        Some(path) => fault.hint(format!("what you wrote is in {}", path.display())),
        None => fault,
    }
}

async fn carry_out(
    global: &Global,
    name: &MachineName,
    before: &str,
    text: String,
    yes: bool,
) -> Result<(), Fault> {
    let session = Session::begin(global, About::Those(&[name])).await?;
    if session.observed.file(&definition_path(name)) != Some(before) {
        return Err(Fault::new(format!("the definition of '{name}' was changed meanwhile"))
            .hint(format!("`nsctl edit {name}` shows it as it is now")));
    }
    let plan = planned(&session, name, text)?;
    session.progress.end();
    plan.notes.iter().for_each(|note| session.report.note(note));
    err!("{}", whole(&plan));
    text::agree(yes, "Do that?")?;
    session.perform(&plan).await?;
    session.say(format!("{name} is as its definition says"));
    Ok(())
}

/// What comes of a definition of these words.
fn planned(session: &Session, name: &MachineName, text: String) -> Result<Plan, Fault> {
    let wanted = session.change(Scope::Machine(name.clone())).write(name, text).settle()?;
    session.plan(&wanted)
}

pub fn restarts(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Stop { machines } if !machines.is_empty()))
}

/// Whether machines start with the host.
pub async fn autostart(global: &Global, args: Names, wanted: bool) -> Result<u8, Fault> {
    let names: Vec<MachineName> = args.names.iter().map(|name| argument(name)).collect::<Result<_, _>>()?;
    for name in &names {
        let session = Session::begin(global, About::Those(&[name])).await?;
        let mut machine = session.machine(name)?.clone();
        let before = if machine.autostart == wanted { ", as before" } else { "" };
        if before.is_empty() {
            machine.autostart = wanted;
            session.make(session.change(Scope::Machine(name.clone())).edit(name, &machine)?).await?;
        }
        let does = if wanted { "starts with the host" } else { "does not start with the host" };
        session.say(format!("{name} {does}{before}"));
    }
    Ok(0)
}
