//! What the user wants: nsctl.toml and machines.d/*.toml, parsed, defaulted and
//! checked across machines.

pub mod edit;
mod expose;
mod host;
pub mod image;
mod interfaces;
mod machine;
mod port;
mod problem;
pub mod recipe;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use expose::Expose;
pub use host::{AcceptRa, BridgeSpec, Defaults, Dns, HostSpec, Images, Tunnel, Uplink, zone_fault};
pub use machine::{
    Ipv4, Limits, MachineSpec, Network, NetworkdTable, NspawnTable, ROUTED_ONLY, Routed, Sections, Values,
    decided_by_network,
};
pub use port::{OpenPort, PortError, Protocol};
pub use problem::{Problem, Problems};

use crate::name::{IfName, MachineName};
use crate::pool::Subnet;

/// The host's own file.
pub const HOST_FILE: &str = "/etc/nsctl/nsctl.toml";
/// The folder of definitions, one file a machine.
pub const MACHINES_DIR: &str = "/etc/nsctl/machines.d";

/// Where the definition of a machine is kept.
pub fn definition_path(name: &MachineName) -> PathBuf {
    Path::new(MACHINES_DIR).join(format!("{name}.toml"))
}

/// Everything that the user wrote down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spec {
    pub host: HostSpec,
    pub machines: BTreeMap<MachineName, MachineSpec>,
    /// Whether this host's nftables.service is Debian's: not written down, but there.
    pub debian_nftables: bool,
}

impl Spec {
    /// Parses the texts of nsctl.toml (if there is one) and of the definitions, by path.
    ///
    /// # Errors
    /// Everything that is wrong in any file, at once, each with its place.
    pub fn parse(host: Option<&str>, definitions: &BTreeMap<PathBuf, String>) -> Result<Spec, Problems> {
        let mut problems = Vec::new();
        let mut spec = Spec::default();
        match host.map(|text| HostSpec::parse(Path::new(HOST_FILE), text)) {
            Some(Ok(host)) => spec.host = host,
            Some(Err(mut found)) => problems.append(&mut found),
            None => {}
        }
        let files = host.map(|text| (Path::new(HOST_FILE), text)).into_iter();
        for (path, text) in
            files.chain(definitions.iter().map(|(path, text)| (path.as_path(), text.as_str())))
        {
            if text.contains('\u{fffd}') {
                problems.push(Problem::whole(path, "is not UTF-8 text"));
            }
        }
        for (path, text) in definitions {
            match parse_definition(path, text) {
                Ok((name, machine)) => {
                    spec.machines.insert(name, machine);
                }
                Err(mut found) => problems.append(&mut found),
            }
        }
        problems.extend(spec.cross_check(definitions));
        problems.extend(interfaces::collisions(&spec, host.unwrap_or_default(), definitions));
        if problems.is_empty() { Ok(spec) } else { Err(Problems(problems)) }
    }

