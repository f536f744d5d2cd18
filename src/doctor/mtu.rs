//! The bytes that a packet may have: on the uplink, and on machines' veths.

use super::{Facts, Finding, Trap};
use crate::spec::HOST_FILE;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink().filter(|_| facts.spec.host.pool().is_some()) else { return Vec::new() };
    if uplink.mtu < 1280 {
        let what = format!("takes packets of {} bytes only", uplink.mtu);
        let causes = "IPv6 needs 1280 (RFC 8200 5): the kernel turns it off on such a link";
        let fix = format!("ip link set {0} mtu 1500 && networkctl reconfigure {0}", uplink.name);
        return vec![Finding::error(Trap::Mtu, &uplink.name, what, causes).fix(fix)];
    }
    let running = facts.spec.machines.keys().filter(|name| facts.observed.is_running(name));
    let routed = running.filter_map(|name| facts.observed.link(&name.routed_link()));
    let wide = routed.filter(|link| link.mtu > uplink.mtu).map(|link| link.name.as_str());
    let wide: Vec<&str> = wide.collect();
    if wide.is_empty() {
        return Vec::new();
    }
    let (name, mtu) = (&uplink.name, uplink.mtu);
    let what = format!("may send more bytes at once than {name} takes ({mtu})");
    let causes =
        "each new connection loses its first large packets, and hangs where packet-too-big is filtered";
    let fix =
        format!("sed -i '/^mtu = /d; s/^interface = .*/&\\nmtu = {mtu}/' {HOST_FILE} && nsctl apply --yes");
    vec![Finding::warning(Trap::Mtu, wide.join(", "), what, causes).fix(fix)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Link;

    #[test]
    fn the_uplink_is_wide_enough() {
        let mut facts = Facts::default();
        facts.spec.host =
            toml::from_str("pool = \"2001:db8:a::/48\"\n[uplink]\ninterface = \"wan0\"\n").unwrap();
        let link = |mtu| Link { index: 1, name: "wan0".into(), mtu, up: true, ..Link::default() };
        facts.observed.links = vec![link(1500)];
        assert_eq!(check(&facts), []);
        facts.observed.links = vec![link(1200)];
        assert!(check(&facts)[0].what.contains("1200"));
    }
}
