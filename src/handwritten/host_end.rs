//! The .network file that networkd uses for the host's end of a machine's veth.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::{HandwrittenError, push};
use crate::emit::GATEWAY;
use crate::emit::ini::Ini;
use crate::name::MachineName;
use crate::pool::{Lease, Prefix, Subnet};
use crate::spec::{Ipv4, NetworkdTable, Sections, Values};

/// A file that somebody wrote, with its drop-ins.
#[derive(Debug, Default)]
pub struct HostEnd {
    pub path: PathBuf,
    pub text: String,
    settings: Ini,
}

impl HostEnd {
    pub fn new(path: PathBuf, text: String, drop_ins: impl IntoIterator<Item = String>) -> HostEnd {
        let whole = std::iter::once(text.clone()).chain(drop_ins).collect::<Vec<_>>().join("\n");
        HostEnd { path, text, settings: Ini::parse(&whole) }
    }

    /// Whether a .network file is for the machine's veth; a pattern may be a shell's (glob(7)).
    pub fn is_for(text: &str, name: &MachineName) -> bool {
        let settings = Ini::parse(text);
        let words = settings.get("Match", "Name").unwrap_or_default().split_whitespace();
        let mut patterns = words.filter_map(|word| glob::Pattern::new(word).ok());
        patterns.any(|pattern| pattern.matches(&name.routed_link()) || pattern.matches(&name.bridged_link()))
    }

    /// networkd takes the first file by name (systemd.network(5)): it must be nsctl's.
    ///
    /// # Errors
    /// When it would not be.
    pub fn comes_after_ours(&self, name: &MachineName) -> Result<(), HandwrittenError> {
        let ours = format!("05-nsctl-ve-{name}.network");
        match self.path.file_name().filter(|file| **file < *ours) {
            None => Ok(()),
            Some(file) => {
                let (machine, theirs) = (name.clone(), file.to_string_lossy().into_owned());
                Err(HandwrittenError::ComesFirst { machine, theirs, ours })
            }
        }
    }

    pub(super) fn bridge(&self) -> Option<&str> {
        self.settings.get("Network", "Bridge")
    }

    /// What the machine has of the pool: the /64 of its link, or an address that is routed to it.
    pub(super) fn lease(&self, pool: Prefix) -> Option<Lease> {
        if !pool.is_single() {
            return self.subnet(pool).map(Lease::Subnet);
        }
        let mut routes =
            self.settings.sections().flat_map(|(_, keys)| keys).filter(|(key, _)| key == "Destination");
        routes
            .find_map(|(_, value)| Some(Lease::Address(single(value)?)).filter(|lease| pool.contains(*lease)))
    }

    fn subnet(&self, pool: Prefix) -> Option<Subnet> {
        let values = self.settings.sections().flat_map(|(_, keys)| keys);
        let mut prefixes =
            values.filter(|(key, _)| key == "Address" || key == "Prefix").filter_map(|(_, value)| {
                let net = value.parse::<ipnet::Ipv6Net>().ok()?.trunc();
                Subnet::try_from(net).ok().filter(|subnet| !subnet.is_wide())
            });
        prefixes.find(|subnet| pool.contains(Lease::Subnet(*subnet)))
    }

    /// Who serves DHCP gives its guest IPv4, which the guest must go on asking for.
    pub(super) fn ipv4(&self) -> Option<Ipv4> {
        let serves = self.settings.get("Network", "DHCPServer").map(str::to_ascii_lowercase);
        serves.is_some_and(|word| ["yes", "true", "1", "on"].contains(&word.as_str())).then_some(Ipv4::Nat)
    }

    /// The settings that a definition hands through.
    pub(super) fn rest(&self, lease: Option<Lease>) -> NetworkdTable {
        let subnet = lease.and_then(Lease::subnet);
        let leads = |(key, value): &(String, String)| {
            key == "Destination" && single(value).map(Lease::Address) == lease
        };
        let mut sections: BTreeMap<String, Vec<BTreeMap<String, Values>>> = BTreeMap::new();
        // The route to the machine is nsctl's to say.
        let all = self.settings.sections().filter(|(_, pairs)| lease.is_none() || !pairs.iter().any(leads));
        for (section, pairs) in all {
            let kept = pairs.iter().filter(|(key, value)| !is_ours(section, key, value, subnet));
            let mut keys = BTreeMap::new();
            kept.for_each(|(key, value)| push(&mut keys, key, value));
            if !keys.is_empty() {
                sections.entry(section.to_owned()).or_default().push(keys);
            }
        }
        if self.ipv4().is_some() && self.settings.get("Network", "IPMasquerade").is_none() {
            // It serves addresses that are not translated.
            let network = sections.entry("Network".to_owned()).or_default();
            let said = ("IPMasquerade".to_owned(), Values::Flag(false));
            match network.last_mut() {
                Some(keys) => _ = keys.insert(said.0, said.1),
                None => network.push(BTreeMap::from([said])),
            }
        }
        let one_or_many = |mut all: Vec<BTreeMap<String, Values>>| match all.len() {
            1 => Sections::One(all.remove(0)),
            _ => Sections::Many(all),
        };
        sections.into_iter().map(|(name, all)| (name, one_or_many(all))).collect()
    }
}

/// An address that a route leads to, and nothing else.
fn single(destination: &str) -> Option<Ipv6Addr> {
    destination.strip_suffix("/128").unwrap_or(destination).parse().ok()
}

/// What nsctl renders by itself, or decides.
fn is_ours(section: &str, key: &str, value: &str, subnet: Option<Subnet>) -> bool {
    let same = |net: Option<Subnet>| net.is_some_and(|subnet| value == format!("{}/64", subnet.host_end()));
    match (section, key) {
        ("Match", _) | ("Network", "Bridge" | "KeepMaster" | "DHCPServer") => true,
        ("Network", "IPMasquerade") => value == "ipv4",
        ("Network" | "Address", "Address") => {
            same(subnet) || value == "0.0.0.0/28" || value == format!("{GATEWAY}/64")
        }
        ("IPv6Prefix", "Prefix") => subnet.is_some_and(|subnet| value == subnet.to_string()),
        _ => false,
    }
}