    /// What no single file can show: two machines on one pinned subnet, a pin outside the pool.
    fn cross_check(&self, texts: &BTreeMap<PathBuf, String>) -> Vec<Problem> {
        let mut pins: BTreeMap<Subnet, &MachineName> = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, machine) in &self.machines {
            let Network::Routed(Routed { subnet: Some(pin), .. }) = &machine.network else { continue };
            if let Some(message) = self.pin_fault(*pin, pins.get(pin).copied()) {
                let path = definition_path(name);
                let text = texts.get(&path).map_or("", String::as_str);
                problems.push(Problem::at_value(&path, text, "subnet", message));
            }
            pins.insert(*pin, name);
        }
        let changes = self.host.pool.is_some() && self.host.fixed_pool().is_none();
        for (name, machine) in self.machines.iter().filter(|_| changes) {
            if machine.expose.iter().any(|expose| expose.host.is_some()) {
                let message = "expose: `host` leads to a fixed address, and the prefix here is delegated and changes; \
                               `nsctl init --delegated` again gives machines a local prefix, too";
                problems.push(Problem::whole(&definition_path(name), message));
            }
        }
        if let Err(message) = self.ports_of_the_host() {
            problems.push(Problem::whole(Path::new(MACHINES_DIR), message));
        }
        problems
    }

    fn pin_fault(&self, pin: Subnet, holder: Option<&MachineName>) -> Option<String> {
        if let Some(holder) = holder {
            return Some(format!("{pin} is pinned by '{holder}' too"));
        }
        let pool = self.host.pool?;
        if !pool.contains(pin) {
            return Some(format!("{pin} is not in the pool {pool}"));
        }
        (pool.subnet(0) == Some(pin))
            .then(|| format!("{pin} is subnet 0 of the pool, which is the host's own"))
    }

    /// Which machine has which port of the host.
    ///
    /// # Errors
    /// When two machines want one port.
    pub fn ports_of_the_host(&self) -> Result<BTreeMap<u16, &MachineName>, String> {
        let mut ports = BTreeMap::new();
        for (name, machine) in &self.machines {
            for port in machine.expose.iter().filter_map(|expose| expose.host) {
                if let Some(other) = ports.insert(port, name) {
                    return Err(format!("port {port} of the host is to lead to both '{other}' and '{name}'"));
                }
            }
        }
        Ok(ports)
    }

    /// The bridges that machines are on.
    pub fn bridges_in_use(&self) -> impl Iterator<Item = (&MachineName, &IfName)> {
        self.machines.iter().filter_map(|(name, machine)| match &machine.network {
            Network::Bridge(bridge) => Some((name, bridge)),
            Network::Routed(_) => None,
        })
    }
}

fn parse_definition(path: &Path, text: &str) -> Result<(MachineName, MachineSpec), Vec<Problem>> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = stem.parse::<MachineName>().map_err(|e| vec![Problem::whole(path, e.to_string())])?;
    Ok((name, MachineSpec::parse(path, text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(host: &str, machines: &[(&str, &str)]) -> Result<Spec, Problems> {
        let texts = machines
            .iter()
            .map(|(name, text)| (Path::new(MACHINES_DIR).join(format!("{name}.toml")), (*text).to_owned()))
            .collect();
        Spec::parse(Some(host), &texts)
    }

    #[test]
    fn all_errors_at_once_with_line_and_caret() {
        let problems = parse(
            "pool = \"2001:db8:a::/48\"\nuplnk = 3\n",
            &[
                ("a", "[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\n"),
                ("b", "[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\n"),
                ("c", "[network]\nmode = \"bridge\"\n"),
                ("d", "[network]\nmode = \"rooted\"\n"),
                ("-e", "[network]\nmode = \"routed\"\n"),
            ],
        )
        .unwrap_err();
        insta::assert_snapshot!(problems.to_string());
    }

    #[test]
    fn interfaces_that_collide_are_shown() {
        let routed = "[network]\nmode = \"routed\"\n";
        let long = "a-machine-with-a-long-name-1";
        let short = crate::name::kernel_name(&format!("ve-{long}")).split_off(3);
        let problems = parse(
            "pool = \"2001:db8:a::/48\"\n[bridge.ve-web]\nuplink = \"enp6s0\"\n",
            &[("web", routed), (long, routed), (&short, routed)],
        )
        .unwrap_err();
        insta::assert_snapshot!(problems.to_string());
    }

    #[test]
    fn a_pin_lies_in_the_pool_and_is_not_the_hosts() {
        for pin in ["2001:db8:b:7::/64", "2001:db8:a::/64"] {
            let text = format!("[network]\nmode = \"routed\"\nsubnet = \"{pin}\"\n");
            assert!(parse("pool = \"2001:db8:a::/48\"", &[("a", &text)]).is_err(), "{pin}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}", toml in "[a-z=\"\\[\\]. \n#0-9]{0,200}") {
            let _ = parse(&text, &[("a", &toml)]);
            let _ = parse(&toml, &[("a", &text)]);
        }
    }
}
