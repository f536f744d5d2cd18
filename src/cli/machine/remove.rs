//! `nsctl remove`: a machine's end. Its subnet rests.

use clap::Args;

use crate::cli::fault::unknown;
use crate::cli::machine::run::Names;
use crate::cli::machine::snapshot::removal;
use crate::cli::session::{About, Session};
use crate::cli::text;
use crate::cli::{Fault, Global};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::plan::Scope;

/// Stop machines and delete them
#[derive(Debug, Clone, Args)]
pub struct Remove {
    #[command(flatten)]
    names: Names,
    /// Keep their trees in /var/lib/machines
    #[arg(long)]
    keep_image: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Remove) -> Result<u8, Fault> {
    let names = args.names.machines(global)?;
    if names.is_empty() {
        global.report.say("no machines");
    }
    if let [_, _, ..] = names.as_slice() {
        // Asked once, and not for a name that nobody has.
        let session = Session::begin(global, About::Those(&names.iter().collect::<Vec<_>>())).await?;
        names.iter().try_for_each(|name| must_be_ours(&session, name))?;
        session.progress.end();
        let trees = if args.keep_image {
            ""
        } else {
            ", the trees that nsctl made for them, their snapshots and secrets"
        };
        let question = format!(
            "This stops and deletes {} machines{trees}: {}. Go on?",
            names.len(),
            text::joined(&names, ", ")
        );
        text::agree(args.yes, &question)?;
    }
    for name in &names {
        remove(global, name, args.keep_image, args.yes || names.len() > 1).await?;
    }
    Ok(0)
}

fn must_be_ours(session: &Session, name: &MachineName) -> Result<(), Fault> {
    let ours = session.spec.machines.contains_key(name) || session.spec.broken.contains_key(name);
    if ours { Ok(()) } else { Err(nobody(session, name)) }
}

async fn remove(global: &Global, name: &MachineName, keep_image: bool, yes: bool) -> Result<(), Fault> {
    let session = Session::begin(global, About::Those(&[name])).await?;
    must_be_ours(&session, name)?;
    let mut change = session.change(Scope::Machine(name.clone())).forget(name);
    let edited = session.observed.edited(name);
    // A tree that is not the one that nsctl made is not nsctl's to delete.
    let there = session.observed.trees.contains_key(name);
    let delete = session.observed.live && there && is_made(&session, name) && !keep_image;
    if delete {
        change = change.drop_tree(name);
    }
    let wanted = change.settle()?;
    let mut plan = session.plan(&wanted)?;
    let snapshots: Vec<_> = session.observed.snapshots_of(name).into_keys().collect();
    let drops = !snapshots.is_empty() && session.observed.live && !keep_image;
    if drops {
        plan.steps.extend(removal(&session.observed, name, &snapshots));
    }
    session.progress.end();
    for path in edited {
        text::err!("note: {} was edited by hand, and goes, too", text::sanitize(&path.display().to_string()));
    }
    let running = if session.observed.is_running(name) { "stops it and " } else { "" };
    let tree = if delete { format!(" and everything in /var/lib/machines/{name}") } else { String::new() };
    let secrets = match session.observed.secrets_of(name).as_slice() {
        [] => String::new(),
        some => format!(", and its secrets: {}", text::joined(some, ", ")),
    };
    let tree = match snapshots.len() {
        count if drops => format!("{tree}, and its snapshots ({count})"),
        _ => tree,
    };
    text::agree(yes, &format!("This {running}deletes the configuration of {name}{tree}{secrets}. Go on?"))?;
    session.perform(&plan).await?;
    let subnet = session.state.leases.get(name).map_or(String::new(), |subnet| format!("; {subnet} rests"));
    let tree = if there && !delete {
        format!("; its tree stays in /var/lib/machines/{name}")
    } else {
        String::new()
    };
    session.say(format!("removed {name}{subnet}{tree}"));
    Ok(())
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
