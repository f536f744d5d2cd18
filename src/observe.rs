//! Reads the host into a snapshot, as much at once as possible. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use crate::emit::names::HOSTS_FILE;
use crate::emit::{FIREWALL_FILE, PLACES, Place, WANTS_DIR};
use crate::name::MachineName;
use crate::observed::{
    Address, BRIDGE_NETFILTER, FORWARDING, INOTIFY_INSTANCES, Link, Nftables, Observed, Running, accept_ra,
};
use crate::spec::{HOST_FILE, MACHINES_DIR};
use crate::state::STATE_FILE;
use crate::sys::{Bus, BusError, Disk, DiskError, Net, NetError, NftError, kernel, nft};

/// What stands between us and the host.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Everything that a plan needs to know. Without a bus (`--root`) just files.
///
/// # Errors
/// When a file cannot be read, or machined, networkd or the kernel does not answer.
pub async fn host(disk: &Disk, bus: Option<&Bus>) -> Result<Observed, ObserveError> {
    let mut observed = Observed::default();
    match bus {
        None => {
            observed.images = disk.names(Path::new("/var/lib/machines"))?.into_iter().collect();
            (observed.files, observed.enabled) = (files(disk)?, enabled(disk)?);
        }
        Some(bus) => live(&mut observed, disk, bus).await?,
    }
    Ok(observed)
}

async fn live(observed: &mut Observed, disk: &Disk, bus: &Bus) -> Result<(), ObserveError> {
    observed.live = true;
    let (networkd, machines, images, units, systemd, net, nftables, files) = tokio::join!(
        bus.networkd_answers(),
        bus.machines(),
        bus.images(),
        bus.nspawn_units(),
        bus.systemd_version(),
        network(),
        nft::look(),
        files_meanwhile(disk),
    );
    networkd?;
    (observed.files, observed.enabled) = files?;
    (observed.machines, observed.images, observed.units) = (machines?, images?, units?);
    (observed.systemd, observed.nftables) = (systemd?, nftables?);
    (observed.links, observed.default_routes) = net?;
    observed.sharing = Disk::new(Path::new("/")).sharing(Path::new("/var/lib/machines"));
    let switches = observed.links.iter().map(|link| accept_ra(&link.name));
    let switches = switches.chain([FORWARDING.to_owned(), INOTIFY_INSTANCES.to_owned()]);
    let switches = switches.chain(BRIDGE_NETFILTER.map(|(_, key)| key.to_owned()));
    observed.sysctls = switches.filter_map(|key| Some((key.clone(), kernel::get(&key)?))).collect();
    Ok(())
}

/// Reads files while the services and nft(8), which have been asked before, are at work.
async fn files_meanwhile(
    disk: &Disk,
) -> Result<(BTreeMap<PathBuf, String>, BTreeSet<MachineName>), DiskError> {
    tokio::task::yield_now().await;
    Ok((files(disk)?, enabled(disk)?))
}

/// Links and default routes; a netlink socket takes one dump at a time.
async fn network() -> Result<(Vec<Link>, BTreeSet<u32>), NetError> {
    let net = Net::host()?;
    Ok((net.links().await?, net.default_routes().await?.into_iter().collect()))
}

/// What `list` shows, without what only a plan needs; machined may start for it.
///
/// # Errors
/// When a file cannot be read, or machined or the kernel does not answer.
pub async fn machines(disk: &Disk, bus: Option<&Bus>) -> Result<Observed, ObserveError> {
    let mut observed = Observed::default();
    let Some(bus) = bus else {
        (observed.files, observed.enabled) = (files(disk)?, enabled(disk)?);
        return Ok(observed);
    };
    let net = Net::host()?;
    let (machines, units, net, files) =
        tokio::join!(bus.machines(), bus.nspawn_units(), own(&net), files_meanwhile(disk));
    (observed.files, observed.enabled) = files?;
    (observed.machines, observed.units) = (machines?, units?);
    (observed.links, observed.addresses) = net?;
    observed.machine_id = disk.read(Path::new("/etc/machine-id"))?;
    observed.live = true;
    Ok(observed)
}

/// The host's links and addresses; a netlink socket takes one dump at a time.
async fn own(net: &Net) -> Result<(Vec<Link>, Vec<Address>), NetError> {
    Ok((net.links().await?, net.addresses().await?))
}

/// What a start or stop needs to know: what is wanted, what runs, and whether the firewall is there.
///
/// # Errors
/// When a file cannot be read, or machined or nft does not answer.
pub async fn running(disk: &Disk, bus: &Bus) -> Result<Observed, ObserveError> {
    let mut observed = Observed { files: inputs(disk)?, live: true, ..Observed::default() };
    if !observed.files.contains_key(Path::new(STATE_FILE)) {
        // The leases are read from the rendered files then.
        observed.files.append(&mut rendered(disk)?);
    }
    if let Some(text) = disk.read(Path::new(FIREWALL_FILE))? {
        observed.files.insert(FIREWALL_FILE.into(), text);
    }
    let (machines, ours) = tokio::join!(bus.machines(), nft::is_loaded());
    observed.machines = machines?;
    observed.nftables = ours?.map(|ours| Nftables { ours, ..Nftables::default() });
    Ok(observed)
}

fn files(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, DiskError> {
    let mut files = inputs(disk)?;
    files.append(&mut rendered(disk)?);
    Ok(files)
}

/// The user's files, and the state.
fn inputs(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, DiskError> {
    let mut files = disk.folder(Path::new(MACHINES_DIR), |name| name.ends_with(".toml"))?;
    for single in [HOST_FILE, STATE_FILE, HOSTS_FILE] {
        if let Some(text) = disk.read(Path::new(single))? {
            files.insert(single.into(), text);
        }
    }
    Ok(files)
}

/// Every file that is ours or may be.
fn rendered(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, DiskError> {
    let mut files = BTreeMap::new();
    for place in &PLACES {
        files.append(&mut place_files(disk, place)?);
    }
    Ok(files)
}

fn place_files(disk: &Disk, place: &Place) -> Result<BTreeMap<PathBuf, String>, DiskError> {
    let dir = Path::new(place.dir);
    let Some((begin, end)) = place.nested else {
        return disk.folder(dir, |name| name.contains(place.mark));
    };
    let mut texts = BTreeMap::new();
    for name in disk.names(dir)?.iter().filter(|name| name.starts_with(begin) && name.ends_with(end)) {
        texts.append(&mut disk.folder(&dir.join(name), |name| name.contains(place.mark))?);
    }
    Ok(texts)
}

fn enabled(disk: &Disk) -> Result<BTreeSet<MachineName>, DiskError> {
    let names = disk.names(Path::new(WANTS_DIR))?;
    Ok(names.iter().filter_map(|unit| MachineName::from_unit(unit)).collect())
}

/// The addresses of machines, read from their own network namespaces, all at
/// once. A machine that ends meanwhile has none.
pub async fn addresses(machines: &BTreeMap<String, Running>) -> BTreeMap<String, Vec<Address>> {
    let asked = machines.iter().map(async |(name, running)| {
        let addresses = match Net::machine(running.leader) {
            Ok(net) => net.addresses().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        (name.clone(), addresses)
    });
    join_all(asked).await.into_iter().collect()
}
