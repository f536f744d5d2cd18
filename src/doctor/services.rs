//! networkd, machined and resolved: there, running, and starting with the host.

use super::{Facts, Finding};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let listens = facts.spec.host.dns.as_ref().is_some_and(|dns| dns.listen);
    let needed = [("systemd-networkd", true), ("systemd-resolved", listens)];
    let mut findings = Vec::new();
    for (name, _) in needed.into_iter().filter(|(_, needed)| *needed) {
        let service = facts.services.get(name).copied().unwrap_or_default();
        let why = match name {
            "systemd-resolved" => "machines that ask this host find no names",
            _ => "no machine gets its address or its route",
        };
        if !service.active {
            findings.push(
                Finding::error(name, "does not run", why)
                    .mend_safely(format!("systemctl enable --now {name}")),
            );
        } else if !service.enabled {
            let what = "runs, but does not start with the host";
            findings.push(
                Finding::error(name, what, format!("after the next boot {why}"))
                    .mend_safely(format!("systemctl enable {name}")),
            );
        }
    }
    findings.extend(unmanaged(facts));
    findings
}

/// networkd leaves a machine's link alone, or has failed with it.
fn unmanaged(facts: &Facts) -> Vec<Finding> {
    let running = facts.spec.machines.keys().filter(|name| facts.observed.is_running(name));
    let links = running.filter_map(|name| facts.observed.host_end(name));
    let mut findings = Vec::new();
    for link in links {
        let Some(managed) = facts.managed.get(&link.index) else { continue };
        let file = managed.file.as_deref().unwrap_or("none");
        if !file.contains("-nsctl-") {
            findings.push(
                Finding::error(
                    &link.name,
                    format!("networkd uses another file than nsctl's for it: {file}"),
                    "the machine has neither its subnet nor its gateway",
                )
                .mend(
                    facts
                        .let_ours_win(link)
                        .unwrap_or_else(|| "nsctl apply --yes && networkctl reload".into()),
                ),
            );
        } else if managed.state == "failed" {
            findings.push(
                Finding::error(&link.name, "networkd could not configure it", "the machine is cut off")
                    .mend(format!("networkctl reconfigure {}", link.name)),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Service;

    #[test]
    fn what_is_needed_runs_and_starts_with_the_host() {
        let mut facts = Facts::default();
        assert_eq!(check(&facts)[0].mend, "systemctl enable --now systemd-networkd");
        facts.services.insert("systemd-networkd".into(), Service { active: true, enabled: false });
        assert_eq!(check(&facts)[0].mend, "systemctl enable systemd-networkd");
        facts.services.insert("systemd-networkd".into(), Service { active: true, enabled: true });
        assert_eq!(check(&facts), []);
    }
}
