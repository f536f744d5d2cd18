//! Changes to the user's own files that keep their comments and their order.

use std::str::FromStr;

use toml_edit::{Array, DocumentMut, Item, Table, TomlError, value};

use super::{BridgeSpec, MachineSpec, Network, NspawnTable, Uplink, Values};
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
    put_network(&mut document, &machine.network);
    put_nspawn(&mut document, &machine.nspawn);
    document.to_string()
}

/// The same definition on another network.
///
/// # Errors
/// When the text is no TOML.
pub fn set_network(text: &str, network: &Network) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    put_network(&mut document, network);
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
        let mut inner = Table::new();
        for (key, values) in keys {
            inner[key] = match values {
                Values::Many(texts) => value(texts.iter().collect::<Array>()),
                Values::One(text) => value(text),
                Values::Flag(flag) => value(*flag),
                Values::Number(number) => value(*number),
            };
        }
        outer[section] = Item::Table(inner);
    }
    document["nspawn"] = Item::Table(outer);
}

/// nsctl.toml with this pool and uplink.
///
/// # Errors
/// When the text is no TOML.
pub fn set_pool(text: &str, pool: Pool, uplink: Option<&Uplink>) -> Result<String, TomlError> {
    let mut document = DocumentMut::from_str(text)?;
    document["pool"] = value(pool.to_string());
    match uplink {
        None => {
            document.remove("uplink");
        }
        Some(uplink) => document["uplink"] = table_of(uplink)?,
    }
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
    fn what_is_written_is_what_is_read() {
        let mut machine = MachineSpec::new(Network::Routed(Routed {
            subnet: Some("2001:db8:a:7::/64".parse().unwrap()),
            token: Some("::5".parse().unwrap()),
        }));
        machine.image = Some("debian-13".into());
        machine.autostart = false;
        machine.nspawn = [(
            "Files".to_owned(),
            [("Bind".to_owned(), Values::Many(vec!["/a".into(), "/b:/c".into()]))].into(),
        )]
        .into();
        let text = new_definition(&machine);
        assert_eq!(MachineSpec::parse(Path::new("x.toml"), &text).unwrap(), machine, "{text}");
    }
}
