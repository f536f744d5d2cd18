//! Every key that the parser takes is in a man page, and nothing else is.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use nsctl::manual::entries;
use nsctl::spec::{Definitions, Spec, profile_path};

/// A file with a key in some table that nobody knows: who says so names those that there are.
const HOST: [(&str, &str); 15] = [
    ("", "zz = 1\n"),
    ("defaults", "[defaults]\nzz = 1\n"),
    ("defaults.limits", "[defaults.limits]\nzz = 1\n"),
    ("images", "[images]\nzz = 1\n"),
    ("backup", "[backup]\nzz = 1\n"),
    ("dns", "[dns]\nzz = 1\n"),
    ("dns.push", "[dns.push]\nzz = 1\n"),
    ("bridge.BR", "[bridge.vbr0]\nzz = 1\n"),
    ("routing", "[routing]\nzz = 1\n"),
    ("routing.neighbor", "[routing]\nprotocol = \"bgp\"\n[[routing.neighbor]]\nzz = 1\n"),
    ("fleet", "[fleet]\nzz = 1\n"),
    ("uplink", "[uplink]\nzz = 1\n"),
    ("uplink.tunnel", "[uplink]\ninterface = \"he0\"\n[uplink.tunnel]\nzz = 1\n"),
    ("uplink.wireguard", "[uplink]\ninterface = \"wg0\"\n[uplink.wireguard]\nzz = 1\n"),
    ("uplink.wireguard.peer", "[uplink]\ninterface = \"wg0\"\n[[uplink.wireguard.peer]]\nzz = 1\n"),
];
const MACHINE: [(&str, &str); 9] = [
    ("", "zz = 1\n"),
    ("network", "[network]\nzz = 1\n"),
    ("limits", "[limits]\nzz = 1\n"),
    ("check", "[check]\nzz = 1\n"),
    ("snapshots", "[snapshots]\nzz = 1\n"),
    ("snapshots.keep", "[snapshots.keep]\nzz = 1\n"),
    ("backup", "[backup]\nzz = 1\n"),
    ("backup.keep", "[backup.keep]\nzz = 1\n"),
    ("expose", "[[expose]]\nzz = 1\n"),
];
/// What has keys of the user's own, or of systemd's.
const FREE: [&str; 6] = [
    "environment.NAME",
    "nspawn.SECTION",
    "nspawn.SECTION.KEY",
    "networkd.SECTION",
    "networkd.SECTION.KEY",
    "bridge.BR",
];

/// The keys that the parser names.
fn keys(table: &str, said: &str) -> Vec<String> {
    let (_, list) = said.split_once("expected ").unwrap_or_else(|| panic!("{table}: {said}"));
    let list = list.lines().next().unwrap();
    let words = list.split('`').skip(1).step_by(2);
    words.map(|word| if table.is_empty() { word.to_owned() } else { format!("{table}.{word}") }).collect()
}

fn said(host: &str, machine: Option<&str>) -> String {
    let path = PathBuf::from("/etc/nsctl/machines.d/web.toml");
    let profiles = ["web", "small"].map(|name| (profile_path(name), Ok("[limits]\ntasks = 9\n".to_owned())));
    let machine = machine.map(|text| (path, Ok(text.to_owned())));
    let definitions: Definitions = machine.into_iter().chain(profiles).collect();
    let (spec, problems) = Spec::read(Some(host), &definitions);
    let all = problems.into_iter().chain(spec.broken.into_values().flatten());
    all.map(|problem| problem.to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_has_an_entry_and_no_other() {
    let host = HOST.iter().flat_map(|(table, text)| keys(table, &said(text, None)));
    let machine = MACHINE.iter().flat_map(|(table, text)| keys(table, &said("", Some(text))));
    let known: BTreeSet<String> = host.chain(machine).chain(FREE.map(str::to_owned)).collect();
    assert!(known.contains("limits.memory") && known.contains("uplink.wireguard.peer.endpoint"), "{known:?}");
    let told: BTreeSet<String> = entries().iter().map(|entry| entry.key.to_owned()).collect();
    assert_eq!(known.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new(), "keys without an entry");
    assert_eq!(told.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "entries without a key");
}

/// The examples of a page are what the parser takes.
#[test]
fn every_example_is_read() {
    for entry in entries() {
        for example in entry.text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let problems = match entry.page {
                "nsctl.toml(5)" => said(example, None),
                _ => said(
                    "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"eth1\"\nvlans = [20, 30]\n",
                    Some(example),
                ),
            };
            assert!(problems.is_empty(), "{}:\n{example}\n{problems}", entry.key);
        }
    }
}
