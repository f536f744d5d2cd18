//! Spec + lease -> the text of systemd's files. Pure.

mod bridge;
pub mod expose;
mod file;
mod firewall;
mod host;
pub mod ini;
mod lan;
mod machine;
pub mod names;
pub mod nat64;
pub mod nftables_unit;
mod origin;
pub mod routing;
mod snapshots;
mod trial;
mod unit;
pub mod wireguard;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use bridge::UNTAGGED;
pub use file::{
    BACKUPS_DIR, FIREWALL_DIR, FIREWALL_FILE, FIREWALL_UNIT, FOLDERS, GUEST_DIR, HOSTS_FILE,
    IN_FOLDERS_OF_OTHERS, ManagedFile, NETWORK_DIR, NSPAWN_DIR, Owner, Reader, SECRETS_DIR, SNAPSHOTS_DIR,
    TREES_DIR,
};
pub use firewall::MANY_PARTS;
pub use host::{kernels_own, switches, switches_of};
pub use lan::LAN;
use machine::MachineFiles;
pub use machine::{GATEWAY, LAST_RESORT, MOUNT_BURST, TARGET_LINK, WANTS_DIR, wants_link};
pub use origin::{Origin, sign};
pub use trial::{TRIAL_DIR, Trial};
pub use unit::{CREDENTIALS, DEVICES, DISK, LIMITS, OWN, forgotten, passes_on, unset};

use crate::pool::Leases;
use crate::spec::Spec;

/// One file as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub file: ManagedFile,
    /// The whole text, signed in its first line.
    pub text: String,
}

/// Every file that should be on the host, by path.
pub type Files = BTreeMap<PathBuf, Rendered>;

/// Renders everything that the spec asks for. A routed machine without a lease
/// has no files yet.
pub fn render(spec: &Spec, leases: &Leases) -> Files {
    let mut all = host::files(&spec.host);
    all.extend(spec.host.pool().map(|_| firewall::shared(spec)).unwrap_or_default());
    all.extend(nat64::files(spec));
    all.extend(routing::files(spec, leases));
    all.extend(names::files(&spec.host));
    all.extend(snapshots::files(spec));
    all.extend(spec.host.bridges.iter().flat_map(|(name, bridge)| bridge::files(name, bridge)));
    for (name, machine) in &spec.machines {
        all.extend(MachineFiles::new(name, machine, leases.get(name), &spec.host).render());
    }
    let signed = all.into_iter().map(|(file, text)| {
        let text = origin::sign(&file.owner(), &text);
        (file.path(), Rendered { file, text })
    });
    signed.collect()
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
        leases.lease(spec.host.pool().unwrap(), &"minecraft".parse().unwrap(), None).unwrap();
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
            assert_eq!(ManagedFile::parse(&path).as_ref(), Some(&file.file), "{}", path.display());
            let folder = |dir: &std::path::Path| dir.to_str().unwrap().to_owned();
            let (dir, above) =
                (path.parent().unwrap(), path.parent().and_then(std::path::Path::parent).unwrap());
            let read = FOLDERS.iter().any(|(place, nested)| match nested {
                None => folder(dir) == *place,
                Some(end) => folder(above) == *place && folder(dir).ends_with(end),
            });
            assert!(read && file.file.is_rendered(), "{}", path.display());
        }
    }
}
