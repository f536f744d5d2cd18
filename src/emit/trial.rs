//! A machine on trial: what it is started by to see whether it comes up from a backup.

use std::net::Ipv6Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{EXPOSE_DIR, ManagedFile};
use super::ini::Ini;
use super::machine::{GUEST_TARGET, quoted};
use super::unit::{CREDENTIALS, limit_settings, passes_on};
use crate::name::MachineName;
use crate::spec::{Bind, HealthCheck, Limits, MachineSpec, SecretId};
use crate::upgrade::Vitals;

/// Where the file is that a machine on trial reads of its network.
pub const TRIAL_DIR: &str = "/run/nsctl/trial";

/// A machine that is started from a backup to see whether it comes up: its own processes, files and address, and a
/// network of nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub name: MachineName,
    /// The texts of its .nspawn file, and of the .network file that it sees.
    pub nspawn: String,
    pub network: String,
    /// Settings of its unit, and words for nspawn: what it may take, and its secrets.
    pub properties: Vec<String>,
    pub words: Vec<String>,
    /// What its link has, for a guest that reads no file of networkd's.
    pub addresses: Vec<String>,
    /// Whether the machine ran when it was backed up.
    pub ran: bool,
    pub before: Vitals,
    pub check: Option<HealthCheck>,
}

impl Trial {
    /// Of a machine as it was; `address` is the one that it had in a /64 of its own, what `is_quiet`
    /// takes of what is bound into it, it sees.
    pub fn of(
        name: MachineName,
        machine: &MachineSpec,
        before: Option<Vitals>,
        address: Option<Ipv6Addr>,
        is_quiet: impl Fn(&Path) -> bool,
    ) -> Trial {
        let mut exec = Ini::new().section("Exec").set("Parameters", "systemd.firstboot=no");
        for (key, value) in &machine.environment {
            exec = exec.set("Environment", quoted(key, value));
        }
        // Its journal is not the machine's, and nobody waits for a word of it.
        let own = machine.nspawn.get("Exec").into_iter().flatten();
        for (key, values) in own.filter(|(key, _)| !matches!(key.as_str(), "LinkJournal" | "NotifyReady")) {
            exec = exec.set_some(key, values.texts());
        }
        let mut files = exec.section("Files");
        files = files.set("BindReadOnly", format!("{TRIAL_DIR}/{name}.network:{GUEST_TARGET}"));
        // What it has of the host it only reads: it is not to do twice what the machine does.
        let binds = machine.bind.iter().chain(&machine.bind_read_only);
        let there = binds.filter(|bind| Bind::of(bind).is_some_and(|bind| is_quiet(&bind.source)));
        files = files.set_some("BindReadOnly", there);
        let mut network = Ini::new().section("Match").set("Name", "host0").section("Network");
        network = network.set("LinkLocalAddressing", "ipv6").set("IPv6AcceptRA", "no").set("DHCP", "no");
        // Who had one of the LAN's, or of a prefix that changes, has some other.
        let address = address.unwrap_or(Ipv6Addr::new(0xfd6e, 0x7363, 0x746c, 0, 0, 0, 0, 2));
        let addresses = vec![format!("{address}/64"), "192.0.2.2/24".to_owned()];
        for address in &addresses {
            network = network.section("Address").set("Address", address);
            network = network.set("DuplicateAddressDetection", "none");
        }
        let ran = before.is_some();
        let mut before = before.unwrap_or_default();
        // A guest without networkd has none here.
        before.has_address = false;
        Trial {
            name,
            nspawn: files.render(),
            network: network.render(),
            properties: Vec::new(),
            words: Vec::new(),
            addresses,
            ran,
            before,
            check: machine.check.clone(),
        }
    }

    /// The units that nsctl puts into the machine, as its .nspawn file has them.
    #[must_use]
    pub fn with_units(mut self, nspawn: &str) -> Trial {
        let all = Ini::parse(nspawn);
        for bind in all.values("Files", "BindReadOnly").filter(|bind| bind.starts_with(EXPOSE_DIR)) {
            self.nspawn.push_str(&format!("BindReadOnly={bind}\n"));
        }
        self
    }

    /// What it may take.
    #[must_use]
    pub fn limited(mut self, machine: &MachineName, limits: &Limits) -> Trial {
        // Those of a disk name the tree of the machine.
        let own = limit_settings(machine, limits);
        let own = own.filter(|(key, _)| !key.starts_with("IO"));
        self.properties.extend(own.map(|(key, value)| format!("{key}={value}")));
        self
    }

    /// The secrets of the machine that are here.
    #[must_use]
    pub fn with_secrets(mut self, machine: &MachineName, secrets: &[SecretId]) -> Trial {
        for id in secrets {
            let path = ManagedFile::Secret(machine.clone(), id.clone()).path();
            self.properties.push(format!("{CREDENTIALS}={id}:{}", path.display()));
            self.words.push(passes_on(id));
        }
        self
    }
}
