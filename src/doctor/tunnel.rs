//! The tunnel that the pool comes through: there, and with its keys.

use std::path::Path;

use super::{Facts, Finding, Trap};
use crate::emit::ManagedFile;
use crate::observed::Readers;
use crate::spec::Uplink;

pub fn check(facts: &Facts) -> Vec<Finding> {
    let Some(uplink) = facts.spec.host.uplink.as_ref().filter(|uplink| uplink.is_tunnel()) else {
        return Vec::new();
    };
    let mut findings = keyless(facts, uplink);
    findings.extend(facts.keys.iter().filter_map(|(path, readers)| misread(path, *readers)));
    let is_there = facts.observed.link(uplink.interface.as_str()).is_some();
    if !is_there && findings.is_empty() && facts.observed.live {
        let what = "is not there, though nsctl.toml says that the pool comes through it";
        let causes = "no machine is reached, and none reaches the world";
        let finding = Finding::error(Trap::TunnelMissing, uplink.interface.as_str(), what, causes);
        findings.push(finding.fix_safely("networkctl reload"));
    }
    findings
}

/// Keys that are gone: without one networkd makes no tunnel, or nobody answers.
fn keyless(facts: &Facts, uplink: &Uplink) -> Vec<Finding> {
    let Some(wireguard) = uplink.wireguard() else { return Vec::new() };
    let shared = wireguard.peer.iter().filter(|peer| peer.preshared);
    let whose = std::iter::once(None).chain(shared.map(|peer| Some(peer.public_key.number())));
    let paths = whose.map(|peer| ManagedFile::TunnelKey(uplink.interface.clone(), peer).path());
    let observed = &facts.observed;
    let gone = paths.filter(|path| {
        !observed.unreadable.contains_key(path) && observed.file(path).is_none_or(|key| key.trim().is_empty())
    });
    let pool = facts.spec.host.whole.map(|pool| format!(" --pool {pool}")).unwrap_or_default();
    let findings = gone.map(|path| {
        let what = format!("has no key: {} is not there", path.display());
        Finding::error(Trap::TunnelKey, uplink.interface.as_str(), what, "the tunnel comes up no more")
            .fix(format!("nsctl init --wireguard {}.conf{pool}", uplink.interface))
    });
    findings.collect()
}

/// A key that others read, too, or that who makes the tunnel cannot.
fn misread(path: &Path, readers: Readers) -> Option<Finding> {
    let (what, effect) = match readers {
        Readers { everybody: true, .. } => {
            ("everybody on this host can read it", "who does may be this host")
        }
        Readers { networkd: false, .. } => ("networkd cannot read it", "the tunnel comes up no more"),
        Readers { .. } => return None,
    };
    let shown = path.display();
    let fix = format!("chgrp systemd-network {shown} && chmod 640 {shown} && networkctl reload");
    Some(Finding::error(Trap::TunnelKey, shown.to_string(), what, effect).fix_safely(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Link;
    use crate::spec::Spec;

    #[test]
    fn what_a_tunnel_lacks() {
        let host = "pool = \"2001:db8:a::/48\"\n[uplink]\ninterface = \"wg0\"\n[uplink.wireguard]\naddress = [\"10.9.0.2/32\"]\n\
                    [[uplink.wireguard.peer]]\npublic-key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\npreshared = true\nallowed-ips = [\"::/0\"]\n";
        let spec = Spec::parse(Some(host), &crate::spec::Definitions::new()).unwrap();
        let mut facts = Facts { spec, ..Facts::default() };
        facts.observed.live = true;
        assert_eq!(check(&facts).len(), 2, "two keys");
        let public: crate::spec::wireguard::Key =
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap();
        for peer in [None, Some(public.number())] {
            let key = ManagedFile::TunnelKey("wg0".parse().unwrap(), peer);
            facts.observed.files.insert(key.path(), "x".into());
        }
        assert!(check(&facts)[0].what.starts_with("is not there"));
        facts.observed.links = vec![Link { name: "wg0".into(), ..Link::default() }];
        assert_eq!(check(&facts), []);
        let key = ManagedFile::TunnelKey("wg0".parse().unwrap(), None).path();
        for (everybody, networkd, says) in
            [(false, true, None), (true, true, Some("everybody")), (false, false, Some("networkd"))]
        {
            facts.keys.insert(key.clone(), Readers { everybody, networkd });
            let found = check(&facts);
            assert_eq!(found.first().map(|finding| finding.what.split(' ').next().unwrap()), says);
        }
    }
}
