//! Other people's firewalls: who would drop what goes to and from our machines,
//! and what to tell them.

use super::Wanted;
use crate::name::kernel_name;
use crate::observed::{BRIDGE_NETFILTER, Chain, Observed, Tool};
use crate::spec::Network;
use crate::visible::joined;

/// What must get through a forward chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Traffic {
    /// To and from an IPv6 prefix.
    Prefix(String),
    /// IPv4 in and out of an interface.
    Link(String),
    /// Between the ports of a bridge, both families.
    Bridge(String),
}

/// What is dropped, by whom, and the command that lets it through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops {
    pub who: String,
    pub what: String,
    pub command: String,
    /// It is between the ports of a bridge, which a firewall of IP need not see.
    pub bridged: bool,
}

/// What the user should know before machines are cut off.
pub fn notes(wanted: &Wanted, observed: &Observed) -> Vec<String> {
    let note = |Drops { who, what, command, .. }| format!("{who} drops {what}; let it through: `{command}`");
    drops(wanted, observed).into_iter().map(note).collect()
}

/// What other firewalls drop of the machines of a plan's scope.
pub fn drops(wanted: &Wanted, observed: &Observed) -> Vec<Drops> {
    let Some(nftables) = &observed.nftables else { return Vec::new() };
    let traffic = traffic(wanted);
    let met = nftables.dropping.iter().flat_map(|chain| traffic.iter().map(move |traffic| (chain, traffic)));
    met.filter(|(chain, traffic)| sees(observed, chain, traffic) && !chain.passes.contains(traffic.word()))
        .map(|(chain, traffic)| {
            let what = match traffic {
                Traffic::Prefix(_) => "what goes to and from machines".to_owned(),
                Traffic::Link(link) => format!("the IPv4 of the machine behind {link}"),
                Traffic::Bridge(bridge) => {
                    format!("what machines on {bridge} exchange with the LAN, as br_netfilter shows it to it")
                }
            };
            let bridged = matches!(traffic, Traffic::Bridge(_));
            Drops { who: who(chain), what, command: pass(chain, traffic), bridged }
        })
        .collect()
}

impl Traffic {
    /// The prefix or interface that a rule names which lets it through.
    fn word(&self) -> &str {
        let (Traffic::Prefix(word) | Traffic::Link(word) | Traffic::Bridge(word)) = self;
        word
    }
}

/// What the machines of a plan's scope send and receive.
fn traffic(wanted: &Wanted) -> Vec<Traffic> {
    let host = &wanted.spec.host;
    let mine = wanted.spec.machines.iter().filter(|(name, _)| wanted.holds_machine(name));
    let mut traffic = Vec::new();
    for (name, machine) in mine {
        match &machine.network {
            Network::Routed(routed) => {
                traffic.extend(routed.routes.iter().map(|route| Traffic::Prefix(route.to_string())));
                let pool = host.prefix();
                traffic.extend(pool.map(|pool| Traffic::Prefix(pool.to_string())));
                let link = || Traffic::Link(kernel_name(&name.routed_link()));
                traffic.extend(host.has_ipv4(machine).then(link));
            }
            Network::Bridge(_) => {}
        }
        traffic.extend(machine.network.port().map(|port| Traffic::Bridge(port.bridge.to_string())));
    }
    traffic.sort();
    traffic.dedup();
    traffic
}

/// Whether a chain meets such packets. Frames between ports of a bridge come
/// through chains of the IP families only with br_netfilter.
fn sees(observed: &Observed, chain: &Chain, traffic: &Traffic) -> bool {
    let family = chain.family.as_str();
    match traffic {
        Traffic::Prefix(_) => family != "ip",
        Traffic::Link(_) => family != "ip6",
        Traffic::Bridge(_) => BRIDGE_NETFILTER.iter().any(|(of, key)| {
            (family == "inet" || family == *of)
                && observed.sysctls.get(*key).is_some_and(|value| value == "1")
        }),
    }
}

fn who(chain: &Chain) -> String {
    let Chain { family, table, name, tool, .. } = chain;
    let tool = match tool {
        Tool::Docker => "Docker's",
        Tool::Ufw => "ufw's",
        Tool::Firewalld => "firewalld's",
        Tool::Iptables | Tool::Nftables => "a firewall's",
    };
    format!("{tool} forward chain ({family} {table} {name})")
}

/// The command that lets it through.
fn pass(chain: &Chain, traffic: &Traffic) -> String {
    let Chain { family, table, name, tool, .. } = chain;
    let iptables = |chain: &str| {
        let binary = if family == "ip" { "iptables" } else { "ip6tables" };
        each(traffic, &["-s", "-d"], &["-i", "-o"], &|rule| format!("{binary} -I {chain} {rule} -j ACCEPT"))
    };
    match tool {
        Tool::Docker => iptables("DOCKER-USER"),
        Tool::Iptables => iptables(name),
        Tool::Ufw => {
            each(traffic, &["from", "to"], &["in on", "out on"], &|rule| format!("ufw route allow {rule}"))
        }
        Tool::Firewalld => firewalld(traffic),
        Tool::Nftables => each(traffic, &["ip6 saddr", "ip6 daddr"], &["iifname", "oifname"], &|rule| {
            format!("nft insert rule {family} {table} {name} {rule} accept")
        }),
    }
}

/// One command for each direction; between the ports of a bridge both are one rule.
fn each(traffic: &Traffic, prefix: &[&str; 2], link: &[&str; 2], command: &dyn Fn(&str) -> String) -> String {
    let rules: Vec<String> = match traffic {
        Traffic::Prefix(net) => prefix.iter().map(|word| format!("{word} {net}")).collect(),
        Traffic::Link(name) => link.iter().map(|word| format!("{word} {name}")).collect(),
        Traffic::Bridge(name) => vec![link.map(|word| format!("{word} {name}")).join(" ")],
    };
    joined(rules.iter().map(|rule| command(rule)), " && ")
}

/// A zone that is trusted sends where it likes; into it, a policy must let (firewalld.policies(5)).
fn firewalld(traffic: &Traffic) -> String {
    let zone = |what: &str| format!("--zone=trusted {what}");
    let settings = match traffic {
        Traffic::Prefix(net) => vec![
            zone(&format!("--add-source={net}")),
            "--new-policy=nsctl".to_owned(),
            "--policy=nsctl --add-ingress-zone=ANY".to_owned(),
            "--policy=nsctl --add-egress-zone=trusted".to_owned(),
            "--policy=nsctl --set-target=ACCEPT".to_owned(),
        ],
        Traffic::Link(name) | Traffic::Bridge(name) => vec![zone(&format!("--add-interface={name}"))],
    };
    let commands = settings.iter().map(|setting| format!("firewall-cmd --permanent {setting} && "));
    format!("{}firewall-cmd --reload", commands.collect::<String>())
}
