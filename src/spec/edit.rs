//! Changes to the user's own files that keep their comments and their order.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml_edit::{Array, DocumentMut, Item, Key, Table, TableLike, TomlError, Value, value};

use super::profile::{unlike, without};
use super::{Expose, HostSpec, MachineSpec, OpenPort};
use crate::hint::Hint;

/// A definition, or nsctl.toml, from nothing.
///
/// # Errors
/// When the value cannot be written as TOML.
pub fn fresh(value: &impl Serialize) -> Result<String, EditError> {
    Ok(toml::to_string(value)?)
}

/// A definition that does not repeat what its profiles say.
///
/// # Errors
/// When the value cannot be written as TOML.
pub fn fresh_beside(machine: &MachineSpec, base: &toml::Table) -> Result<String, EditError> {
    if base.is_empty() {
        return fresh(machine);
    }
    fresh(&unlike(&toml::Table::try_from(machine)?, base))
}

/// A definition as it is after it was edited: what did not change stays as its user wrote it, and what lists of its
/// profiles have is not written into its own.
///
/// # Errors
/// When the text is no TOML.
pub fn definition(
    text: &str,
    old: &MachineSpec,
    new: &MachineSpec,
    base: &toml::Table,
) -> Result<String, EditError> {
    let own = |machine: &MachineSpec| -> Result<MachineSpec, EditError> {
        if base.is_empty() {
            return Ok(machine.clone());
        }
        Ok(MachineSpec::deserialize(toml::Value::Table(without(&toml::Table::try_from(machine)?, base)))?)
    };
    let (old, new) = (&own(old)?, &own(new)?);
    let mut document = changed(text, old, new)?;
    // Lists of which one entry comes or goes; the others keep their comments.
    let was = DocumentMut::from_str(text)?;
    if old.open != new.open {
        restore(&mut document, &was, "open");
        put_open(&mut document, &new.open);
    }
    if old.expose != new.expose {
        restore(&mut document, &was, "expose");
        put_expose(&mut document, &new.expose)?;
    }
    Ok(document.to_string())
}

/// A definition in which one key is otherwise: a dotted path, and a value of TOML, or a plain word for a
/// text; an empty one takes the key away.
///
/// # Errors
/// When the text is no TOML, the key none, or what it leads through is no table.
pub fn set(text: &str, key: &str, word: &str) -> Result<String, EditError> {
    let mut document = DocumentMut::from_str(text)?;
    let path = Key::parse(key).map_err(|error| EditError::Key(key.to_owned(), error.to_string()))?;
    let Some((last, tables)) = path.split_last() else { return Ok(document.to_string()) };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for part in tables {
        if word.is_empty() && table.get(part.get()).is_none() {
            return Ok(text.to_owned());
        }
        let next = table.entry(part.get()).or_insert_with(|| Item::Table(Table::new()));
        table = next.as_table_like_mut().ok_or_else(|| EditError::NoTable(part.get().to_owned()))?;
    }
    if word.is_empty() {
        table.remove(last.get());
        prune(document.as_table_mut(), tables);
        return Ok(document.to_string());
    }
    let mut after = word.parse::<Value>().unwrap_or_else(|_| Value::from(word));
    // What stands behind it on its line stays.
    if let Some(before) = table.get(last.get()).and_then(Item::as_value) {
        *after.decor_mut() = before.decor().clone();
    }
    table.insert(last.get(), Item::Value(after));
    Ok(document.to_string())
}

/// Takes away the tables on a path that hold nothing any more.
fn prune(table: &mut dyn TableLike, path: &[Key]) {
    let Some((first, rest)) = path.split_first() else { return };
    let Some(inner) = table.get_mut(first.get()).and_then(Item::as_table_like_mut) else { return };
    prune(inner, rest);
    if inner.is_empty() {
        table.remove(first.get());
    }
}

/// nsctl.toml, likewise.
///
/// # Errors
/// When the text is no TOML.
pub fn host(text: &str, old: &HostSpec, new: &HostSpec) -> Result<String, EditError> {
    Ok(changed(text, old, new)?.to_string())
}

