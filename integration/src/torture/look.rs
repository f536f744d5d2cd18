//! A host as it is between two blows, seen from outside, and without nsctl's help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fs_err as fs;

use crate::lab::Lab;
use crate::lab::run::{check, words};

/// Where files of ours are, below the host's root.
const PLACES: [&str; 6] = [
    "etc/nsctl",
    "etc/systemd/nspawn",
    "etc/systemd/network",
    "etc/systemd/system",
    "etc/systemd/resolved.conf.d",
    "var/lib/nsctl",
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Files and links of the host, by their place below its root, and what is in them.
    pub files: BTreeMap<String, String>,
    pub hosts: String,
    /// What is in /var/lib/machines, and the checksum of each of its files.
    pub trees: BTreeMap<String, String>,
    /// The first process of each machine that runs.
    pub leaders: BTreeMap<String, String>,
    /// The rules that are loaded, and those of the file, in words.
    pub loaded: Vec<String>,
    pub written: Vec<String>,
}

impl Sight {
    pub fn of(lab: &Lab) -> Result<Sight> {
        let root = lab.root()?;
        let mut files = BTreeMap::new();
        for place in PLACES {
            collect(&root, Path::new(place), &mut files)?;
        }
        let (loaded, written) = rules(lab)?;
        Ok(Sight {
            files,
            hosts: fs::read_to_string(root.join("etc/hosts")).unwrap_or_default(),
            trees: trees(&lab.machines())?,
            leaders: leaders(&root.join("run/systemd/machines"))?,
            loaded,
            written,
        })
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub fn definition(&self, name: &str) -> Option<&str> {
        self.text(&format!("etc/nsctl/machines.d/{name}.toml"))
    }

    /// The machines that have a definition.
    pub fn defined(&self) -> BTreeSet<&str> {
        let names = self.files.keys().filter_map(|path| path.strip_prefix("etc/nsctl/machines.d/"));
        names.filter_map(|name| name.strip_suffix(".toml")).collect()
    }

    /// The machines that start with the host.
    pub fn enabled(&self) -> BTreeSet<&str> {
        let wants = "etc/systemd/system/machines.target.wants/systemd-nspawn@";
        let names = self.files.keys().filter_map(|path| path.strip_prefix(wants));
        names.filter_map(|name| name.strip_suffix(".service")).collect()
    }

    /// All that belongs to one machine alone, but that it runs.
    pub fn belongings(&self, name: &str) -> Vec<(&str, &str)> {
        let mine = |path: &str| {
            let file = path.rsplit('/').next().unwrap_or_default();
            path.contains(&format!("systemd-nspawn@{name}.service"))
                || path.contains(&format!("expose/{name}.d/"))
                || [".toml", ".nspawn", ".network", ".nft"].iter().any(|end| {
                    [name.to_owned(), format!("05-nsctl-ve-{name}")]
                        .iter()
                        .any(|begin| file == format!("{begin}{end}"))
                })
        };
        let files = self
            .files
            .iter()
            .filter(|(path, _)| mine(path))
            .map(|(path, text)| (path.as_str(), text.as_str()));
        files.chain(self.trees.get(name).map(|tree| ("its tree", tree.as_str()))).collect()
    }
}

fn collect(root: &Path, place: &Path, files: &mut BTreeMap<String, String>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(root.join(place)) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let path = place.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if !path.to_string_lossy().ends_with("lock") {
            let text = if kind.is_symlink() {
                format!("-> {}", fs::read_link(entry.path())?.display())
            } else {
                String::from_utf8_lossy(&fs::read(entry.path())?).into_owned()
            };
            files.insert(path.to_string_lossy().into_owned(), text);
        }
    }
    Ok(())
}

fn trees(machines: &Path) -> Result<BTreeMap<String, String>> {
    let mut trees = BTreeMap::new();
    for entry in fs::read_dir(machines)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == "debian-13" || name.ends_with(".lck") {
            continue;
        }
        let place: PathBuf = machines.join(&name);
        // nspawn leaves an empty file where it mounts what is bound into a machine.
        let list =
            format!("cd '{}' && find . -type f ! -empty -exec sha256sum {{}} + | sort -k2", place.display());
        trees.insert(name, check(&mut words(&["sh", "-c", &list]))?);
    }
    Ok(trees)
}

fn leaders(place: &Path) -> Result<BTreeMap<String, String>> {
    let mut leaders = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(place) else { return Ok(leaders) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == ".host" || !entry.file_type()?.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let leader = text.lines().find_map(|line| line.strip_prefix("LEADER="));
        leaders.insert(name, leader.unwrap_or_default().to_owned());
    }
    Ok(leaders)
}

/// What the kernel has, and what it would have of the file, in a namespace of its own; sorted,
/// as sets are in no order.
fn rules(lab: &Lab) -> Result<(Vec<String>, Vec<String>)> {
    const FILE: &str = "/var/lib/nsctl/firewall.nft";
    let both = lab.sh(&format!(
        "nft -s list table inet nsctl 2> /dev/null || true; echo =====
         test ! -e {FILE} || unshare --net sh -euc 'ip link set lo up; nft -f {FILE}; nft -s list table inet nsctl'"
    ))?;
    let (loaded, written) = both.split_once("=====\n").context("no two tables")?;
    let words = |text: &str| {
        // What packets themselves put into a set, no file says.
        let blocks = text.split("\n\n").filter(|block| !block.contains("flags dynamic"));
        let words =
            blocks.flat_map(|block| block.split([' ', '\t', '\n', ','])).filter(|word| !word.is_empty());
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort();
        words
    };
    Ok((words(loaded), words(written)))
}
