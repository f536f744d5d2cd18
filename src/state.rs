//! The state file: the leases, and what must outlive a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::emit::ini::Ini;
use crate::emit::{ManagedFile, Origin};
use crate::hint::Hint;
use crate::name::MachineName;
use crate::pool::{Lease, Leases, Resting, Subnet};

/// What nsctl keeps for itself.
pub const STATE_DIR: &str = "/var/lib/nsctl";
/// Where the leases are kept.
pub const STATE_FILE: &str = "/var/lib/nsctl/state.toml";
/// The format that this nsctl writes.
const VERSION: u32 = 3;
const HEADER: &str = "# The leases of this host, kept by nsctl. Not for editing.\n";

/// Why a state file cannot be used. It is never overwritten then.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{STATE_FILE} is damaged: {0}")]
    Damaged(String),
    #[error("{STATE_FILE} has format {0}, which is newer than this nsctl knows ({VERSION})")]
    Newer(u32),
}

impl Hint for StateError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            StateError::Damaged(_) => {
                "`nsctl state rebuild` makes it anew from the rendered files, and keeps the damaged one beside it".into()
            }
            StateError::Newer(_) => "use the nsctl that wrote it, or a newer one".into(),
        })
    }
}

/// What nsctl remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub leases: Leases,
    /// Machines whose trees an nsctl before this one made: it wrote down their names alone.
    pub unclaimed: BTreeSet<MachineName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    resting: Vec<Rested>,
    /// Of format 1.
    #[serde(default)]
    trees: BTreeSet<MachineName>,
    #[serde(default)]
    leases: BTreeMap<MachineName, Lease>,
}

/// In format 1 the subnet alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Rested {
    Alone(Lease),
    Held { subnet: Lease, machine: MachineName },
}

/// Reads the text of the state file; no file means no leases.
///
/// # Errors
/// When the file is damaged or of a newer format.
pub fn parse(text: Option<&str>) -> Result<State, StateError> {
    let Some(text) = text else { return Ok(State::default()) };
    let file = match toml::from_str::<File>(text) {
        Ok(file) if (1..=VERSION).contains(&file.version) => file,
        _ => fault(text)?,
    };
    let resting = file.resting.into_iter().map(|rested| match rested {
        Rested::Alone(lease) => Resting { lease, machine: None },
        Rested::Held { subnet, machine } => Resting { lease: subnet, machine: Some(machine) },
    });
    let leases = Leases::new(file.leases, resting.collect())
        .map_err(|lease| StateError::Damaged(format!("{lease} stands in it twice")))?;
    Ok(State { leases, unclaimed: file.trees })
}

/// Why that is no state file that this nsctl knows: of a newer one nothing but its version may be known.
fn fault(text: &str) -> Result<File, StateError> {
    let damaged = |e: toml::de::Error| StateError::Damaged(e.to_string().trim_end().to_owned());
    let table = toml::from_str::<toml::Table>(text).map_err(damaged)?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(1..=3) => {}
        Some(other) if other > i64::from(VERSION) => {
            return Err(StateError::Newer(u32::try_from(other).unwrap_or(u32::MAX)));
        }
        _ => return Err(StateError::Damaged("it names no version that there ever was".into())),
    }
    table.try_into().map_err(damaged)
}

/// The leases that rendered files show: a routed machine's own name its /64.
/// What rested is forgotten.
///
/// # Errors
/// When two files name one subnet.
pub fn rebuild(files: &BTreeMap<PathBuf, String>) -> Result<State, StateError> {
    let held = files.iter().filter_map(|(path, text)| {
        let Some(ManagedFile::HostEnd(name)) = ManagedFile::parse(path) else { return None };
        let lease = lease_of(&Ini::parse(text))?;
        let ours = Origin::of(text) != Origin::Foreign;
        ours.then_some((name, lease))
    });
    let leases = Leases::new(held.collect(), Vec::new())
        .map_err(|lease| StateError::Damaged(format!("{lease} stands in the files of two machines")))?;
    Ok(State { leases, unclaimed: BTreeSet::new() })
}

/// The subnet or the address that a rendered file is about, or its number in a delegated prefix.
fn lease_of(ini: &Ini) -> Option<Lease> {
    match ini.get("DHCPPrefixDelegation", "SubnetId") {
        None => {
            let mut routes = ini.values("Route", "Destination").filter_map(|route| route.parse().ok());
            match ini.get("IPv6Prefix", "Prefix").and_then(|prefix| prefix.parse::<Lease>().ok()) {
                // Where this host has no address of the link, the machine has more than that.
                Some(link) if !has_address_of(ini, link) => routes
                    .find(|route: &Lease| route.overlaps(link) && route.subnet().is_some())
                    .or(Some(link)),
                Some(link) => Some(link),
                None => routes.next(),
            }
        }
        Some(number) => u32::from_str_radix(number.strip_prefix("0x")?, 16).ok().map(Lease::Number),
    }
}

