//! One step: what it does, in a line, and what undoes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use crate::backup::BackupId;
use crate::emit::{ManagedFile, TARGET_LINK, Trial, expose::Unit, wants_link};
use crate::name::{IfName, MachineName};
use crate::observed::{Sharing, TreeId};
use crate::pool::{Planned, Prefix};
use crate::provision::FirstBoot;
use crate::snapshot::Label;
use crate::spec::{Bind, HealthCheck, Repository};
use crate::upgrade::{PackageManager, Vitals, WayBack};

/// What a machine's tree is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// An image of machined's.
    Clone(String),
    /// A tar or disk image, of so many bytes at the most when it is unpacked.
    File {
        path: PathBuf,
        limit: u64,
    },
    Folder(PathBuf),
}

/// A change of the host, small enough to be undone by one other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Puts a file there, or takes it away (`new` is none).
    Write {
        path: PathBuf,
        old: Option<String>,
        new: Option<String>,
        /// Its permissions, where they are known to be narrower than usual.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Makes a tree, whole or not at all.
    MakeTree {
        source: Source,
        to: MachineName,
        sharing: Sharing,
    },
    /// Makes an image of a machine's tree that nobody writes to.
    Snapshot {
        machine: MachineName,
        image: String,
        /// Whether it stands still meanwhile.
        freeze: bool,
    },
    RemoveSnapshot {
        image: String,
    },
    /// Keeps a machine's tree as a snapshot's, and gives the machine another, made from an image.
    SwapTree {
        machine: MachineName,
        from: String,
        aside: String,
    },
    /// Gives it the one back that was kept, as long as that is kept.
    SwapBack {
        machine: MachineName,
        aside: String,
    },
    /// Gives a snapshot's tree another name.
    MoveTree {
        from: String,
        to: String,
    },
    /// Has a guest's own package manager install what there is, within so many seconds.
    Upgrade {
        machine: MachineName,
        manager: PackageManager,
        limit: u64,
        back: WayBack,
    },
    /// Makes the machine what it was before.
    Revert {
        machine: MachineName,
        back: WayBack,
    },
    /// Restarts a machine whose guest asks for it.
    RestartIfAsked {
        machine: MachineName,
        addresses: BTreeMap<MachineName, Ipv6Addr>,
    },
    /// Waits until a machine does all that it did before it was changed.
    WorksAsBefore {
        machine: MachineName,
        before: Vitals,
        check: Option<HealthCheck>,
    },
    /// Brings a machine's tree back from a backup, as an image.
    Restore {
        machine: MachineName,
        image: String,
        from: Repository,
        id: BackupId,
        /// What it may take of the disk, in bytes.
        disk: Option<u64>,
    },
    /// Starts such a tree where nobody hears of it, waits until it does what the machine did, and ends it.
    Prove {
        image: String,
        trial: Trial,
    },
    /// Ends it.
    EndProof {
        name: MachineName,
    },
    RenameTree {
        from: MachineName,
        to: MachineName,
    },
    /// Makes a fresh tree fit to boot unattended.
    #[serde(alias = "fit")]
    Provision {
        machine: MachineName,
        #[serde(alias = "wishes")]
        first_boot: FirstBoot,
    },
    /// Writes down which tree is the machine's own, made by nsctl.
    Claim {
        machine: MachineName,
    },
    /// Takes that back.
    Disclaim {
        machine: MachineName,
    },
    /// Deletes a tree: this one, where it is told which.
    RemoveImage {
        name: MachineName,
        #[serde(default)]
        tree: Option<TreeId>,
    },
    Stop {
        machines: Vec<MachineName>,
    },
    Start {
        machines: Vec<MachineName>,
        /// What those of them are given as soon as their network is there; their guests
        /// read the same in the file bound into them, only later.
        #[serde(default)]
        addresses: BTreeMap<MachineName, Ipv6Addr>,
    },
    /// Ends machines at once. One that has just been started does not hear yet
    /// that it should stop: that takes a minute and a half.
    Kill {
        machines: Vec<MachineName>,
    },
    /// Makes socket units listen.
    Listen {
        units: Vec<String>,
    },
    /// Makes them listen no longer.
    Deafen {
        units: Vec<String>,
    },
    /// Puts other listeners into a machine that runs.
    Inside {
        machine: MachineName,
        old: Vec<Unit>,
        new: Vec<Unit>,
    },
    /// Changes the limits of a machine that runs: settings of its unit (systemd.resource-control(5));
    /// one without a value has none any more.
    Limit {
        machine: MachineName,
        old: BTreeMap<String, String>,
        new: BTreeMap<String, String>,
    },
    /// Changes what a machine's tree may take of the disk, in bytes; none: all there is.
    LimitDisk {
        machine: MachineName,
        old: Option<u64>,
        new: Option<u64>,
    },
    /// Shows a machine that runs more of the host, and lets it use devices ("/dev/kvm rw",
    /// systemd.resource-control(5), `DeviceAllow=`).
    Bind {
        machine: MachineName,
        binds: Vec<Bind>,
        devices: Vec<String>,
    },
    /// Takes that away.
    Unbind {
        machine: MachineName,
        binds: Vec<Bind>,
        devices: Vec<String>,
    },
    Enable {
        machines: Vec<MachineName>,
    },
    Disable {
        machines: Vec<MachineName>,
    },
    /// Makes systemd read its units again; where they are named, only if it does not know
    /// by itself what these are now. That takes it long, and it reads a unit that it has not
    /// loaded when that starts.
    ReloadSystemd {
        #[serde(default)]
        units: BTreeSet<String>,
    },
    ReloadNetworkd,
    /// Loads the firewall's table anew, or drops it where its file is gone.
    ReloadFirewall {
        /// Whether chains may be left to which nothing leads.
        #[serde(default)]
        prune: bool,
        /// What alone changes of it, in words of nft(8): that of few machines.
        #[serde(default)]
        part: Option<String>,
    },
    /// Makes systemd-resolved read its files again; it listens on other addresses only then.
    RestartResolved,
    /// Makes bird read its files again, where it runs.
    ReloadBird,
    /// Sets a switch of the kernel.
    Switch {
        key: String,
        old: String,
        new: String,
    },
    /// Waits until packets for unused subnets are answered with 'unreachable'.
    PoolRoute {
        pool: Prefix,
    },
    /// Takes away unreachable routes whose files are gone: networkd of systemd 252 leaves them.
    DropUnreachable {
        /// And their metrics.
        routes: Vec<(Ipv6Net, u32)>,
    },
    /// Waits until networkd has made the tunnel.
    TunnelUp {
        link: IfName,
        is_new: bool,
    },
    /// Waits until a prefix is delegated.
    Delegation,
    /// Waits until networkd has made the bridge and joined the port to it.
    BridgeUp {
        bridge: IfName,
        port: IfName,
        is_new: bool,
    },
    /// Makes a bridge keep VLANs apart, or not.
    FilterVlans {
        bridge: IfName,
        on: bool,
        /// Whether it looked at them before.
        was: bool,
        /// The VLANs of ports that are known.
        places: BTreeMap<String, u16>,
    },
    DeleteLink {
        name: IfName,
    },
    /// Takes addresses and routes off a port that had some before it joined.
    FlushPort {
        port: IfName,
    },
    /// Puts the veth of a running machine on a bridge, and makes its guest ask for addresses.
    Move {
        machine: MachineName,
        link: String,
        bridge: IfName,
        /// The bridge that it was on.
        #[serde(default)]
        from: Option<IfName>,
    },
    /// Sees that nobody else on the link has these addresses of machines.
    Probe {
        link: IfName,
        addresses: BTreeMap<MachineName, Vec<IpAddr>>,
    },
    /// Waits until a machine's planned address answers.
    Answer {
        machine: MachineName,
        address: Planned,
    },
    /// Waits for a machine's addresses from the LAN, for a while; after a move, for new ones.
    LanAddress {
        machine: MachineName,
        moved: bool,
        /// On the second interface of a machine that is routed.
        #[serde(default)]
        second: bool,
    },
    /// Waits until a machine that has just been started does what it is for.
    Check {
        machine: MachineName,
        check: HealthCheck,
    },
}

