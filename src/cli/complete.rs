//! What may stand where a name is asked for, for the shell: read from files alone, in no time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};

use crate::cli::Fault;
use crate::emit::SECRETS_DIR;
use crate::manual::entries;
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::usable_spec_of;
use crate::spec::{HOST_FILE, MACHINES_DIR, MachineSpec, PROFILES_DIR, Spec, definition_path};
use crate::state::{self, STATE_FILE};
use crate::sys::tree::Tree;
use crate::sys::{Disk, completed_words};

/// What a shell reads to ask nsctl itself for what may follow.
///
/// # Errors
/// For a shell that cannot do that.
pub fn script(shell: clap_complete::Shell) -> Result<String, Fault> {
    let shells = clap_complete::env::Shells::builtins();
    let name = shell.to_string();
    let completer =
        shells.completer(&name).ok_or_else(|| Fault::wrong(format!("{name} cannot be completed")))?;
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "nsctl", "nsctl", "nsctl", &mut script)?;
    // Else bash takes NAME:/path for three words.
    let colon =
        if shell == clap_complete::Shell::Bash { "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n" } else { "" };
    Ok(format!("{colon}{}", String::from_utf8_lossy(&script).trim()))
}

/// By which a shell says that it asks.
pub const VARIABLE: &str = "COMPLETE";

type Candidates = Vec<CompletionCandidate>;

fn all(words: impl IntoIterator<Item = String>) -> Candidates {
    words.into_iter().map(CompletionCandidate::new).collect()
}

fn disk() -> Disk {
    Disk::new(Path::new("/"))
}

/// nsctl's machines.
fn names() -> Vec<String> {
    let files = disk().names(Path::new(MACHINES_DIR)).unwrap_or_default();
    files.iter().filter_map(|file| Some(file.strip_suffix(".toml")?.to_owned())).collect()
}

/// What is in /var/lib/machines.
fn trees() -> Vec<String> {
    let files = disk().names(Path::new("/var/lib/machines")).unwrap_or_default();
    let shown = files.into_iter().filter(|name| !name.starts_with('.'));
    shown.map(|name| name.strip_suffix(".raw").map(str::to_owned).unwrap_or(name)).collect()
}

pub fn machines() -> ArgValueCandidates {
    ArgValueCandidates::new(|| all(names()))
}

/// Machines, those too that nsctl did not make.
pub fn any_machines() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let (mut all_names, trees) = (names(), trees());
        all_names.extend(trees.into_iter().filter(|tree| tree.parse::<MachineName>().is_ok()));
        all_names.sort();
        all_names.dedup();
        all(all_names)
    })
}

/// Images that are no machine's tree.
pub fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let machines = names();
        all(trees().into_iter().filter(|tree| !machines.contains(tree)))
    })
}

fn host() -> Spec {
    let text = disk().read(Path::new(HOST_FILE)).ok().flatten();
    let files = text.map(|text| (PathBuf::from(HOST_FILE), text)).into_iter().collect();
    usable_spec_of(&Observed { files, ..Observed::default() }).0
}

pub fn bridges() -> ArgValueCandidates {
    ArgValueCandidates::new(|| all(host().host.bridges.keys().map(ToString::to_string)))
}

pub fn profiles() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let files = disk().names(Path::new(PROFILES_DIR)).unwrap_or_default();
        all(files.iter().filter_map(|file| file.strip_suffix(".toml").map(str::to_owned)))
    })
}

/// The machine that the words before this one name.
fn machine_of_words() -> Option<MachineSpec> {
    let machines = names();
    let name = completed_words().into_iter().find(|word| machines.contains(word))?;
    let path = definition_path(&name.parse().ok()?);
    observe::profiles(&disk()).ok()?.machine(&path, &disk().read_definition(&path).ok()??).ok()
}

/// The snapshots of the machine that was named before.
pub fn snapshots() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let files = observe::snapshots(&disk()).unwrap_or_default();
        let known = Observed { files, ..Observed::default() }.snapshots();
        let words = completed_words();
        all(known
            .into_keys()
            .filter(|(name, _)| words.iter().any(|w| w == name.as_str()))
            .map(|(_, label)| label.to_string()))
    })
}

