//! nftables.service of Debian flushes all rules when it is started, reloaded and stopped, ours
//! too. Where its commands are those that Debian gave it, a drop-in has each load ours in the
//! same transaction; elsewhere ours are loaded again just after.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{FIREWALL_FILE, FIREWALL_UNIT, ManagedFile};
use super::ini::Ini;
use crate::visible::joined;

/// Where systemd finds the unit, the first of them first.
pub const UNITS: [&str; 3] = [
    "/etc/systemd/system/nftables.service",
    "/run/systemd/system/nftables.service",
    "/usr/lib/systemd/system/nftables.service",
];

/// What Debian's does.
const COMMANDS: [&str; 3] = [
    "ExecReload=/usr/sbin/nft -f /etc/nftables.conf",
    "ExecStart=/usr/sbin/nft -f /etc/nftables.conf",
    "ExecStop=/usr/sbin/nft flush ruleset",
];

/// Whether the unit is Debian's, and nobody else has given it other commands.
pub fn is_known(files: &BTreeMap<PathBuf, String>) -> bool {
    let Some(unit) = UNITS.iter().find_map(|path| files.get(Path::new(path))) else { return false };
    let mut found: Vec<&str> = commands(unit).collect();
    found.sort_unstable();
    let folders = UNITS.map(|path| PathBuf::from(format!("{path}.d")));
    let drop_ins = files.iter().filter(|(path, _)| {
        path.parent().is_some_and(|dir| folders.iter().any(|folder| folder == dir))
            && **path != ManagedFile::NftablesDropIn.path()
    });
    found == COMMANDS && drop_ins.flat_map(|(_, text)| commands(text)).next().is_none()
}

fn commands(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| line.starts_with("Exec"))
}

/// The drop-in, and what it loads; `again` are the base chains once more (see [`flushed_with`]).
pub fn files(known: bool, again: &[(&str, String)]) -> Vec<(ManagedFile, String)> {
    // It makes ours come back when it is started after a stop.
    let wants = Ini::new().section("Unit").set("Wants", FIREWALL_UNIT);
    if !known {
        return vec![(ManagedFile::NftablesDropIn, wants.render())];
    }
    let goes = again.iter().map(|(name, _)| format!("delete chain inet nsctl {name}"));
    let after = format!("-/usr/sbin/nft '{}'", joined(goes, "; "));
    // Should ours not be there, or not be taken, theirs are loaded as they always were.
    let either = |file: ManagedFile, else_: &str| {
        format!("/bin/sh -c 'nft -f {} || exec nft {else_}'", file.path().display())
    };
    let load = either(ManagedFile::NftablesStart, "-f /etc/nftables.conf");
    let mut ini = wants.section("Service");
    for (key, command) in [
        ("ExecStart", &load),
        ("ExecReload", &load),
        ("ExecStop", &either(ManagedFile::NftablesStop, "flush ruleset")),
    ] {
        ini = ini.set(key, "").set(key, command).set(key, &after);
    }
    let blocks: Vec<&str> = again.iter().map(|(_, block)| block.as_str()).collect();
    vec![
        (ManagedFile::NftablesDropIn, ini.render()),
        (ManagedFile::NftablesStart, flushed_with("include \"/etc/nftables.conf\"", &blocks)),
        (ManagedFile::NftablesStop, flushed_with("flush ruleset", &blocks)),
    ]
}

/// One transaction that flushes our table, and makes it anew. The kernel changes from the old
/// rules to the new at one instant, but hooks a new base chain in before the old one of the same
/// priority: a packet that has passed the new one while it was empty, and meets the old one when
/// that is, would get through. So each base chain is there once more, behind both, until the
/// transaction is over.
fn flushed_with(others: &str, again: &[&str]) -> String {
    let again = again.join("\n");
    format!("{others}\ninclude \"{FIREWALL_FILE}\"\ntable inet nsctl {{\n{again}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_own_commands_are_changed() {
        let debian = format!("[Service]\nType=oneshot\n{}\n[Install]\n", COMMANDS.join("\n"));
        let with = |more: &[(&str, &str)]| {
            let all = [(UNITS[2], debian.as_str())].into_iter().chain(more.iter().copied());
            is_known(&all.map(|(path, text)| (path.into(), text.to_owned())).collect())
        };
        let drop_in = "/etc/systemd/system/nftables.service.d";
        assert!(with(&[]));
        assert!(with(&[(&format!("{drop_in}/50-nsctl.conf"), "ExecStart=\nExecStart=/bin/sh\n")]));
        assert!(with(&[(&format!("{drop_in}/a.conf"), "[Unit]\nAfter=x\n")]));
        assert!(!with(&[(&format!("{drop_in}/a.conf"), "[Service]\n ExecStartPost=x\n")]));
        assert!(!with(&[(UNITS[0], "")]), "masked");
        assert!(!with(&[(UNITS[0], &debian.replace("nftables.conf", "mine.conf"))]));
        assert!(!with(&[(UNITS[0], &debian.replace("[Install]", "ExecStart=/bin/mine"))]));
        assert!(!is_known(&BTreeMap::new()));
    }
}
