//! A plain, serializable snapshot of a host. Pure: `observe` fills it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::backup::History;
use crate::emit::{ManagedFile, Origin, SECRETS_DIR};
use crate::name::{IfName, MachineName};
use crate::nftables::table::Difference;
use crate::snapshot::{Label, Record};
use crate::spec::SecretId;

/// What is on the host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Observed {
    /// Whether the host runs, and is not a folder of files (`--root`).
    pub live: bool,
    /// Texts of every file that is ours or may be, of the user's own files, and of the state.
    pub files: BTreeMap<PathBuf, String>,
    /// What has nspawn units started otherwise than as their template does: files of others.
    pub starts: Vec<ForeignStart>,
    /// Definitions that cannot be read, and why.
    pub unreadable: BTreeMap<PathBuf, String>,
    /// Running machines by name, those of others too.
    pub machines: BTreeMap<String, Running>,
    /// machined's images: trees and disk images below /var/lib/machines.
    pub images: BTreeSet<String>,
    /// The trees of machines that there are: which they are.
    pub trees: BTreeMap<MachineName, TreeId>,
    /// Machines that somebody stopped by hand since the host booted.
    pub stopped: BTreeSet<MachineName>,
    /// What a copy of an image costs.
    pub sharing: Sharing,
    /// The version of the host's systemd.
    pub systemd: u32,
    /// ActiveState of the nspawn units that systemd has loaded.
    pub units: BTreeMap<MachineName, String>,
    /// Machines whose unit starts with the host.
    pub enabled: BTreeSet<MachineName>,
    /// The host's machine-id, on which its machines' MAC addresses hang.
    pub machine_id: Option<String>,
    pub links: Vec<Link>,
    /// The host's own addresses.
    pub addresses: Vec<Address>,
    /// Those of IPv6 and of IPv4, one for each next hop.
    pub default_routes: Vec<DefaultRoute>,
    /// What nftables has; none where there is no nft(8).
    pub nftables: Option<Nftables>,
    /// The kernel's switches that a step may change, as read from /proc/sys.
    pub sysctls: BTreeMap<String, String>,
    /// Trees whose guests read no file of networkd's as they are, those of others too.
    pub strangers: BTreeMap<String, Stranger>,
    /// Switches that other files of sysctl.d(5) set, too.
    pub set_elsewhere: BTreeSet<String>,
    /// The host's names for itself.
    pub hostnames: BTreeSet<String>,
    /// What machines' mounts need of the host's files, and is not there.
    pub missing: BTreeSet<PathBuf>,
    /// Addresses of the pool that somebody on the uplink was heard to have.
    pub elsewhere: BTreeSet<IpAddr>,
}

/// Where packets for the world go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DefaultRoute {
    pub interface: u32,
    /// None: whoever is at the other end.
    pub gateway: Option<IpAddr>,
}

/// A guest that starts no networkd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stranger {
    /// A machine made of its tree will start it: it is there, and nothing else manages the network.
    UntilProvisioned,
    Always,
}

/// Which tree it is, whatever its name: what the file system made it with, and nothing in it
/// can change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeId(String);

impl TreeId {
    /// A folder or disk image: its inode, and when that was made, in nanoseconds (statx(2)).
    pub fn inode(number: u64, born: u128) -> TreeId {
        TreeId(format!("inode {number} born {born}"))
    }

    /// A subvolume: all of them have one inode number, and a snapshot has its origin's birth time.
    pub fn subvolume(uuid: u128) -> TreeId {
        TreeId(format!("subvolume {uuid:032x}"))
    }

    /// As it was written down.
    pub fn recorded(text: &str) -> TreeId {
        TreeId(text.trim().to_owned())
    }
}

impl std::fmt::Display for TreeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a clone and its image share what they have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// btrfs takes a snapshot (btrfs-subvolume(8)).
    Snapshot,
    /// The files are new, their blocks are not (ioctl_ficlone(2)).
    Reflink,
    /// Every byte is copied.
    #[default]
    Copy,
}

