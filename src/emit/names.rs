//! Names of routed machines: a block in the host's /etc/hosts (hosts(5)), and
//! the listener through which its machines ask systemd-resolved.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::ini::Ini;
use crate::pool::Leases;
use crate::spec::{HostSpec, Network, Spec};

/// The host's own names, to which ours are added.
pub const HOSTS_FILE: &str = "/etc/hosts";
/// What makes systemd-resolved answer machines.
pub const RESOLVED_DIR: &str = "/etc/systemd/resolved.conf.d";

const BEGIN: &str = "# Machines of nsctl, which rewrites these lines";
const END: &str = "# End of the machines of nsctl";

/// A machine's planned address and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub address: Ipv6Addr,
    pub name: String,
}

/// Every routed machine with a lease, by its address that stays.
pub fn entries(spec: &Spec, leases: &Leases) -> Vec<Entry> {
    let routed = spec.machines.iter().filter_map(|(name, machine)| match &machine.network {
        Network::Routed(routed) => {
            let subnet = spec.host.fixed_subnet(leases.get(name)?)?;
            Some(Entry { address: routed.address(subnet), name: name.to_string() })
        }
        Network::Bridge(_) => None,
    });
    let mut entries: Vec<Entry> = routed.collect();
    entries.sort();
    entries
}

/// The lines of hosts(5). A name that the host knows already is given only with its zone.
pub fn lines(entries: &[Entry], zone: &str, known: &dyn Fn(&str) -> bool) -> String {
    let line = |Entry { address, name }: &Entry| {
        let alias = if known(name) { String::new() } else { format!(" {name}") };
        format!("{address} {name}.{zone}{alias}\n")
    };
    entries.iter().map(line).collect()
}

/// /etc/hosts with our block as it should be; the rest is left as it is.
pub fn merge(old: &str, entries: &[Entry], zone: &str) -> String {
    let (before, after) = without_block(old);
    let words = format!("{before}{after}");
    let known = |name: &str| {
        name == "localhost"
            || words
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default())
                .any(|line| line.split_whitespace().skip(1).any(|word| word == name))
    };
    if entries.is_empty() {
        return words;
    }
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{gap}{BEGIN}\n{}{END}\n{after}", lines(entries, zone, &known))
}

/// /etc/hosts without what a command wrote into our block that is taken back, whatever others
/// have written since.
pub fn take_back(current: &str, written: &str, before: &str) -> String {
    let (written, before) = (block(written), block(before));
    let mut lines = block(current);
    lines.retain(|line| !written.contains(line) || before.contains(line));
    lines.extend(before.iter().filter(|line| !written.contains(line)));
    let address = |line: &&str| line.split_whitespace().next().and_then(|word| word.parse::<Ipv6Addr>().ok());
    lines.sort_by_key(address);
    lines.dedup();
    let (head, tail) = without_block(current);
    if lines.is_empty() {
        return format!("{head}{tail}");
    }
    let gap = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{head}{gap}{BEGIN}\n{lines}{END}\n{tail}")
}

/// The machines that our block names, with their addresses.
pub fn listed(text: &str, zone: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, name) = (words.next()?.parse().ok()?, words.next()?);
        Some(Entry { address, name: name.strip_suffix(zone)?.strip_suffix('.')?.to_owned() })
    };
    block(text).into_iter().filter_map(entry).collect()
}

/// The lines of our block.
fn block(text: &str) -> Vec<&str> {
    let (before, after) = without_block(text);
    let inside = &text[before.len()..text.len() - after.len()];
    inside.lines().filter(|line| !line.starts_with('#')).collect()
}

/// What stands before and after our block. Where its end is missing, it ends with
/// the last line in a row that is of our form.
fn without_block(text: &str) -> (&str, &str) {
    let Some(start) = line_start(text, BEGIN) else { return (text, "") };
    let (before, block) = text.split_at(start);
    let body = block.split_once('\n').map_or("", |(_, body)| body);
    if let Some(end) = line_start(body, END) {
        return (before, body[end..].split_once('\n').map_or("", |(_, after)| after));
    }
    let ours =
        |line: &&str| line.split_whitespace().next().is_some_and(|word| word.parse::<Ipv6Addr>().is_ok());
    let length: usize = body.split_inclusive('\n').take_while(ours).map(str::len).sum();
    (before, &body[length..])
}

