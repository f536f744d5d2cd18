//! nftables, through nft(8): rules are loaded as text, whole or not at all.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::observed::{Chain, Nftables, Tool};

/// The name of our table.
const TABLE: &str = "nsctl";

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("nft cannot be run")]
    Run(#[from] std::io::Error),
    #[error("nft: {0}")]
    Refused(String),
}

impl NftError {
    pub fn hint(&self) -> Option<String> {
        match self {
            NftError::Run(_) => Some("install it: on Debian it is the package nftables".into()),
            NftError::Refused(_) => None,
        }
    }
}

fn nft(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let mut command = Command::new("nft");
    command.env("PATH", super::build::PATH).env("LC_ALL", "C");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}

/// Loads a file of rules in one transaction, then drops the chains of machines
/// that are gone: nothing leads to them any more.
///
/// # Errors
/// When nft does not take them; the old ones stay then.
pub fn load(file: &Path) -> Result<(), NftError> {
    done(&nft(&["-f", &file.to_string_lossy()], "")?)?;
    let output = nft(&["-j", "list", "table", "inet", TABLE], "")?;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let unused = unused(&listed);
    if unused.is_empty() {
        return Ok(());
    }
    let commands: String =
        unused.iter().map(|chain| format!("delete chain inet {TABLE} {chain}\n")).collect();
    done(&nft(&["-f", "-"], &commands)?)
}

/// Chains without rules, but for those that the kernel itself leads to.
fn unused(listed: &Value) -> Vec<&str> {
    let objects = || listed["nftables"].as_array().into_iter().flatten();
    let busy: BTreeSet<&str> = objects().filter_map(|object| object["rule"]["chain"].as_str()).collect();
    let chains =
        objects().filter_map(|object| object.get("chain")).filter(|chain| chain.get("hook").is_none());
    chains.filter_map(|chain| chain["name"].as_str()).filter(|name| !busy.contains(name)).collect()
}

/// Drops our table, if it is there.
///
/// # Errors
/// When it stays.
pub fn unload() -> Result<(), NftError> {
    done(&nft(&["-f", "-"], &format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))?)
}

fn done(output: &Output) -> Result<(), NftError> {
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// What concerns us of the kernel's rules; none where nft is not installed, or
/// we may not look.
///
/// # Errors
/// When it cannot be run.
pub fn look() -> Result<Option<Nftables>, NftError> {
    let output = match nft(&["-j", "list", "chains"], "") {
        Err(NftError::Run(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(output.status.success().then(|| read(&listed)))
}

fn read(listed: &Value) -> Nftables {
    let mut nftables = Nftables::default();
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let chains: Vec<&Value> = objects.filter_map(|object| object.get("chain")).collect();
    for chain in &chains {
        let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        let ours = family == "inet" && table == TABLE;
        nftables.ours |= ours;
        let siblings = chains
            .iter()
            .filter(|other| other["family"] == chain["family"] && other["table"] == chain["table"]);
        let tool = tool(&family, &table, siblings.filter_map(|chain| chain["name"].as_str()));
        // firewalld's policy is to accept, and its last rule to reject.
        let drops = text("policy") == "drop" || tool == Tool::Firewalld;
        let forward = text("hook") == "forward" && matches!(family.as_str(), "ip" | "ip6" | "inet");
        if forward && drops && !ours {
            nftables.dropping.push(Chain { family, table, name, tool });
        }
    }
    nftables
}

fn tool<'a>(family: &str, table: &str, mut chains: impl Iterator<Item = &'a str> + Clone) -> Tool {
    let any = |begin: &str| chains.clone().any(|name| name.starts_with(begin));
    if table == "firewalld" {
        Tool::Firewalld
    } else if any("ufw") {
        Tool::Ufw
    } else if any("DOCKER") {
        Tool::Docker
    } else if family != "inet" && table == "filter" && chains.any(|name| name == "FORWARD") {
        Tool::Iptables
    } else {
        Tool::Nftables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_table_and_who_drops() {
        let listed = serde_json::json!({ "nftables": [
            { "metainfo": { "version": "1.0.6" } },
            { "chain": { "family": "inet", "table": "nsctl", "name": "forward", "hook": "forward", "policy": "accept" } },
            { "chain": { "family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop" } },
            { "chain": { "family": "ip6", "table": "filter", "name": "DOCKER-USER" } },
            { "chain": { "family": "ip6", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop" } },
            { "chain": { "family": "inet", "table": "firewalld", "name": "filter_FORWARD", "hook": "forward", "policy": "accept" } },
            { "chain": { "family": "inet", "table": "mine", "name": "forward", "hook": "forward", "policy": "accept" } },
        ] });
        let found = read(&listed);
        assert!(found.ours);
        let tools: Vec<Tool> = found.dropping.iter().map(|chain| chain.tool).collect();
        assert_eq!(tools, [Tool::Docker, Tool::Firewalld]);
    }
}
