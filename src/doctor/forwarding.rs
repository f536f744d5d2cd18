//! Forwarding, and what it costs: a host that forwards ignores router
//! advertisements unless it is told otherwise (kernel, ip-sysctl.rst).

use std::path::Path;

use super::{Facts, Finding, Trap};
use crate::emit::ini::Ini;
use crate::observed::{FORWARDING, accept_ra};

pub fn check(facts: &Facts) -> Vec<Finding> {
    if facts.spec.host.pool().is_none() {
        return Vec::new();
    }
    let off = facts.switch(FORWARDING).is_some_and(|value| value != "1");
    if off {
        let what = "is off; some program turned it off since nsctl turned it on";
        let causes = "no packet reaches or leaves a routed machine";
        let finding = Finding::error(Trap::ForwardingOff, "net.ipv6.conf.all.forwarding", what, causes);
        return vec![finding.fix_safely("sysctl -w net.ipv6.conf.all.forwarding=1")];
    }
    [off_again(facts), ignored(facts), not_pinned(facts)].into_iter().flatten().collect()
}

/// Forwarding of a single interface is off, which `all` should have turned on.
fn off_again(facts: &Facts) -> Option<Finding> {
    let uplink = facts.uplink()?;
    let key = format!("net/ipv6/conf/{}/disable_ipv6", uplink.name);
    let disabled = facts.switch(&key) == Some("1");
    disabled.then(|| {
        Finding::error(
            Trap::Ipv6Disabled,
            &uplink.name,
            "has IPv6 turned off (disable_ipv6)",
            "nothing comes in from the world",
        )
        .fix(format!("sysctl -w {}=0", key.replace('/', ".")))
    })
}

/// The kernel takes the uplink's router advertisements only with accept_ra=2.
fn ignored(facts: &Facts) -> Option<Finding> {
    let uplink = facts.uplink()?;
    let host = facts.spec.host.uplink.as_ref()?;
    let by_networkd = facts.managed.get(&uplink.index).is_some_and(|managed| managed.file.is_some());
    let ignores = facts.switch(&accept_ra(&uplink.name)) == Some("1");
    let what = "ignores router advertisements, as this host forwards and accept_ra is 1, not 2";
    let causes = "the host loses its IPv6 default route when it runs out";
    let fix = format!("sysctl -w net.ipv6.conf.{}.accept_ra=2", uplink.name);
    (ignores && !by_networkd && !host.is_tunnel())
        .then(|| Finding::error(Trap::AcceptRa, &uplink.name, what, causes).fix_safely(fix))
}

/// networkd takes them on a host that forwards only where its file says so (systemd.network(5)).
fn not_pinned(facts: &Facts) -> Option<Finding> {
    let uplink = facts.uplink()?;
    let file = facts.managed.get(&uplink.index)?.file.as_deref()?;
    let name = file.rsplit('/').next()?;
    let drop_ins = format!("{name}.d");
    let mine = facts.settings.iter().filter(|(path, _)| {
        *path == Path::new(file) || path.parent().is_some_and(|folder| folder.ends_with(&drop_ins))
    });
    let says = |ini: &Ini, key: &str| ini.sections().any(|(_, pairs)| pairs.iter().any(|(k, _)| k == key));
    let decided = mine
        .map(|(_, text)| Ini::parse(text))
        .any(|ini| ["IPv6AcceptRA", "Gateway", "Bridge", "Destination"].iter().any(|key| says(&ini, key)));
    let known = facts.settings.contains_key(Path::new(file));
    (known && !decided).then(|| {
        Finding::error(
            Trap::AcceptRa,
            &uplink.name,
            format!("networkd ignores router advertisements of a host that forwards: IPv6AcceptRA= is not pinned in {file}"),
            "the host loses its IPv6 default route when the next machine starts, or at the next boot",
        )
        .fix_safely(format!(
            "mkdir -p /etc/systemd/network/{drop_ins} && printf '[Network]\\nIPv6AcceptRA=yes\\n' > \
             /etc/systemd/network/{drop_ins}/50-accept-ra.conf && networkctl reload"
        ))
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
        facts.spec.host.whole = "2001:db8:a::/48".parse().ok();
        assert!(check(&facts)[0].what.contains("is off"));
        facts.switches.insert(FORWARDING.into(), "1".into());
        assert_eq!(check(&facts), []);
    }
}
