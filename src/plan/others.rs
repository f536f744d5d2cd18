//! Other people's firewalls: who would drop what goes to and from our machines,
//! and what to tell them.

use super::Wanted;
use crate::emit::Owner;
use crate::name::IfName;
use crate::observed::{BRIDGE_NETFILTER, Chain, Observed, Tool};
use crate::pool::Pool;
use crate::spec::Network;

/// What the user should know before machines are cut off.
pub fn notes(wanted: &Wanted, observed: &Observed) -> Vec<String> {
    let Some(nftables) = &observed.nftables else { return Vec::new() };
    let mut notes = Vec::new();
    let (routed, bridges) = in_scope(wanted);
    for chain in &nftables.dropping {
        let v6 = chain.family != "ip";
        if let Some(pool) = wanted.spec.host.pool.filter(|pool| routed && v6 && !pool.is_delegated()) {
            notes.push(format!(
                "{} drops what goes to and from machines; let it through: {}",
                who(chain),
                pass(chain, pool)
            ));
        }
        for bridge in bridges.iter().filter(|_| filtered(observed, &chain.family)) {
            notes.push(format!(
                "{} drops what machines on {bridge} exchange with the LAN, as br_netfilter shows it to it; let it through: {}",
                who(chain),
                bridge_pass(chain, bridge)
            ));
        }
    }
    notes
}

/// Whether routed machines are in the plan's scope, and which bridges have some that are.
fn in_scope(wanted: &Wanted) -> (bool, Vec<IfName>) {
    let mine =
        wanted.spec.machines.iter().filter(|(name, _)| wanted.scope.holds(&Owner::Machine((*name).clone())));
    let (mut routed, mut bridges) = (false, Vec::new());
    for (_, machine) in mine {
        match &machine.network {
            Network::Routed(_) => routed = true,
            Network::Bridge(bridge) => bridges.push(bridge.clone()),
        }
    }
    bridges.sort();
    bridges.dedup();
    (routed, bridges)
}

/// Whether frames between ports of a bridge come through chains of this family.
fn filtered(observed: &Observed, family: &str) -> bool {
    BRIDGE_NETFILTER.iter().any(|(of, key)| {
        (family == "inet" || family == *of) && observed.sysctls.get(*key).is_some_and(|value| value == "1")
    })
}

fn who(chain: &Chain) -> String {
    let Chain { family, table, name, tool } = chain;
    let tool = match tool {
        Tool::Docker => "Docker's",
        Tool::Ufw => "ufw's",
        Tool::Firewalld => "firewalld's",
        Tool::Iptables | Tool::Nftables => "a firewall's",
    };
    format!("{tool} forward chain ({family} {table} {name})")
}

/// The command that lets the pool through.
fn pass(chain: &Chain, pool: Pool) -> String {
    let Chain { family, table, name, tool } = chain;
    let both = |form: &dyn Fn(&str) -> String| format!("`{} && {}`", form("s"), form("d"));
    match tool {
        Tool::Docker => both(&|way| format!("ip6tables -I DOCKER-USER -{way} {pool} -j ACCEPT")),
        Tool::Iptables => both(&|way| format!("ip6tables -I {name} -{way} {pool} -j ACCEPT")),
        Tool::Ufw => format!("`ufw route allow from {pool} && ufw route allow to {pool}`"),
        Tool::Firewalld => format!(
            "`firewall-cmd --permanent --zone=trusted --add-source={pool} && firewall-cmd --permanent --new-policy=nsctl && \
             firewall-cmd --permanent --policy=nsctl --add-ingress-zone=ANY --add-egress-zone=trusted --set-target=ACCEPT && \
             firewall-cmd --reload`"
        ),
        Tool::Nftables => {
            both(&|way| format!("nft insert rule {family} {table} {name} ip6 {way}addr {pool} accept"))
        }
    }
}

/// The command that lets a bridge's own frames through.
fn bridge_pass(chain: &Chain, bridge: &IfName) -> String {
    let Chain { family, table, name, tool } = chain;
    let iptables = if family == "ip6" { "ip6tables" } else { "iptables" };
    match tool {
        Tool::Docker => format!("`{iptables} -I DOCKER-USER -i {bridge} -o {bridge} -j ACCEPT`"),
        Tool::Iptables => format!("`{iptables} -I {name} -i {bridge} -o {bridge} -j ACCEPT`"),
        Tool::Ufw => format!("`ufw route allow in on {bridge} out on {bridge}`"),
        Tool::Firewalld => {
            format!(
                "`firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload`"
            )
        }
        Tool::Nftables => {
            format!("`nft insert rule {family} {table} {name} iifname {bridge} oifname {bridge} accept`")
        }
    }
}
