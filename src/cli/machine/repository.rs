//! Where backups are, and which of them is meant.

use std::collections::BTreeSet;
use std::path::Path;

use crate::backup::{Backup, BackupId, Contents};
use crate::cli::fault::argument;
use crate::cli::machine::snapshot::moment;
use crate::cli::session::is_live;
use crate::cli::text::{self, joined, out};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::usable_spec_of;
use crate::spec::{PROFILES_DIR, Profiles, Repository, Spec, profile_path, profile_paths, readable};
use crate::sys::Disk;
use crate::sys::backups::Store;

/// The definitions, as far as they can be used.
pub fn spec(global: &Global) -> Result<Spec, Fault> {
    Ok(usable_spec_of(&observe::definitions(&Disk::new(&global.root))?).0)
}

/// The repository that was named, or that nsctl.toml names.
pub fn repository(word: Option<&str>, spec: &Spec) -> Result<Repository, Fault> {
    if let Some(word) = word {
        return argument(word);
    }
    let known = spec.host.backup.as_ref().map(|target| target.to.clone());
    known.ok_or_else(|| {
        Fault::wrong("it is not known where backups are").hint(
            "--to REPOSITORY, or --from, or in /etc/nsctl/nsctl.toml: [backup] to = \"sftp:USER@HOST:/PATH\"",
        )
    })
}

pub use crate::cli::session::this_host;

pub async fn list(global: &Global, name: Option<&str>, from: Option<&str>) -> Result<u8, Fault> {
    let only: Option<MachineName> = name.map(argument).transpose()?;
    if !is_live(global) {
        return Err(crate::cli::fault::live_only("backups are listed"));
    }
    let repository = repository(from, &spec(global)?)?;
    let store = Store::of(&Disk::new(&global.root), &repository)?;
    let all = store.backups(only.as_ref()).await?;
    if global.json {
        global.report.answer(&all)?;
        return Ok(0);
    }
    if all.is_empty() {
        let of = only.map_or(String::new(), |name| format!(" of {name}"));
        out!("no backups{of} at {}", text::sanitize(&repository.to_string()));
        return Ok(0);
    }
    let cells = all.iter().map(|one| {
        let why = if one.scheduled { "scheduled" } else { "" };
        vec![
            one.machine.to_string(),
            one.id.to_string(),
            moment(one.taken),
            text::sanitize(&one.host),
            why.to_owned(),
        ]
    });
    out!("{}", text::table(&["MACHINE", "ID", "TAKEN", "HOST", "WHY"], &cells.collect::<Vec<_>>()));
    Ok(0)
}

/// The backup that is meant: the latest of this host's, or of the only host that has some; or that with this id.
pub async fn find(
    store: &Store,
    repository: &Repository,
    name: &MachineName,
    id: Option<&BackupId>,
    host: Option<&str>,
) -> Result<Backup, Fault> {
    let mut all = store.backups(Some(name)).await?;
    let hosts: BTreeSet<String> = all.iter().map(|one| one.host.clone()).collect();
    let nothing = || {
        Fault::new(format!("there is no backup of '{name}' at {repository}"))
            .hint("`nsctl backup list` shows what there is")
    };
    if let Some(id) = id {
        all.retain(|one| one.id.begins_with(id));
        return match all.len() {
            1 => Ok(all.remove(0)),
            0 => Err(Fault::new(format!("'{name}' has no backup {id} at {repository}"))
                .hint(format!("`nsctl backup list {name}` shows them"))),
            _ => Err(Fault::new(format!("several backups of '{name}' begin with {}", id.as_str()))
                .hint("write more of it")),
        };
    }
    let own = this_host();
    let is_own = |one: &&Backup| one.on == own;
    // Two hosts of one name are two.
    let doubled = |host: &str| {
        let of_name = all.iter().filter(|one| one.host == host);
        of_name.map(|one| &one.on).collect::<BTreeSet<_>>().len() > 1
    };
    let host = match host {
        Some(host) => host.to_owned(),
        None if all.iter().any(|one| is_own(&one)) => {
            return all.iter().rfind(is_own).cloned().ok_or_else(nothing);
        }
        None if hosts.len() > 1 => {
            let hosts = joined(&hosts, ", ");
            return Err(Fault::new(format!("several hosts have a backup of '{name}': {hosts}"))
                .hint("--host HOST says which is meant"));
        }
        None => hosts.into_iter().next().ok_or_else(nothing)?,
    };
    if doubled(&host) {
        return Err(Fault::new(format!("several hosts named '{host}' have a backup of '{name}'"))
            .hint(format!("`nsctl backup list {name}` shows them: `nsctl restore {name} ID`")));
    }
    all.into_iter().rfind(|one| one.host == host).ok_or_else(nothing)
}

/// The profiles of this host, and those of a backup that are not here.
pub fn profiles_with(observed: &Observed, contents: &Contents) -> Profiles {
    let mut files = observed.files.clone();
    for (name, profile) in &contents.profiles {
        files.entry(profile_path(name)).or_insert_with(|| profile.text.clone());
    }
    files.retain(|path, _| path.parent() == Some(Path::new(PROFILES_DIR)));
    Profiles::read(&readable(&files))
}

/// What lies beside the tree of a backup.
pub async fn contents_of(store: &Store, backup: &Backup) -> Result<Contents, Fault> {
    let text = store.contents(&backup.id).await?;
    let contents = Contents::parse(&text).map(|mut contents| {
        // Only what its definition names, and as a profile is named here: it may come from anybody with the password.
        let named = profile_paths(&contents.record.definition);
        contents.profiles.retain(|name, _| named.contains(&profile_path(name)));
        contents
    });
    contents.ok_or_else(|| {
        Fault::new(format!("machine.toml in the backup {} cannot be read", backup.id))
            .hint("was it made by a later nsctl?")
    })
}
