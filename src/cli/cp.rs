//! `nsctl cp`: files into a machine and out of it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::session::{bus, must_be_root};
use super::{Fault, Global};
use crate::name::MachineName;

/// Copy files or folders between this host and a machine that runs
#[derive(Debug, Args)]
pub struct Cp {
    /// A path here, or NAME:/path in a machine
    from: String,
    /// A path here, or NAME:/path in a machine; a folder where it ends in '/'
    to: String,
    /// Replace a file that is there
    #[arg(long, short)]
    force: bool,
}

/// One end of a copy.
enum End {
    Here(PathBuf),
    Inside(MachineName, PathBuf),
}

impl End {
    fn parse(word: &str) -> Result<End, Fault> {
        match word.split_once(':') {
            Some((name, path)) if !name.contains('/') => {
                if !path.starts_with('/') {
                    return Err(Fault::new(format!("'{}' is no whole path", word.escape_debug()))
                        .hint("such as web:/etc/hosts; for a file of this host with ':' in its name: ./…"));
                }
                Ok(End::Inside(name.parse()?, PathBuf::from(path)))
            }
            _ => Ok(End::Here(std::path::absolute(word)?)),
        }
    }
}

/// A target that is a folder gets the name of the source in it.
fn whole(target: PathBuf, word: &str, source: &Path, is_folder: bool) -> PathBuf {
    match source.file_name() {
        Some(name) if is_folder || word.ends_with('/') => target.join(name),
        _ => target,
    }
}

pub async fn run(global: &Global, args: Cp) -> Result<u8, Fault> {
    must_be_root(global)?;
    let Some(bus) = bus(global).await? else {
        return Err(Fault::new("files are copied into a running machine, not below --root"));
    };
    let (name, from, to, inwards) = match (End::parse(&args.from)?, End::parse(&args.to)?) {
        (End::Here(from), End::Inside(name, to)) => {
            if !from.exists() {
                return Err(
                    Fault::new(format!("{} does not exist", from.display())).hint("nothing was copied")
                );
            }
            let to = whole(to, &args.to, &from, false);
            (name, from, to, true)
        }
        (End::Inside(name, from), End::Here(to)) => {
            let is_folder = to.is_dir();
            let to = whole(to, &args.to, &from, is_folder);
            (name, from, to, false)
        }
        _ => {
            return Err(Fault::new("one of the two is a path in a machine, and one is here")
                .hint("`nsctl cp web:/etc/hosts .`, or `nsctl cp key web:/root/`"));
        }
    };
    if bus.leader(&name).await?.is_none() {
        return Err(Fault::new(format!("'{name}' is not running")).hint(format!("`nsctl start {name}`")));
    }
    bus.copy(&name, &from, &to, inwards, args.force).await.map_err(|error| {
        Fault::from(error)
            .hint("is the source there, and the target's folder? --force replaces what is there")
    })?;
    Ok(0)
}
