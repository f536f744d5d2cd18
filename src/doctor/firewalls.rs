//! Firewalls: ours that is gone, others' that drop what machines need.

use std::collections::BTreeMap;

use super::{Facts, Finding, Trap};
use crate::emit::FIREWALL_FILE;
use crate::name::kernel_name;
use crate::nftables::table::Difference;
use crate::plan::others::{Drops, drops};
use crate::plan::{Scope, Wanted, few, flushed};

/// What all machines on the firewall share.
pub const OUR_TABLE: &str = "table inet nsctl";

pub fn check(facts: &Facts) -> Vec<Finding> {
    let wanted = Wanted::new(facts.spec.clone(), facts.state.clone(), Scope::All);
    let causes = "machines are cut off, also where nsctl lets them be reached";
    let dropped = drops(&wanted, &facts.observed).into_iter().map(|Drops { who, what, command, bridged }| {
        let trap = if bridged { Trap::BridgeNetfilter } else { Trap::ForeignFirewall };
        Finding::error(trap, who, format!("drops {what}"), causes).fix(command)
    });
    let mut findings: Vec<Finding> = dropped.collect();
    if flushed(&wanted, &facts.observed) {
        findings.extend(drift(facts));
    }
    findings.extend(inputs(facts));
    if !facts.loopback_answers {
        findings.push(
            Finding::error(
                Trap::LoopbackDropped,
                "::1",
                "does not answer",
                "programs of this host that talk to it itself hang",
            )
            .fix("nft insert rule inet filter input iifname lo accept"),
        );
    }
    findings
}

/// Where our table is not what its files say: what all machines share, and what concerns one.
fn drift(facts: &Facts) -> Vec<Finding> {
    let drift = facts.observed.nftables.iter().flat_map(|nftables| &nftables.drift);
    let mut objects: BTreeMap<String, Vec<Difference>> = BTreeMap::new();
    for one in drift {
        let about = one.about.as_deref();
        let object = about.map_or(OUR_TABLE.to_owned(), |about| machine_of(facts, about));
        objects.entry(object).or_default().push(one.clone());
    }
    let found = objects.into_iter().map(|(object, drift)| {
        let says = few(&drift);
        let what = match drift.first() {
            Some(gone) if drift.len() == 1 && gone.object == object => gone.what.clone(),
            _ if object == OUR_TABLE => format!("is not what its files say: {says}"),
            _ => format!("has not the firewall that its files say: {says}"),
        };
        let causes =
            "ports that nobody opened may be open, open ones closed, and machines may feign addresses";
        let finding = Finding::error(Trap::FirewallChanged, object, what, causes);
        if drift.iter().any(|one| one.added) {
            // What somebody put there goes.
            return finding.fix("nsctl apply");
        }
        finding.fix_safely(format!("nft -f {FIREWALL_FILE}"))
    });
    found.collect()
}

/// A machine's name, told by that or by its interface.
fn machine_of(facts: &Facts, about: &str) -> String {
    let names = facts.spec.machines.keys();
    let link = names.clone().find(|name| kernel_name(&name.routed_link()) == about);
    link.map_or(about.to_owned(), ToString::to_string)
}

/// The messages that a host must take (RFC 4890 4.4).
const NEEDED: &str = "'{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, \
                      nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }'";

/// Input chains that drop the ICMPv6 without which IPv6 does not work (RFC 4890 4.4.1).
fn inputs(facts: &Facts) -> Vec<Finding> {
    let inputs = facts.observed.nftables.iter().flat_map(|nftables| &nftables.inputs);
    let found = inputs.filter(|chain| !chain.icmp).map(|chain| {
        let place = format!("{} {} {}", chain.family, chain.table, chain.name);
        let causes = "neighbours are not found, router advertisements not heard, and large packets vanish";
        Finding::error(Trap::Icmpv6Dropped, format!("chain {place}"), "drops ICMPv6", causes)
            .fix(format!("nft insert rule {place} icmpv6 type {NEEDED} accept"))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::table::Table;
    use crate::observed::{InputChain, Nftables};

    #[test]
    fn drift_names_the_machine_that_it_concerns() {
        let mut facts = Facts { loopback_answers: true, ..Facts::default() };
        facts.observed.files.insert(FIREWALL_FILE.into(), String::new());
        let files = ["table inet nsctl {\nchain to-web {\naccept\n}\nchain forward {\naccept\n}\n}"];
        let loaded = ["table inet nsctl {\nchain to-web {\ndrop\n}\nchain forward {\n}\n}"];
        let drift = Table::read(files).differences(&Table::read(loaded));
        facts.observed.nftables = Some(Nftables { ours: true, drift, ..Nftables::default() });
        let found = check(&facts);
        let told: Vec<(&str, bool)> = found.iter().map(|one| (one.object.as_str(), one.safe)).collect();
        assert_eq!(told, [(OUR_TABLE, true), ("web", false)]);
        facts.observed.nftables = Some(Nftables { drift: vec![Difference::gone()], ..Nftables::default() });
        assert_eq!(check(&facts)[0].what, "is not loaded: somebody flushed all rules");
    }

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
        assert!(check(&facts)[0].fix.starts_with("nft insert rule inet filter input icmpv6 type"));
    }
}
