//! Firewalls: ours that is gone, others' that drop what machines need.

use super::{Facts, Finding};
use crate::plan::others::{Drops, drops};
use crate::plan::{Scope, Wanted, flushed};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let wanted = Wanted::new(facts.spec.clone(), facts.state.clone(), Scope::All);
    let mut findings: Vec<Finding> = drops(&wanted, &facts.observed)
        .into_iter()
        .map(|Drops { who, what, command }| {
            Finding::error(
                who,
                format!("drops {what}"),
                "machines are cut off, also where nsctl lets them be reached",
            )
            .mend(command)
        })
        .collect();
    if flushed(&wanted, &facts.observed) {
        findings.push(
            Finding::error(
                "table inet nsctl",
                "is not loaded: somebody flushed all rules",
                "every port of every routed machine is open, and machines may feign addresses",
            )
            .mend_safely("nft -f /var/lib/nsctl/firewall.nft"),
        );
    }
    findings.extend(inputs(facts));
    if !facts.loopback_answers {
        findings.push(
            Finding::error("::1", "does not answer", "programs of this host that talk to it itself hang")
                .mend("nft insert rule inet filter input iifname lo accept"),
        );
    }
    findings
}

/// The messages that a host must take (RFC 4890 4.4).
const NEEDED: &str = "'{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, \
                      nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }'";

/// Input chains that drop the ICMPv6 without which IPv6 does not work (RFC 4890 4.4.1).
fn inputs(facts: &Facts) -> Vec<Finding> {
    let inputs = facts.observed.nftables.iter().flat_map(|nftables| &nftables.inputs);
    let found = inputs.filter(|chain| !chain.icmp).map(|chain| {
        let place = format!("{} {} {}", chain.family, chain.table, chain.name);
        Finding::error(
            format!("chain {place}"),
            "drops ICMPv6",
            "neighbours are not found, router advertisements not heard, and large packets vanish",
        )
        .mend(format!("nft insert rule {place} icmpv6 type {NEEDED} accept"))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{InputChain, Nftables};

    #[test]
    fn icmp_must_get_in() {
        let mut facts = Facts { loopback_answers: true, ..Facts::default() };
        let chain = |icmp| InputChain {
            family: "inet".into(),
            table: "filter".into(),
            name: "input".into(),
            loopback: true,
            icmp,
        };
        facts.observed.nftables = Some(Nftables { inputs: vec![chain(true)], ..Nftables::default() });
        assert_eq!(check(&facts), []);
        facts.observed.nftables = Some(Nftables { inputs: vec![chain(false)], ..Nftables::default() });
        assert!(check(&facts)[0].mend.starts_with("nft insert rule inet filter input icmpv6 type"));
    }
}
