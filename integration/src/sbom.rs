//! What is compiled into nsctl, as CycloneDX (ECMA-424) writes it: each library, its version, licence and
//! checksum.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};

/// Writes the list for the program that `Cargo.lock` makes.
pub fn write(file: &Path) -> Result<()> {
    let words =
        ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let output =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(words).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let checksums = checksums(&fs::read_to_string("Cargo.lock")?);
    let document = bill(&metadata, &checksums)?;
    Ok(fs::write(file, format!("{}\n", serde_json::to_string_pretty(&document)?))?)
}

fn bill(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let own = packages.iter().find(|package| package["name"] == "nsctl").context("no nsctl")?;
    let inside = compiled_in(metadata, own["id"].as_str().unwrap_or_default());
    let parts = packages.iter().filter(|package| inside.contains(package["id"].as_str().unwrap_or_default()));
    let components =
        parts.filter(|package| package["id"] != own["id"]).map(|package| component(package, checksums));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(own, checksums) },
        "components": components.collect::<Vec<_>>(),
    }))
}

/// All that it needs to run, and what that needs: not what builds or tests it.
fn compiled_in<'m>(metadata: &'m Value, root: &'m str) -> BTreeSet<&'m str> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let needs: BTreeMap<&str, Vec<&str>> = nodes
        .map(|node| {
            let all = node["deps"].as_array().into_iter().flatten();
            let is_normal = |dep: &&Value| {
                dep["dep_kinds"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
            };
            (
                node["id"].as_str().unwrap_or_default(),
                all.filter(is_normal).filter_map(|dep| dep["pkg"].as_str()).collect(),
            )
        })
        .collect();
    let (mut found, mut todo) = (BTreeSet::from([root]), vec![root]);
    while let Some(id) = todo.pop() {
        let news = needs.get(id).into_iter().flatten().filter(|need| found.insert(need));
        todo.extend(news.copied().collect::<Vec<_>>());
    }
    found
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let kind = if name == "nsctl" { "application" } else { "library" };
    let mut component = json!({
        "type": kind,
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{ "expression": text("license") }],
    });
    if let Some(sum) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

/// Of each package in Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]\n").skip(1);
    packages
        .filter_map(|block| {
            Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))
        })
        .collect()
}
