//! Names of routed machines: a block in the host's /etc/hosts (hosts(5)), and
//! the listener through which its machines ask systemd-resolved.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use super::file::ManagedFile;
use super::ini::Ini;
use crate::name::MachineName;
use crate::pool::Leases;
use crate::spec::{HostSpec, Spec};

const BEGIN: &str = "# Machines of nsctl, which rewrites these lines";
const END: &str = "# End of the machines of nsctl";

/// A machine's planned address and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub address: Ipv6Addr,
    pub name: String,
}

/// What others ask for, and trust to be somebody else: this host and its groups (hosts(5),
/// nss-myhostname(8)), proxies (WPAD) and tunnels (RFC 5214) that clients look for by
/// themselves, and where a cloud's machines get their keys.
const RESERVED: &str = "
    localhost localhost4 localhost6 localhost.localdomain localhost4.localdomain4
    localhost6.localdomain6 ip6-localhost ip6-loopback ip6-localnet ip6-mcastprefix ip6-allnodes
    ip6-allrouters ip6-allhosts broadcasthost gateway wpad isatap metadata metadata.google.internal
    instance-data";

/// Whether a name, in any case, means something else everywhere.
pub fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Those of nss-myhostname(8) begin so: _gateway, _outbound, _localdnsstub.
    RESERVED.split_whitespace().any(|word| word == name)
        || name.starts_with('_')
        || name.ends_with(".localhost")
}

/// Whether a name, in any case, is one of the host's own; each may be a whole one.
pub fn is_the_hosts(name: &str, own: &BTreeSet<String>) -> bool {
    own.iter().any(|own| {
        let short = own.split('.').next().unwrap_or_default();
        own.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
    })
}

/// Whether the host's own lines of hosts(5) have a name, in any case.
pub fn is_in_hosts(name: &str, text: &str) -> bool {
    let (before, after) = without_block(text);
    let lines = before.lines().chain(after.lines()).map(|line| line.split('#').next().unwrap_or_default());
    { lines }.any(|line| line.split_whitespace().skip(1).any(|word| word.eq_ignore_ascii_case(name)))
}

/// Every routed machine with a lease, by its address that stays. Names are the same in any case
/// (RFC 4343), and so are published in one; what means something else is not. `own` are the
/// host's names for itself.
pub fn entries(spec: &Spec, leases: &Leases, own: &BTreeSet<String>) -> Vec<Entry> {
    let mut names: Vec<&MachineName> = spec.machines.keys().collect();
    // Of two that differ in their case alone, the one that is as it is published.
    names.sort_by_key(|name| {
        (name.as_str().to_ascii_lowercase(), name.as_str() != name.as_str().to_ascii_lowercase())
    });
    names.dedup_by_key(|name| name.as_str().to_ascii_lowercase());
    names.retain(|name| !is_reserved(name.as_str()) && !is_the_hosts(name.as_str(), own));
    let routed = names.into_iter().filter_map(|name| {
        let routed = spec.machines.get(name)?.network.routed()?;
        let address = spec.host.fixed_address(routed, leases.get(name)?)?;
        Some(Entry { address, name: name.as_str().to_ascii_lowercase() })
    });
    let mut entries: Vec<Entry> = routed.collect();
    entries.sort();
    entries
}

/// The lines of hosts(5). A name that the host knows already is given only with its zone, and
/// so is one with dots: it may be somebody's in the world.
pub fn lines(entries: &[Entry], zone: &str, known: &dyn Fn(&str) -> bool) -> String {
    entries.iter().map(|Entry { address, name }| line((*address).into(), name, zone, known)).collect()
}

/// One of them.
pub fn line(address: IpAddr, name: &str, zone: &str, known: &dyn Fn(&str) -> bool) -> String {
    let alias = if name.contains('.') || known(name) { String::new() } else { format!(" {name}") };
    format!("{address} {name}.{zone}{alias}\n")
}

/// /etc/hosts with our block as it should be; the rest is left as it is.
pub fn merge(old: &str, entries: &[Entry], zone: &str) -> String {
    let (before, after) = without_block(old);
    let words = format!("{before}{after}");
    let known = |name: &str| is_in_hosts(name, &words);
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
pub fn files(host: &HostSpec) -> Option<(ManagedFile, String)> {
    let text = Ini::new().section("Resolve").set("DNSStubListenerExtra", host.dns_listener()?).render();
    Some((ManagedFile::ResolvedDropIn, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::definition_path;

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
    fn nobody_takes_over_a_name() {
        let routed = "[network]\nmode = \"routed\"\n";
        let names = ["LOCALHOST", "Web", "web", "db", "www.example.org", "Host1", "wpad"];
        let files = names.iter().map(|name| (definition_path(&name.parse().unwrap()), routed.to_owned()));
        let spec = Spec::parse(Some("pool = \"2001:db8:a::/48\""), &crate::spec::readable(&files.collect()))
            .unwrap();
        let mut leases = Leases::default();
        for name in spec.machines.keys() {
            leases.lease(spec.host.pool().unwrap(), name, None).unwrap();
        }
        let own = ["host1.example.org".to_owned()].into();
        let entries = entries(&spec, &leases, &own);
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["db", "www.example.org", "web"].into());
        let web = leases
            .get(&"web".parse().unwrap())
            .map(|lease| spec.host.fixed_address(&crate::spec::Routed::default(), lease).unwrap())
            .unwrap();
        assert!(entries.contains(&Entry { address: web, name: "web".into() }));
        let text = merge("192.0.2.7 DB\n", &entries, "internal");
        assert!(text.contains(" www.example.org.internal\n") && text.contains(" db.internal\n"), "{text}");
        assert!(text.contains(" web.internal web\n"), "{text}");
        assert!(is_reserved("_gateway") && is_reserved("a.LocalHost") && !is_reserved("web"));
        assert!(!is_in_hosts("web", &text) && is_in_hosts("db", &text));
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
