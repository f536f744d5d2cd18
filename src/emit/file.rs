//! The files that nsctl writes: what each is, where it is, whose, and who reads it. A path is
//! looked at here alone.

use std::path::{Path, PathBuf};

use super::expose::MARK;
use super::nat64;
use crate::name::{IfName, MachineName};
use crate::snapshot::Label;
use crate::spec::{HOST_FILE, MACHINES_DIR, SecretId};
use crate::state::{STATE_DIR, STATE_FILE};

/// networkd's own folder (systemd.network(5)).
pub const NETWORK_DIR: &str = "/etc/systemd/network";
/// systemd's own units and drop-ins (systemd.unit(5)).
pub const UNITS_DIR: &str = "/etc/systemd/system";
pub const NSPAWN_DIR: &str = "/etc/systemd/nspawn";
const RESOLVED_FILE: &str = "/etc/systemd/resolved.conf.d/05-nsctl.conf";
const SYSCTL_FILE: &str = "/etc/sysctl.d/60-nsctl.conf";
/// The host's own names, to which ours are added (hosts(5)).
pub const HOSTS_FILE: &str = "/etc/hosts";
/// The firewall's table as a whole; it includes what each machine has open.
pub const FIREWALL_FILE: &str = "/var/lib/nsctl/firewall.nft";
/// A file a machine.
pub const FIREWALL_DIR: &str = "/var/lib/nsctl/firewall";
const GUARD_FILE: &str = "/var/lib/nsctl/firewall-guard";
const NFTABLES_START: &str = "/var/lib/nsctl/nftables.start";
const NFTABLES_STOP: &str = "/var/lib/nsctl/nftables.stop";
const NAT64_FILE: &str = "/var/lib/nsctl/nat64.conf";
/// Where Debian's AppArmor lets unbound read.
const DNS64_FILE: &str = "/etc/unbound/nsctl-dns64.conf";
/// Loads the table at boot, and again when others flush all rules.
pub const FIREWALL_UNIT: &str = "nsctl-firewall.service";
const BACKUP_SERVICE: &str = "nsctl-backup@.service";
const BACKUP_TIMER: &str = "nsctl-backup@.timer";
const SNAPSHOT_SERVICE: &str = "nsctl-snapshot@.service";
const SNAPSHOT_TIMER: &str = "nsctl-snapshot@.timer";
/// What is bound into guests.
pub const GUEST_DIR: &str = "/var/lib/nsctl/guest";
/// Read by bird(8), where its own file says so.
pub const BIRD_FILE: &str = "/etc/bird/nsctl.conf";
/// For vtysh(1).
const FRR_FILE: &str = "/etc/frr/nsctl.conf";
const NETWORKD_FILE: &str = "/etc/systemd/networkd.conf.d/50-nsctl.conf";
/// Units that are bound into machines, a folder each.
pub const EXPOSE_DIR: &str = "/var/lib/nsctl/expose";
/// Which trees nsctl made, and may delete with their machines: a file each.
pub const TREES_DIR: &str = "/var/lib/nsctl/trees";
/// What is known of snapshots.
pub const SNAPSHOTS_DIR: &str = "/var/lib/nsctl/snapshots";
/// What is known of backups of machines, a file each.
pub const BACKUPS_DIR: &str = "/var/lib/nsctl/backups";
/// Secrets of machines, each encrypted by systemd-creds(1).
pub const SECRETS_DIR: &str = "/etc/nsctl/secrets";
/// Drop-ins of the pool's file, one a machine.
const POOL_DROP_INS: &str = "/etc/systemd/network/05-nsctl-pool-lo.network.d";
/// A drop-in for a unit.
const UNIT_DROP_IN: &str = "50-nsctl.conf";
/// A drop-in for a .network file of somebody else's.
const NETWORK_DROP_IN: &str = "05-nsctl.conf";
/// 05 sorts before the distributions' own files, and before what netplan writes (10-netplan-…).
const NETWORK_PREFIX: &str = "05-nsctl-";