impl Sharing {
    pub fn words(self) -> &'static str {
        match self {
            Sharing::Snapshot => "a snapshot: at once, and takes no room",
            Sharing::Reflink => "sharing its blocks: takes no room",
            Sharing::Copy => "a whole copy: this file system shares nothing",
        }
    }
}

/// The rule set of the kernel, as far as it concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nftables {
    /// Whether our table is loaded.
    pub ours: bool,
    /// Where it is not what its files say.
    pub drift: Vec<Difference>,
    /// The forward chains of others that drop what they are not told to let through.
    pub dropping: Vec<Chain>,
    /// The input chains of others that drop so.
    pub inputs: Vec<InputChain>,
    /// IPv6 prefixes that networkd translates (`IPMasquerade=both`).
    pub translated: Vec<Ipv6Net>,
}

/// An input chain of somebody else's that drops what it is not told to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputChain {
    pub family: String,
    pub table: String,
    pub name: String,
    /// Whether it takes what comes from this host itself.
    pub loopback: bool,
    /// Whether it takes some ICMPv6.
    pub icmp: bool,
}

/// A chain of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// "ip", "ip6" or "inet".
    pub family: String,
    pub table: String,
    pub name: String,
    pub tool: Tool,
    /// The interfaces and prefixes that some rule of its table lets through.
    pub passes: BTreeSet<String>,
}

/// Who made a chain, told by what else is in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    Docker,
    Ufw,
    Firewalld,
    /// iptables, by hand or by a script.
    Iptables,
    Nftables,
}

/// One running machine.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// The machine's PID 1, seen from the host.
    pub leader: u32,
    /// The user id on the host of the machine's root.
    pub uid_shift: Option<u32>,
}

/// A network interface of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alternative_names: Vec<String>,
    /// Bytes.
    pub mtu: u32,
    /// Its MAC address; none: it has none, or one of another kind.
    pub mac: Option<[u8; 6]>,
    /// The kernel's word for it: "bridge", "veth"; none for hardware.
    pub kind: Option<String>,
    /// Whether it is a bridge that looks at VLANs.
    pub vlan_filtering: bool,
    /// The VLAN of a bridge's new ports; 0: none.
    pub default_pvid: u16,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// The other end, where it is one end of a veth; an index of the other end's namespace.
    pub peer: Option<u32>,
    /// Whether it carries packets (RFC 2863 3.1.14), as last announced.
    pub up: bool,
}

/// An address that an interface really has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Address {
    /// The interface that has it.
    pub interface: u32,
    pub address: IpAddr,
    /// Being checked for duplicates (RFC 4862 5.4), so not in use yet.
    pub tentative: bool,
    /// Still valid, but not for new connections (RFC 4862 5.5.4).
    pub deprecated: bool,
    /// Somebody else on its link has it, so it is not used (RFC 4862 5.4.5).
    pub duplicate: bool,
    /// Valid beyond its link.
    pub global: bool,
}

/// A service of systemd's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Service {
    pub active: bool,
    pub enabled: bool,
    pub masked: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub interface: Option<u32>,
    pub unreachable: bool,
    /// Made by the kernel along with an address.
    pub by_kernel: bool,
    /// Learned from a router's advertisement.
    pub by_ra: bool,
    pub metric: u32,
}

/// What the routing daemon knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bird {
    pub runs: bool,
    /// Its protocols that stand in our file.
    pub protocols: Vec<String>,
    /// How many others it exchanges routes with by them.
    pub neighbors: usize,
    /// What it has in our table, from whom.
    pub routes: Vec<BirdRoute>,
}

/// A route of bird's, and the protocol that it comes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BirdRoute {
    pub destination: Ipv6Net,
    pub protocol: String,
}

/// Who reads a file, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readers {
    pub everybody: bool,
    /// As the user systemd-network.
    pub networkd: bool,
}

/// What networkd says of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managed {
    /// The .network file that it uses.
    pub file: Option<String>,
    /// Its AdministrativeState: "configured", "configuring", "failed", "unmanaged" (networkctl(1)).
    pub state: String,
}

