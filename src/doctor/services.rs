//! networkd, machined and resolved: there, running, and starting with the host.

use std::collections::BTreeMap;

use super::{Facts, Finding, Trap};
use crate::observed::{Link, Service};

/// The services that doctor asks systemd about.
pub const ASKED: [&str; 5] =
    ["systemd-networkd", "systemd-machined", "systemd-resolved", "nsctl-nat64", "nsctl-dns64"];

pub fn check(facts: &Facts) -> Vec<Finding> {
    let listens = facts.spec.host.dns.as_ref().is_some_and(|dns| dns.listen);
    let resolved = listens.then(|| fault(&facts.services, "systemd-resolved"));
    let networkd = fault(&facts.services, "systemd-networkd");
    let findings = networkd.into_iter().chain(resolved.flatten()).chain(machined(&facts.services));
    findings.chain(unmanaged(facts)).chain(run_by_both(facts)).chain(untranslated(facts)).collect()
}

/// What translates for machines that run, and does not run itself.
fn untranslated(facts: &Facts) -> Vec<Finding> {
    let Facts { spec, observed, services, .. } = facts;
    let mut translated = spec
        .machines
        .iter()
        .filter(|(name, machine)| spec.host.is_translated(machine) && observed.is_running(name));
    let needed = translated.next().map(|_| {
        let names = spec.host.dns64_listener().map(|_| ("nsctl-dns64", "machines with nat64 find no names"));
        [("nsctl-nat64", "machines with nat64 do not reach IPv4")].into_iter().chain(names)
    });
    let down = needed
        .into_iter()
        .flatten()
        .filter(|(name, _)| !services.get(*name).is_some_and(|service| service.active));
    down.map(|(name, causes)| {
        Finding::error(Trap::ServiceDown, name, "does not run", causes)
            .fix_safely(format!("systemctl start {name}"))
    })
    .collect()
}

/// What must be fixed before anything else can be looked at: without these
/// services nothing is known of machines and links.
pub fn first(services: &BTreeMap<String, Service>) -> Vec<Finding> {
    let networkd = services.get("systemd-networkd").is_some_and(|service| service.active);
    let networkd = (!networkd).then(|| fault(services, "systemd-networkd")).flatten();
    networkd.into_iter().chain(machined(services)).collect()
}

/// Services that run and do not answer: nothing can be known before they do.
pub fn hanging(all: &[&str]) -> Vec<Finding> {
    let told = all.iter().map(|service| {
        let fix = match *service {
            "systemd" => "systemctl status init.scope".to_owned(),
            service => format!("systemctl restart {service}"),
        };
        Finding::error(
            Trap::ServiceHangs,
            *service,
            "runs, but does not answer",
            "whoever asks it waits in vain",
        )
        .fix(fix)
    });
    told.collect()
}

fn fault(services: &BTreeMap<String, Service>, name: &str) -> Option<Finding> {
    let service = services.get(name).copied().unwrap_or_default();
    let why = match name {
        "systemd-resolved" => "machines that ask this host find no names",
        "systemd-machined" => "no machine starts, and nobody knows which ones run",
        _ => "no machine gets its address or its route",
    };
    if service.masked {
        let fix = format!("systemctl unmask {name} && systemctl enable --now {name}");
        Some(Finding::error(Trap::ServiceDown, name, "is masked", why).fix(fix))
    } else if !service.active {
        Some(
            Finding::error(Trap::ServiceDown, name, "does not run", why)
                .fix_safely(format!("systemctl enable --now {name}")),
        )
    } else if !service.enabled {
        let what = "runs, but does not start with the host";
        let fix = format!("systemctl enable {name}");
        Some(
            Finding::error(Trap::ServiceDown, name, what, format!("after the next boot {why}"))
                .fix_safely(fix),
        )
    } else {
        None
    }
}

