//! A host in memory: it carries steps out, may fail, crash or lose power at any of them, and
//! loses what was not synced.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nsctl::apply::{Executor, Listener, Owner, Records, StepError, Verified};
use nsctl::emit::{FIREWALL_FILE, ManagedFile, ini::Ini};
use nsctl::name::MachineName;
use nsctl::observed::{Link, Nftables, Observed, Running, TreeId};
use nsctl::plan::{Source, Step, take_back};
use nsctl::sys;

/// What goes wrong, and at which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// An operation fails.
    Fails(u32),
    /// nsctl is killed.
    Killed(u32),
    /// The power goes; each file that was not synced is old, new or empty, as the seed says.
    PowerCut(u32, u64),
}

/// A tree as it would be after a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub id: TreeId,
    /// Whether its content is on the disk.
    pub settled: bool,
    /// Whether somebody made it by hand.
    pub by_hand: bool,
}

#[derive(Debug)]
pub struct Host {
    pub now: RefCell<Observed>,
    pub trees: RefCell<BTreeMap<MachineName, Tree>>,
    /// What has reached the disk.
    disk: RefCell<BTreeMap<PathBuf, String>>,
    enabled: RefCell<BTreeSet<MachineName>>,
    journals: RefCell<BTreeMap<PathBuf, String>>,
    /// What goes wrong while one nsctl runs.
    pub troubles: RefCell<Vec<Trouble>>,
    operations: Cell<u32>,
    dead: Cell<bool>,
    process: Cell<u32>,
    pub boots: Cell<u32>,
    serial: Cell<u32>,
}

fn failed() -> StepError {
    std::io::Error::other("it fails").into()
}

fn link(index: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
    Link {
        index,
        name: name.into(),
        mtu: 1500,
        kind: kind.map(Into::into),
        master,
        up: true,
        ..Link::default()
    }
}

impl Host {
    pub fn new() -> Host {
        let now = Observed {
            live: true,
            images: ["base".to_owned()].into(),
            links: vec![link(2, "enp6s0", None, None), link(3, "enp7s0", None, None)],
            nftables: Some(Nftables::default()),
            sysctls: [("net/ipv6/conf/all/forwarding".to_owned(), "0".to_owned())].into(),
            ..Observed::default()
        };
        Host {
            now: RefCell::new(now),
            trees: RefCell::default(),
            disk: RefCell::default(),
            enabled: RefCell::default(),
            journals: RefCell::default(),
            troubles: RefCell::default(),
            operations: Cell::new(0),
            dead: Cell::new(false),
            process: Cell::new(1),
            boots: Cell::new(1),
            serial: Cell::new(10),
        }
    }

    pub fn observed(&self) -> Observed {
        self.now.borrow().clone()
    }

    pub fn journals(&self) -> usize {
        self.journals.borrow().len()
    }