/// Where a line begins that is this.
fn line_start(text: &str, line: &str) -> Option<usize> {
    let mut at = 0;
    for part in text.split_inclusive('\n') {
        if part.trim_end() == line {
            return Some(at);
        }
        at += part.len();
    }
    None
}

/// systemd-resolved listens on the host's address of the pool, too (resolved.conf(5)).
pub fn files(host: &HostSpec) -> Vec<(PathBuf, String)> {
    let Some(listener) = host.dns_listener() else { return Vec::new() };
    let text = Ini::new().section("Resolve").set("DNSStubListenerExtra", listener).render();
    vec![(PathBuf::from(format!("{RESOLVED_DIR}/05-nsctl.conf")), text)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(address: &str, name: &str) -> Entry {
        Entry { address: address.parse().unwrap(), name: name.into() }
    }

    #[test]
    fn the_block_is_rewritten_and_the_rest_stays() {
        let old = "127.0.0.1 localhost\n192.0.2.7 db # mine";
        let two = [entry("2001:db8::2", "web"), entry("2001:db8:0:1::2", "db")];
        let merged = merge(old, &two, "internal");
        assert_eq!(
            merged,
            format!("{old}\n{BEGIN}\n2001:db8::2 web.internal web\n2001:db8:0:1::2 db.internal\n{END}\n")
        );
        let after = format!("{merged}::1 more\n");
        let one = merge(&after, &two[..1], "internal");
        assert_eq!(one, format!("{old}\n{BEGIN}\n2001:db8::2 web.internal web\n{END}\n::1 more\n"));
        assert_eq!(merge(&one, &[], "internal"), format!("{old}\n::1 more\n"));
    }

    #[test]
    fn without_its_end_the_block_takes_nothing_else() {
        let old = format!("127.0.0.1 localhost\n{BEGIN}\n2001:db8::2 web.internal web\n192.0.2.7 mine\n");
        let one = merge(&old, &[entry("2001:db8::3", "db")], "internal");
        assert!(one.contains("192.0.2.7 mine") && !one.contains("2001:db8::2 "), "{one}");
        assert_eq!(merge(&one, &[entry("2001:db8::3", "db")], "internal"), one);
    }

    #[test]
    fn what_is_taken_back_leaves_the_lines_of_others() {
        let one = entry("2001:db8::2", "web");
        let before = merge("127.0.0.1 localhost\n", std::slice::from_ref(&one), "internal");
        let two = [one.clone(), entry("2001:db8::3", "db")];
        let written = merge(&before, &two, "internal");
        assert_eq!(take_back(&written, &written, &before), before);
        let three = [two.to_vec(), vec![entry("2001:db8::4", "new")]].concat();
        let now = format!("{}192.0.2.7 mine\n", merge(&written, &three, "internal"));
        let back = take_back(&now, &written, &before);
        assert!(back.contains("192.0.2.7 mine") && back.contains(" new") && !back.contains(" db"), "{back}");
        assert_eq!(take_back(&written, &written, "127.0.0.1 localhost\n"), "127.0.0.1 localhost\n");
        assert_eq!(listed(&written, "internal"), two);
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(old in "[a-z0-9:. #\n]{0,120}", count in 0..4u8) {
            let entries: Vec<Entry> = (0..count).map(|k| entry(&format!("2001:db8::{k}"), &format!("m{k}"))).collect();
            let once = merge(&old, &entries, "internal");
            prop_assert_eq!(merge(&once, &entries, "internal"), once.clone());
            let gone = merge(&once, &[], "internal");
            prop_assert_eq!(gone.trim_end(), old.trim_end());
        }
    }
}