/// A file that nsctl writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManagedFile {
    /// The user's own, which verbs edit.
    HostDefinition,
    Definition(MachineName),
    /// What nsctl remembers.
    State,
    /// Which tree is a machine's own.
    Claim(MachineName),
    /// What is known of a snapshot of a machine.
    Snapshot(MachineName, Label),
    /// When a machine was backed up, and proved, at last.
    Backups(MachineName),
    /// What a machine gets as a credential of this name, encrypted.
    Secret(MachineName, SecretId),
    /// The host's names, with a block of ours.
    Hosts,
    /// The kernel's switches (sysctl.d(5)).
    Sysctl,
    /// A drop-in of the unit that loads a module of the kernel.
    ModuleDropIn(String),
    ImportdDropIn,
    /// The pool's unreachable route.
    PoolNetwork,
    TunnelNetdev(IfName),
    TunnelNetwork(IfName),
    /// A tunnel's own private key, or one that it shares with a peer, which that is known by.
    TunnelKey(IfName, Option<u32>),
    /// A drop-in of the .network file that the uplink has, by that file's name.
    UplinkDropIn(String),
    ResolvedDropIn,
    /// What the routing daemon is told of machines.
    BirdConfig,
    FrrConfig,
    /// A drop-in of networkd's own file.
    NetworkdDropIn,
    /// The part of the firewall that all machines share.
    Firewall,
    /// The script that sees to it that a machine's part is loaded.
    FirewallGuard,
    FirewallUnit,
    /// What loads it at boot.
    BootDropIn,
    /// Take snapshots by themselves.
    SnapshotService,
    SnapshotTimer,
    /// Make backups by themselves.
    BackupService,
    BackupTimer,
    /// Has those timers start with the host.
    TimersDropIn,
    NftablesDropIn,
    /// What Debian's nftables.service loads when it starts, and when it stops.
    NftablesStart,
    NftablesStop,
    /// What machines share that reach IPv4 by translation: the interface, tayga and unbound.
    Nat64Netdev,
    Nat64Network,
    Nat64Config,
    Nat64Unit,
    Dns64Config,
    Dns64Unit,
    BridgeNetdev(IfName),
    BridgeNetwork(IfName),
    /// Of the link that is a bridge's port.
    Port(IfName),
    Nspawn(MachineName),
    /// Of the host's end of a machine's veth.
    HostEnd(MachineName),
    /// The network file that is bound into a machine.
    GuestEnd(MachineName),
    /// Of the host's end of a routed machine's second veth.
    LanEnd(MachineName),
    /// The network file for that which is bound into the machine.
    GuestLan(MachineName),
    /// A drop-in of the pool's file: where what is routed to a machine leads while that does not run.
    RoutesDropIn(MachineName),
    /// A drop-in of a machine's unit.
    UnitDropIn(MachineName),
    /// A machine's part of the firewall.
    MachineFirewall(MachineName),
    /// A unit, or a drop-in, that is bound into a machine.
    BoundUnit(MachineName, String),
    /// A unit of the host's that listens for a machine: its port, and "socket" or "service".
    HostUnit(MachineName, u16, &'static str),
}

/// Whose a file is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Host,
    /// What all routed machines share: their firewall, and a translation.
    Firewall,
    /// The names of machines.
    Names,
    /// What takes snapshots of them, and backs them up, by itself.
    Snapshots,
    /// What tells other routers of them.
    Routing,
    Bridge(IfName),
    /// Of a link that is a bridge's port: its file does not tell which bridge's.
    Port(IfName),
    Machine(MachineName),
}

/// Who has to read a file again when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// systemd, for this unit.
    Systemd(String),
    Networkd,
    Resolved,
    /// bird(8).
    Bird,
    /// nft(8): the whole table, or a machine's part of it.
    Firewall {
        whole: bool,
    },
    /// nspawn or the guest, when the machine starts.
    Start,
    /// Whoever does, reads it each time.
    Nobody,
}

