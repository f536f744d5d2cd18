//! What the user wants: nsctl.toml and machines.d/*.toml, parsed, defaulted and
//! checked across machines.

mod backup;
mod binds;
mod cross;
pub mod edit;
mod expose;
mod fleet;
mod health;
mod host;
pub mod image;
mod interfaces;
mod ipv4;
mod machine;
mod network;
mod port;
mod problem;
mod profile;
pub mod push;
pub mod reach;
pub mod recipe;
mod routing;
mod secret;
mod uplink;
pub mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

pub use backup::{BackupSchedule, BackupTarget, BtrfsFolder, Repository, RepositoryError};
pub use binds::{Bind, sources};
pub use expose::Expose;
pub use fleet::Fleet;
pub use health::{HealthCheck, Restart};
pub use host::{BridgeSpec, Defaults, Dns, HostSpec, Images, zone_fault};
pub use ipv4::Ipv4;
pub use machine::{
    Limits, MachineSpec, NetworkdTable, NspawnTable, Sections, Values, bytes, decided_by_network,
};
pub use network::{BridgePort, Mode, Network, Routed, VLANS};
pub use port::{OpenPort, PortError, Protocol};
pub use problem::{Problem, Problems};
pub use profile::{PROFILES_DIR, Profiles, profile_path, profile_paths};
pub use routing::{Daemon, Neighbor, Protocol as RoutingProtocol, Routing};
pub use secret::{SecretId, SecretIdError};
pub use uplink::{AcceptRa, Delegated, OnLink, SeenUplink, Tunnel, Uplink, UplinkKind};
pub use wireguard::WireGuard;

use crate::name::MachineName;

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
    /// Machines whose definitions cannot be used, and why: each stands for itself alone.
    pub broken: BTreeMap<MachineName, Vec<Problem>>,
    /// Files beside the definitions that are none.
    pub strays: Vec<Problem>,
    /// What several machines share.
    pub profiles: Profiles,
    /// Whether this host's nftables.service is Debian's: not written down, but there.
    pub debian_nftables: bool,
    /// Whether machines that a command leaves as they are go on needing the translation that they have.
    pub still_translated: bool,
    /// The addresses that this host has on its links, and its routers: nor is that written down.
    pub own_addresses: BTreeSet<IpAddr>,
    /// What is routed on to machines whose definitions cannot be used, as their files say.
    pub kept_routes: BTreeMap<MachineName, Vec<Ipv6Net>>,
    /// The number that no other router has by this host's machine-id: nor is that.
    pub router_id: Option<Ipv4Addr>,
}

/// The texts of the definitions and profiles, by path; or why one cannot be read.
pub type Definitions = BTreeMap<PathBuf, Result<String, String>>;

impl Spec {
    /// These machines, each behind those that it starts after: systemd orders a start by what is queued before it.
    pub fn in_order(&self, names: &[MachineName]) -> Vec<MachineName> {
        fn place(
            spec: &Spec,
            name: &MachineName,
            left: &mut BTreeSet<MachineName>,
            placed: &mut Vec<MachineName>,
        ) {
            if !left.remove(name) {
                return;
            }
            let before = spec.machines.get(name).map(|machine| machine.after.as_slice()).unwrap_or_default();
            before.iter().for_each(|other| place(spec, other, left, placed));
            placed.push(name.clone());
        }
        let (mut left, mut placed) = (names.iter().cloned().collect(), Vec::new());
        names.iter().for_each(|name| place(self, name, &mut left, &mut placed));
        placed
    }

    /// Parses the texts of nsctl.toml (if there is one) and of the definitions.
    ///
    /// # Errors
    /// Everything that is wrong, where it is the host's own file that cannot be used.
    pub fn parse(host: Option<&str>, definitions: &Definitions) -> Result<Spec, Problems> {
        let (spec, mut problems) = Spec::read(host, definitions);
        if problems.is_empty() {
            return Ok(spec);
        }
        problems.extend(spec.broken.into_values().flatten().chain(spec.strays));
        Err(Problems(problems))
    }

    /// The same as far as it can be used, and what is wrong in the host's own file.
    pub fn read(host: Option<&str>, definitions: &Definitions) -> (Spec, Vec<Problem>) {
        let mut spec = Spec::default();
        let mut problems = Vec::new();
        match host.map(|text| HostSpec::parse(Path::new(HOST_FILE), text)) {
            Some(Ok(host)) => spec.host = host,
            Some(Err(mut found)) => problems.append(&mut found),
            None => {}
        }
        if host.is_some_and(is_torn) {
            problems.push(Problem::whole(Path::new(HOST_FILE), NO_TEXT));
        }
        spec.profiles = Profiles::read(definitions);
        let machines = definitions.iter().filter(|(path, _)| path.parent() != Some(Path::new(PROFILES_DIR)));
        for (path, text) in machines {
            spec.read_definition(path, text.as_deref().map_err(String::as_str));
        }
        // Those of machines that name a profile are told with them.
        let is_told = |problem: &&Problem| spec.broken.values().flatten().any(|told| told == *problem);
        let untold: Vec<Problem> =
            spec.profiles.problems().filter(|problem| !is_told(problem)).cloned().collect();
        spec.strays.extend(untold);
        spec.cross_check(definitions);
        problems.extend(interfaces::collisions(&mut spec, host.unwrap_or_default(), definitions));
        (spec, problems)
    }

