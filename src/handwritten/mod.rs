//! Machines that somebody set up by hand: what their files say, as a definition.

mod host_end;
mod wg_quick;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

pub use host_end::HostEnd;
pub use wg_quick::WgQuick;

use crate::emit::Origin;
use crate::emit::ini::Ini;
use crate::hint::Hint;
use crate::name::{MachineName, NameError};
use crate::pool::{Prefix, Subnet};
use crate::spec::{BridgePort, MachineSpec, Network, NspawnTable, Routed, Values, decided_by_network};

/// Where nspawn looks for a machine's settings; the first file counts
/// (systemd-nspawn(1), `--settings=`).
pub const FOLDERS: [&str; 3] = ["/etc/systemd/nspawn", "/run/systemd/nspawn", BESIDE_TREES];
const BESIDE_TREES: &str = "/var/lib/machines";

/// What nspawn takes from a file that came with an image (systemd.nspawn(5)): it
/// grants nothing. The rest is told, and left out.
const HARMLESS: [(&str, &str); 2] = [
    (
        "Exec",
        "Boot ProcessTwo Parameters Environment User WorkingDirectory KillSignal NotifyReady Hostname \
         Timezone",
    ),
    ("Files", "ReadOnly Volatile"),
];

/// Why what somebody wrote by hand cannot be a definition.
#[derive(Debug, thiserror::Error)]
pub enum HandwrittenError {
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    #[error("'{0}' is on no bridge, and this host has no pool to route it a subnet of")]
    NoPool(MachineName),
    #[error(
        "'{machine}' is on no bridge, and no file in /etc/systemd/network {} of {pool}",
        if pool.is_single() { "leads to it at an address" } else { "gives its veth a /64" }
    )]
    NotRouted { machine: MachineName, pool: Prefix },
    #[error("{theirs} would still come before nsctl's own {ours}, and win")]
    ComesFirst { machine: MachineName, theirs: String, ours: String },
    #[error(transparent)]
    Bridge(#[from] NameError),
}

impl Hint for HandwrittenError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            HandwrittenError::NotText(_) => {
                "its settings are to go into a definition, which is: convert it with iconv".into()
            }
            HandwrittenError::NoPool(_) => "`nsctl init --pool PREFIX --uplink INTERFACE` first".into(),
            HandwrittenError::NotRouted { machine, .. } => format!(
                "`nsctl attach {machine} --routed` gives it the next free one, or --bridge BR puts it on a bridge"
            ),
            HandwrittenError::ComesFirst { machine, .. } => {
                format!("rename it, such as to 20-{machine}.network, run `networkctl reload`, and try again")
            }
            HandwrittenError::Bridge(error) => return error.hint(),
        })
    }
}

/// A .nspawn file that somebody wrote.
#[derive(Debug)]
pub struct Handwritten {
    pub path: PathBuf,
    pub text: String,
    /// What it asks for and may not have, as it came with an image: `KEY=VALUE`.
    pub left_out: Vec<String>,
}

impl Handwritten {
    /// What a file says; none if nsctl wrote it.
    ///
    /// # Errors
    /// When it is no text.
    pub fn new(path: &Path, text: String) -> Result<Option<Handwritten>, HandwrittenError> {
        if Origin::of(&text) != Origin::Foreign {
            return Ok(None);
        }
        if text.contains('\u{fffd}') {
            return Err(HandwrittenError::NotText(path.to_owned()));
        }
        let came_with_image = path.starts_with(BESIDE_TREES);
        let (text, left_out) = if came_with_image { unprivileged(&text) } else { (text, Vec::new()) };
        Ok(Some(Handwritten { path: path.to_owned(), text, left_out }))
    }

    /// Whether nsctl's own file takes its place.
    pub fn is_in_the_way(&self) -> bool {
        self.path.starts_with(FOLDERS[0])
    }