impl Step {
    /// The machines that it is about.
    pub fn machines(&self) -> Vec<MachineName> {
        match self {
            Step::Write { path, .. } => {
                ManagedFile::parse(path).and_then(|file| file.machine()).into_iter().collect()
            }
            Step::MakeTree { to: name, .. } | Step::RemoveImage { name, .. } => vec![name.clone()],
            Step::RenameTree { from, to } => vec![from.clone(), to.clone()],
            Step::MoveTree { from, to } => {
                [from, to].into_iter().filter_map(|name| name.parse().ok()).collect()
            }
            Step::Provision { machine, .. }
            | Step::Snapshot { machine, .. }
            | Step::SwapTree { machine, .. }
            | Step::SwapBack { machine, .. }
            | Step::Upgrade { machine, .. }
            | Step::Revert { machine, .. }
            | Step::RestartIfAsked { machine, .. }
            | Step::WorksAsBefore { machine, .. }
            | Step::Claim { machine }
            | Step::Disclaim { machine }
            | Step::Inside { machine, .. }
            | Step::Limit { machine, .. }
            | Step::LimitDisk { machine, .. }
            | Step::Bind { machine, .. }
            | Step::Unbind { machine, .. }
            | Step::Move { machine, .. }
            | Step::Answer { machine, .. }
            | Step::LanAddress { machine, .. }
            | Step::Check { machine, .. } => vec![machine.clone()],
            Step::Stop { machines }
            | Step::Start { machines, .. }
            | Step::Kill { machines }
            | Step::Enable { machines }
            | Step::Disable { machines } => machines.clone(),
            Step::Probe { addresses, .. } => addresses.keys().cloned().collect(),
            Step::Listen { units } | Step::Deafen { units } => {
                units.iter().filter_map(|unit| ManagedFile::of_unit(unit)?.machine()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// It only waits for a machine, which may let us wait: nobody else needs to.
    pub fn waits(&self) -> bool {
        self.is_check()
            || self.is_health()
            || matches!(
                self,
                Step::Start { .. }
                    | Step::Stop { .. }
                    | Step::Inside { .. }
                    | Step::Kill { .. }
                    | Step::Upgrade { .. }
                    | Step::RestartIfAsked { .. }
                    | Step::WorksAsBefore { .. }
                    | Step::Restore { .. }
                    | Step::Prove { .. }
                    | Step::EndProof { .. }
            )
    }

    /// It makes a tree, or changes one.
    pub fn changes_trees(&self) -> bool {
        matches!(
            self,
            Step::MakeTree { .. }
                | Step::Snapshot { .. }
                | Step::Restore { .. }
                | Step::RemoveSnapshot { .. }
                | Step::SwapTree { .. }
                | Step::SwapBack { .. }
                | Step::MoveTree { .. }
                | Step::Upgrade { .. }
                | Step::Revert { .. }
                | Step::RenameTree { .. }
                | Step::Provision { .. }
                | Step::RemoveImage { .. }
        )
    }

    /// It makes or starts something: undone when it was not begun, it would
    /// destroy what somebody else made.
    pub fn is_milestone(&self) -> bool {
        matches!(
            self,
            Step::MakeTree { .. }
                | Step::Snapshot { .. }
                | Step::Restore { .. }
                | Step::Prove { .. }
                | Step::Upgrade { .. }
                | Step::Start { .. }
                | Step::Listen { .. }
        )
    }

    /// Starts machines, each with the address in a /64 of its own that one of these checks expects
    /// of it. Its unit sees to a single one.
    pub fn start(machines: Vec<MachineName>, checks: &[Step]) -> Step {
        let planned = checks.iter().filter_map(|check| match check {
            Step::Answer { machine, address: Planned::Address(address) } => Some((machine.clone(), *address)),
            _ => None,
        });
        let addresses = planned.filter(|(machine, _)| machines.contains(machine)).collect();
        Step::Start { machines, addresses }
    }

    /// The files and links that it changes.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Step::Write { path, .. } => vec![path.clone()],
            Step::Enable { machines } | Step::Disable { machines } => {
                machines.iter().map(wants_link).chain([PathBuf::from(TARGET_LINK)]).collect()
            }
            Step::Claim { machine } | Step::Disclaim { machine } => {
                vec![ManagedFile::Claim(machine.clone()).path()]
            }
            Step::Upgrade { machine, back, .. } | Step::Revert { machine, back } => {
                let record = |label: &Label| ManagedFile::Snapshot(machine.clone(), label.clone()).path();
                let claim = ManagedFile::Claim(machine.clone()).path();
                vec![record(&back.snapshot), record(&back.aside), claim]
            }
            _ => Vec::new(),
        }
    }

    /// It changes a file; several in a row are changed in one go.
    pub fn is_write(&self) -> bool {
        matches!(self, Step::Write { .. })
    }

    /// It makes somebody read changed files again; several in a row are done at once.
    pub fn is_reload(&self) -> bool {
        matches!(
            self,
            Step::ReloadSystemd { .. }
                | Step::ReloadNetworkd
                | Step::ReloadFirewall { .. }
                | Step::RestartResolved
                | Step::ReloadBird
        )
    }

    /// It changes nothing, and only sees whether all is well; several in a row are
    /// made at once.
    pub fn is_check(&self) -> bool {
        matches!(self, Step::Answer { .. } | Step::LanAddress { .. })
    }

    /// It asks whether a machine does what it is for, after all else; several in a row are asked at once.
    pub fn is_health(&self) -> bool {
        matches!(self, Step::Check { .. })
    }

    /// Making a tree takes long, and goes on by itself: it is not just let go of.
    pub fn makes_tree(&self) -> bool {
        matches!(self, Step::MakeTree { .. } | Step::SwapTree { .. } | Step::Snapshot { .. })
    }

    /// Once begun it cannot be undone, only finished.
    pub fn is_final(&self) -> bool {
        matches!(self, Step::RemoveImage { .. } | Step::RemoveSnapshot { .. })
    }
}

/// Steps as they are taken: files that change in a row in one go, checks at once, and
/// reloads, too, with the tree that is made next; all others one by one.
pub fn stages(steps: &[Step]) -> impl Iterator<Item = &[Step]> {
    let kinds = [Step::is_write, Step::is_reload, Step::is_check, Step::is_health];
    steps.chunk_by(move |one, next| {
        kinds.iter().any(|is| is(one) && is(next)) || (one.is_reload() && next.makes_tree())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_of_an_older_nsctl_is_read() {
        let step = r#"{"step":"fit","machine":"web","wishes":{"hostname":"web","ssh_key":null,"root_password":null,"run":null,"servers":[],"zone":null}}"#;
        let step: Step = serde_json::from_str(step).unwrap();
        assert!(
            matches!(&step, Step::Provision { first_boot, .. } if first_boot.hostname.as_deref() == Some("web"))
        );
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step);
        let step = r#"{"step":"move","machine":"web","link":"ve-web","bridge":"vbr0"}"#;
        assert!(matches!(serde_json::from_str(step).unwrap(), Step::Move { from: None, .. }));
    }
}
