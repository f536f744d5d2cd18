//! The names of machines in a zone of the world: what nsupdate(1) is told. Pure.
//!
//! A name is nsctl's where a TXT record says so; each change asks for that record (RFC 2136 2.4), so
//! that what somebody else has put there is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::spec::push::Push;

/// What is published: each name, and its addresses.
pub type Published = BTreeMap<String, BTreeSet<IpAddr>>;

/// What this host remembers to have published. A name that is only on its way has no addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub zone: String,
    pub names: Published,
}

/// How a name changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    /// None: it goes.
    pub addresses: BTreeSet<IpAddr>,
}

/// The changes from what was published to what is to be; with `all`, also of names that are as
/// they were when they were published.
pub fn changes(record: &Record, wanted: &Published, all: bool) -> Vec<Change> {
    let gone = record.names.keys().filter(|name| !wanted.contains_key(*name));
    let gone = gone.map(|name| Change { name: name.clone(), addresses: BTreeSet::new() });
    let stay = wanted.iter().filter(|(name, addresses)| all || record.names.get(*name) != Some(*addresses));
    gone.chain(stay.map(|(name, addresses)| Change { name: name.clone(), addresses: addresses.clone() }))
        .collect()
}

impl Change {
    /// The change of a name that is ours already.
    pub fn of_ours(&self, push: &Push, mark: &str) -> String {
        let name = self.whole(push);
        let mut text = format!(
            "prereq yxrrset {name} TXT \"{mark}\"\nupdate delete {name} AAAA\nupdate delete {name} A\n"
        );
        if self.addresses.is_empty() {
            text += &format!("update delete {name} TXT \"{mark}\"\n");
        }
        Self::script(push, text + &self.adds(push))
    }

    /// The same of a name that nobody has.
    pub fn of_new(&self, push: &Push, mark: &str) -> String {
        let name = self.whole(push);
        let text = format!("prereq nxdomain {name}\nupdate add {name} {} TXT \"{mark}\"\n", push.ttl);
        Self::script(push, text + &self.adds(push))
    }

    fn whole(&self, push: &Push) -> String {
        format!("{}.{}.", self.name, push.zone.trim_end_matches('.'))
    }

    fn adds(&self, push: &Push) -> String {
        let name = self.whole(push);
        let adds = self.addresses.iter().map(|address| {
            let kind = if address.is_ipv6() { "AAAA" } else { "A" };
            format!("update add {name} {} {kind} {address}\n", push.ttl)
        });
        adds.collect()
    }

    fn script(push: &Push, text: String) -> String {
        format!(
            "server {} {}\nzone {}.\n{text}send\n",
            push.server,
            push.port,
            push.zone.trim_end_matches('.')
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_the_server() {
        let push = Push {
            zone: "example.org".into(),
            server: "192.0.2.53".parse().unwrap(),
            port: 53,
            key: "/etc/nsctl/tsig.key".into(),
            ttl: 60,
        };
        let addresses =
            |words: &[&str]| -> BTreeSet<IpAddr> { words.iter().map(|word| word.parse().unwrap()).collect() };
        let record = Record {
            zone: "example.org".into(),
            names: [("old", "2001:db8::1"), ("web", "2001:db8::2"), ("same", "2001:db8::3")]
                .map(|(name, at)| (name.to_owned(), addresses(&[at])))
                .into(),
        };
        let wanted = Published::from([
            ("new".to_owned(), addresses(&["2001:db8::9", "192.0.2.9"])),
            ("same".to_owned(), addresses(&["2001:db8::3"])),
            ("web".to_owned(), addresses(&["2001:db8::7"])),
        ]);
        let found = changes(&record, &wanted, false);
        assert_eq!(
            found.iter().map(|change| change.name.as_str()).collect::<Vec<_>>(),
            ["old", "new", "web"]
        );
        assert_eq!(changes(&record, &wanted, true).len(), 4);
        let sheet: Vec<String> = found
            .iter()
            .flat_map(|change| [change.of_ours(&push, "nsctl=7"), change.of_new(&push, "nsctl=7")])
            .collect();
        insta::assert_snapshot!(sheet.join("\n"));
    }
}