    /// Puts its settings into a definition, but for those that the definition's network decides.
    pub fn absorbed_by(&self, machine: &mut MachineSpec) {
        let mut table = NspawnTable::new();
        for (section, settings) in Ini::parse(&self.text).sections() {
            for (key, value) in settings.iter().filter(|(key, _)| !decided_by_network(section, key)) {
                push(table.entry(section.to_owned()).or_default(), key, value);
            }
        }
        machine.nspawn = table;
    }
}

/// A file without what it may not grant itself; and that.
fn unprivileged(text: &str) -> (String, Vec<String>) {
    let mut kept = Ini::new();
    let mut left_out = Vec::new();
    for (section, settings) in Ini::parse(text).sections() {
        kept = kept.section(section);
        for (key, value) in settings {
            if HARMLESS
                .iter()
                .any(|(name, keys)| *name == section && keys.split(' ').any(|known| known == key))
            {
                kept = kept.set(key, value);
            } else if !decided_by_network(section, key) {
                left_out.push(format!("{key}={value}"));
            }
        }
    }
    (kept.render(), left_out)
}

/// Adds a value of a key, which may have some already.
fn push(keys: &mut BTreeMap<String, Values>, key: &str, value: &str) {
    let mut texts = keys.get(key).map_or_else(Vec::new, Values::texts);
    texts.push(value.to_owned());
    let values = if texts.len() > 1 { Values::Many(texts) } else { Values::One(value.to_owned()) };
    keys.insert(key.to_owned(), values);
}

/// What a machine's files say, and the addresses that it has while it runs, as a definition.
///
/// # Errors
/// When it is neither on a bridge nor routed a subnet of the pool.
pub fn definition(
    name: &MachineName,
    nspawn: Option<&Handwritten>,
    host_end: Option<&HostEnd>,
    pool: Option<Prefix>,
    addresses: &[IpAddr],
) -> Result<MachineSpec, HandwrittenError> {
    let settings = nspawn.map_or_else(Ini::new, |file| Ini::parse(&file.text));
    let none = HostEnd::default();
    let host_end = host_end.unwrap_or(&none);
    let mut machine = match settings.get("Network", "Bridge").or_else(|| host_end.bridge()) {
        Some(bridge) => MachineSpec {
            networkd: host_end.rest(None),
            ..MachineSpec::new(Network::Bridge(BridgePort { bridge: bridge.parse()?, vlan: None }))
        },
        None => {
            let pool = pool.ok_or_else(|| HandwrittenError::NoPool(name.clone()))?;
            let not_routed = || HandwrittenError::NotRouted { machine: name.clone(), pool };
            let lease = host_end.lease(pool).ok_or_else(not_routed)?;
            let token = lease.subnet().and_then(|subnet| token(subnet, addresses));
            let routed = Routed { subnet: Some(lease), token, ..Routed::default() };
            MachineSpec {
                ipv4: host_end.ipv4(),
                networkd: host_end.rest(Some(lease)),
                // It had no firewall, and goes on without: the definition says so.
                firewall: Some(false),
                ..MachineSpec::new(Network::Routed(routed))
            }
        }
    };
    if let Some(file) = nspawn {
        file.absorbed_by(&mut machine);
    }
    Ok(machine)
}

