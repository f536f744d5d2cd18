//! The state file: the leases, and what must outlive a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::emit::ini::Ini;
use crate::emit::{self, Origin, Owner};
use crate::name::MachineName;
use crate::pool::{Leases, Pool, Subnet};

/// What nsctl keeps for itself.
pub const STATE_DIR: &str = "/var/lib/nsctl";
/// Where the leases are kept.
pub const STATE_FILE: &str = "/var/lib/nsctl/state.toml";
/// The format that this nsctl writes.
const VERSION: u32 = 1;
const HEADER: &str = "# The leases of this host, kept by nsctl. Not for editing.\n";

/// Why a state file cannot be used. It is never overwritten then.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{STATE_FILE} is damaged: {0}")]
    Damaged(String),
    #[error("{STATE_FILE} has format {0}, which is newer than this nsctl knows ({VERSION})")]
    Newer(u32),
}

impl StateError {
    pub fn hint(&self) -> String {
        match self {
            StateError::Damaged(_) => {
                "`nsctl state rebuild` makes it anew from the rendered files, and keeps the damaged one beside it".into()
            }
            StateError::Newer(_) => "use the nsctl that wrote it, or a newer one".into(),
        }
    }
}

/// What nsctl remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub leases: Leases,
    /// Machines whose trees nsctl made, and may delete with them.
    pub trees: BTreeSet<MachineName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    resting: Vec<Subnet>,
    #[serde(default)]
    trees: BTreeSet<MachineName>,
    #[serde(default)]
    leases: BTreeMap<MachineName, Subnet>,
}

/// Reads the text of the state file; no file means no leases.
///
/// # Errors
/// When the file is damaged or of a newer format.
pub fn parse(text: Option<&str>) -> Result<State, StateError> {
    let Some(text) = text else { return Ok(State::default()) };
    let damaged = |e: toml::de::Error| StateError::Damaged(e.to_string().trim_end().to_owned());
    let table = toml::from_str::<toml::Table>(text).map_err(damaged)?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(1) => {}
        Some(other) if other > i64::from(VERSION) => {
            return Err(StateError::Newer(u32::try_from(other).unwrap_or(u32::MAX)));
        }
        _ => return Err(StateError::Damaged("it names no version that there ever was".into())),
    }
    let file: File = table.try_into().map_err(damaged)?;
    let leases = Leases::new(file.leases, file.resting)
        .map_err(|subnet| StateError::Damaged(format!("{subnet} stands in it twice")))?;
    Ok(State { leases, trees: file.trees })
}

/// The leases that rendered files show: a routed machine's own name its /64.
/// What rested is forgotten, and so is which trees are nsctl's to delete.
///
/// # Errors
/// When two files name one subnet.
pub fn rebuild(files: &BTreeMap<PathBuf, String>) -> Result<State, StateError> {
    let held = files.iter().filter_map(|(path, text)| {
        let Owner::Machine(name) = emit::owner_of(path) else { return None };
        let prefix = subnet_of(&Ini::parse(text))?;
        let ours = Origin::of(text) != Origin::Foreign;
        ours.then_some((name, prefix))
    });
    let leases = Leases::new(held.collect(), Vec::new())
        .map_err(|subnet| StateError::Damaged(format!("{subnet} stands in the files of two machines")))?;
    Ok(State { leases, trees: BTreeSet::new() })
}

/// The subnet that a rendered file is about, or its number in a delegated prefix.
fn subnet_of(ini: &Ini) -> Option<Subnet> {
    match ini.get("DHCPPrefixDelegation", "SubnetId") {
        None => ini.get("IPv6Prefix", "Prefix")?.parse().ok(),
        Some(number) => {
            Pool::delegated(32).ok()?.subnet(u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()?)
        }
    }
}

/// The text of the state file.
pub fn render(State { leases, trees }: &State) -> String {
    use std::fmt::Write;
    let mut text = format!("{HEADER}version = {VERSION}\ntrees = [");
    for name in trees {
        let _ = write!(text, "\n    \"{name}\",");
    }
    text.push_str(if trees.is_empty() { "]\nresting = [" } else { "\n]\nresting = [" });
    for subnet in leases.resting() {
        let _ = write!(text, "\n    \"{subnet}\",");
    }
    text.push_str(if leases.resting().is_empty() { "]\n\n[leases]\n" } else { "\n]\n\n[leases]\n" });
    for (name, subnet) in leases.held() {
        // Quoted: a machine's name may hold dots.
        let _ = writeln!(text, "\"{name}\" = \"{subnet}\"");
    }
    text
}

/// The state file's path, for messages.
pub fn path() -> &'static Path {
    Path::new(STATE_FILE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_and_newer_files_are_refused() {
        let fault = |text: &str| parse(Some(text)).unwrap_err();
        assert!(matches!(fault("version = 2\nmood = 3"), StateError::Newer(2)));
        for text in [
            "",
            "version = 0",
            "version = 1\nmood = 3",
            "versi",
            "\0",
            "version = 1\nresting = [\"2001:db8::/64\"]\n[leases]\na = \"2001:db8::/64\"\n",
            "version = 1\n[leases]\na = \"2001:db8::/48\"\n",
        ] {
            assert!(matches!(fault(text), StateError::Damaged(_)), "{text}");
        }
        assert!(parse(None).unwrap().leases.held().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            names in proptest::collection::btree_set("[a-z][a-z0-9.-]{0,20}[a-z]", 0..20),
            resting in proptest::collection::btree_set(100u64..200, 0..20),
        ) {
            let pool: crate::pool::Pool = "2001:db8::/32".parse().unwrap();
            let held = names.iter().filter_map(|name| name.parse().ok()).zip((1..).filter_map(|k| pool.subnet(k)));
            let rest = resting.into_iter().filter_map(|k| pool.subnet(k)).collect();
            let trees = names.iter().take(3).filter_map(|name| name.parse().ok()).collect();
            let state = State { leases: Leases::new(held.collect(), rest).unwrap(), trees };
            prop_assert_eq!(parse(Some(&render(&state))).unwrap(), state);
        }
    }
}
