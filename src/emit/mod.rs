//! Spec + lease -> the text of systemd's files. Pure.

mod bridge;
pub mod expose;
mod firewall;
mod host;
pub mod ini;
mod machine;
pub mod names;
pub mod nftables_unit;
mod origin;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use firewall::{FIREWALL_DIR, FIREWALL_FILE, FIREWALL_UNIT};
pub use host::{switches, tunnel_of};
use machine::MachineFiles;
pub use machine::{GATEWAY, MOUNT_BURST, TARGET_LINK, WANTS_DIR, guest_file, nspawn_file, wants_link};
pub use origin::{Origin, sign};

use crate::name::{IfName, MachineName};
use crate::pool::Leases;
use crate::spec::Spec;

/// Whose a rendered file is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Host,
    /// What all routed machines share: their firewall.
    Firewall,
    /// The names of machines.
    Names,
    Bridge(IfName),
    Machine(MachineName),
}

/// One file as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub owner: Owner,
    /// The whole text, signed in its first line.
    pub text: String,
}

/// Every file that should be on the host, by path.
pub type Files = BTreeMap<PathBuf, Rendered>;

/// Renders everything that the spec asks for. A routed machine without a lease
/// has no files yet.
pub fn render(spec: &Spec, leases: &Leases) -> Files {
    let mut files = Files::new();
    let mut put = |owner: &Owner, path: PathBuf, text: String| {
        let text = origin::sign(owner, &text);
        files.insert(path, Rendered { owner: owner.clone(), text });
    };
    for (path, text) in host::files(&spec.host) {
        put(&Owner::Host, path, text);
    }
    for (path, text) in spec.host.pool.map(|_| firewall::shared(spec)).unwrap_or_default() {
        put(&Owner::Firewall, path, text);
    }
    for (path, text) in names::files(&spec.host) {
        put(&Owner::Names, path, text);
    }
    for (name, bridge) in &spec.host.bridges {
        for (path, text) in bridge::files(name, bridge) {
            put(&Owner::Bridge(name.clone()), path, text);
        }
    }
    for (name, machine) in &spec.machines {
        let files = MachineFiles::new(name, machine, leases.get(name), &spec.host);
        for (path, text) in files.render() {
            put(&Owner::Machine(name.clone()), path, text);
        }
    }
    files
}

/// Folder of networkd's files.
pub const NETWORK_DIR: &str = "/etc/systemd/network";

/// A networkd file of ours. 05 sorts before the distributions' own files and
/// before what netplan writes (10-netplan-…).
pub fn network_path(kind: &str, name: &str, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{NETWORK_DIR}/05-nsctl-{kind}-{name}.{suffix}"))
}

/// Whose a file of ours is, told by its path.
pub fn owner_of(path: &Path) -> Owner {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (file, folder) = (name(path), path.parent().map(name).unwrap_or_default());
    let between = |text: &str, begin: &str, end: &str| -> Option<String> {
        Some(text.strip_prefix(begin)?.strip_suffix(end)?.to_owned())
    };
    let machine = between(&file, "05-nsctl-ve-", ".network")
        .or_else(|| between(&folder, "systemd-nspawn@", ".service.d"))
        .or_else(|| between(&folder, "", ".d").filter(|_| path.starts_with(expose::EXPOSE_DIR)))
        .or_else(|| expose::machine_of(&file).map(String::from).filter(|_| path.starts_with(DROPIN_DIR)))
        .or_else(|| between(&file, "", ".nspawn"))
        .or_else(|| between(&file, "", ".nft").filter(|_| path.starts_with(FIREWALL_DIR)))
        .or_else(|| between(&file, "", ".network").filter(|_| path.starts_with(GUEST_DIR)))
        .or_else(|| Some(file.clone()).filter(|_| path.starts_with(TREES_DIR)));
    let bridge =
        || between(&file, "05-nsctl-bridge-", ".netdev").or(between(&file, "05-nsctl-bridge-", ".network"));
    if firewall::is_shared(path) {
        return Owner::Firewall;
    }
    if path.starts_with(names::RESOLVED_DIR) || path == Path::new(names::HOSTS_FILE) {
        return Owner::Names;
    }
    match machine.and_then(|name| name.parse().ok()) {
        Some(machine) => Owner::Machine(machine),
        None => bridge().and_then(|name| name.parse().ok()).map_or(Owner::Host, Owner::Bridge),
    }
}

/// Which trees nsctl made, and may delete with their machines: a file each.
pub const TREES_DIR: &str = "/var/lib/nsctl/trees";

/// Where it is written down which tree is a machine's own.
pub fn claim_file(name: &MachineName) -> PathBuf {
    PathBuf::from(format!("{TREES_DIR}/{name}"))
}

/// A folder in which files of ours can be.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub dir: &'static str,
    /// What our files are called; others there are none of our business.
    pub names: Names,
    /// The files are one level below, in folders of this beginning and end.
    pub nested: Option<(&'static str, &'static str)>,
}