impl Managed {
    /// Whether networkd has yet to look which file the link has; it waits for udev with that.
    pub fn is_undecided(&self) -> bool {
        ["pending", "initialized"].contains(&self.state.as_str())
    }
}

/// Names the machines that somebody stopped by hand; gone with the boot, which starts them again.
pub const STOPPED_DIR: &str = "/run/nsctl/stopped";

/// The switch that makes the host forward IPv6 at all (kernel, ip-sysctl.rst).
pub const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The switches that send frames between ports of a bridge through the forward
/// chains of IPv6 and IPv4 (br_netfilter).
pub const BRIDGE_NETFILTER: [(&str, &str); 2] =
    [("ip6", "net/bridge/bridge-nf-call-ip6tables"), ("ip", "net/bridge/bridge-nf-call-iptables")];

/// The switch for how many inotify(7) instances a user may have, its machines' included.
pub const INOTIFY_INSTANCES: &str = "fs/inotify/max_user_instances";
/// How many IPv6 neighbours the kernel remembers, of all its network namespaces together.
pub const NEIGHBOURS: &str = "net/ipv6/neigh/default/gc_thresh3";

/// Whether the way back is looked for with the mark that a packet has (kernel, ip-sysctl.rst).
pub const SRC_VALID_MARK: &str = "net/ipv4/conf/all/src_valid_mark";

/// Whether an interface answers for neighbours that the kernel is told of; slashes, as the name may hold dots.
pub fn proxy_ndp(interface: &str) -> String {
    format!("net/ipv6/conf/{interface}/proxy_ndp")
}

/// For how many ticks the kernel lets who asks for a neighbour of ours wait, at the most.
pub fn proxy_delay(interface: &str) -> String {
    format!("net/ipv6/neigh/{interface}/proxy_delay")
}

/// Whether the kernel forgets neighbours when a link has no carrier (Linux 5.16 and later).
pub fn evict_nocarrier(interface: &str) -> String {
    format!("net/ipv6/conf/{interface}/ndisc_evict_nocarrier")
}

/// What the kernel does with router advertisements on an interface.
pub fn accept_ra(interface: &str) -> String {
    format!("net/ipv6/conf/{interface}/accept_ra")
}

/// Those of IPv6.
pub fn v6(addresses: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = Ipv6Addr> {
    addresses.filter_map(|address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    })
}

/// An `ExecStart=` for machines in a file of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignStart {
    pub path: PathBuf,
    pub command: String,
}

impl ForeignStart {
    /// Whether the file is of this machine's unit, or of all machines'.
    pub fn is_of(&self, name: &MachineName) -> bool {
        let unit = if self.is_drop_in() { self.path.parent() } else { Some(self.path.as_path()) };
        let unit = unit.and_then(|unit| unit.file_name()?.to_str()).unwrap_or_default();
        let unit = unit.strip_suffix(".d").unwrap_or(unit);
        unit == "systemd-nspawn@.service" || unit == name.unit()
    }

    pub fn is_drop_in(&self) -> bool {
        self.path.extension().is_some_and(|end| end == "conf")
    }
}

impl Observed {
    /// All snapshots, by machine and label; one whose record is damaged has none.
    pub fn snapshots(&self) -> BTreeMap<(MachineName, Label), Option<Record>> {
        let records = self.files.iter().filter_map(|(path, text)| match ManagedFile::parse(path)? {
            ManagedFile::Snapshot(machine, label) => Some(((machine, label), Record::parse(text))),
            _ => None,
        });
        records.collect()
    }

    /// Those of one machine.
    pub fn snapshots_of(&self, name: &MachineName) -> BTreeMap<Label, Option<Record>> {
        let all = self.snapshots().into_iter();
        all.filter(|((machine, _), _)| machine == name).map(|((_, label), record)| (label, record)).collect()
    }

    /// What is known of a machine's backups.
    pub fn history(&self, name: &MachineName) -> History {
        self.file(&ManagedFile::Backups(name.clone()).path()).map(History::parse).unwrap_or_default()
    }