    fn read_definition(&mut self, path: &Path, text: Result<&str, &str>) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match stem.parse::<MachineName>() {
            Ok(name) => name,
            Err(error) => return self.strays.push(Problem::whole(path, error.to_string())),
        };
        let parsed = match text {
            Err(why) => Err(vec![Problem::whole(path, why)]),
            Ok(text) if is_torn(text) => Err(vec![Problem::whole(path, NO_TEXT)]),
            Ok(text) => self.profiles.machine(path, text),
        };
        match parsed {
            Ok(machine) => _ = self.machines.insert(name, machine),
            Err(problems) => _ = self.broken.insert(name, problems),
        }
    }

    /// Takes a machine out that cannot be as its definition says.
    fn breaks(&mut self, name: &MachineName, problem: Problem) {
        self.machines.remove(name);
        self.broken.entry(name.clone()).or_default().push(problem);
    }

    /// The ports of bridges that machines are.
    pub fn bridge_ports(&self) -> impl Iterator<Item = (&MachineName, &BridgePort)> {
        self.machines.iter().filter_map(|(name, machine)| Some((name, machine.network.port()?)))
    }
}

const NO_TEXT: &str = "is not UTF-8 text";

/// Whether some of its bytes were no text.
fn is_torn(text: &str) -> bool {
    text.contains('\u{fffd}')
}

/// Definitions all of which could be read.
pub fn readable(texts: &BTreeMap<PathBuf, String>) -> Definitions {
    texts.iter().map(|(path, text)| (path.clone(), Ok(text.clone()))).collect()
}

fn text_of<'t>(texts: &'t Definitions, name: &MachineName) -> &'t str {
    texts.get(&definition_path(name)).and_then(|text| text.as_deref().ok()).unwrap_or_default()
}

/// What nobody has said anything about is not written down.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(host: &str, machines: &[(&str, &str)]) -> Result<Spec, Problems> {
        let texts = machines
            .iter()
            .map(|(name, text)| {
                (Path::new(MACHINES_DIR).join(format!("{name}.toml")), Ok((*text).to_owned()))
            })
            .collect();
        Spec::parse(Some(host), &texts)
    }

    #[test]
    fn who_starts_after_others_comes_behind_them() {
        let after = |list: &str| format!("after = [{list}]\n[network]\nmode = \"routed\"\n");
        let texts = [("a", after("\"c\"")), ("b", after("")), ("c", after("\"d\", \"b\"")), ("d", after(""))];
        let texts = texts.each_ref().map(|(name, text)| (*name, text.as_str()));
        let spec = parse("pool = \"2001:db8:a::/48\"\n", &texts).unwrap();
        let order = |names: &str| {
            let names: Vec<MachineName> = names.split(' ').map(|name| name.parse().unwrap()).collect();
            crate::visible::joined(spec.in_order(&names), " ")
        };
        assert_eq!(order("a b c d"), "d b c a");
        assert_eq!(order("d a"), "d a");
        assert_eq!(order("a nobody c"), "c a nobody");
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

    /// What a file holds reaches no terminal as an order to it, and the caret stays below its place.
    #[test]
    fn carets_stand_under_wide_letters_and_escapes() {
        let told = |line: &str| parse(line, &[]).unwrap_err().to_string();
        for (line, blank) in [("\"日本\" = 1", 0), ("images = \"日本\"", 9), ("\tuplnk = 3", 4)] {
            let told = told(line);
            let carets = told.lines().last().unwrap();
            assert_eq!(carets.find('^'), Some("  | ".len() + blank), "{told}");
        }
        let escape = told("uplink = \"\u{1b}[2J\u{202e}\"");
        assert!(!escape.contains(['\u{1b}', '\u{202e}']), "{escape:?}");
    }

    #[test]
    fn interfaces_that_collide_are_shown() {
        let routed = "[network]\nmode = \"routed\"\n";
        let short_of = |long: &str| crate::name::kernel_name(&format!("ve-{long}")).split_off(3);
        let mut names = (0..100).map(|number| format!("a-machine-with-a-long-name-{number}"));
        // Most have a sign in their hash that no machine's name has.
        let long = names.find(|long| short_of(long).parse::<MachineName>().is_ok()).unwrap();
        let short = short_of(&long);
        let problems = parse(
            "pool = \"2001:db8:a::/48\"\n[bridge.ve-web]\nuplink = \"enp6s0\"\n",
            &[("web", routed), (&long, routed), (&short, routed)],
        )
        .unwrap_err();
        insta::assert_snapshot!(problems.to_string());
    }

    #[test]
    fn a_pin_lies_in_the_pool_and_is_not_the_hosts() {
        for pin in ["2001:db8:b:7::/64", "2001:db8:a::/64"] {
            let text = format!("[network]\nmode = \"routed\"\nsubnet = \"{pin}\"\n");
            assert_eq!(
                parse("pool = \"2001:db8:a::/48\"", &[("a", &text)]).unwrap().broken.len(),
                1,
                "{pin}"
            );
        }
    }

    #[test]
    fn a_broken_definition_breaks_no_other() {
        let pin = "[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\n";
        let host = "[[expose]]\nport = \"tcp/80\"\nhost = 80\n[network]\nmode = \"routed\"\n";
        let machines = [("a", pin), ("b", pin), ("c", "[netw"), ("d", host), ("e", host), ("-f", pin)];
        let spec = parse("pool = \"2001:db8:a::/48\"", &machines).unwrap();
        let names = |names: Vec<&MachineName>| names.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(spec.machines.keys().collect()), ["d"]);
        assert_eq!(names(spec.broken.keys().collect()), ["a", "b", "c", "e"], "whoever was first");
        assert_eq!(spec.strays.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,200}", toml in "[a-z=\"\\[\\]. \n#0-9]{0,200}") {
            let _ = parse(&text, &[("a", &toml)]);
            let _ = parse(&toml, &[("a", &text)]);
        }
    }
}
