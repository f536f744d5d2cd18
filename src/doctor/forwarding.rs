//! Forwarding, and what it costs: a host that forwards ignores router
//! advertisements unless it is told otherwise (kernel, ip-sysctl.rst).

use super::{Facts, Finding};
use crate::observed::{FORWARDING, accept_ra};
use crate::spec::AcceptRa;

pub fn check(facts: &Facts) -> Vec<Finding> {
    if facts.spec.host.pool.is_none() {
        return Vec::new();
    }
    let off = facts.switch(FORWARDING).is_some_and(|value| value != "1");
    if off {
        return vec![
            Finding::error(
                "net.ipv6.conf.all.forwarding",
                "is off; some program turned it off since nsctl turned it on",
                "no packet reaches or leaves a routed machine",
            )
            .mend_safely("sysctl -w net.ipv6.conf.all.forwarding=1"),
        ];
    }
    [off_again(facts), ignored(facts)].into_iter().flatten().collect()
}

/// Forwarding of a single interface is off, which `all` should have turned on.
fn off_again(facts: &Facts) -> Option<Finding> {
    let uplink = facts.uplink()?;
    let key = format!("net/ipv6/conf/{}/disable_ipv6", uplink.name);
    let disabled = facts.switch(&key) == Some("1");
    disabled.then(|| {
        Finding::error(&uplink.name, "has IPv6 turned off (disable_ipv6)", "nothing comes in from the world")
            .mend(format!("sysctl -w {}=0", key.replace('/', ".")))
    })
}

/// The kernel takes the uplink's router advertisements only with accept_ra=2.
fn ignored(facts: &Facts) -> Option<Finding> {
    let uplink = facts.uplink()?;
    let host = facts.spec.host.uplink.as_ref()?;
    let by_networkd = facts.managed.get(&uplink.index).is_some_and(|managed| managed.file.is_some());
    let ignores = facts.switch(&accept_ra(&uplink.name)) == Some("1");
    let ours = host.accept_ra == AcceptRa::Kernel || (!by_networkd && host.tunnel.is_none());
    (ignores && !by_networkd && ours).then(|| {
        Finding::error(
            &uplink.name,
            "ignores router advertisements, as this host forwards and accept_ra is 1, not 2",
            "the host loses its IPv6 default route when it runs out",
        )
        .mend_safely(format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", uplink.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_is_on_where_there_is_a_pool() {
        let mut facts = Facts::default();
        facts.switches.insert(FORWARDING.into(), "0".into());
        assert_eq!(check(&facts), []);
        facts.spec.host.pool = "2001:db8:a::/48".parse().ok();
        assert!(check(&facts)[0].what.contains("is off"));
        facts.switches.insert(FORWARDING.into(), "1".into());
        assert_eq!(check(&facts), []);
    }
}
