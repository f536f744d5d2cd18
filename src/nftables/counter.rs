//! The counters of each machine in our table: what was dropped on its account.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::TABLE;
use crate::name::MachineName;

/// Why packets were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// They were for it, and it has not opened that port.
    Refused,
    /// They were from it, and their address is none of its own.
    Spoofed,
}

impl Reason {
    const ALL: [Reason; 2] = [Reason::Refused, Reason::Spoofed];

    pub fn word(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::Spoofed => "spoofed",
        }
    }
}

/// What has been dropped since the counter was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub packets: u64,
    pub bytes: u64,
}

/// The counter's name.
pub fn counter(reason: Reason, machine: &MachineName) -> String {
    format!("{}-{machine}", reason.word())
}

/// What the counters say, as nft(8) lists them.
pub fn read(listed: &Value) -> BTreeMap<(MachineName, Reason), Dropped> {
    let counters = super::objects(listed).filter_map(|object| object.get("counter"));
    let ours = counters.filter(|counter| counter["table"] == TABLE && counter["family"] == "inet");
    ours.filter_map(|counter| {
        let name = counter["name"].as_str()?;
        let of = |reason: Reason| {
            Some((name.strip_prefix(reason.word())?.strip_prefix('-')?.parse().ok()?, reason))
        };
        let number = |key: &str| counter[key].as_u64();
        let dropped = Dropped { packets: number("packets")?, bytes: number("bytes")? };
        Some((Reason::ALL.into_iter().find_map(of)?, dropped))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_one_machines() {
        let one = |name: &str, table: &str| serde_json::json!({"counter": {"family": "inet", "name": name, "table": table, "packets": 3, "bytes": 180}});
        let web: MachineName = "web".parse().unwrap();
        let listed = serde_json::json!({"nftables": [{"metainfo": {}}, one(&counter(Reason::Refused, &web), TABLE),
            one("refused-web", "other"), one("refused-", TABLE), one("other-web", TABLE),
            one("spoofed-refused-web", TABLE)]});
        let found = read(&listed);
        let dropped = Dropped { packets: 3, bytes: 180 };
        let odd: MachineName = "refused-web".parse().unwrap();
        assert_eq!(found, [((web, Reason::Refused), dropped), ((odd, Reason::Spoofed), dropped)].into());
    }
}