/// The names of files.
#[derive(Debug, Clone, Copy)]
pub enum Names {
    /// All that hold this.
    With(&'static str),
    Just(&'static str),
}

impl Names {
    pub fn hold(self, name: &str) -> bool {
        match self {
            Names::With(mark) => name.contains(mark),
            Names::Just(one) => name == one,
        }
    }
}

/// Files that are bound into machines.
/// What is bound into guests.
pub const GUEST_DIR: &str = "/var/lib/nsctl/guest";
/// Drop-ins live in folders below this, named UNIT.d.
const DROPIN_DIR: &str = "/etc/systemd/system";

/// Every folder in which files of ours can be.
pub const PLACES: [Place; 18] = [
    Place { dir: NETWORK_DIR, names: Names::With("-nsctl-"), nested: None },
    Place { dir: NETWORK_DIR, names: Names::Just("05-nsctl.conf"), nested: Some(("", ".network.d")) },
    Place { dir: "/etc/systemd/nspawn", names: Names::With(".nspawn"), nested: None },
    Place { dir: "/etc/sysctl.d", names: Names::With("-nsctl.conf"), nested: None },
    Place { dir: "/var/lib/nsctl", names: Names::With("firewall.nft"), nested: None },
    Place { dir: "/var/lib/nsctl", names: Names::Just("firewall-guard"), nested: None },
    Place { dir: "/var/lib/nsctl", names: Names::With("nftables."), nested: None },
    Place { dir: names::RESOLVED_DIR, names: Names::With("-nsctl.conf"), nested: None },
    Place { dir: expose::EXPOSE_DIR, names: Names::With(expose::MARK), nested: Some(("", ".d")) },
    Place { dir: DROPIN_DIR, names: Names::With(expose::MARK), nested: None },
    Place { dir: FIREWALL_DIR, names: Names::With(".nft"), nested: None },
    Place { dir: DROPIN_DIR, names: Names::With(FIREWALL_UNIT), nested: None },
    Place { dir: DROPIN_DIR, names: Names::Just("50-nsctl.conf"), nested: Some(("nftables.service", ".d")) },
    Place { dir: DROPIN_DIR, names: Names::Just("50-nsctl.conf"), nested: Some(("sysinit.target", ".d")) },
    Place { dir: DROPIN_DIR, names: Names::Just("50-nsctl.conf"), nested: Some(("modprobe@", ".service.d")) },
    Place {
        dir: DROPIN_DIR,
        names: Names::Just("50-nsctl.conf"),
        nested: Some(("systemd-importd.service", ".d")),
    },
    Place { dir: GUEST_DIR, names: Names::With(".network"), nested: None },
    Place {
        dir: DROPIN_DIR,
        names: Names::Just("50-nsctl.conf"),
        nested: Some(("systemd-nspawn@", ".service.d")),
    },
];

impl Place {
    /// Whether a file's path, below the root, lies in this place.
    pub fn holds(&self, path: &Path) -> bool {
        let name = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let Some(dir) = path.parent() else { return false };
        let folder_fits = match self.nested {
            None => dir == Path::new(self.dir),
            Some((begin, end)) => {
                dir.parent() == Some(Path::new(self.dir))
                    && name(dir).is_some_and(|folder| folder.starts_with(begin) && folder.ends_with(end))
            }
        };
        folder_fits && name(path).is_some_and(|file| self.names.hold(&file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    const HOST: &str = r#"
pool = "2001:db8:a::/48"
[uplink]
interface = "wan0"
mtu = 1480
accept-ra = "networkd"
network-file = "20-wan0.network"
[dns]
zone = "machines.internal"
listen = true
[bridge.vbr0]
uplink = "enp6s0"
[bridge.vbr1]
uplink = "enp7s0"
address = ["192.168.5.9/24"]
gateway = ["192.168.5.1"]
"#;

    fn example() -> (Spec, Leases) {
        let definitions = [
            (
                "minecraft",
                "image = \"debian-13\"\ndescription = \"100 % fun\"\nbind = [\"/srv/world:/world\"]\n[network]\nmode = \"routed\"\n[environment]\nMOTD = \"say \\\"hi\\\"\"\n[limits]\nmemory = \"2G\"\ncpu = \"150%\"\ntasks = 500\n",
            ),
            (
                "buildbot",
                "[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n[nspawn.Files]\nBind = [\"/srv/a\", \"/srv/b\"]\n[nspawn.Exec]\nPrivateUsers = \"no\"\n",
            ),
        ];
        let texts = definitions
            .iter()
            .map(|(name, text)| {
                (crate::spec::definition_path(&name.parse().unwrap()), Ok((*text).to_owned()))
            })
            .collect();
        let spec = Spec { debian_nftables: true, ..Spec::parse(Some(HOST), &texts).unwrap() };
        let mut leases = Leases::default();
        leases.lease(spec.host.pool.unwrap(), &"minecraft".parse().unwrap(), None).unwrap();
        (spec, leases)
    }

    #[test]
    fn all_files() {
        let (spec, leases) = example();
        let mut sheet = String::new();
        for (path, file) in render(&spec, &leases) {
            sheet += &format!("==> {}\n{}\n", path.display(), file.text);
        }
        insta::assert_snapshot!(sheet);
    }

    #[test]
    fn every_file_is_signed_and_found_again() {
        let (spec, leases) = example();
        for (path, file) in render(&spec, &leases) {
            assert_eq!(Origin::of(&file.text), Origin::Ours, "{}", path.display());
            let known = PLACES.iter().filter(|place| place.holds(&path)).count();
            assert_eq!(known, 1, "{}", path.display());
            let port = path.to_string_lossy().contains("-port-");
            assert!(port || owner_of(&path) == file.owner, "{}", path.display());
        }
    }
}
