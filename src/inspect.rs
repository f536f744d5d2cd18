//! Looks at a host as closely as doctor wants to; changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apply;
use crate::doctor::Facts;
use crate::doctor::facts::GuestFacts;
use crate::emit::ManagedFile;
use crate::hint::Hint;
use crate::name::MachineName;
use crate::observed::{Observed, Readers, Service, accept_ra, proxy_ndp};
use crate::spec::{SecretId, Spec};
use crate::state::State;
use crate::sys::tree::Tree;
use crate::sys::{self, Bus, Disk, Net, bird, credential, health, is_root, kernel, ping, processes, sockets};

/// Where networkd's and nspawn's files are that somebody wrote.
const FOLDERS: [&str; 4] =
    ["/etc/systemd/network", "/run/systemd/network", "/etc/systemd/nspawn", "/run/systemd/nspawn"];
const ENDS: [&str; 3] = [".network", ".netdev", ".nspawn"];

/// Everything at once. Without root, what only root may see is left out.
///
/// # Errors
/// When a file cannot be read, or a service does not answer.
pub async fn host(
    disk: &Disk,
    bus: &Bus,
    observed: Observed,
    spec: Spec,
    state: State,
    services: BTreeMap<String, Service>,
) -> Result<Facts, sys::Error> {
    let net = Net::host()?;
    let (addresses, loopback, managed, network_managers) = tokio::join!(
        net.addresses(),
        ping::answers(std::net::Ipv6Addr::LOCALHOST, Duration::from_millis(400)),
        bus.managed(),
        bus.network_managers_links(),
    );
    let (cut_short, damaged_journal) = match apply::cut_short(disk) {
        Ok(unresolved) => (unresolved.into_iter().next().map(|left| left.command), None),
        Err(error) => (None, Some((error.to_string(), error.hint().unwrap_or_default()))),
    };
    let mut facts = Facts {
        settings: settings(disk)?,
        routes: net.main_routes().await?,
        proxies: net.proxies().await?,
        pvids: net.pvids().await.unwrap_or_default(),
        services,
        managed: managed.unwrap_or_default(),
        network_managers,
        // Who may not ask says nothing.
        loopback_answers: loopback.unwrap_or(true),
        switches: switches(&observed),
        cut_short,
        damaged_journal,
        keys: keys(disk, &observed),
        bird: None,
        fleet: None,
        spec,
        state,
        observed,
        pending: None,
        left_out: Vec::new(),
        lost_secrets: BTreeMap::new(),
        now: sys::seconds_since_1970(),
        guests: BTreeMap::new(),
    };
    facts.observed.addresses = addresses?;
    if is_root() {
        facts.guests = guests(&facts, bus).await;
        facts.lost_secrets = lost_secrets(&facts).await;
        if facts.spec.host.routing.is_some() {
            // One that does not answer does not speak to others, either.
            facts.bird = Some(bird::look().await.unwrap_or_default());
        }
    }
    Ok(facts)
}

/// Files and drop-ins, by path.
fn settings(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, sys::Error> {
    let mut texts = BTreeMap::new();
    for folder in FOLDERS.map(Path::new) {
        texts.append(&mut disk.folder(folder, |name| ENDS.iter().any(|end| name.ends_with(end)))?);
        for name in disk.names(folder)?.iter().filter(|name| name.ends_with(".network.d")) {
            texts.append(&mut disk.folder(&folder.join(name), |name| name.ends_with(".conf"))?);
        }
    }
    Ok(texts)
}

fn keys(disk: &Disk, observed: &Observed) -> BTreeMap<PathBuf, Readers> {
    let is_key = |path: &&PathBuf| matches!(ManagedFile::parse(path), Some(ManagedFile::TunnelKey(..)));
    let keys = observed.files.keys().filter(is_key);
    keys.filter_map(|path| Some((path.clone(), disk.readers(path)?))).collect()
}

/// Those of machines' secrets that this host cannot decrypt. One after the other: a TPM does no two things at once.
async fn lost_secrets(facts: &Facts) -> BTreeMap<(MachineName, SecretId), String> {
    let mut lost = BTreeMap::new();
    for (name, machine) in &facts.spec.machines {
        for id in machine.secret.iter().filter(|id| facts.observed.has_secret(name, id)) {
            let path = ManagedFile::Secret(name.clone(), id.clone()).path();
            let why = credential::can_decrypt(id, &path).await.err();
            lost.extend(why.map(|why| ((name.clone(), id.clone()), why.to_string())));
        }
    }
    lost
}

fn switches(observed: &Observed) -> BTreeMap<String, String> {
    let of_link = |name: &str| {
        let key = |word: &str| format!("net/ipv6/conf/{name}/{word}");
        [accept_ra(name), key("disable_ipv6"), proxy_ndp(name)]
    };
    let keys = observed.links.iter().flat_map(|link| of_link(&link.name));
    keys.filter_map(|key| Some((key.clone(), kernel::get(&key)?))).collect()
}

/// How long a machine may take to pass its check.
const ASK_TIME: Duration = Duration::from_secs(5);

/// Each running machine of ours from inside; the trees of those without an address, too.
async fn guests(facts: &Facts, bus: &Bus) -> BTreeMap<MachineName, GuestFacts> {
    let mut guests = BTreeMap::new();
    let processes = processes::by_namespace();
    for (name, machine) in &facts.spec.machines {
        let Some(running) = facts.observed.machines.get(name.as_str()) else { continue };
        let Ok(net) = Net::machine(running.leader) else { continue };
        let mut guest = GuestFacts {
            addresses: net.addresses().await.unwrap_or_default(),
            processes: processes::namespace(running.leader)
                .and_then(|namespace| processes.get(&namespace).cloned())
                .unwrap_or_default(),
            ..GuestFacts::default()
        };
        if !machine.open.is_empty() {
            guest.listening = sockets::listening(running.leader).unwrap_or_default();
        }
        if let Some(check) = &machine.check {
            let asked = health::ask(bus, name, running.leader, check, ASK_TIME).await;
            guest.fails = asked.err().map(|why| why.to_string());
        }
        let routed = machine.network.routed().is_some();
        if !guest.addresses.iter().any(|a| a.global && (!routed || a.address.is_ipv6())) {
            guest.tree = Tree::of(name.as_str()).map(|tree| tree.guest());
        }
        guests.insert(name.clone(), guest);
    }
    guests
}
