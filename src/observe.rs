//! Reads the host into a snapshot, as much at once as possible. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::emit::names::HOSTS_FILE;
use crate::emit::nftables_unit;
use crate::emit::{FIREWALL_DIR, FIREWALL_FILE, Names, PLACES, Place, WANTS_DIR};
use crate::name::MachineName;
use crate::nftables::table::{Difference, Table};
use crate::observed::{
    Address, BRIDGE_NETFILTER, FORWARDING, INOTIFY_INSTANCES, Link, NEIGHBOURS, Nftables, Observed, Running,
    accept_ra,
};
use crate::spec::{HOST_FILE, MACHINES_DIR};
use crate::state::STATE_FILE;
use crate::sys::nft::Listing;
use crate::sys::{Bus, BusError, Disk, DiskError, Net, NetError, NftError, is_root, kernel, nft, together};

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
            (observed.files, observed.enabled) = files(disk).await?;
        }
        Some(bus) => live(&mut observed, disk, bus).await?,
    }
    Ok(observed)
}

async fn live(observed: &mut Observed, disk: &Disk, bus: &Bus) -> Result<(), ObserveError> {
    observed.live = true;
    let (networkd, machines, images, units, systemd, net, nftables, table, files) = tokio::join!(
        bus.networkd_answers(),
        bus.machines(),
        bus.images(),
        bus.nspawn_units(),
        bus.systemd_version(),
        network(),
        nft::look(),
        nft::list(),
        files(disk),
    );
    networkd?;
    (observed.files, observed.enabled) = files?;
    (observed.machines, observed.images, observed.units) = (machines?, images?, units?);
    (observed.systemd, observed.nftables) = (systemd?, nftables?);
    let drift = drift(&observed.files, table?).await;
    if let Some(nftables) = &mut observed.nftables {
        nftables.drift = drift;
    }
    (observed.links, observed.default_routes) = net?;
    observed.sharing = Disk::new(Path::new("/")).sharing(Path::new("/var/lib/machines"));
    let switches = observed.links.iter().map(|link| accept_ra(&link.name));
    let switches = switches.chain([FORWARDING, INOTIFY_INSTANCES, NEIGHBOURS].map(str::to_owned));
    let switches = switches.chain(BRIDGE_NETFILTER.map(|(_, key)| key.to_owned()));
    observed.sysctls = switches.filter_map(|key| Some((key.clone(), kernel::get(&key)?))).collect();
    Ok(())
}

/// Links and default routes; a netlink socket takes one dump at a time.
async fn network() -> Result<(Vec<Link>, BTreeSet<u32>), NetError> {
    let net = Net::host()?;
    Ok((net.links().await?, net.default_routes().await?.into_iter().collect()))
}

/// What `list` shows, without what only a plan needs, and, for root, the addresses of those
/// machines that run; machined may start for it.
///
/// # Errors
/// When a file cannot be read, or machined or the kernel does not answer.
pub async fn machines(
    disk: &Disk,
    bus: Option<&Bus>,
) -> Result<(Observed, BTreeMap<String, Vec<Address>>), ObserveError> {
    let mut observed = Observed::default();
    let Some(bus) = bus else {
        (observed.files, observed.enabled) = files(disk).await?;
        return Ok((observed, BTreeMap::new()));
    };
    let net = Net::host()?;
    let (machines, units, net, files) =
        tokio::join!(located(bus), bus.nspawn_units(), own(&net), files(disk));
    let addresses;
    (observed.files, observed.enabled) = files?;
    (observed.machines, addresses) = machines?;
    observed.units = units?;
    (observed.links, observed.addresses) = net?;
    observed.machine_id = disk.read(Path::new("/etc/machine-id"))?;
    observed.live = true;
    Ok((observed, addresses))
}

type Located = (BTreeMap<String, Running>, BTreeMap<String, Vec<Address>>);