/// The secrets of the machine that was named before.
pub fn secrets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let machines = names();
        let Some(name) = completed_words().into_iter().find(|word| machines.contains(word)) else {
            return Candidates::new();
        };
        let named = machine_of_words().map(|machine| machine.secret).unwrap_or_default();
        let files = disk().names(Path::new(SECRETS_DIR)).unwrap_or_default();
        let there = files.iter().filter_map(|file| file.strip_suffix(".cred")?.split_once('@'));
        let there = there.filter(|(machine, _)| *machine == name).map(|(_, id)| id.to_owned());
        let both: BTreeSet<String> = named.iter().map(ToString::to_string).chain(there).collect();
        all(both)
    })
}

/// What is open on the machine that was named before.
pub fn open_ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let open = machine_of_words().map(|machine| machine.open).unwrap_or_default();
        all(open.iter().filter_map(|port| port.to_string().split_whitespace().next().map(str::to_owned)))
    })
}

/// What listens on the machine that was named before.
pub fn exposed_ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let exposed = machine_of_words().map(|machine| machine.expose).unwrap_or_default();
        all(exposed.iter().map(|expose| expose.port.to_string()))
    })
}

/// The pool, and the subnets of machines.
pub fn subnets() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let text = disk().read(Path::new(STATE_FILE)).ok().flatten();
        let leases = state::parse(text.as_deref()).map(|state| state.leases).unwrap_or_default();
        let pool = host().host.pool().map(|pool| pool.to_string());
        all(pool.into_iter().chain(leases.held().values().map(ToString::to_string)))
    })
}

/// Keys of nsctl's files.
pub fn keys() -> ArgValueCandidates {
    ArgValueCandidates::new(|| all(entries().iter().map(|entry| entry.key.to_owned())))
}

/// Files here, `NAME:`, and files of a machine's tree behind it.
pub fn ends() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| {
        let word = word.to_string_lossy();
        let Some((name, path)) = word.split_once(':').filter(|(name, _)| !name.contains('/')) else {
            let machines = names().into_iter().map(|name| format!("{name}:/"));
            let mut found = all(machines.filter(|end| end.starts_with(&*word)));
            found.extend(here(&word));
            return found;
        };
        all(within(name, path).into_iter().map(|path| format!("{name}:{path}")))
    })
}

fn folder_and_start(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |at| path.split_at(at + 1))
}

fn here(word: &str) -> Candidates {
    let (folder, start) = folder_and_start(word);
    let found = crate::sys::entries(Path::new(if folder.is_empty() { "." } else { folder }));
    let fitting = found.into_iter().filter(|(name, _)| name.starts_with(start));
    let paths =
        fitting.map(|(name, is_folder)| format!("{folder}{name}{}", if is_folder { "/" } else { "" }));
    all(paths.filter(|path| is_plain(path)))
}

/// What a machine's tree has; what is mounted in a machine that runs is not seen.
fn within(name: &str, path: &str) -> Vec<String> {
    let Some(tree) = name.parse::<MachineName>().ok().and_then(|name| Tree::of(name.as_str())) else {
        return Vec::new();
    };
    let (folder, start) = folder_and_start(path);
    let fitting = tree.entries(folder).into_iter().filter(|(name, _)| name.starts_with(start));
    let paths =
        fitting.map(|(name, is_folder)| format!("{folder}{name}{}", if is_folder { "/" } else { "" }));
    paths.filter(|path| is_plain(path)).collect()
}

/// What a shell would obey, or nobody see, is typed by hand: a shell puts it on the line as it is.
fn is_plain(path: &str) -> bool {
    path.chars().all(|c| c.is_alphanumeric() || "-_.+@,/".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_shell_obeys_is_proposed() {
        assert!(is_plain("./srv/world-1.20_b.tar") && is_plain("über/x"));
        for path in
            ["k$(touch x)", "a b", "`x`", "a;b", "a*", "~x", "a\\b", "a\u{202e}b", "'", "\"", "!x", "{a,b}"]
        {
            assert!(!is_plain(path), "{path}");
        }
    }
}
