//! `nsctl remove`: a machine's end. Its subnet rests.

use clap::Args;

use crate::cli::fault::{argument, unknown};
use crate::cli::session::{About, Session};
use crate::cli::text;
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::plan::Scope;

/// Stop a machine and delete it
#[derive(Debug, Args)]
pub struct Remove {
    /// The machine's name
    name: String,
    /// Keep its tree in /var/lib/machines
    #[arg(long)]
    keep_image: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Remove) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let session = Session::begin(global, About::Those(&[&name])).await?;
    if !session.spec.machines.contains_key(&name) && !session.spec.broken.contains_key(&name) {
        return Err(nobody(&session, &name));
    }
    let mut change = session.change(Scope::Machine(name.clone())).forget(&name);
    let edited = session.observed.edited(&name);
    // A tree that is not the one that nsctl made is not nsctl's to delete.
    let there = session.observed.trees.contains_key(&name);
    let delete = session.observed.live && there && is_made(&session, &name) && !args.keep_image;
    if delete {
        change = change.drop_tree(&name);
    }
    let wanted = change.settle()?;
    let plan = session.plan(&wanted)?;
    session.progress.end();
    for path in edited {
        text::err!("note: {} was edited by hand, and goes, too", text::sanitize(&path.display().to_string()));
    }
    let running = if session.observed.is_running(&name) { "stops it and " } else { "" };
    let tree = if delete { format!(" and everything in /var/lib/machines/{name}") } else { String::new() };
    text::agree(args.yes, &format!("This {running}deletes the configuration of {name}{tree}. Go on?"))?;
    session.perform(&plan).await?;
    let subnet = session.state.leases.get(&name).map_or(String::new(), |subnet| format!("; {subnet} rests"));
    let tree = if there && !delete {
        format!("; its tree stays in /var/lib/machines/{name}")
    } else {
        String::new()
    };
    session.say(format!("removed {name}{subnet}{tree}"));
    Ok(0)
}

/// An nsctl before this one wrote down the names of trees alone.
fn is_made(session: &Session, name: &MachineName) -> bool {
    let claimed = session.observed.file(&ManagedFile::Claim(name.clone()).path()).is_some();
    session.observed.tree_is_ours(name) || (!claimed && session.state.unclaimed.contains(name))
}

fn nobody(session: &Session, name: &MachineName) -> Fault {
    if session.observed.images.contains(name.as_str()) {
        return Fault::new(format!("'{name}' is not one of nsctl's machines"))
            .hint(format!("`machinectl remove {name}` deletes a tree that nsctl does not manage"));
    }
    unknown(name.as_str(), session.spec.machines.keys().map(MachineName::as_str))
}