/// What cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    Text(#[from] TomlError),
    #[error(transparent)]
    Value(#[from] toml::ser::Error),
    #[error(transparent)]
    Read(#[from] toml::de::Error),
    #[error("'{0}' is no key: {1}")]
    Key(String, String),
    #[error("'{0}' is no table, and has no settings of its own")]
    NoTable(String),
}

impl Hint for EditError {
    fn hint(&self) -> Option<String> {
        match self {
            EditError::Key(..) | EditError::NoTable(_) => {
                Some("keys are written as in nsctl-machine(5): limits.memory, network.token".into())
            }
            EditError::Text(_) | EditError::Value(_) | EditError::Read(_) => None,
        }
    }
}

fn changed(text: &str, old: &impl Serialize, new: &impl Serialize) -> Result<DocumentMut, EditError> {
    let mut document = DocumentMut::from_str(text)?;
    let written = DocumentMut::from_str(&fresh(new)?)?;
    let (old, new) = (toml::Table::try_from(old)?, toml::Table::try_from(new)?);
    merge(document.as_table_mut(), &old, &new, written.as_table());
    Ok(document)
}

/// Brings a change of one table into another, which has comments and an order of its own; `written`
/// is the new one as it would be written.
fn merge(table: &mut dyn TableLike, old: &toml::Table, new: &toml::Table, written: &dyn TableLike) {
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        table.remove(key);
    }
    for (key, after) in new.iter().filter(|(key, after)| old.get(*key) != Some(*after)) {
        let Some(item) = written.get(key) else { continue };
        let there = table.get_mut(key).and_then(Item::as_table_like_mut);
        let before = old.get(key).and_then(toml::Value::as_table);
        if let (Some(there), Some(before), Some(after), Some(item)) =
            (there, before, after.as_table(), item.as_table_like())
        {
            merge(there, before, after, item);
            continue;
        }
        let mut item = item.clone();
        if let (Some(Item::Value(was)), Item::Value(value)) = (table.get(key), &mut item) {
            *value.decor_mut() = was.decor().clone();
        }
        // The key keeps its comments.
        match table.get_mut(key) {
            Some(there) => *there = item,
            None => _ = table.insert(key, item),
        }
    }
}

/// Makes an entry what it is there.
fn restore(table: &mut Table, there: &Table, key: &str) {
    match there.get(key) {
        Some(item) => table[key] = item.clone(),
        None => _ = table.remove(key),
    }
}

/// Entries that stay keep their comments.
fn put_expose(document: &mut DocumentMut, expose: &[Expose]) -> Result<(), EditError> {
    let mut tables = match document.remove("expose").map(Item::into_array_of_tables) {
        Some(Ok(tables)) => tables,
        _ => toml_edit::ArrayOfTables::new(),
    };
    let port_of = |table: &Table| table.get("port")?.as_str()?.parse::<OpenPort>().ok();
    tables.retain(|table| expose.iter().any(|entry| port_of(table) == Some(entry.port)));
    for entry in expose {
        let fresh = DocumentMut::from_str(&fresh(entry)?)?.as_table().clone();
        let place = tables.iter().position(|table| port_of(table) == Some(entry.port));
        match place.and_then(|place| tables.get_mut(place)) {
            Some(table) => ["to", "host"].into_iter().for_each(|key| restore(table, &fresh, key)),
            None => tables.push(fresh),
        }
    }
    if !tables.is_empty() {
        document["expose"] = Item::ArrayOfTables(tables);
    }
    Ok(())
}

/// Ports that stay keep their place and their comments.
fn put_open(document: &mut DocumentMut, open: &[OpenPort]) {
    if open.is_empty() {
        document.remove("open");
        return;
    }
    let item = document.entry("open").or_insert_with(|| value(Array::new()));
    let Some(array) = item.as_array_mut() else { return };
    let parse = |item: &toml_edit::Value| item.as_str().and_then(|text| text.parse::<OpenPort>().ok());
    for index in (0..array.len()).rev() {
        let stays = array.get(index).and_then(parse).is_some_and(|port| open.contains(&port));
        if !stays {
            cut(array, index);
        }
    }
    for port in open {
        if !array.iter().any(|item| parse(item).as_ref() == Some(port)) {
            append(array, &port.to_string());
        }
    }
}

