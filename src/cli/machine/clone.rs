//! `nsctl clone`: another machine of the same tree, and `nsctl rename`.

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::machine::create::{next_of, refuse_taken, resolver};
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::plan::{NewImage, Scope, Source, kept_beside};
use crate::provision::FirstBoot;
use crate::spec::definition_path;

/// Make another machine of a machine, with a subnet and a machine-id of its own
#[derive(Debug, Clone, Args)]
pub struct Clone {
    /// The machine that is there
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// The new machine's name
    new: String,
    /// Do not start it now; it still starts with the host
    #[arg(long)]
    no_start: bool,
}

/// Give a machine that is stopped another name; its subnet stays
#[derive(Debug, Clone, Args)]
pub struct Rename {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
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
    let (name, new): (MachineName, MachineName) = (argument(&args.name)?, argument(&args.new)?);
    let mut session = Session::begin(global, About::Those(&[&name, &new])).await?;
    let mut machine = session.machine(&name)?.clone();
    must_be_free(&session, &new)?;
    if machine.network.routed().is_some() {
        session.ask_neighbours(&[&new]).await?;
    }
    if session.observed.is_running(&name) {
        session.note(format!("'{name}' is running: the clone's files are as after a power cut"));
    }
    machine.network.unpin();
    for port in machine.forget_host_ports() {
        session.note(format!("port {port} of this host goes on leading to '{name}'"));
    }
    for route in machine.network.forget_routes() {
        session.note(format!("{route} stays with '{name}'"));
    }
    if let Some(address) = machine.forget_own_ipv4() {
        session.note(format!("{address} stays with '{name}'"));
    }
    let (servers, zone) = resolver(&session, &machine);
    let first_boot = Some(FirstBoot { servers, zone, ..FirstBoot::default() });
    let image = NewImage { source: Source::Clone(name.to_string()), to: new.clone(), first_boot };
    let change =
        session.change(Scope::Machine(new.clone())).derive(&name, &new, &machine)?.image(Some(image));
    let change = change.mode(definition_path(&new), session.disk.mode(&definition_path(&name)));
    let change = change.share_secrets(&name, &new);
    let wanted = session.make(change.start(&new, !args.no_start)).await?;
    if wanted.start.is_empty() {
        let next = next_of(&session, &new);
        session.say(format!("{new} is a clone of {name}; {next}"));
    }
    Ok(0)
}

pub async fn rename(global: &Global, args: Rename) -> Result<u8, Fault> {
    let (name, new): (MachineName, MachineName) = (argument(&args.name)?, argument(&args.new)?);
    let session = Session::begin(global, About::Those(&[&name, &new])).await?;
    let machine = session.machine(&name)?.clone();
    must_be_free(&session, &new)?;
    if session.observed.is_running(&name) || session.observed.is_coming(&name) {
        return Err(Fault::new(format!("'{name}' is running")).hint(format!("`nsctl stop {name}` first")));
    }
    if machine.network.port().is_some() {
        session.note("its MAC address depends on its name: the LAN gives it another address");
    }
    let kept = |name: &MachineName| kept_beside(&ManagedFile::Nspawn(name.clone()).path());
    let change = session.change(Scope::Renamed(name.clone(), new.clone())).rename(&name, &new);
    let change = change.mode(definition_path(&new), session.disk.mode(&definition_path(&name)));
    session.make(change.mode(kept(&new), session.disk.mode(&kept(&name)))).await?;
    session.say(format!("{name} is {new} now; `nsctl start {new}` starts it"));
    Ok(0)
}
