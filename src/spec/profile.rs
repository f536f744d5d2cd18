//! profiles.d/NAME.toml: settings that several machines share. A definition names its profiles, and what they say
//! comes before what it says itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Definitions, MachineSpec, NO_TEXT, Problem, is_torn};

/// The folder of profiles, one file each.
pub const PROFILES_DIR: &str = "/etc/nsctl/profiles.d";
/// What a definition names them by.
const KEY: &str = "profile";
/// What a profile may leave to definitions, and a definition to profiles.
const SOME_NETWORK: &str = "\n[network]\nmode = \"routed\"\n";

/// Where a profile is kept.
pub fn profile_path(name: &str) -> PathBuf {
    Path::new(PROFILES_DIR).join(format!("{name}.toml"))
}

/// Those that a definition names.
pub fn profile_paths(definition: &str) -> Vec<PathBuf> {
    // Most name none, and are not parsed for it.
    if !definition.contains(KEY) {
        return Vec::new();
    }
    let own: Table = toml::from_str(definition).unwrap_or_default();
    names(&own).unwrap_or_default().iter().map(|name| profile_path(name)).collect()
}

/// All profiles of a host, by name; or what is wrong with one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profiles(BTreeMap<String, Result<Table, Vec<Problem>>>);

impl Profiles {
    /// Those among the texts of a host's files.
    pub fn read(texts: &Definitions) -> Profiles {
        let mine = texts.iter().filter(|(path, _)| path.parent() == Some(Path::new(PROFILES_DIR)));
        let all = mine.filter_map(|(path, text)| {
            let name = path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned();
            Some((name, profile(path, text)))
        });
        Profiles(all.collect())
    }

    /// What is wrong with any.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.0.values().filter_map(|profile| profile.as_ref().err()).flatten()
    }

    /// A definition together with what its profiles say.
    ///
    /// # Errors
    /// All that is wrong in it, or in them.
    pub fn machine(&self, path: &Path, text: &str) -> Result<MachineSpec, Vec<Problem>> {
        let own: Table = match toml::from_str(text) {
            Ok(own) => own,
            Err(_) => return MachineSpec::parse(path, text),
        };
        if !own.contains_key(KEY) {
            return MachineSpec::parse(path, text);
        }
        let shared = self.shared(path, text, &own)?;
        // What is wrong in the definition itself is shown there, with its line.
        alone(path, text, &own)?;
        let merged = merged(&shared, &own);
        let machine = MachineSpec::deserialize(Value::Table(merged))
            .map_err(|error| vec![Problem::at_value(path, text, KEY, with_profiles(error.message()))])?;
        let faults = machine.faults();
        if faults.is_empty() {
            return Ok(machine);
        }
        Err(faults.iter().map(|fault| Problem::at_value(path, text, KEY, with_profiles(fault))).collect())
    }

    /// What some profiles say together; those that cannot be used say nothing.
    pub fn of(&self, names: &[String]) -> Table {
        let usable = names.iter().filter_map(|name| self.0.get(name)?.as_ref().ok());
        usable.fold(Table::new(), |shared, table| merged(&shared, table))
    }

    /// Whether a profile says something of this key.
    pub fn says(&self, name: &str, key: &str) -> bool {
        self.0
            .get(name)
            .and_then(|profile| profile.as_ref().ok())
            .is_some_and(|table| table.contains_key(key))
    }

    /// Where each setting of a definition comes from, the last word first.
    pub fn layers<'p>(&'p self, text: &str) -> Vec<(PathBuf, &'p Table)> {
        let own: Table = toml::from_str(text).unwrap_or_default();
        let named = names(&own).unwrap_or_default();
        let layers = named.iter().rev().filter_map(|name| {
            let table = self.0.get(name)?.as_ref().ok()?;
            Some((profile_path(name), table))
        });
        layers.collect()
    }

    fn shared(&self, path: &Path, text: &str, own: &Table) -> Result<Table, Vec<Problem>> {
        let wrong = |message: String| vec![Problem::at_value(path, text, KEY, message)];
        let names = names(own).ok_or_else(|| wrong("profile: it is a list of names".to_owned()))?;
        let mut shared = Table::new();
        for name in names {
            match self.0.get(&name) {
                Some(Ok(table)) => shared = merged(&shared, table),
                Some(Err(problems)) => return Err(problems.clone()),
                None => {
                    let place = profile_path(&name);
                    return Err(wrong(format!(
                        "there is no profile {name:?}: {} is missing",
                        place.display()
                    )));
                }
            }
        }
        Ok(shared)
    }
}

fn with_profiles(message: &str) -> String {
    format!("with its profiles: {message}")
}

/// None where they are no list of names.
fn names(own: &Table) -> Option<Vec<String>> {
    let Some(named) = own.get(KEY) else { return Some(Vec::new()) };
    let is_name = |name: &&str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    named.as_array()?.iter().map(|name| name.as_str().filter(is_name).map(str::to_owned)).collect()
}

/// Reads one profile.
fn profile(path: &Path, text: &Result<String, String>) -> Result<Table, Vec<Problem>> {
    let text = match text {
        Ok(text) if is_torn(text) => return Err(vec![Problem::whole(path, NO_TEXT)]),
        Ok(text) => text,
        Err(why) => return Err(vec![Problem::whole(path, why)]),
    };
    let table: Table =
        toml::from_str(text).map_err(|error| vec![Problem::at(path, text, error.span(), error.message())])?;
    if table.contains_key(KEY) {
        return Err(vec![Problem::at_value(path, text, KEY, "a profile has no profiles of its own")]);
    }
    alone(path, text, &table)?;
    Ok(table)
}

