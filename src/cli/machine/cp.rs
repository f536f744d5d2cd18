//! `nsctl cp`: files into a machine and out of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::fault::{argument, unknown};
use crate::cli::remote::Named;
use crate::cli::session::{Session, live_bus};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::sys::carry::{Inside, LeftOut, Target, Terms};
use crate::sys::tree::Tree;
use crate::sys::{Bus, what_is_at};

/// Copy files or folders between this host and a machine
///
/// What comes out of a machine is root's here, without setuid and capabilities; devices, pipes and
/// links are left out. Where a link stands in the way here, nothing is copied.
#[derive(Debug, Clone, Args)]
pub struct Cp {
    /// A path here, or NAME:/path in a machine
    #[arg(add = crate::cli::complete::ends())]
    from: String,
    /// A path here, or NAME:/path in a machine; a folder where it ends in '/'
    #[arg(add = crate::cli::complete::ends())]
    to: String,
    /// Replace files that are there, and fill folders that are there
    #[arg(long, short)]
    force: bool,
    /// Out of a machine: take symbolic links along, those that stay within what is copied
    #[arg(long)]
    links: bool,
    /// Out of a machine: how much it may be: 500M, 20G
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = crate::cli::image::size)]
    max_size: u64,
}

/// One end of a copy.
enum End {
    Here(String),
    Inside(MachineName, PathBuf),
}

impl End {
    fn parse(word: &str) -> Result<End, Fault> {
        match word.split_once(':') {
            Some((name, path)) if !name.contains('/') => {
                if !path.starts_with('/') {
                    return Err(Fault::wrong(format!("'{}' is no whole path", word.escape_debug()))
                        .hint("such as web:/etc/hosts; for a file of this host with ':' in its name: ./…"));
                }
                Ok(End::Inside(argument(name)?, PathBuf::from(path)))
            }
            _ => Ok(End::Here(word.to_owned())),
        }
    }
}

impl Cp {
    /// The end that is here.
    pub fn named(&self) -> Option<Named> {
        match (End::parse(&self.from).ok()?, End::parse(&self.to).ok()?) {
            (End::Here(from), End::Inside(..)) => Some(Named::read(Path::new(&from))),
            (End::Inside(name, from), End::Here(to)) => {
                let name = from.file_name().unwrap_or(name.as_str().as_ref()).to_owned();
                Some(Named::Made { place: to.into(), name, force: self.force })
            }
            _ => None,
        }
    }
}

pub async fn run(global: &Global, args: Cp) -> Result<u8, Fault> {
    let bus = live_bus(global, "files are copied").await?;
    match (End::parse(&args.from)?, End::parse(&args.to)?) {
        (End::Here(from), End::Inside(name, to)) => inwards(global, &bus, &args, &from, &name, to).await,
        (End::Inside(name, from), End::Here(to)) => outwards(global, &bus, args, &name, from, &to).await,
        _ => Err(Fault::wrong("one of the two is a path in a machine, and one is here")
            .hint("`nsctl cp web:/etc/hosts .`, or `nsctl cp key web:/root/`")),
    }
}

async fn inside(bus: &Bus, name: &MachineName) -> Result<Inside, Fault> {
    let stopped = || Fault::new(format!("'{name}' is not running")).hint(format!("`nsctl start {name}`"));
    let Some(leader) = bus.leader(name).await? else {
        return Ok(Inside::at_rest(&at_rest(bus, name).await?)?);
    };
    let inside = Inside::of(leader)
        .map_err(|error| Fault::new(format!("the files of '{name}' cannot be reached: {error}")))?;
    // The number is still that of this machine's first process.
    if bus.leader(name).await? == Some(leader) { Ok(inside) } else { Err(stopped()) }
}

/// The tree of a machine that is stopped.
async fn at_rest(bus: &Bus, name: &MachineName) -> Result<Tree, Fault> {
    if let Some(tree) = Tree::of(name.as_str()) {
        return Ok(tree);
    }
    let images = bus.images().await?;
    if images.contains(name.as_str()) {
        return Err(Fault::new(format!("'{name}' is not running, and its tree is a disk image"))
            .hint(format!("`nsctl start {name}`")));
    }
    Err(unknown(name.as_str(), images.iter().map(String::as_str)))
}

