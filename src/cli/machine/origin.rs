//! `nsctl show --origin`: where each setting of a machine comes from.

use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use crate::cli::fault::{argument, unknown};
use crate::cli::text::{out, table};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::spec::{Defaults, HOST_FILE, HostSpec, Ipv4, Limits, MACHINES_DIR, Problems, definition_path};
use crate::sys::Disk;

/// One of `show --origin --json`.
#[derive(Serialize)]
struct Setting {
    /// As `nsctl explain` knows it.
    key: String,
    value: Value,
    /// The file that says so, or nsctl itself.
    from: String,
}

pub fn run(global: &Global, name: &str) -> Result<u8, Fault> {
    let name: MachineName = argument(name)?;
    let disk = Disk::new(&global.root);
    let path = definition_path(&name);
    let Some(text) = disk.read_definition(&path)? else {
        let files = disk.names(Path::new(MACHINES_DIR))?;
        return Err(unknown(name.as_str(), files.iter().filter_map(|file| file.strip_suffix(".toml"))));
    };
    let profiles = observe::profiles(&disk)?;
    let machine = profiles.machine(&path, &text).map_err(Problems)?;
    let host = disk.read_definition(Path::new(HOST_FILE))?;
    let host = host.map(|text| HostSpec::parse(Path::new(HOST_FILE), &text).map_err(Problems)).transpose()?;
    let own: Table = toml::from_str(&text).unwrap_or_default();
    let mut settings = Vec::new();
    add(&mut settings, &path.to_string_lossy(), &own, "");
    for (file, profile) in profiles.layers(&text) {
        add(&mut settings, &file.to_string_lossy(), profile, "");
    }
    let Defaults { ipv4, limits, .. } = host.unwrap_or_default().defaults;
    let routed = machine.network.routed().is_some();
    add(&mut settings, &format!("{HOST_FILE}, [defaults]"), &shared(&limits, ipv4.filter(|_| routed)), "");
    let mut usual = shared(&Limits::usual(), routed.then_some(Ipv4::None));
    usual.insert("autostart".to_owned(), true.into());
    add(&mut settings, "nsctl", &usual, "");
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    if global.json {
        global.report.answer(&settings)?;
        return Ok(0);
    }
    let cells = settings
        .iter()
        .map(|Setting { key, value, from }| vec![key.clone(), value.to_string(), from.clone()]);
    out!("{}", table(&["KEY", "VALUE", "FROM"], &cells.collect::<Vec<_>>()));
    Ok(0)
}

/// What machines have that do not say otherwise.
fn shared(limits: &Limits, ipv4: Option<Ipv4>) -> Table {
    let mut all = Table::new();
    all.extend(Table::try_from(limits).ok().map(|limits| ("limits".to_owned(), Value::Table(limits))));
    all.extend(ipv4.map(|ipv4| ("ipv4".to_owned(), Value::from(ipv4.to_string()))));
    all
}

/// What a file says that none before it has said; of lists each says its own part.
fn add(settings: &mut Vec<Setting>, from: &str, says: &Table, within: &str) {
    for (key, value) in says {
        let key = format!("{within}{key}");
        match value {
            Value::Table(inner) => add(settings, from, inner, &format!("{key}.")),
            Value::Array(list) => {
                let is_new = |entry: &&Value| {
                    let said = settings.iter().filter(|said| said.key == key);
                    !said.filter_map(|said| said.value.as_array()).flatten().any(|said| said == *entry)
                };
                let news: Vec<Value> = list.iter().filter(is_new).cloned().collect();
                if !news.is_empty() {
                    settings.push(Setting { key, value: Value::Array(news), from: from.to_owned() });
                }
            }
            _ if settings.iter().any(|said| said.key == key) => {}
            value => settings.push(Setting { key, value: value.clone(), from: from.to_owned() }),
        }
    }
}