async fn located(bus: &Bus) -> Result<Located, BusError> {
    let machines = bus.machines().await?;
    let addresses = if is_root() { addresses(&machines).await } else { BTreeMap::new() };
    Ok((machines, addresses))
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
        rendered(disk, &mut observed.files)?;
    }
    if let Some(text) = disk.read(Path::new(FIREWALL_FILE))? {
        observed.files.insert(FIREWALL_FILE.into(), text);
        observed.files.extend(disk.folder(Path::new(FIREWALL_DIR), |name| name.ends_with(".nft"))?);
    }
    let (machines, table) = tokio::join!(bus.machines(), nft::list());
    observed.machines = machines?;
    let table = table?;
    let ours = matches!(table, Listing::Table(_));
    let known = !matches!(table, Listing::Unknown);
    let drift = drift(&observed.files, table).await;
    observed.nftables = known.then(|| Nftables { ours, drift, ..Nftables::default() });
    Ok(observed)
}

/// Where our table is not what its files say. Should nft list something in other words than
/// ours, it is asked what it would list of the files.
async fn drift(files: &BTreeMap<PathBuf, String>, table: Listing) -> Vec<Difference> {
    let Some(shared) = files.get(Path::new(FIREWALL_FILE)) else { return Vec::new() };
    let loaded = match table {
        Listing::Table(text) => Table::read([text.as_str()]),
        Listing::Gone => return vec![Difference::gone()],
        Listing::Unknown => return Vec::new(),
    };
    let own = files.iter().filter(|(path, _)| path.parent() == Some(Path::new(FIREWALL_DIR)));
    let said = Table::read(std::iter::once(shared.as_str()).chain(own.map(|(_, text)| text.as_str())));
    if said == loaded {
        return Vec::new();
    }
    match nft::intended(Path::new(FIREWALL_FILE)).await {
        Ok(text) => Table::read([text.as_str()]).differences(&loaded),
        Err(_) => said.differences(&loaded),
    }
}

/// Every file, and who starts with the host; read on a thread of its own, as the services that
/// are asked meanwhile have much to say.
async fn files(disk: &Disk) -> Result<(BTreeMap<PathBuf, String>, BTreeSet<MachineName>), DiskError> {
    let disk = disk.clone();
    let read = move || {
        let mut files = inputs(&disk)?;
        rendered(&disk, &mut files)?;
        Ok((files, enabled(&disk)?))
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// The user's files, and the state.
fn inputs(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, DiskError> {
    let mut files = disk.folder(Path::new(MACHINES_DIR), |name| name.ends_with(".toml"))?;
    for single in [HOST_FILE, STATE_FILE, HOSTS_FILE] {
        if let Some(text) = disk.read(Path::new(single))? {
            files.insert(single.into(), text);
        }
    }
    nftables_unit(disk, &mut files)?;
    Ok(files)
}

/// nftables.service, and what changes it.
fn nftables_unit(disk: &Disk, files: &mut BTreeMap<PathBuf, String>) -> Result<(), DiskError> {
    for path in nftables_unit::UNITS {
        files.extend(disk.read(Path::new(path))?.map(|text| (path.into(), text)));
        files.extend(disk.folder(Path::new(&format!("{path}.d")), |name| name.ends_with(".conf"))?);
    }
    Ok(())
}

/// Every file that is ours or may be.
fn rendered(disk: &Disk, files: &mut BTreeMap<PathBuf, String>) -> Result<(), DiskError> {
    for place in &PLACES {
        read_place(disk, place, files)?;
    }
    Ok(())
}

fn read_place(disk: &Disk, place: &Place, files: &mut BTreeMap<PathBuf, String>) -> Result<(), DiskError> {
    let dir = Path::new(place.dir);
    let Some((begin, end)) = place.nested else {
        files.extend(disk.folder(dir, |name| place.names.hold(name))?);
        return Ok(());
    };
    let folders = disk.names(dir)?.into_iter().filter(|name| name.starts_with(begin) && name.ends_with(end));
    for folder in folders.map(|name| dir.join(name)) {
        match place.names {
            Names::With(_) => files.extend(disk.folder(&folder, |name| place.names.hold(name))?),
            Names::Just(name) => {
                let path = folder.join(name);
                files.extend(disk.read(&path)?.map(|text| (path, text)));
            }
        }
    }
    Ok(())
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
    together(asked).await.into_iter().collect()
}
