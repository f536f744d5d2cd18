//! `nsctl clone`: another machine of the same tree, and `nsctl rename`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::create::{refuse_taken, resolver};
use super::session::{About, Session};
use super::{Fault, Global};
use crate::apply::Listener;
use crate::emit::ManagedFile;
use crate::fit::Wishes;
use crate::name::MachineName;
use crate::plan::{NewImage, Scope, Source, Wanted, kept_beside, settle};
use crate::spec::{Network, Routed, definition_path, edit};
use crate::state::State;

/// Make another machine of a machine, with a subnet and a machine-id of its own
#[derive(Debug, Args)]
pub struct Clone {
    /// The machine that is there
    name: String,
    /// The new machine's name
    new: String,
    /// Do not start it now; it still starts with the host
    #[arg(long)]
    no_start: bool,
}

/// Give a machine that is stopped another name; its subnet stays
#[derive(Debug, Args)]
pub struct Rename {
    /// The machine's name
    name: String,
    /// Its new name
    new: String,
}

/// There is nothing of that name.
pub fn must_be_free(session: &Session, name: &MachineName) -> Result<(), Fault> {
    refuse_taken(session, name)?;
    if session.observed.images.contains(name.as_str()) {
        return Err(Fault::new(format!("there is already an image named '{name}'"))
            .hint(format!("choose another name, or delete it: `nsctl image remove {name}`")));
    }
    Ok(())
}

pub async fn clone(global: &Global, args: Clone) -> Result<u8, Fault> {
    let (name, new): (MachineName, MachineName) = (args.name.parse()?, args.new.parse()?);
    let session = Session::begin(global, About::Those(&[&name, &new])).await?;
    let mut machine = session.machine(&name)?.clone();
    must_be_free(&session, &new)?;
    if session.observed.is_running(&name) {
        session
            .progress
            .says(&format!("note: '{name}' is running: the clone's files are as after a power cut"));
    }
    if let Network::Routed(routed) = &mut machine.network {
        *routed = Routed { subnet: None, token: routed.token, chosen: None };
    }
    for port in machine.expose.iter_mut().filter_map(|expose| expose.host.take()) {
        session.progress.says(&format!("note: port {port} of this host goes on leading to '{name}'"));
    }
    machine.expose.retain(|expose| expose.to.is_some());
    let text = session.observed.file(&definition_path(&name)).unwrap_or_default();
    let text = edit::set_expose(&edit::set_network(text, &machine.network)?, &machine.expose)?;
    let (servers, zone) = resolver(&session, &machine.network);
    let mut spec = session.spec.clone();
    spec.machines.insert(new.clone(), machine);
    let scope = Scope::Machine(new.clone());
    let leases = settle(&spec, session.state.leases.clone(), &scope)?;
    let mut wanted = Wanted::new(spec, State { leases, ..session.state.clone() }, scope);
    wanted.inputs.insert(definition_path(&new), Some(text));
    wanted.modes.extend(session.disk.mode(&definition_path(&name)).map(|mode| (definition_path(&new), mode)));
    let wishes = Some(Wishes { servers, zone, ..Wishes::default() });
    wanted.images.push(NewImage { source: Source::Clone(name.to_string()), to: new.clone(), wishes });
    if !args.no_start && session.observed.live {
        wanted.start.insert(new.clone());
    }
    session.carry_out(&wanted).await?;
    if wanted.start.is_empty() {
        session.say(format!("{new} is a clone of {name}; `nsctl start {new}` starts it"));
    }
    Ok(0)
}

pub async fn rename(global: &Global, args: Rename) -> Result<u8, Fault> {
    let (name, new): (MachineName, MachineName) = (args.name.parse()?, args.new.parse()?);
    let session = Session::begin(global, About::Those(&[&name, &new])).await?;
    let machine = session.machine(&name)?.clone();
    must_be_free(&session, &new)?;
    if session.observed.is_running(&name) {
        return Err(Fault::new(format!("'{name}' is running")).hint(format!("`nsctl stop {name}` first")));
    }
    if matches!(machine.network, Network::Bridge(_)) {
        session.progress.says("note: its MAC address hangs on its name: the LAN gives it another address");
    }
    let text = session.observed.file(&definition_path(&name)).map(str::to_owned);
    let mut spec = session.spec.clone();
    spec.machines.remove(&name);
    spec.machines.insert(new.clone(), machine);
    let mut leases = session.state.leases.clone();
    leases.rename(&name, &new);
    let scope = Scope::Renamed(name.clone(), new.clone());
    let leases = settle(&spec, leases, &scope)?;
    let mut wanted = Wanted::new(spec, State { leases, ..session.state.clone() }, scope);
    wanted.inputs.insert(definition_path(&name), None);
    wanted.inputs.insert(definition_path(&new), text);
    let mut keep =
        |old: &Path, new: PathBuf| wanted.modes.extend(session.disk.mode(old).map(|mode| (new, mode)));
    keep(&definition_path(&name), definition_path(&new));
    keep(
        &kept_beside(&ManagedFile::Nspawn(name.clone()).path()),
        kept_beside(&ManagedFile::Nspawn(new.clone()).path()),
    );
    let beside = kept_beside(&ManagedFile::Nspawn(name.clone()).path());
    if let Some(kept) = session.observed.file(&beside) {
        wanted.inputs.insert(kept_beside(&ManagedFile::Nspawn(new.clone()).path()), Some(kept.to_owned()));
        wanted.inputs.insert(beside, None);
    }
    if session.observed.images.contains(name.as_str()) {
        wanted.rename_tree = Some((name.clone(), new.clone()));
    }
    session.carry_out(&wanted).await?;
    session.say(format!("{name} is {new} now; `nsctl start {new}` starts it"));
    Ok(0)
}