/// Into a tree at rest, whole or not at all, as its root's. Nobody starts it with nsctl meanwhile.
async fn into_tree(
    global: &Global,
    bus: &Bus,
    args: &Cp,
    from: &Path,
    name: &MachineName,
    to: &Path,
) -> Result<u8, Fault> {
    let session = Session::begin_to_stop(global).await?;
    // Another nsctl may have started it meanwhile: what lies below its mounts is seen by nobody.
    if session.observed.is_running(name) {
        return Err(Fault::new(format!("'{name}' has been started meanwhile")).hint("try it again"));
    }
    let tree = at_rest(bus, name).await?;
    let shown = format!("{name}:{}", to.display());
    let place = Target::within(&tree, to, from.file_name().unwrap_or(name.as_str().as_ref()), &shown)?;
    let stop = Arc::new(AtomicBool::new(false));
    let owner = Some(tree.owner());
    let terms = Terms { links: true, force: args.force, limit: args.max_size, owner, stop: stop.clone() };
    let left_out = carried(Inside::here()?, from.to_owned(), args.from.clone(), place, terms, stop).await?;
    drop(session);
    tell(global, &left_out);
    Ok(0)
}

fn tell(global: &Global, left_out: &LeftOut) {
    if !left_out.is_empty() {
        let note = format!("left out: {left_out}");
        global.report.tell(&note);
    }
}

/// machined copies in the machine's own view: whatever stands there leads nowhere else.
async fn inwards(
    global: &Global,
    bus: &Bus,
    args: &Cp,
    from: &str,
    name: &MachineName,
    to: PathBuf,
) -> Result<u8, Fault> {
    let from = std::path::absolute(from)?;
    if what_is_at(&from).is_none() {
        return Err(Fault::new(format!("{} does not exist", from.display())).hint("nothing was copied"));
    }
    if bus.leader(name).await?.is_none() {
        return into_tree(global, bus, args, &from, name, &to).await;
    }
    let inside = inside(bus, name).await?;
    let to = match from.file_name() {
        Some(own) if args.to.ends_with('/') || inside.is_folder(&to) => to.join(own),
        _ => to,
    };
    if inside.has(&to) && !args.force {
        return Err(Fault::new(format!("{name}:{} is there already", to.display()))
            .hint("--force replaces files that are there, and fills folders"));
    }
    bus.copy_into(name, &from, &to, args.force)
        .await
        .map_err(|error| Fault::from(error).hint("is the folder there, in which it is to be?"))?;
    Ok(0)
}

async fn outwards(
    global: &Global,
    bus: &Bus,
    args: Cp,
    name: &MachineName,
    from: PathBuf,
    to: &str,
) -> Result<u8, Fault> {
    let own = from.file_name().unwrap_or(name.as_str().as_ref());
    let place = Target::of(to, own)?;
    let inside = inside(bus, name).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let terms =
        Terms { links: args.links, force: args.force, limit: args.max_size, owner: None, stop: stop.clone() };
    let left_out = carried(inside, from, args.from, place, terms, stop).await?;
    tell(global, &left_out);
    Ok(0)
}

/// Carries it, and ends where the user does not want to wait: nothing is left then.
async fn carried(
    inside: Inside,
    from: PathBuf,
    shown: String,
    place: Target,
    terms: Terms,
    stop: Arc<AtomicBool>,
) -> Result<LeftOut, Fault> {
    let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let work = move || inside.carry(Path::new(&from), &shown, &place, &terms);
    let mut work = tokio::task::spawn_blocking(work);
    let done = tokio::select! {
        done = &mut work => done,
        _ = interrupt.recv() => { stop.store(true, Ordering::Relaxed); work.await }
        _ = end.recv() => { stop.store(true, Ordering::Relaxed); work.await }
    };
    Ok(done.map_err(|_| Fault::new("the copy ended by itself"))??)
}