    /// Whether nsctl was killed, or the host is off.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    fn next(&self) -> u32 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    /// One operation: it may be the one that fails, or the last.
    fn operation(&self) -> Result<(), StepError> {
        if self.dead.get() {
            return Err(failed());
        }
        self.operations.set(self.operations.get() + 1);
        let at = |number| self.operations.get() == number;
        let troubles = self.troubles.borrow().clone();
        for trouble in troubles {
            match trouble {
                Trouble::Fails(number) if at(number) => return Err(failed()),
                Trouble::Killed(number) if at(number) => {
                    self.dead.set(true);
                    return Err(failed());
                }
                Trouble::PowerCut(number, seed) if at(number) => {
                    self.power_cut(seed);
                    return Err(failed());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Who was killed never goes on.
    async fn alive(&self) {
        if self.dead.get() {
            std::future::pending().await
        }
    }

    /// A new nsctl; after a power cut, on a host that boots.
    pub fn again(&self) {
        self.troubles.borrow_mut().clear();
        self.operations.set(0);
        self.dead.set(false);
        self.process.set(self.process.get() + 1);
    }

    pub fn power_cut(&self, mut seed: u64) {
        self.dead.set(true);
        self.boots.set(self.boots.get() + 1);
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut now = self.now.borrow_mut();
        let mut disk = self.disk.borrow_mut();
        let paths: BTreeSet<PathBuf> = now.files.keys().chain(disk.keys()).cloned().collect();
        for path in paths {
            let (volatile, durable) = (now.files.get(&path).cloned(), disk.get(&path).cloned());
            let left = match random(3) {
                _ if volatile == durable => volatile,
                0 => durable,
                // What was not there before may have its name, and no content yet.
                1 if durable.is_none() => Some(String::new()),
                _ => volatile,
            };
            match left {
                Some(text) => _ = now.files.insert(path, text),
                None => _ = now.files.remove(&path),
            }
        }
        disk.clone_from(&now.files);
        if random(2) == 0 {
            now.enabled.clone_from(&self.enabled.borrow());
        }
        self.enabled.borrow_mut().clone_from(&now.enabled);
        now.machines.clear();
        now.stopped.clear();
        now.links.retain(|link| !link.name.starts_with("ve-") && !link.name.starts_with("vb-"));
        now.nftables =
            Some(Nftables { ours: now.files.contains_key(Path::new(FIREWALL_FILE)), ..Nftables::default() });
        let boots: Vec<MachineName> = now.enabled.iter().cloned().collect();
        drop((now, disk));
        boots.iter().for_each(|name| self.start(name));
    }

    /// A machine starts by the files that there are.
    fn start(&self, name: &MachineName) {
        let serial = self.next();
        let mut now = self.now.borrow_mut();
        let there = self.trees.borrow().contains_key(name);
        if !there || now.machines.contains_key(name.as_str()) {
            return;
        }
        let settings = Ini::parse(now.file(&ManagedFile::Nspawn(name.clone()).path()).unwrap_or_default());
        let bridge = settings.get("Network", "Bridge").map(str::to_owned);
        let master = bridge.as_deref().and_then(|bridge| Some(now.link(bridge)?.index));
        let end = if bridge.is_some() { name.bridged_link() } else { name.routed_link() };
        now.links.push(link(serial, &end, Some("veth"), master));
        if settings.get("Network", "VirtualEthernetExtra").is_some() {
            now.links.push(link(self.next(), &name.lan_link(), Some("veth"), None));
            join(&mut now, &ManagedFile::LanEnd(name.clone()));
        }
        now.machines.insert(name.to_string(), Running { leader: serial, uid_shift: None });
    }

    pub fn stop(&self, name: &MachineName) {
        let mut now = self.now.borrow_mut();
        now.machines.remove(name.as_str());
        now.links.retain(|link| link.name != name.routed_link() && link.name != name.bridged_link());
    }

    /// Puts a tree there; nobody knows who it is of but this host.
    pub fn make_tree(&self, name: &MachineName, by_hand: bool) {
        let id = TreeId::inode(u64::from(self.next()), 7);
        self.now.borrow_mut().images.insert(name.to_string());
        self.now.borrow_mut().trees.insert(name.clone(), id.clone());
        self.trees.borrow_mut().insert(name.clone(), Tree { id, settled: by_hand, by_hand });
    }

    pub fn has_tree(&self, name: &MachineName) -> bool {
        self.trees.borrow().contains_key(name)
    }

    pub fn drop_tree(&self, name: &MachineName) {
        self.now.borrow_mut().images.remove(name.as_str());
        self.now.borrow_mut().trees.remove(name);
        self.trees.borrow_mut().remove(name);
    }

    /// What a person writes is on the disk.
    pub fn write(&self, path: PathBuf, text: Option<String>) {
        let mut now = self.now.borrow_mut();
        match text {
            Some(text) => {
                now.files.insert(path.clone(), text.clone());
                self.disk.borrow_mut().insert(path, text);
            }
            None => {
                now.files.remove(&path);
                self.disk.borrow_mut().remove(&path);
            }
        }
    }

    fn put(&self, path: &Path, text: Option<&String>) {
        let mut now = self.now.borrow_mut();
        match text {
            Some(text) => _ = now.files.insert(path.to_owned(), text.clone()),
            None => _ = now.files.remove(path),
        }
    }

    fn one(&self, step: &Step) -> Result<Option<Verified>, StepError> {
        self.operation()?;
        match step {
            Step::Write { path, new, .. } => self.put(path, new.as_ref()),
            Step::MakeTree { source: Source::Clone(_), to, .. } => {
                if self.trees.borrow().contains_key(to) {
                    return Err(StepError::TreeTaken(to.clone()));
                }
                self.make_tree(to, false);
            }
            Step::RenameTree { from, to } => {
                let tree = self.trees.borrow_mut().remove(from);
                if let Some(tree) = tree {
                    let mut now = self.now.borrow_mut();
                    now.images.remove(from.as_str());
                    now.images.insert(to.to_string());
                    now.trees.remove(from);
                    now.trees.insert(to.clone(), tree.id.clone());
                    self.trees.borrow_mut().insert(to.clone(), tree);
                }
            }
            Step::Claim { machine } => {
                let id = self.trees.borrow().get(machine).map(|tree| tree.id.clone());
                let id = id.ok_or_else(|| StepError::NoTree(machine.clone()))?;
                self.put(&ManagedFile::Claim(machine.clone()).path(), Some(&format!("{id}\n")));
            }
            Step::Disclaim { machine } => self.put(&ManagedFile::Claim(machine.clone()).path(), None),
            Step::RemoveImage { name, tree } => {
                let there = self.trees.borrow().get(name).map(|tree| tree.id.clone());
                if tree.is_some() && there.is_some() && *tree != there {
                    return Err(StepError::AnotherTree(name.clone()));
                }
                self.drop_tree(name);
            }
            Step::Enable { machines } => self.now.borrow_mut().enabled.extend(machines.iter().cloned()),
            Step::Disable { machines } => {
                self.now.borrow_mut().enabled.retain(|name| !machines.contains(name));
            }
            Step::ReloadFirewall { .. } => {
                let mut now = self.now.borrow_mut();
                let ours = now.file(Path::new(FIREWALL_FILE)).is_some();
                now.nftables = Some(Nftables { ours, ..Nftables::default() });
            }
            Step::Switch { key, new, .. } => {
                self.now.borrow_mut().sysctls.insert(key.clone(), new.clone());
            }
            Step::BridgeUp { bridge, .. } => {
                let index = self.next();
                let mut now = self.now.borrow_mut();
                if now.link(bridge.as_str()).is_none() {
                    now.links.push(link(index, bridge.as_str(), Some("bridge"), None));
                }
            }
            Step::FilterVlans { bridge, on, .. } => {
                let mut now = self.now.borrow_mut();
                for link in now.links.iter_mut().filter(|link| link.name == bridge.as_str()) {
                    link.vlan_filtering = *on;
                }
            }
            Step::DeleteLink { name } => {
                self.now.borrow_mut().links.retain(|link| link.name != name.as_str());
            }
            Step::ReloadNetworkd => self.networkd_reads(),
            Step::Move { machine, bridge, .. } => {
                let mut now = self.now.borrow_mut();
                let master = now.link(bridge.as_str()).map(|bridge| bridge.index);
                let ends = [machine.routed_link(), machine.bridged_link()];
                for link in now.links.iter_mut().filter(|link| ends.contains(&link.name)) {
                    link.master = master;
                }
            }
            Step::Start { machines, .. } => machines.iter().for_each(|name| self.start(name)),
            Step::Stop { machines } | Step::Kill { machines } => {
                machines.iter().for_each(|name| self.stop(name));
            }
            _ => {}
        }
        Ok(None)
    }

    /// networkd puts the links of machines where their files say, and touches no others.
    fn networkd_reads(&self) {
        let mut now = self.now.borrow_mut();
        let names: Vec<MachineName> = now.machines.keys().filter_map(|name| name.parse().ok()).collect();
        for name in names {
            let both = [ManagedFile::HostEnd(name.clone()), ManagedFile::LanEnd(name)];
            both.iter().for_each(|file| join(&mut now, file));
        }
    }

    /// A write that is taken back, as the live host does it.
    fn due(&self, step: &Step) -> Result<Option<Step>, StepError> {
        let Step::Write { path, old, new, mode } = step else { return Ok(Some(step.clone())) };
        let current = self.now.borrow().files.get(path).cloned();
        if current == *new {
            return Ok(None);
        }
        let torn = current.as_ref().is_some_and(String::is_empty);
        if current == *old || torn {
            return Ok(Some(step.clone()));
        }
        let merged = take_back(path, current.as_deref(), old.as_deref(), new.as_deref());
        let new = merged.ok_or_else(|| StepError::Touched(path.clone()))?;
        Ok(Some(Step::Write { path: path.clone(), old: current, new, mode: *mode }))
    }
}

/// The links that a file matches are ports of the bridge that it names, or of none.
fn join(now: &mut Observed, file: &ManagedFile) {
    let Some(settings) = now.file(&file.path()).map(Ini::parse) else { return };
    let master = settings.get("Network", "Bridge").and_then(|bridge| Some(now.link(bridge)?.index));
    let names: Vec<&str> =
        settings.get("Match", "Name").into_iter().flat_map(str::split_whitespace).collect();
    for link in now.links.iter_mut().filter(|link| names.contains(&link.name.as_str())) {
        link.master = master;
    }
}

impl Listener for Host {
    fn begins(&self, _: &Step) {}
    fn says_in_passing(&self, _: &str) {}
    fn progresses(&self, _: f64) {}
    fn says(&self, _: &str) {}
}

impl Records for Host {
    fn recall(&self, path: &Path) -> Result<Option<String>, sys::Error> {
        Ok(self.journals.borrow().get(path).cloned())
    }

    fn keep(&self, path: &Path, text: &str) -> Result<(), sys::Error> {
        self.operation().map_err(|_| std::io::Error::other("it fails"))?;
        self.journals.borrow_mut().insert(path.to_owned(), text.to_owned());
        Ok(())
    }

    fn forget(&self, path: &Path) -> Result<(), sys::Error> {
        self.operation().map_err(|_| std::io::Error::other("it fails"))?;
        self.journals.borrow_mut().remove(path);
        Ok(())
    }

    fn kept(&self, _: &Path) -> Result<Vec<PathBuf>, sys::Error> {
        Ok(self.journals.borrow().keys().cloned().collect())
    }

    fn boot_id(&self) -> Result<String, sys::Error> {
        Ok(format!("boot {}", self.boots.get()))
    }

    fn stamp(&self) -> u128 {
        self.next().into()
    }

    fn owner(&self) -> Owner {
        Owner { process: self.process.get(), started: 0 }
    }

    fn is_alive(&self, owner: Owner) -> bool {
        owner == self.owner()
    }
}

impl Executor for Host {
    type Records = Host;

    fn records(&self) -> &Host {
        self
    }

    fn listener(&self) -> &dyn Listener {
        self
    }

    fn now(&self) -> Instant {
        nsctl::sys::now()
    }

    async fn perform(&self, stage: &[Step], _: Option<Instant>) -> Result<Vec<Verified>, (usize, StepError)> {
        let mut seen = Vec::new();
        for (at, step) in stage.iter().enumerate() {
            let done = self.one(step);
            self.alive().await;
            seen.extend(done.map_err(|error| (at, error))?);
        }
        Ok(seen)
    }

    async fn take_back(&self, stage: &[Step]) -> Vec<(Step, StepError)> {
        let mut left = Vec::new();
        for step in stage {
            let done = self.due(step).and_then(|due| due.map_or(Ok(None), |due| self.one(&due)));
            self.alive().await;
            left.extend(done.err().map(|error| (step.clone(), error)));
        }
        left
    }

    async fn cancel(&self, _: &Step) {}

    async fn settle(&self, steps: &[Step]) -> Result<(), StepError> {
        let done = self.operation();
        self.alive().await;
        done?;
        let now = self.now.borrow();
        for path in steps.iter().flat_map(Step::paths) {
            match now.files.get(&path) {
                Some(text) => _ = self.disk.borrow_mut().insert(path, text.clone()),
                None => _ = self.disk.borrow_mut().remove(&path),
            }
        }
        if steps.iter().any(|step| matches!(step, Step::Enable { .. } | Step::Disable { .. })) {
            self.enabled.borrow_mut().clone_from(&now.enabled);
        }
        if steps.iter().any(Step::changes_trees) {
            self.trees.borrow_mut().values_mut().for_each(|tree| tree.settled = true);
        }
        Ok(())
    }

    async fn running(&self) -> Result<BTreeSet<MachineName>, StepError> {
        self.alive().await;
        Ok(self.now.borrow().machines.keys().filter_map(|name| name.parse().ok()).collect())
    }

    async fn interrupted(&self) {
        std::future::pending().await
    }

    fn release(&self) {}

    async fn retake(&self) -> Result<(), StepError> {
        Ok(())
    }

    fn clear_drafts(&self, _: &BTreeSet<PathBuf>) -> Result<(), StepError> {
        Ok(())
    }
}
