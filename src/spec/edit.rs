//! Changes to the user's own files that keep their comments and their order.

use std::str::FromStr;

use toml_edit::{Array, DocumentMut, Item, Table, TomlError, value};

use super::{
    BridgeSpec, Dns, Expose, Ipv4, MachineSpec, Network, NetworkdTable, NspawnTable, OpenPort, ROUTED_ONLY,
    Sections, Uplink, Values,
};
use crate::name::IfName;
use crate::pool::Pool;

/// A definition from nothing.
pub fn new_definition(machine: &MachineSpec) -> String {
    let mut document = DocumentMut::new();
    if let Some(image) = &machine.image {
        document["image"] = value(image);
    }
    if !machine.autostart {
        document["autostart"] = value(false);
    }
    put_open(&mut document, &machine.open);
    if let Some(ipv4) = machine.ipv4 {
        document["ipv4"] = value(if ipv4 == Ipv4::Nat { "nat" } else { "none" });
    }
    if !machine.firewall {
        document["firewall"] = value(false);
    }
    put_network(&mut document, &machine.network);
    put_nspawn(&mut document, &machine.nspawn);
    put_networkd(&mut document, &machine.networkd);
    document.to_string()
}

/// The same definition with these ports open.
///
/// # Errors
/// When the text is no TOML.
pub fn set_open(text: &str, open: &[OpenPort]) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    put_open(&mut document, open);
    Ok(document.to_string())
}

/// The same definition with these ports exposed; entries that stay keep their comments.
///
/// # Errors
/// When the text is no TOML.
pub fn set_expose(text: &str, expose: &[Expose]) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    let mut tables = match document.remove("expose").map(Item::into_array_of_tables) {
        Some(Ok(tables)) => tables,
        _ => toml_edit::ArrayOfTables::new(),
    };
    let port_of = |table: &Table| table.get("port")?.as_str()?.parse::<OpenPort>().ok();
    tables.retain(|table| expose.iter().any(|entry| port_of(table) == Some(entry.port)));
    for entry in expose {
        let fresh = table_of(entry)?;
        let place = tables.iter().position(|table| port_of(table) == Some(entry.port));
        match place.and_then(|place| tables.get_mut(place)) {
            Some(table) => {
                for key in ["to", "host"] {
                    match fresh.get(key) {
                        Some(item) => table[key] = item.clone(),
                        None => _ = table.remove(key),
                    }
                }
            }
            None => tables.extend(fresh.into_table()),
        }
    }
    if !tables.is_empty() {
        document["expose"] = Item::ArrayOfTables(tables);
    }
    Ok(document.to_string())
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

/// The same definition on another network. On a bridge it loses what only a
/// routed machine can have.
///
/// # Errors
/// When the text is no TOML.
pub fn set_network(text: &str, network: &Network) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    put_network(&mut document, network);
    if matches!(network, Network::Bridge(_)) {
        for key in ROUTED_ONLY {
            document.remove(key);
        }
    }
    Ok(document.to_string())
}

fn put_network(document: &mut DocumentMut, network: &Network) {
    if !document.contains_table("network") {
        document["network"] = Item::Table(Table::new());
    }
    let table = &mut document["network"];
    let mut put = |key: &str, text: Option<String>| match text {
        Some(text) => table[key] = value(text),
        None => {
            if let Some(table) = table.as_table_like_mut() {
                table.remove(key);
            }
        }
    };
    match network {
        Network::Routed(routed) => {
            put("mode", Some("routed".into()));
            put("subnet", routed.subnet.map(|subnet| subnet.to_string()));
            put("token", routed.token.map(|token| token.to_string()));
            put("bridge", None);
        }
        Network::Bridge(bridge) => {
            put("mode", Some("bridge".into()));
            put("subnet", None);
            put("token", None);
            put("bridge", Some(bridge.to_string()));
        }
    }
}

fn put_nspawn(document: &mut DocumentMut, settings: &NspawnTable) {
    if settings.is_empty() {
        return;
    }
    let mut outer = Table::new();
    outer.set_implicit(true);
    for (section, keys) in settings {
        outer[section] = Item::Table(section_table(keys));
    }
    document["nspawn"] = Item::Table(outer);
}

fn put_networkd(document: &mut DocumentMut, settings: &NetworkdTable) {
    if settings.is_empty() {
        return;
    }
    let mut outer = Table::new();
    outer.set_implicit(true);
    for (section, all) in settings {
        outer[section] = match all {
            Sections::One(keys) => Item::Table(section_table(keys)),
            Sections::Many(all) => Item::ArrayOfTables(all.iter().map(section_table).collect()),
        };
    }
    document["networkd"] = Item::Table(outer);
}