impl ManagedFile {
    /// Where it is, whose, and who must hear of it.
    fn traits(&self) -> (PathBuf, Owner, Reader) {
        use ManagedFile as File;
        use Owner::{Firewall, Host, Names, Routing, Snapshots};
        use Reader::{Networkd, Nobody, Resolved, Start};
        let networkd = |kind: &str, name: &str, suffix: &str, owner: Owner| {
            (format!("{NETWORK_DIR}/{NETWORK_PREFIX}{kind}-{name}.{suffix}").into(), owner, Networkd)
        };
        let drop_in = |unit: &str, owner: Owner| {
            (format!("{UNITS_DIR}/{unit}.d/{UNIT_DROP_IN}").into(), owner, Reader::Systemd(unit.to_owned()))
        };
        let unit =
            |unit: String, owner: Owner| (format!("{UNITS_DIR}/{unit}").into(), owner, Reader::Systemd(unit));
        let machine = |name: &MachineName| Owner::Machine(name.clone());
        let bridge = |name: &IfName| Owner::Bridge(name.clone());
        match self {
            File::HostDefinition => (HOST_FILE.into(), Host, Nobody),
            File::Definition(name) => (format!("{MACHINES_DIR}/{name}.toml").into(), machine(name), Nobody),
            File::State => (STATE_FILE.into(), Host, Nobody),
            File::Claim(name) => (format!("{TREES_DIR}/{name}").into(), machine(name), Nobody),
            File::Snapshot(name, label) => {
                (format!("{SNAPSHOTS_DIR}/{name}@{label}.toml").into(), machine(name), Nobody)
            }
            File::Backups(name) => (format!("{BACKUPS_DIR}/{name}.toml").into(), machine(name), Nobody),
            File::Secret(name, id) => {
                (format!("{SECRETS_DIR}/{name}@{id}.cred").into(), machine(name), Start)
            }
            File::Hosts => (HOSTS_FILE.into(), Names, Nobody),
            // The kernel's switches are set by steps of their own.
            File::Sysctl => (SYSCTL_FILE.into(), Host, Nobody),
            File::ModuleDropIn(module) => drop_in(&format!("modprobe@{module}.service"), Host),
            File::ImportdDropIn => drop_in("systemd-importd.service", Host),
            File::PoolNetwork => networkd("pool", "lo", "network", Host),
            File::TunnelNetdev(link) => networkd("tunnel", link.as_str(), "netdev", Host),
            File::TunnelNetwork(link) => networkd("tunnel", link.as_str(), "network", Host),
            File::TunnelKey(link, None) => networkd("tunnel", link.as_str(), "key", Host),
            File::TunnelKey(link, Some(peer)) => {
                networkd("tunnel", &format!("{link}.{peer:08x}"), "psk", Host)
            }
            File::UplinkDropIn(file) => {
                (format!("{NETWORK_DIR}/{file}.d/{NETWORK_DROP_IN}").into(), Host, Networkd)
            }
            File::ResolvedDropIn => (RESOLVED_FILE.into(), Names, Resolved),
            File::BirdConfig => (BIRD_FILE.into(), Routing, Reader::Bird),
            File::FrrConfig => (FRR_FILE.into(), Routing, Nobody),
            // It reads that when it starts, which is when it would take routes away.
            File::NetworkdDropIn => (NETWORKD_FILE.into(), Routing, Nobody),
            File::Firewall => (FIREWALL_FILE.into(), Firewall, Reader::Firewall { whole: true }),
            File::FirewallGuard => (GUARD_FILE.into(), Firewall, Nobody),
            File::FirewallUnit => unit(FIREWALL_UNIT.into(), Firewall),
            File::BootDropIn => drop_in("sysinit.target", Firewall),
            File::SnapshotService => unit(SNAPSHOT_SERVICE.into(), Snapshots),
            File::SnapshotTimer => unit(SNAPSHOT_TIMER.into(), Snapshots),
            File::BackupService => unit(BACKUP_SERVICE.into(), Snapshots),
            File::BackupTimer => unit(BACKUP_TIMER.into(), Snapshots),
            File::TimersDropIn => drop_in("timers.target", Snapshots),
            File::NftablesDropIn => drop_in("nftables.service", Firewall),
            File::NftablesStart => (NFTABLES_START.into(), Firewall, Nobody),
            File::NftablesStop => (NFTABLES_STOP.into(), Firewall, Nobody),
            File::Nat64Netdev => networkd("nat64", nat64::LINK, "netdev", Firewall),
            File::Nat64Network => networkd("nat64", nat64::LINK, "network", Firewall),
            File::Nat64Config => (NAT64_FILE.into(), Firewall, Nobody),
            File::Nat64Unit => unit(nat64::TRANSLATOR.into(), Firewall),
            File::Dns64Config => (DNS64_FILE.into(), Firewall, Nobody),
            File::Dns64Unit => unit(nat64::RESOLVER.into(), Firewall),
            File::BridgeNetdev(name) => networkd("bridge", name.as_str(), "netdev", bridge(name)),
            File::BridgeNetwork(name) => networkd("bridge", name.as_str(), "network", bridge(name)),
            File::Port(link) => networkd("port", link.as_str(), "network", Owner::Port(link.clone())),
            File::Nspawn(name) => (format!("{NSPAWN_DIR}/{name}.nspawn").into(), machine(name), Start),
            File::HostEnd(name) => networkd("ve", name.as_str(), "network", machine(name)),
            File::GuestEnd(name) => (format!("{GUEST_DIR}/{name}.network").into(), machine(name), Start),
            File::LanEnd(name) => networkd("vb", name.as_str(), "network", machine(name)),
            File::GuestLan(name) => (format!("{GUEST_DIR}/{name}.lan").into(), machine(name), Start),
            File::RoutesDropIn(name) => {
                (format!("{POOL_DROP_INS}/{name}.conf").into(), machine(name), Networkd)
            }
            File::UnitDropIn(name) => drop_in(&name.unit(), machine(name)),
            File::MachineFirewall(name) => {
                let part = Reader::Firewall { whole: false };
                (format!("{FIREWALL_DIR}/{name}.nft").into(), machine(name), part)
            }
            File::BoundUnit(name, file) => {
                (format!("{EXPOSE_DIR}/{name}.d/{file}").into(), machine(name), Start)
            }
            File::HostUnit(name, port, kind) => unit(host_unit(name, *port, kind), machine(name)),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.traits().0
    }

    pub fn owner(&self) -> Owner {
        self.traits().1
    }

    pub fn reader(&self) -> Reader {
        self.traits().2
    }

    /// What a path is of nsctl's; none: somebody else's file.
    pub fn parse(path: &Path) -> Option<ManagedFile> {
        use ManagedFile as File;
        let (folder, file) = (path.parent()?.to_str()?, path.file_name()?.to_str()?);
        let named = |end: &str| file.strip_suffix(end)?.parse::<MachineName>().ok();
        let found = match folder {
            MACHINES_DIR => File::Definition(named(".toml")?),
            TREES_DIR => File::Claim(named("")?),
            SNAPSHOTS_DIR => {
                let (name, label) = file.strip_suffix(".toml")?.split_once('@')?;
                File::Snapshot(name.parse().ok()?, label.parse().ok()?)
            }
            BACKUPS_DIR => File::Backups(named(".toml")?),
            SECRETS_DIR => {
                let (name, id) = file.strip_suffix(".cred")?.split_once('@')?;
                File::Secret(name.parse().ok()?, id.parse().ok()?)
            }
            NSPAWN_DIR => File::Nspawn(named(".nspawn")?),
            GUEST_DIR => named(".network").map(File::GuestEnd).or(named(".lan").map(File::GuestLan))?,
            FIREWALL_DIR => File::MachineFirewall(named(".nft")?),
            POOL_DROP_INS => File::RoutesDropIn(named(".conf")?),
            NETWORK_DIR => networkd_file(file)?,
            UNITS_DIR => File::of_unit(file)?,
            _ => single(path).or_else(|| in_drop_in(folder, file))?,
        };
        // One file, one path. As bytes: part by part they take five times as long to compare.
        (found.path().as_os_str() == path.as_os_str()).then_some(found)
    }

    /// A unit file by its name alone.
    pub fn of_unit(file: &str) -> Option<ManagedFile> {
        match file {
            FIREWALL_UNIT => return Some(ManagedFile::FirewallUnit),
            SNAPSHOT_SERVICE => return Some(ManagedFile::SnapshotService),
            SNAPSHOT_TIMER => return Some(ManagedFile::SnapshotTimer),
            BACKUP_SERVICE => return Some(ManagedFile::BackupService),
            BACKUP_TIMER => return Some(ManagedFile::BackupTimer),
            nat64::TRANSLATOR => return Some(ManagedFile::Nat64Unit),
            nat64::RESOLVER => return Some(ManagedFile::Dns64Unit),
            _ => {}
        }
        let (stem, kind) = file.strip_prefix(MARK)?.rsplit_once('.')?;
        let kind = ["socket", "service"].into_iter().find(|known| *known == kind)?;
        let (name, port) = stem.rsplit_once('-')?;
        Some(ManagedFile::HostUnit(name.parse().ok()?, port.parse().ok()?, kind))
    }

    /// The machine whose it is alone.
    pub fn machine(&self) -> Option<MachineName> {
        match self.owner() {
            Owner::Machine(name) => Some(name),
            Owner::Host
            | Owner::Firewall
            | Owner::Names
            | Owner::Snapshots
            | Owner::Routing
            | Owner::Bridge(_)
            | Owner::Port(_) => None,
        }
    }

    /// Whether it may make a link a port of a bridge.
    pub fn is_of_port(&self) -> bool {
        matches!(self, ManagedFile::HostEnd(_) | ManagedFile::LanEnd(_) | ManagedFile::Port(_))
    }

    /// Whether it is not to be shown: a key, or a secret.
    pub fn is_confidential(&self) -> bool {
        matches!(self, ManagedFile::TunnelKey(..) | ManagedFile::Secret(..))
    }

    /// Whether it is rendered, and signed in its first line.
    pub fn is_rendered(&self) -> bool {
        use ManagedFile as File;
        !matches!(
            self,
            File::HostDefinition
                | File::Definition(_)
                | File::State
                | File::Claim(_)
                | File::Snapshot(..)
                | File::Secret(..)
                | File::Backups(_)
                | File::Hosts
                | File::TunnelKey(..)
        )
    }
}

impl Reader {
    /// Of any file: systemd's programs read whole folders, whoever wrote what is in them.
    pub fn of(path: &Path) -> Reader {
        let below = |folder: &str| path.strip_prefix(folder).ok();
        if let Some(file) = ManagedFile::parse(path) {
            file.reader()
        } else if below(NETWORK_DIR).is_some() {
            Reader::Networkd
        } else if let Some(first) = below(UNITS_DIR).and_then(|rest| rest.components().next()) {
            let unit = first.as_os_str().to_string_lossy();
            Reader::Systemd(unit.strip_suffix(".d").unwrap_or(&unit).to_owned())
        } else {
            Reader::Nobody
        }
    }
}

/// The unit of the host's that listens on a port for a machine.
pub fn host_unit(name: &MachineName, port: u16, kind: &str) -> String {
    format!("{MARK}{name}-{port}.{kind}")
}

/// Those that are alone in their folder.
fn single(path: &Path) -> Option<ManagedFile> {
    use ManagedFile as File;
    let all = [
        File::HostDefinition,
        File::State,
        File::Hosts,
        File::Sysctl,
        File::ResolvedDropIn,
        File::BirdConfig,
        File::FrrConfig,
        File::NetworkdDropIn,
        File::Firewall,
        File::FirewallGuard,
        File::NftablesStart,
        File::NftablesStop,
        File::Nat64Config,
        File::Dns64Config,
    ];
    all.into_iter().find(|file| file.path() == path)
}

fn networkd_file(file: &str) -> Option<ManagedFile> {
    use ManagedFile as File;
    let (stem, suffix) = file.strip_prefix(NETWORK_PREFIX)?.rsplit_once('.')?;
    let (kind, name) = stem.split_once('-')?;
    let link = || name.parse::<IfName>().ok();
    Some(match (kind, suffix) {
        ("pool", "network") => File::PoolNetwork,
        ("nat64", "netdev") => File::Nat64Netdev,
        ("nat64", "network") => File::Nat64Network,
        ("tunnel", "netdev") => File::TunnelNetdev(link()?),
        ("tunnel", "network") => File::TunnelNetwork(link()?),
        ("tunnel", "key") => File::TunnelKey(link()?, None),
        ("tunnel", "psk") => {
            let (link, peer) = name.rsplit_once('.')?;
            File::TunnelKey(link.parse().ok()?, Some(u32::from_str_radix(peer, 16).ok()?))
        }
        ("bridge", "netdev") => File::BridgeNetdev(link()?),
        ("bridge", "network") => File::BridgeNetwork(link()?),
        ("port", "network") => File::Port(link()?),
        ("ve", "network") => File::HostEnd(name.parse().ok()?),
        ("vb", "network") => File::LanEnd(name.parse().ok()?),
        _ => return None,
    })
}

fn in_drop_in(folder: &str, file: &str) -> Option<ManagedFile> {
    use ManagedFile as File;
    let (above, of) = folder.strip_suffix(".d")?.rsplit_once('/')?;
    match above {
        EXPOSE_DIR => Some(File::BoundUnit(of.parse().ok()?, file.to_owned())),
        NETWORK_DIR => Some(File::UplinkDropIn(of.to_owned())),
        UNITS_DIR => Some(match of {
            "systemd-importd.service" => File::ImportdDropIn,
            "sysinit.target" => File::BootDropIn,
            "timers.target" => File::TimersDropIn,
            "nftables.service" => File::NftablesDropIn,
            unit => match MachineName::from_unit(unit) {
                Some(name) => File::UnitDropIn(name),
                None => {
                    let module = unit.strip_prefix("modprobe@")?.strip_suffix(".service")?;
                    File::ModuleDropIn(module.to_owned())
                }
            },
        }),
        _ => None,
    }
}

/// Where rendered files are looked for: in a folder itself, or in the folders in it that end so.
pub const FOLDERS: [(&str, Option<&str>); 13] = [
    (NETWORK_DIR, None),
    (NETWORK_DIR, Some(".network.d")),
    (NSPAWN_DIR, None),
    ("/etc/sysctl.d", None),
    ("/etc/systemd/resolved.conf.d", None),
    (UNITS_DIR, None),
    (UNITS_DIR, Some(".d")),
    (STATE_DIR, None),
    (FIREWALL_DIR, None),
    (GUEST_DIR, None),
    (EXPOSE_DIR, Some(".d")),
    ("/etc/unbound", None),
    ("/etc/systemd/networkd.conf.d", None),
];

/// Those in folders that belong to a service's own user: what lies there may be anything.
pub const IN_FOLDERS_OF_OTHERS: [ManagedFile; 2] = [ManagedFile::BirdConfig, ManagedFile::FrrConfig];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_files_are_none_of_ours() {
        for path in [
            "/etc/systemd/network/10-lan.network",
            "/etc/systemd/network/05-nsctl-ve-.network",
            "/etc/systemd/network/05-nsctl-pool-eth0.network",
            "/etc/systemd/network/05-nsctl-what-a.network",
            "/etc/systemd/system/nsctl-expose-web-http.socket",
            "/etc/systemd/system/nsctl-expose-web-080.socket",
            "/etc/systemd/system/nsctl-expose-web-80.timer",
            "/etc/systemd/system/systemd-nspawn@web.service.d/override.conf",
            "/etc/systemd/system/ssh.service.d/50-nsctl.conf",
            "/var/lib/nsctl/other",
            "/var/lib/nsctl/trees/..",
            "/etc/systemd/nspawn/web.nspawn.before-nsctl",
            "/etc",
            "/",
            "",
        ] {
            assert_eq!(ManagedFile::parse(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn systemd_reads_whole_folders() {
        let of = |path: &str| Reader::of(Path::new(path));
        assert_eq!(of("/etc/systemd/network/10-lan.network"), Reader::Networkd);
        assert_eq!(of("/etc/systemd/system/a.service"), Reader::Systemd("a.service".into()));
        assert_eq!(of("/etc/systemd/system/a.service.d/b.conf"), Reader::Systemd("a.service".into()));
        assert_eq!(of("/etc/fstab"), Reader::Nobody);
    }
}