/// The text before an element, or before the closing bracket: it begins with the
/// comment on the line of the element before.
fn before(array: &Array, index: usize) -> String {
    let prefix = array.get(index).map_or(Some(array.trailing()), |item| item.decor().prefix());
    prefix.and_then(|raw| raw.as_str()).unwrap_or_default().to_owned()
}

fn set_before(array: &mut Array, index: usize, text: String) {
    match array.get_mut(index) {
        Some(item) => item.decor_mut().set_prefix(text),
        None => array.set_trailing(text),
    }
}

/// Takes an element out, with the comments that are its own.
fn cut(array: &mut Array, index: usize) {
    let (own, next) = (before(array, index), before(array, index + 1));
    array.remove(index);
    if let (Some((kept, _)), Some((_, rest))) = (own.split_once('\n'), next.split_once('\n')) {
        set_before(array, index, format!("{kept}\n{rest}"));
    }
}

/// Adds an element, on a line of its own where the others are.
fn append(array: &mut Array, text: &str) {
    let end = array.len();
    let (first, last) = (before(array, 0), before(array, end));
    array.push(text);
    if let (Some((_, indent)), Some((kept, rest))) = (first.rsplit_once('\n'), last.split_once('\n')) {
        set_before(array, end, format!("{kept}\n{indent}"));
        set_before(array, end + 1, format!("\n{rest}"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::{BridgePort, Ipv4, Network, Routed, Sections, Values};

    fn edited(text: &str, edit: impl FnOnce(&mut MachineSpec)) -> String {
        let old = MachineSpec::parse(Path::new("x.toml"), text).unwrap();
        let mut new = old.clone();
        edit(&mut new);
        let text = definition(text, &old, &new, &toml::Table::new()).unwrap();
        assert_eq!(MachineSpec::parse(Path::new("x.toml"), &text).unwrap(), new, "{text}");
        text
    }

    #[test]
    fn comments_and_order_are_kept() {
        let text = "# my server\nimage = \"debian-13\" # stable\n\n[network] # here\nmode = \"routed\" # yes\nsubnet = \"2001:db8:a:7::/64\"\n\n[nspawn.Files]\nBind = [\"/srv\"]\n";
        let moved = edited(text, |machine| {
            _ = machine.bridge(BridgePort { bridge: "vbr0".parse().unwrap(), vlan: None })
        });
        insta::assert_snapshot!(moved);
    }

    #[test]
    fn what_does_not_change_stays_as_it_was_written() {
        let text = "autostart   = true # always\nfirewall=true\nipv4 = 'none'\n[network]\nmode = 'routed'\n[limits]\nmemory = \"2G\" # enough\n";
        let described = edited(text, |machine| machine.description = Some("mine".into()));
        assert_eq!(
            described,
            format!(
                "autostart   = true # always\nfirewall=true\nipv4 = 'none'\ndescription = \"mine\"\n{}",
                &text[text.find("[network]").unwrap()..]
            )
        );
        let more = edited(text, |machine| machine.limits.memory = Some("3G".into()));
        assert_eq!(more, text.replace("2G", "3G"));
    }

    #[test]
    fn one_key_is_set_and_taken_away() {
        let text = "image = \"debian-13\" # stable\n[network]\nmode = \"routed\"\n";
        let more = set(text, "limits.memory", "2G").unwrap();
        assert_eq!(more, format!("{text}\n[limits]\nmemory = \"2G\"\n"));
        assert_eq!(set(&more, "limits.memory", "").unwrap(), text);
        assert_eq!(set(text, "limits.memory", "").unwrap(), text);
        assert_eq!(set(text, "image", "x").unwrap(), text.replace("debian-13", "x"));
        let listed = set(text, "open", "[\"tcp/22\"]").unwrap();
        assert!(listed.contains("open = [\"tcp/22\"]\n[network]"), "{listed}");
        assert!(
            set(text, "nspawn.Exec.Hostname", "mc").unwrap().contains("[nspawn.Exec]\nHostname = \"mc\"")
        );
        for key in ["", "a b", "image.x", "limits..memory"] {
            assert!(set(text, key, "1").is_err(), "{key}");
        }
    }

    #[test]
    fn what_stands_deep_inside_changes() {
        let text = "[network]\nmode = \"routed\"\n[nspawn.Exec]\nCapability = \"all\"\nKillSignal = \"SIGUSR2\" # busybox\n";
        let less = edited(text, |machine| _ = machine.nspawn.get_mut("Exec").unwrap().remove("Capability"));
        assert_eq!(less, text.replace("Capability = \"all\"\n", ""));
        let inline = "nspawn = { Exec = { Capability = \"all\", Boot = true } }\nnetwork.mode = \"routed\"\n";
        edited(inline, |machine| _ = machine.nspawn.get_mut("Exec").unwrap().remove("Capability"));
        edited(inline, |machine| {
            _ = machine.bridge(BridgePort { bridge: "vbr0".parse().unwrap(), vlan: None })
        });
    }

    #[test]
    fn ports_keep_their_comments() {
        let text =
            "# mine\nopen = [\n    \"tcp/22\", # me\n    \"tcp/80\",\n]\n[network]\nmode = \"routed\"\n";
        let set = |text: &str, open: &[&str]| {
            edited(text, |machine| machine.open = open.iter().map(|port| port.parse().unwrap()).collect())
        };
        let opened = set(text, &["tcp/22", "udp/53"]);
        assert!(
            opened.contains("\"tcp/22\", # me") && opened.contains("udp/53") && !opened.contains("tcp/80"),
            "{opened}"
        );
        let fresh = set("[network]\nmode = \"routed\"\n", &["tcp/22"]);
        assert_eq!(fresh, "open = [\"tcp/22\"]\n[network]\nmode = \"routed\"\n");
        assert_eq!(set(&fresh, &[]), "[network]\nmode = \"routed\"\n");
    }

    #[test]
    fn exposed_ports_come_and_go() {
        let text = "[network]\nmode = \"routed\"\n";
        let mut entry =
            Expose { port: "tcp/80".parse().unwrap(), to: "127.0.0.1:80".parse().ok(), host: Some(8080) };
        let set = |text: &str, expose: &[Expose]| edited(text, |machine| machine.expose = expose.to_vec());
        let both = set(text, std::slice::from_ref(&entry));
        entry.host = None;
        let one = set(&both, std::slice::from_ref(&entry));
        assert!(!one.contains("host") && one.contains("127.0.0.1:80"), "{one}");
        assert_eq!(set(&one, &[]), text);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut machine = MachineSpec::new(Network::Routed(Routed {
            prefix: Some(64),
            routes: vec!["2001:db8:c::/56".parse().unwrap()],
            subnet: Some("2001:db8:a:7::/64".parse().unwrap()),
            token: Some("::5".parse().unwrap()),
            chosen: None,
            mtu: None,
            lan: Some(BridgePort { bridge: "vbr0".parse().unwrap(), vlan: Some(20) }),
        }));
        machine.image = Some("debian-13".into());
        machine.description = Some("mine".into());
        machine.autostart = false;
        machine.open = vec!["tcp/22 from 2001:db8::/32".parse().unwrap(), "udp/5000-5010".parse().unwrap()];
        machine.ipv4 = Some(Ipv4::Nat);
        machine.firewall = Some(false);
        machine.bind = vec!["/srv".into()];
        machine.bind_read_only = vec!["/opt:/opt".into()];
        machine.limits.memory = Some("2G".into());
        machine.environment = [("A".to_owned(), "b \"c\"".to_owned())].into();
        machine.expose = vec![Expose {
            port: "tcp/80".parse().unwrap(),
            to: "127.0.0.1:80".parse().ok(),
            host: Some(8080),
        }];
        machine.nspawn = [(
            "Files".to_owned(),
            [("Bind".to_owned(), Values::Many(vec!["/a".into(), "/b:/c".into()]))].into(),
        )]
        .into();
        let route = |to: &str| [("Destination".to_owned(), Values::One(to.into()))].into();
        machine.networkd = [
            ("Network".to_owned(), Sections::One([("LLDP".to_owned(), Values::Flag(true))].into())),
            ("Route".to_owned(), Sections::Many(vec![route("2001:db8:f::/64"), route("2001:db8:e::/64")])),
        ]
        .into();
        let text = fresh(&machine).unwrap();
        assert_eq!(MachineSpec::parse(Path::new("x.toml"), &text).unwrap(), machine, "{text}");
        insta::assert_snapshot!(text);
    }
}
