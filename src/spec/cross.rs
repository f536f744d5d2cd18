//! What no single file can show: what two machines want, and what of a pool cannot be had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use super::{Definitions, Ipv4, MachineSpec, Problem, Routed, Spec, definition_path, text_of};
use crate::name::MachineName;
use crate::pool::{Lease, Pool, PoolError};
use crate::visible::joined;

/// A key of a definition, and what is wrong with what it says.
type Fault = (&'static str, String);

impl Spec {
    /// Takes out each machine that cannot be as its definition says.
    pub(super) fn cross_check(&mut self, texts: &Definitions) {
        let mut found = self.pins_and_routes();
        found.extend(self.shared_ipv4());
        for (name, machine) in &self.machines {
            found.extend(self.fault_of_pool(machine).map(|fault| (name.clone(), fault)));
        }
        found.extend(self.circles());
        for (name, (key, message)) in found {
            let problem = Problem::at_value(&definition_path(&name), text_of(texts, &name), key, message);
            self.breaks(&name, problem);
        }
        while let Err((name, message)) = self.ports_of_the_host() {
            self.breaks(&name, Problem::whole(&definition_path(&name), message));
        }
    }

    /// Pins and routes: no two machines have one, or a part of it, whoever was first.
    fn pins_and_routes(&self) -> Vec<(MachineName, Fault)> {
        let mut found = Vec::new();
        let (mut pins, mut routes) = (Vec::new(), Vec::new());
        let all = self.machines.iter().filter_map(|(name, machine)| Some((name, machine.network.routed()?)));
        for (name, routed) in all {
            if let Some(pin) = routed.subnet {
                pins.push(Claim { range: pin.range(), what: pin.to_string(), name });
                found.extend(self.pin_fault(pin).map(|message| (name.clone(), ("subnet", message))));
            }
            for route in &routed.routes {
                let range = (route.network().into(), route.broadcast().into());
                routes.push(Claim { range, what: route.to_string(), name });
                found.extend(self.route_fault(*route).map(|message| (name.clone(), ("routes", message))));
            }
        }
        found.extend(clashes(pins, "is pinned by").map(|(name, message)| (name, ("subnet", message))));
        found.extend(clashes(routes, "is routed to").map(|(name, message)| (name, ("routes", message))));
        found
    }

    /// What leads to a machine beside what it has of the pool is none of that.
    fn route_fault(&self, route: Ipv6Net) -> Option<String> {
        let holds = |net: Ipv6Net| net.contains(&route) || route.contains(&net);
        let pool = [self.host.whole, self.host.local].into_iter().flatten().find(|p| holds(p.net()))?;
        Some(format!("{route} and the pool {pool} overlap; `prefix = 60` gives a machine more of that"))
    }

    fn pin_fault(&self, pin: Lease) -> Option<String> {
        let pool = self.host.pool()?;
        if pool.is_single() && pin.subnet().is_some() {
            return Some(format!(
                "{pin} cannot be had: a machine gets an address of {pool}, and no /64; `subnet = \"ADDRESS/128\"` chooses one"
            ));
        }
        if !pool.contains(pin) {
            return Some(format!("{pin} is not in the pool {pool}"));
        }
        pool.is_hosts_own(pin).then(|| PoolError::HostsOwn(pin).to_string())
    }

    /// What a machine asks for that a pool of this kind does not have.
    fn fault_of_pool(&self, machine: &MachineSpec) -> Option<Fault> {
        let (pool, routed) = (self.host.pool()?, machine.network.routed()?);
        if pool.is_single() && routed.token.is_some() {
            let message = "token: of this pool a machine gets an address, and no /64; `subnet = \"ADDRESS/128\"` chooses one";
            return Some(("token", message.into()));
        }
        if let Some(message) = wide_fault(pool, routed) {
            return Some(("prefix", message));
        }
        if self.host.is_translated(machine) && !machine.has_firewall() {
            let message = "ipv4: nat64 is for machines behind nsctl's firewall, which says who is translated";
            return Some(("ipv4", message.into()));
        }
        if !pool.is_delegated() {
            return None;
        }
        if self.host.is_translated(machine) {
            let message = "ipv4: nat64 is for addresses that stay, and the prefix here is delegated and changes; nat works";
            return Some(("ipv4", message.into()));
        }
        if !routed.routes.is_empty() {
            return Some((
                "routes",
                "routes: they lead to a fixed address, and the prefix here is delegated and changes".into(),
            ));
        }
        let fixed = self.host.fixed_pool().is_some();
        let leads = machine.expose.iter().any(|expose| expose.host.is_some());
        (leads && !fixed).then(|| {
            let message = "expose: `host` leads to a fixed address, and the prefix here is delegated and changes; \
                           `nsctl init --delegated` again gives machines a local prefix, too";
            ("expose", message.into())
        })
    }

    /// Machines that would wait for each other: systemd would start one of them all the same.
    fn circles(&self) -> Vec<(MachineName, Fault)> {
        let waits = |name: &MachineName| {
            let mut all: BTreeSet<&MachineName> = BTreeSet::new();
            let mut next: Vec<&MachineName> = self.before(name).collect();
            while let Some(before) = next.pop() {
                if all.insert(before) {
                    next.extend(self.before(before));
                }
            }
            all.contains(name)
        };
        let circular =
            self.machines.iter().filter(|(name, machine)| !machine.after.is_empty() && waits(name));
        circular
            .map(|(name, machine)| {
                let first = joined(&machine.after, "', '");
                (
                    name.clone(),
                    ("after", format!("'{name}' would start after '{first}', and that after '{name}'")),
                )
            })
            .collect()
    }

    /// The machines after which one starts.
    fn before(&self, name: &MachineName) -> impl Iterator<Item = &MachineName> {
        self.machines.get(name).into_iter().flat_map(|machine| &machine.after)
    }

    /// An IPv4 address that several machines are to have: none of them gets it, whoever was first.
    fn shared_ipv4(&self) -> Vec<(MachineName, Fault)> {
        let mut holders: BTreeMap<Ipv4Addr, Vec<&MachineName>> = BTreeMap::new();
        for (name, machine) in &self.machines {
            if let Some(address) = machine.ipv4.and_then(Ipv4::address) {
                holders.entry(address).or_default().push(name);
            }
        }
        let shared = holders.iter().filter(|(_, names)| names.len() > 1);
        let each = shared.flat_map(|(address, names)| names.iter().map(move |name| (address, *name, names)));
        each.map(|(address, name, names)| {
            let others: Vec<&str> = names.iter().filter(|n| **n != name).map(|n| n.as_str()).collect();
            let message = format!("{address} is the address of '{}' too", others.join("', '"));
            (name.clone(), ("ipv4", message))
        })
        .collect()
    }

    /// Which machine has which port of the host.
    ///
    /// # Errors
    /// When two machines want one port: the second, and why it cannot have it.
    pub fn ports_of_the_host(&self) -> Result<BTreeMap<u16, &MachineName>, (MachineName, String)> {
        let mut ports = BTreeMap::new();
        for (name, machine) in &self.machines {
            for port in machine.expose.iter().filter_map(|expose| expose.host) {
                if let Some(other) = ports.insert(port, name) {
                    let message =
                        format!("port {port} of the host is to lead to both '{other}' and '{name}'");
                    return Err((name.clone(), message));
                }
            }
        }
        Ok(ports)
    }
}

/// What a machine wants for itself alone: its first place and its last, and how it is written.
struct Claim<'a> {
    range: (u128, u128),
    what: String,
    name: &'a MachineName,
}