/// The host part that a machine has now in its subnet, and keeps, where that is not the usual one.
fn token(subnet: Subnet, addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    let mut own = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) if subnet.contains(*address) => Some(*address),
        _ => None,
    });
    let own = own.next().filter(|own| *own != Routed::default().address(subnet))?;
    Some(Ipv6Addr::from(u128::from(own) & u128::from(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "[Match]\nName=ve-old\n[Network]\nAddress=2001:db8:a:9::1/64\nDHCPServer=yes\n\
                       IPMasquerade=ipv4\nLLDP=yes\n[IPv6Prefix]\nPrefix=2001:db8:a:9::/64\n";

    fn defined(nspawn: &str, end: &str, pool: &str, has: &[&str]) -> Result<MachineSpec, HandwrittenError> {
        let path = Path::new("/etc/systemd/nspawn/old.nspawn");
        let nspawn = Handwritten::new(path, nspawn.to_owned()).unwrap();
        let end = HostEnd::new("/etc/systemd/network/20-old.network".into(), end.to_owned(), []);
        let has: Vec<IpAddr> = has.iter().map(|address| address.parse().unwrap()).collect();
        definition(&"old".parse().unwrap(), nspawn.as_ref(), Some(&end), pool.parse().ok(), &has)
    }

    #[test]
    fn a_machine_keeps_what_it_has() {
        let machine =
            defined("[Exec]\nCapability=all\n", END, "2001:db8:a::/48", &["2001:db8:a:9::77"]).unwrap();
        let routed = machine.network.routed().unwrap();
        assert_eq!(routed.subnet.unwrap().to_string(), "2001:db8:a:9::/64");
        assert_eq!(routed.token, Some("::77".parse().unwrap()));
        assert!(machine.firewall == Some(false) && machine.ipv4.is_some());
        assert_eq!(machine.networkd.keys().collect::<Vec<_>>(), ["Network"], "LLDP alone is the user's own");
        assert!(machine.nspawn["Exec"].contains_key("Capability"));
        let usual = defined("", END, "2001:db8:a::/48", &["2001:db8:a:9::2"]).unwrap();
        assert_eq!(usual.network.routed().unwrap().token, None);
    }

    #[test]
    fn a_machine_with_an_address_keeps_it() {
        let end = "[Match]\nName=ve-old\n[Network]\nAddress=fe80::1/64\n[Route]\nDestination=2001:db8:b::7\nScope=link\n\
                   [Route]\nDestination=2001:db8:9::/64\nGateway=2001:db8:b::7\n";
        let machine = defined("", end, "2001:db8:b::/64", &["2001:db8:b::7", "2001:db8:b::8"]).unwrap();
        let routed = machine.network.routed().unwrap();
        assert_eq!(
            (routed.subnet.unwrap().to_string(), routed.token),
            ("2001:db8:b::7/128".to_owned(), None)
        );
        assert_eq!(machine.networkd.keys().collect::<Vec<_>>(), ["Route"]);
        assert_eq!(machine.networkd["Route"].all().len(), 1, "{:?}", machine.networkd);
        let away = defined("", &end.replace("b::7", "c::7"), "2001:db8:b::/64", &["2001:db8:b::7"]);
        assert!(away.unwrap_err().to_string().contains("leads to it at an address"));
    }

    #[test]
    fn neither_routed_nor_bridged() {
        assert!(matches!(defined("", END, "", &[]), Err(HandwrittenError::NoPool(_))));
        assert!(matches!(defined("", END, "2001:db8:b::/48", &[]), Err(HandwrittenError::NotRouted { .. })));
        let bridged = defined("[Network]\nBridge=br0\n", END, "", &[]).unwrap();
        assert!(bridged.network.bridge().is_some() && bridged.firewall.is_none());
        assert!(matches!(defined("[Network]\nBridge=a/b\n", "", "", &[]), Err(HandwrittenError::Bridge(_))));
    }

    #[test]
    fn what_came_with_an_image_grants_nothing() {
        let text = "[Exec]\nCapability=all\nHostname=x\n[Files]\nBind=/\n[Network]\nBridge=br0\n".to_owned();
        let file =
            Handwritten::new(Path::new("/var/lib/machines/old.nspawn"), text.clone()).unwrap().unwrap();
        assert_eq!(file.left_out, ["Capability=all", "Bind=/"]);
        assert!(file.text.contains("Hostname=x") && !file.text.contains("Bind") && !file.is_in_the_way());
        let trusted = Handwritten::new(Path::new("/etc/systemd/nspawn/old.nspawn"), text).unwrap().unwrap();
        assert!(trusted.left_out.is_empty() && trusted.is_in_the_way());
    }
}