    /// The secrets of machines that are on this host, by machine and name; below a root, those of its files.
    pub fn secrets(&self) -> BTreeSet<(MachineName, SecretId)> {
        let folder = PathBuf::from(SECRETS_DIR);
        let read = self.files.range(folder..).map(|(path, _)| path);
        let paths = read.take_while(|path| path.starts_with(SECRETS_DIR)).chain(self.unreadable.keys());
        let secret = |path: &PathBuf| match ManagedFile::parse(path)? {
            ManagedFile::Secret(name, id) => Some((name, id)),
            _ => None,
        };
        paths.filter_map(secret).collect()
    }

    /// Those of one machine.
    pub fn secrets_of(&self, name: &MachineName) -> Vec<SecretId> {
        self.secrets().into_iter().filter(|(machine, _)| machine == name).map(|(_, id)| id).collect()
    }

    pub fn has_secret(&self, name: &MachineName, id: &SecretId) -> bool {
        let path = ManagedFile::Secret(name.clone(), id.clone()).path();
        self.files.contains_key(&path) || self.unreadable.contains_key(&path)
    }

    /// Whether an interface has a default route.
    pub fn has_default_route(&self, link: &Link) -> bool {
        self.default_routes.iter().any(|route| route.interface == link.index)
    }

    /// The IPv6 routers that packets for the world are given to.
    pub fn routers(&self) -> BTreeSet<Ipv6Addr> {
        v6(self.default_routes.iter().filter_map(|route| route.gateway)).collect()
    }

    /// The addresses that this host has for itself, and its routers.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of_machines: BTreeSet<u32> =
            self.links.iter().filter(|l| l.name.starts_with("ve-")).map(|l| l.index).collect();
        let own = self.addresses.iter().filter(move |address| !of_machines.contains(&address.interface));
        own.map(|address| address.address).chain(self.default_routes.iter().filter_map(|route| route.gateway))
    }

    pub fn file(&self, path: &Path) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// A link by its name or one of its alternative names.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.is_called(name))
    }

    pub fn master_of(&self, link: &Link) -> Option<&Link> {
        self.links.iter().find(|other| Some(other.index) == link.master)
    }

    /// The host's end of a machine's veth, whatever its place.
    pub fn host_end(&self, machine: &MachineName) -> Option<&Link> {
        self.link(&machine.routed_link()).or_else(|| self.link(&machine.bridged_link()))
    }

    /// Whether its unit is about to start it, or has it, whatever machined knows of that; one that ends may be
    /// about to start again.
    pub fn is_coming(&self, name: &MachineName) -> bool {
        matches!(
            self.units.get(name).map(String::as_str),
            Some("active" | "activating" | "deactivating" | "reloading")
        )
    }

    pub fn is_running(&self, machine: &MachineName) -> bool {
        self.machines.contains_key(machine.as_str())
    }

    /// The rendered files of a machine that somebody edited.
    pub fn edited(&self, machine: &MachineName) -> Vec<PathBuf> {
        let mine = |path: &PathBuf| {
            ManagedFile::parse(path).and_then(|file| file.machine()).as_ref() == Some(machine)
        };
        let edited =
            self.files.iter().filter(|(path, text)| Origin::of(text) == Origin::Edited && mine(path));
        edited.map(|(path, _)| path.clone()).collect()
    }

    /// Whether the tree of a machine is the one that nsctl made, and no other of its name.
    pub fn tree_is_ours(&self, machine: &MachineName) -> bool {
        let claim = self.file(&ManagedFile::Claim(machine.clone()).path()).map(TreeId::recorded);
        claim.is_some() && self.trees.get(machine) == claim.as_ref()
    }

    pub fn is_bridge(&self, name: &IfName) -> bool {
        self.link(name.as_str()).is_some_and(|link| link.kind.as_deref() == Some("bridge"))
    }
}

impl Link {
    /// Whether it is a bridge on which each port is where somebody has said, and nowhere else.
    pub fn keeps_vlans_apart(&self) -> bool {
        self.vlan_filtering && self.default_pvid == 0
    }

    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.alternative_names.iter().any(|other| other == name)
    }
}