/// Each machine with a claim to what another claims, too, or a part of it, and a sentence.
fn clashes(mut claims: Vec<Claim>, verb: &str) -> impl Iterator<Item = (MachineName, String)> {
    claims.sort_by_key(|claim| claim.range);
    let mut found = Vec::new();
    let mut widest: Option<&Claim> = None;
    for claim in &claims {
        let overlapping = widest.filter(|other| claim.range.0 <= other.range.1);
        if let Some(other) = overlapping.filter(|other| other.name == claim.name) {
            found.push((claim.name.clone(), format!("{} and {} overlap", other.what, claim.what)));
        } else if let Some(other) = overlapping {
            found.push((claim.name.clone(), format!("{} {verb} '{}' too", claim.what, other.name)));
            found.push((other.name.clone(), format!("{} {verb} '{}' too", other.what, claim.name)));
        }
        widest = widest.filter(|other| other.range.1 >= claim.range.1).or(Some(claim));
    }
    found.into_iter()
}

/// More than a /64 is a part of the pool, and stays.
fn wide_fault(pool: Pool, routed: &Routed) -> Option<String> {
    let length = routed.length();
    let why = match pool {
        _ if length == 64 => return None,
        Pool::Delegated(_) => {
            "the prefix here is delegated and changes: a machine gets a /64 of it".to_owned()
        }
        Pool::Fixed(prefix) if prefix.is_single() => format!(
            "of {prefix} a machine gets an address, and no /64; `subnet = \"ADDRESS/128\"` chooses one"
        ),
        Pool::Fixed(prefix) if length <= prefix.net().prefix_len() => {
            format!("a /{length} is no part of the pool {prefix}, of which subnet 0 is this host's")
        }
        Pool::Fixed(_) => return None,
    };
    Some(format!("prefix: {why}"))
}