/// It starts when it is asked for, unless that is forbidden.
fn machined(services: &BTreeMap<String, Service>) -> Option<Finding> {
    let masked = services.get("systemd-machined").is_some_and(|service| service.masked);
    masked.then(|| fault(services, "systemd-machined")).flatten()
}

/// NetworkManager runs a link that networkd configures: a machine's, the uplink, a bridge.
fn run_by_both(facts: &Facts) -> Vec<Finding> {
    let configured =
        |link: &&Link| facts.managed.get(&link.index).is_some_and(|managed| managed.file.is_some());
    let both = facts.observed.links.iter().filter(|link| facts.network_managers.contains(&link.name));
    both.filter(configured)
        .map(|link| {
            let name = &link.name;
            let causes = "each takes away the addresses and routes that the other sets";
            Finding::error(Trap::TwoManagers, name, "is run by NetworkManager and by networkd", causes).fix(
                format!(
                    "printf '[device-{name}]\\nmatch-device=interface-name:{name}\\nmanaged=0\\n' > \
                 /etc/NetworkManager/conf.d/50-{name}.conf && nmcli general reload conf && \
                 nmcli device set {name} managed no && networkctl reconfigure {name}"
                ),
            )
        })
        .collect()
}

/// networkd leaves a machine's link alone, or has failed with it.
fn unmanaged(facts: &Facts) -> Vec<Finding> {
    let running = facts.spec.machines.keys().filter(|name| facts.observed.is_running(name));
    let links = running.filter_map(|name| facts.observed.host_end(name));
    let mut findings = Vec::new();
    for link in links {
        let Some(managed) = facts.managed.get(&link.index).filter(|it| !it.is_undecided()) else { continue };
        let file = managed.file.as_deref().unwrap_or("none");
        if !file.contains("-nsctl-") {
            let what = format!("networkd uses another file than nsctl's for it: {file}");
            let causes = "the machine has neither its subnet nor its gateway";
            let usual = || "nsctl apply --yes && networkctl reload".into();
            let fix = facts.let_ours_win(link).unwrap_or_else(usual);
            findings.push(Finding::error(Trap::LinkNotConfigured, &link.name, what, causes).fix(fix));
        } else if managed.state == "failed" {
            findings.push(
                Finding::error(
                    Trap::LinkNotConfigured,
                    &link.name,
                    "networkd could not configure it",
                    "the machine is cut off",
                )
                .fix(format!("networkctl reconfigure {}", link.name)),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Managed;

    #[test]
    fn what_is_needed_runs_and_starts_with_the_host() {
        let mut facts = Facts::default();
        assert_eq!(check(&facts)[0].fix, "systemctl enable --now systemd-networkd");
        let mut put = |name: &str, service| facts.services.insert(name.into(), service);
        put("systemd-networkd", Service { active: true, ..Service::default() });
        put("systemd-machined", Service { masked: true, ..Service::default() });
        let found = check(&facts);
        assert_eq!(found[0].fix, "systemctl enable systemd-networkd");
        assert!(found[1].fix.starts_with("systemctl unmask systemd-machined"));
        assert_eq!(first(&facts.services), found[1..]);
        let mut put = |name: &str, service| facts.services.insert(name.into(), service);
        put("systemd-networkd", Service { active: true, enabled: true, masked: false });
        put("systemd-machined", Service::default());
        assert_eq!(check(&facts), []);
    }

    #[test]
    fn a_link_has_one_manager() {
        let mut facts = Facts::default();
        let enabled = Service { active: true, enabled: true, masked: false };
        facts.services.insert("systemd-networkd".into(), enabled);
        facts.observed.links =
            vec![Link { index: 3, name: "wan0".into(), mtu: 1500, up: true, ..Link::default() }];
        facts.network_managers.insert("wan0".into());
        assert_eq!(check(&facts), []);
        let file = Some("/etc/systemd/network/20-wan0.network".into());
        facts.managed.insert(3, Managed { file, state: "configured".into() });
        assert!(check(&facts)[0].what.contains("by NetworkManager and by networkd"));
    }
}