fn has_address_of(ini: &Ini, link: Lease) -> bool {
    let own = link.subnet().map(|link| format!("{}/64", link.host_end()));
    let mut settings = ini.sections().flat_map(|(_, settings)| settings);
    settings.any(|(key, value)| key == "Address" && Some(value) == own.as_ref())
}

/// The lowest format that says all of it: 3 has leases that are no /64.
fn version(leases: &Leases) -> u32 {
    let mut all = leases.held().values().chain(leases.resting().iter().map(|rested| &rested.lease));
    let is_new = |lease: &Lease| lease.number().is_none() && lease.subnet().is_none_or(Subnet::is_wide);
    if all.any(is_new) { VERSION } else { 2 }
}

/// The text of the state file.
pub fn render(leases: &Leases) -> String {
    use std::fmt::Write;
    let mut text = format!("{HEADER}version = {}\nresting = [", version(leases));
    for Resting { lease, machine } in leases.resting() {
        let subnet = String::from(*lease);
        let _ = match machine {
            None => write!(text, "\n    \"{subnet}\","),
            Some(name) => write!(text, "\n    {{ subnet = \"{subnet}\", machine = \"{name}\" }},"),
        };
    }
    text.push_str(if leases.resting().is_empty() { "]\n\n[leases]\n" } else { "\n]\n\n[leases]\n" });
    for (name, lease) in leases.held() {
        // Quoted: a machine's name may hold dots.
        let _ = writeln!(text, "\"{name}\" = \"{}\"", String::from(*lease));
    }
    text
}

/// A state file without what a command wrote into it that is taken back, whatever others have
/// written since; none where it cannot be read. What was there before may be no file at all.
pub fn take_back(current: Option<&str>, written: Option<&str>, before: Option<&str>) -> Option<String> {
    let read = |text| parse(text).ok().map(|state| state.leases);
    Some(render(&read(current)?.take_back(&read(written)?, &read(before)?)))
}

/// The state file's path, for messages.
pub fn path() -> &'static Path {
    Path::new(STATE_FILE)
}

#[cfg(test)]
mod tests {
    use crate::pool::Pool;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn damaged_and_newer_files_are_refused() {
        let fault = |text: &str| parse(Some(text)).unwrap_err();
        assert!(matches!(fault("version = 4\nmood = 3"), StateError::Newer(4)));
        for text in [
            "",
            "version = 0",
            "version = 1\nmood = 3",
            "versi",
            "\0",
            "version = 1\nresting = [\"2001:db8::/64\"]\n[leases]\na = \"2001:db8::/64\"\n",
            "version = 1\n[leases]\na = \"2001:db8::/7\"\n",
        ] {
            assert!(matches!(fault(text), StateError::Damaged(_)), "{text}");
        }
        assert!(parse(None).unwrap().leases.held().is_empty());
    }

    #[test]
    fn a_lease_that_is_no_64_is_of_a_newer_format() {
        let text = |lease: &str| {
            let held = BTreeMap::from([("web".parse().unwrap(), lease.parse().unwrap())]);
            render(&Leases::new(held, Vec::new()).unwrap())
        };
        assert!(text("2001:db8:0:1::/64").contains("version = 2\n"));
        for lease in ["2001:db8:0:10::/60", "2001:db8::100/128"] {
            let text = text(lease);
            assert!(text.contains("version = 3\n"), "{text}");
            assert_eq!(render(&parse(Some(&text)).unwrap().leases), text);
        }
    }

    #[test]
    fn format_1_is_read() {
        let text = "version = 1\ntrees = [\"web\"]\nresting = [\"2001:db8::/64\"]\n[leases]\nweb = \"2001:db8:0:1::/64\"\n";
        let state = parse(Some(text)).unwrap();
        assert_eq!(state.unclaimed.len(), 1);
        assert_eq!(state.leases.resting().len(), 1);
        assert_eq!(parse(Some(&render(&state.leases))).unwrap().leases, state.leases);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            names in proptest::collection::btree_set("[a-z][a-z0-9.-]{0,20}[a-z]", 0..20),
            resting in proptest::collection::btree_set(100u64..200, 0..20),
        ) {
            let pool = Pool::Fixed("2001:db8::/32".parse().unwrap());
            let held = names.iter().filter_map(|name| name.parse().ok()).zip((1..).filter_map(|k| pool.lease(k)));
            let rest = resting.into_iter().filter_map(|k| pool.lease(k));
            let rest = rest.zip([None, "web".parse().ok()].into_iter().cycle());
            let rest = rest.map(|(lease, machine)| Resting { lease, machine }).collect();
            let leases = Leases::new(held.collect(), rest).unwrap();
            prop_assert_eq!(parse(Some(&render(&leases))).unwrap().leases, leases);
        }
    }
}
