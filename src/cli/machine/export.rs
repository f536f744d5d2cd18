//! `nsctl export` and `nsctl import`: a machine moves to another host in two commands.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use crate::apply;
use crate::cli::fault::argument;
use crate::cli::machine::clone::must_be_free;
use crate::cli::machine::create::{must_be_its_own, next_of};
use crate::cli::remote::Named;
use crate::cli::session::{About, Session};
use crate::cli::text;
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{NewImage, Scope, Source};
use crate::pool::Pool;
use crate::spec::image::{Kind, kind_of, name_for};
use crate::spec::reach;
use crate::spec::{MachineSpec, Problems, definition_path, edit};
use crate::sys::Disk;
use crate::sys::archive::Unpacked;

/// Write a machine, definition and tree, to a file
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// A new file; its ending says how it is packed: web.tar, web.tar.zst, web.tar.xz, web.tar.gz
    file: PathBuf,
}

/// Make the machine that `nsctl export` wrote
#[derive(Debug, Clone, Args)]
pub struct Import {
    /// The file
    file: PathBuf,
    /// The machine's name [default: the file's, without its endings]
    #[arg(long)]
    name: Option<String>,
    /// How much it may hold, unpacked: 500M, 20G
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = crate::cli::image::size)]
    max_size: u64,
    /// Do not start it now; it still starts with the host
    #[arg(long)]
    no_start: bool,
    /// Leave out of the definition what reaches beyond the machine: binds, [nspawn], [networkd],
    /// firewall = false, ports of this host
    #[arg(long)]
    no_privileges: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Export {
    pub fn named(&self) -> Named {
        Named::new_file(&self.file)
    }
}

impl Import {
    pub fn named(&self) -> Named {
        Named::read(&self.file)
    }
}

pub async fn export(global: &Global, args: Export) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    if kind_of(&args.file.to_string_lossy()) != Some(Kind::Tar) {
        return Err(Fault::wrong(format!("the ending of {} is of no tar file", args.file.display()))
            .hint(format!("{name}.tar, or packed: {name}.tar.zst, {name}.tar.xz, {name}.tar.gz")));
    }
    let session = Session::begin(global, About::Those(&[&name])).await?;
    let machine = session.machine(&name)?;
    if !machine.secret.is_empty() {
        let secrets = text::joined(&machine.secret, ", ");
        session.note(format!("its secrets stay here: {secrets}; `nsctl secret set` gives it them elsewhere"));
    }
    if session.observed.is_running(&name) {
        session.note(format!("'{name}' is running: its files are as after a power cut"));
    }
    let definition = session.observed.file(&definition_path(&name)).unwrap_or_default();
    let file = std::path::absolute(&args.file)?;
    apply::image::export(session.world(), &name, definition, &file).await?;
    session.say(format!("{name} is in {}; elsewhere: `nsctl import FILE`", file.display()));
    Ok(0)
}

pub async fn import(global: &Global, args: Import) -> Result<u8, Fault> {
    let file = std::path::absolute(&args.file)?;
    let name = args.name.or_else(|| name_for(&file.to_string_lossy()));
    let name = name.ok_or_else(|| Fault::wrong("that makes no name for a machine").hint("--name NAME"))?;
    let name: MachineName = argument(&name)?;
    let (definition, _) = Unpacked::open(&file)?.definition()?;
    let path = definition_path(&name);
    let (definition, mode) = definition.ok_or_else(|| {
        Fault::new(format!("{} was not exported by nsctl: it begins with no definition", file.display()))
            .hint(format!("`nsctl create {name} --routed --image FILE` makes a machine of any tar file"))
    })?;
    let profiles = observe::profiles(&Disk::new(&global.root))?;
    let written = profiles.machine(&path, &definition).map_err(Problems)?;
    let mut session = Session::begin(global, About::Those(&[&name])).await?;
    must_be_free(&session, &name)?;
    if written.network.routed().is_some() {
        session.ask_neighbours(&[&name]).await?;
    }
    let mut machine = written.clone();
    if args.no_privileges {
        reach::contain(&mut machine);
    }
    must_be_its_own(&session, &name, &machine.secret, &[])?;
    at_home_here(&session, &mut machine);
    let definition = edit::definition(&definition, &written, &machine, &profiles.of(&machine.profile))?;
    session.progress.end();
    text::err!("{}", text::sanitize(&format!("the definition of {name}:\n{}", definition.trim_end())));
    told_reach(&machine);
    if !args.yes && !std::io::stdin().is_terminal() {
        return Err(Fault::new("nobody can be asked whether it may do that; nothing was changed")
            .hint(format!("read the definition above; `nsctl import --yes {}` grants it", file.display())));
    }
    text::agree(args.yes, "What it may do here is what that says. Make this machine?")?;
    let source = Source::File { path: file, limit: args.max_size };
    // It is the same machine as before: its tree stays as it is.
    let image = NewImage { source, to: name.clone(), first_boot: None };
    let change = session.change(Scope::Machine(name.clone())).write(&name, definition);
    let starts = !args.no_start && machine.secret.is_empty();
    let change = change.mode(path, Some(mode)).image(Some(image)).start(&name, starts);
    let wanted = session.make(change).await?;
    for id in &machine.secret {
        session
            .note(format!("its secret {id} stayed where it was: `nsctl secret set {name} {id}` asks for it"));
    }
    if wanted.start.is_empty() {
        session.say(format!("{name} is here; {}", next_of(&session, &name)));
    }
    Ok(0)
}

/// What of it concerns more than the machine.
pub fn told_reach(machine: &MachineSpec) {
    let beyond = reach::reach(machine);
    if !beyond.is_empty() {
        let list = beyond.join("\n  ");
        text::err!(
            "{}",
            text::sanitize(&format!(
                "it reaches beyond the machine (`nsctl import --no-privileges` drops that):\n  {list}"
            ))
        );
    }
}

/// A subnet that it had pinned elsewhere is none of this host's pool; and where machines have an
/// address each, a host part means nothing.
pub fn at_home_here(session: &Session, machine: &mut MachineSpec) {
    let pool = session.spec.host.pool();
    let pinned = machine.network.routed().and_then(|routed| routed.subnet);
    if let Some(subnet) = pinned.filter(|subnet| pool.is_none_or(|pool| !pool.contains(*subnet))) {
        session.note(format!("{subnet}, which it had, is not this host's: it gets another"));
        machine.network.unpin();
    }
    let has_prefixes = pool.is_none_or(|pool| !pool.is_single() && !pool.is_delegated());
    if let Some(length) =
        machine.network.routed_mut().filter(|_| !has_prefixes).and_then(|asks| asks.prefix.take())
    {
        session.note(format!("its /{length} cannot be had of this host's pool"));
    }
    let stays = pool.is_none_or(|pool| !pool.is_delegated());
    for route in if stays { Vec::new() } else { machine.network.forget_routes() } {
        session.note(format!("{route} cannot be routed to it here, where its address may change"));
    }
    let single = pool.is_some_and(Pool::is_single);
    if let Some(token) = machine.network.routed_mut().filter(|_| single).and_then(|asks| asks.token.take()) {
        session.note(format!("of this host's pool a machine has one address: its token {token} is dropped"));
    }
}