fn section_table(keys: &std::collections::BTreeMap<String, Values>) -> Table {
    let mut table = Table::new();
    for (key, values) in keys {
        table[key] = match values {
            Values::Many(texts) => value(texts.iter().collect::<Array>()),
            Values::One(text) => value(text),
            Values::Flag(flag) => value(*flag),
            Values::Number(number) => value(*number),
        };
    }
    table
}

/// nsctl.toml with this pool and uplink; a delegated pool is the uplink's, and has a local one beside it.
///
/// # Errors
/// When the text is no TOML.
pub fn set_pool(
    text: &str,
    pool: Pool,
    local: Option<Pool>,
    uplink: Option<&Uplink>,
) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    for (key, pool) in [("pool", Some(pool).filter(|pool| !pool.is_delegated())), ("local", local)] {
        match pool {
            Some(pool) => document[key] = value(pool.to_string()),
            None => _ = document.remove(key),
        }
    }
    match uplink {
        None => {
            document.remove("uplink");
        }
        Some(uplink) => document["uplink"] = table_of(uplink)?,
    }
    Ok(document.to_string())
}

/// nsctl.toml with these names and servers.
///
/// # Errors
/// When the text is no TOML.
pub fn set_dns(text: &str, dns: &Dns) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    document["dns"] = table_of(dns)?;
    Ok(document.to_string())
}

/// nsctl.toml with this bridge in it.
///
/// # Errors
/// When the text is no TOML.
pub fn set_bridge(text: &str, name: &IfName, bridge: &BridgeSpec) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    if !document.contains_key("bridge") {
        let mut outer = Table::new();
        outer.set_implicit(true);
        document["bridge"] = Item::Table(outer);
    }
    document["bridge"][name.as_str()] = table_of(bridge)?;
    Ok(document.to_string())
}

fn table_of(value: &impl serde::Serialize) -> Result<Item, TomlError> {
    let text = toml_edit::ser::to_string(value).unwrap_or_default();
    Ok(Item::Table(DocumentMut::from_str(&text)?.as_table().clone()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::spec::Routed;

    #[test]
    fn comments_and_order_are_kept() {
        let text = "# my server\nimage = \"debian-13\" # stable\n\n[network] # here\nmode = \"routed\" # yes\nsubnet = \"2001:db8:a:7::/64\"\n\n[nspawn.Files]\nBind = [\"/srv\"]\n";
        let moved = set_network(text, &Network::Bridge("vbr0".parse().unwrap())).unwrap();
        insta::assert_snapshot!(moved);
    }

    #[test]
    fn ports_keep_their_comments() {
        let text =
            "# mine\nopen = [\n    \"tcp/22\", # me\n    \"tcp/80\",\n]\n[network]\nmode = \"routed\"\n";
        let opened = set_open(text, &["tcp/22".parse().unwrap(), "udp/53".parse().unwrap()]).unwrap();
        assert!(
            opened.contains("\"tcp/22\", # me") && opened.contains("udp/53") && !opened.contains("tcp/80"),
            "{opened}"
        );
        let fresh = set_open("[network]\nmode = \"routed\"\n", &["tcp/22".parse().unwrap()]).unwrap();
        assert_eq!(fresh, "open = [\"tcp/22\"]\n[network]\nmode = \"routed\"\n");
        assert_eq!(set_open(&fresh, &[]).unwrap(), "[network]\nmode = \"routed\"\n");
    }

    #[test]
    fn exposed_ports_come_and_go() {
        let text = "[network]\nmode = \"routed\"\n";
        let mut entry =
            Expose { port: "tcp/80".parse().unwrap(), to: "127.0.0.1:80".parse().ok(), host: Some(8080) };
        let both = set_expose(text, std::slice::from_ref(&entry)).unwrap();
        let parsed = MachineSpec::parse(Path::new("x.toml"), &both).unwrap();
        assert_eq!(parsed.expose, [entry.clone()], "{both}");
        entry.host = None;
        let one = set_expose(&both, std::slice::from_ref(&entry)).unwrap();
        assert!(!one.contains("host") && one.contains("127.0.0.1:80"), "{one}");
        assert_eq!(set_expose(&one, &[]).unwrap(), text);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut machine = MachineSpec::new(Network::Routed(Routed {
            subnet: Some("2001:db8:a:7::/64".parse().unwrap()),
            token: Some("::5".parse().unwrap()),
            chosen: None,
        }));
        machine.image = Some("debian-13".into());
        machine.autostart = false;
        machine.open = vec!["tcp/22 from 2001:db8::/32".parse().unwrap(), "udp/5000-5010".parse().unwrap()];
        machine.ipv4 = Some(Ipv4::Nat);
        machine.firewall = false;
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
        let text = new_definition(&machine);
        assert_eq!(MachineSpec::parse(Path::new("x.toml"), &text).unwrap(), machine, "{text}");
    }
}
