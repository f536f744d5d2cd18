//! networkd's `IPMasquerade=both`, which the stock file of veths has, translates
//! IPv6, too: machines lose the addresses that they were given.

use super::{Facts, Finding, Trap};
use crate::emit::ini::Ini;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let translated = facts.observed.nftables.iter().flat_map(|nftables| &nftables.translated);
    let global = translated.filter(|net| {
        let first = net.network().segments()[0];
        first & 0xe000 == 0x2000
    });
    let found = global.map(|net| {
        let fix = culprit(facts).map_or_else(
            || "nft flush set ip6 io.systemd.nat masq_saddr".to_owned(),
            |file| {
                // networkd keeps what it translates already.
                format!(
                    "mkdir -p /etc/systemd/network/{file}.d && printf '[Network]\\nIPMasquerade=ipv4\\n' > \
                     /etc/systemd/network/{file}.d/50-no-nat66.conf && networkctl reload && \
                     nft flush set ip6 io.systemd.nat masq_saddr"
                )
            },
        );
        let what = "is translated by networkd (IPMasquerade=both)";
        let causes =
            "machines go out with this host's address instead of their own, and nobody can answer them";
        Finding::error(Trap::Ipv6Translated, net.to_string(), what, causes).fix(fix)
    });
    found.collect()
}

/// The file that says so, of those that networkd uses.
fn culprit(facts: &Facts) -> Option<String> {
    let used = facts.managed.values().filter_map(|managed| managed.file.as_deref());
    let mut both = used.filter(|file| {
        let text = facts.settings.get(std::path::Path::new(file));
        text.is_some_and(|text| Ini::parse(text).get("Network", "IPMasquerade") == Some("both"))
    });
    Some(both.next()?.rsplit('/').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Nftables;

    #[test]
    fn global_addresses_are_not_translated() {
        let mut facts = Facts::default();
        let with =
            |net: &str| Some(Nftables { translated: vec![net.parse().unwrap()], ..Nftables::default() });
        facts.observed.nftables = with("fd00:1::/64");
        assert_eq!(check(&facts), []);
        facts.observed.nftables = with("2001:db8:a::/64");
        assert_eq!(check(&facts).len(), 1);
    }
}