/// Whether a file that leaves something to others makes sense by itself, as far as it goes.
fn alone(path: &Path, text: &str, table: &Table) -> Result<(), Vec<Problem>> {
    let network = table.get("network").and_then(Value::as_table);
    let whole = match network {
        None => format!("{text}{SOME_NETWORK}"),
        Some(network) if network.contains_key("mode") => text.to_owned(),
        // Half a network says nothing without the other half.
        Some(_) => return Ok(()),
    };
    match toml::from_str::<MachineSpec>(&whole) {
        Ok(_) => Ok(()),
        Err(_) if network.is_some() => MachineSpec::parse(path, text).map(drop),
        Err(error) => Err(vec![Problem::at(path, text, error.span(), error.message())]),
    }
}

/// Tables key by key; lists one behind the other, each entry once; of all else, what comes later.
pub fn merged(first: &Table, then: &Table) -> Table {
    let mut all = first.clone();
    for (key, value) in then {
        let value = match (all.get(key), value) {
            (Some(Value::Table(first)), Value::Table(then)) => Value::Table(merged(first, then)),
            (Some(Value::Array(first)), Value::Array(then)) if key != KEY => {
                let news = then.iter().filter(|entry| !first.contains(entry));
                Value::Array(first.iter().chain(news).cloned().collect())
            }
            (_, value) => value.clone(),
        };
        all.insert(key.clone(), value);
    }
    all
}

/// What is left of a definition where what its profiles say is taken away: entries of lists.
pub fn without(whole: &Table, base: &Table) -> Table {
    let mut own = whole.clone();
    for (key, shared) in base {
        match (own.get_mut(key), shared) {
            (Some(Value::Table(table)), Value::Table(shared)) => *table = without(table, shared),
            (Some(Value::Array(list)), Value::Array(shared)) => list.retain(|entry| !shared.contains(entry)),
            _ => {}
        }
        if own.get(key).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            own.remove(key);
        }
    }
    own
}

/// The same, without all else that profiles say alike.
pub fn unlike(whole: &Table, base: &Table) -> Table {
    let own = without(whole, base);
    let own = own.into_iter().filter_map(|(key, value)| match (value, base.get(&key)) {
        (Value::Table(own), Some(Value::Table(base))) => {
            let own = unlike(&own, base);
            (!own.is_empty()).then_some((key, Value::Table(own)))
        }
        (value, base) => (Some(&value) != base).then_some((key, value)),
    });
    own.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(profiles: &[(&str, &str)]) -> Profiles {
        let texts = profiles.iter().map(|(name, text)| (profile_path(name), Ok((*text).to_owned())));
        Profiles::read(&texts.collect())
    }

    fn read(profiles: &Profiles, text: &str) -> Result<MachineSpec, String> {
        let problems = |problems: Vec<Problem>| crate::visible::joined(problems, "\n");
        profiles.machine(Path::new("/etc/nsctl/machines.d/web.toml"), text).map_err(problems)
    }

    #[test]
    fn what_a_definition_says_comes_last() {
        let profiles = host(&[
            (
                "web",
                "open = [\"tcp/80\", \"tcp/443\"]\n[limits]\nmemory = \"1G\"\ntasks = 100\n[network]\nmode = \"routed\"\n",
            ),
            ("big", "[limits]\nmemory = \"8G\"\n[environment]\nA = \"1\"\n"),
        ]);
        let text = "profile = [\"web\", \"big\"]\nopen = [\"tcp/22\", \"tcp/80\"]\n[limits]\ntasks = 7\n";
        let machine = read(&profiles, text).unwrap();
        let open: Vec<String> = machine.open.iter().map(ToString::to_string).collect();
        assert_eq!(open, ["tcp/80", "tcp/443", "tcp/22"]);
        assert_eq!((machine.limits.memory.as_deref(), machine.limits.tasks), (Some("8G"), Some(7)));
        assert_eq!(machine.environment["A"], "1");
        assert!(machine.network.routed().is_some());
        let layers: Vec<String> =
            profiles.layers(text).iter().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(layers, ["/etc/nsctl/profiles.d/big.toml", "/etc/nsctl/profiles.d/web.toml"]);
    }

    #[test]
    fn each_fault_is_shown_where_it_is() {
        let profiles = host(&[
            ("bad", "opne = [\"tcp/80\"]\n"),
            ("torn", "[limits\n"),
            ("nested", "profile = [\"bad\"]\n"),
            ("lan", "[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n"),
            ("open", "open = [\"tcp/80\"]\n"),
        ]);
        let mut told = String::new();
        for names in [
            "\"bad\"",
            "\"torn\"",
            "\"nested\"",
            "\"none\"",
            "\"../x\"",
            "7",
            "\"lan\", \"open\"",
            "\"open\"",
        ] {
            told +=
                &format!("{names}:\n{}\n\n", read(&profiles, &format!("profile = [{names}]\n")).unwrap_err());
        }
        let own = "profile = [\"open\"]\n[network]\nmode = \"routed\"\n[limits]\nmemry = \"1G\"\n";
        told += &read(&profiles, own).unwrap_err();
        insta::assert_snapshot!(told);
        assert_eq!(profiles.problems().count(), 3);
    }

    #[test]
    fn what_profiles_say_is_not_written_into_definitions() {
        let table = |text: &str| toml::from_str::<Table>(text).unwrap();
        let base = table("open = [\"tcp/80\"]\n[limits]\ntasks = 1\n[nspawn.Files]\nBind = [\"/a\"]\n");
        let own = table("open = [\"tcp/22\"]\n[limits]\ntasks = 2\n[nspawn.Files]\nBind = [\"/b\"]\n");
        assert_eq!(without(&merged(&base, &own), &base), own);
        assert_eq!(without(&merged(&base, &Table::new()), &base).get("open"), None);
    }
}
