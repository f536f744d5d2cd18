//! What the kernel's rules say, as nft(8) lists them (libnftables-json(5)). Pure.

pub mod counter;
pub mod part;
pub mod table;

use ipnet::Ipv6Net;
use serde_json::Value;

use crate::observed::{Chain, InputChain, Nftables, Tool};

/// The name of our table.
pub const TABLE: &str = "nsctl";

/// The chain through which all that is sent to machines goes.
pub const TO_MACHINES: &str = "machines-in";

/// The families and names of tables.
pub fn tables(listed: &Value) -> Vec<(String, String)> {
    let tables = objects(listed).filter_map(|object| object.get("table"));
    let text = |table: &Value, key: &str| table[key].as_str().map(str::to_owned);
    tables.filter_map(|table| Some((text(table, "family")?, text(table, "name")?))).collect()
}

/// All that concerns us of a rule set.
pub fn read(listed: &Value) -> Nftables {
    let mut nftables = Nftables::default();
    for object in objects(listed) {
        if let Some(chain) = object.get("chain") {
            read_chain(&mut nftables, listed, chain);
        }
        let set = &object["set"];
        if set["table"] == "io.systemd.nat" && set["family"] == "ip6" {
            nftables.translated.extend(nets(&set["elem"]));
        }
    }
    nftables
}

fn objects(listed: &Value) -> impl Iterator<Item = &Value> {
    listed["nftables"].as_array().into_iter().flatten()
}

fn rules<'a>(listed: &'a Value, chain: &'a Value) -> impl Iterator<Item = &'a Value> {
    let mine = move |rule: &&Value| rule["family"] == chain["family"] && rule["table"] == chain["table"];
    objects(listed).filter_map(|object| object.get("rule")).filter(mine)
}

fn read_chain(nftables: &mut Nftables, listed: &Value, chain: &Value) {
    let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
    let (family, table, name) = (text("family"), text("table"), text("name"));
    if family == "inet" && table == TABLE {
        return;
    }
    let chains = objects(listed).filter_map(|object| object.get("chain"));
    let siblings =
        chains.filter(|other| other["family"] == chain["family"] && other["table"] == chain["table"]);
    let names: Vec<&str> = siblings.filter_map(|chain| chain["name"].as_str()).collect();
    let tool = tool(&family, &table, &names);
    // firewalld's policy is to accept, and its last rule to reject.
    let drops = text("policy") == "drop" || tool == Tool::Firewalld;
    let ip = matches!(family.as_str(), "ip" | "ip6" | "inet");
    match text("hook").as_str() {
        "forward" if ip && drops => {
            let passes =
                rules(listed, chain).filter(|rule| lets_through(rule, tool)).flat_map(words).collect();
            nftables.dropping.push(Chain { family, table, name, tool, passes });
        }
        "input" if matches!(family.as_str(), "ip6" | "inet") && text("policy") == "drop" => {
            let texts: Vec<String> = rules(listed, chain).map(Value::to_string).collect();
            let any =
                |word: &str| texts.iter().any(|rule| rule.contains(word) && rule.contains("\"accept\""));
            let (loopback, icmp) = (any("\"lo\""), any("icmpv6") || any("ipv6-icmp"));
            nftables.inputs.push(InputChain { family, table, name, loopback, icmp });
        }
        _ => {}
    }
}

/// Whether a rule accepts what it matches, or hands it to who does.
fn lets_through(rule: &Value, tool: Tool) -> bool {
    let statements = rule["expr"].as_array().into_iter().flatten();
    let trusted = |target: &Value| target["target"].as_str().is_some_and(|name| name.contains("trusted"));
    statements.into_iter().any(|statement| {
        statement.get("accept").is_some()
            || (tool == Tool::Firewalld && ["jump", "goto"].iter().any(|way| trusted(&statement[*way])))
    })
}

/// The interfaces and prefixes that a rule names.
fn words(rule: &Value) -> Vec<String> {
    let statements = rule["expr"].as_array().into_iter().flatten();
    let matched = statements.filter_map(|statement| statement.get("match")).map(|matched| &matched["right"]);
    matched.flat_map(values).collect()
}

fn values(value: &Value) -> Vec<String> {
    if let Some(text) = value.as_str() {
        return vec![text.to_owned()];
    }
    if let Some(prefix) = value.get("prefix") {
        return vec![format!("{}/{}", prefix["addr"].as_str().unwrap_or_default(), prefix["len"])];
    }
    value.get("set").and_then(Value::as_array).into_iter().flatten().flat_map(values).collect()
}

/// The prefixes of a set.
fn nets(elements: &Value) -> Vec<Ipv6Net> {
    elements.as_array().into_iter().flatten().flat_map(values).filter_map(|text| text.parse().ok()).collect()
}

fn tool(family: &str, table: &str, chains: &[&str]) -> Tool {
    let any = |begin: &str| chains.iter().any(|name| name.starts_with(begin));
    if table == "firewalld" {
        Tool::Firewalld
    } else if any("ufw") {
        Tool::Ufw
    } else if any("DOCKER") {
        Tool::Docker
    } else if family != "inet" && table == "filter" && chains.contains(&"FORWARD") {
        Tool::Iptables
    } else {
        Tool::Nftables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tables_and_who_drops() {
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
        let listed = serde_json::json!({ "nftables": [{ "table": { "family": "inet", "name": "nsctl" } }] });
        assert_eq!(tables(&listed), [("inet".to_owned(), "nsctl".to_owned())]);
        let tools: Vec<Tool> = found.dropping.iter().map(|chain| chain.tool).collect();
        assert_eq!(tools, [Tool::Docker, Tool::Firewalld]);
    }
}
