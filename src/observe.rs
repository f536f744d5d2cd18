//! Reads the host into a snapshot, as much at once as possible. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::emit::ini::Ini;
use crate::emit::{
    BACKUPS_DIR, FIREWALL_DIR, FIREWALL_FILE, FOLDERS, HOSTS_FILE, IN_FOLDERS_OF_OTHERS, MANY_PARTS,
    ManagedFile, NETWORK_DIR, Origin, SECRETS_DIR, SNAPSHOTS_DIR, TREES_DIR, WANTS_DIR,
};
use crate::emit::{nat64, nftables_unit};
use crate::name::MachineName;
use crate::nftables::table::{Difference, Table};
use crate::observed::{
    Address, BRIDGE_NETFILTER, DefaultRoute, FORWARDING, ForeignStart, INOTIFY_INSTANCES, Link, NEIGHBOURS,
    Nftables, Observed, Running, SRC_VALID_MARK, STOPPED_DIR, Stranger, accept_ra, evict_nocarrier,
    proxy_delay, proxy_ndp,
};
use crate::plan::origin_of_kept;
use crate::spec::{self, HOST_FILE, MACHINES_DIR, MachineSpec, PROFILES_DIR, Profiles};
use crate::state::STATE_FILE;
use crate::sys::nft::Listing;
use crate::sys::{self, Bus, Disk, Net, is_root, kernel, nft, together};

/// Everything that a plan needs to know. Without a bus (`--root`) just files.
///
/// # Errors
/// When a file cannot be read, or machined, networkd or the kernel does not answer.
pub async fn host(disk: &Disk, bus: Option<&Bus>) -> Result<Observed, sys::Error> {
    read(disk, bus, true).await
}

/// The same for who changes one machine: its rules are loaded in any case, and whether all others are as their
/// files say, rule for rule, takes nft(8) and us as long as all else.
///
/// # Errors
/// As [`host`].
pub async fn host_but_rules(disk: &Disk, bus: Option<&Bus>) -> Result<Observed, sys::Error> {
    read(disk, bus, false).await
}

async fn read(disk: &Disk, bus: Option<&Bus>, rules: bool) -> Result<Observed, sys::Error> {
    let mut observed = match bus {
        None => {
            let images = disk.names(Path::new("/var/lib/machines"))?.into_iter().collect();
            Observed { images, ..files(disk).await? }
        }
        Some(bus) => live(disk, bus, rules).await?,
    };
    observed.hostnames = hostnames(disk)?;
    observed.set_elsewhere = set_elsewhere(disk)?;
    observed.strangers = strangers(disk, &observed);
    Ok(observed)
}

/// The switches that files of others set to anything but nothing (sysctl.d(5)).
fn set_elsewhere(disk: &Disk) -> Result<BTreeSet<String>, sys::Error> {
    let mut texts: Vec<String> = disk.read(Path::new("/etc/sysctl.conf"))?.into_iter().collect();
    for folder in ["/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d"] {
        texts.extend(disk.folder(Path::new(folder), |name| name.ends_with(".conf"))?.into_values());
    }
    let theirs = texts.iter().filter(|text| Origin::of(text) == Origin::Foreign);
    let lines = theirs.flat_map(|text| text.lines()).filter_map(|line| line.split_once('='));
    let set = lines.filter(|(_, value)| value.trim() != "0");
    Ok(set.map(|(key, _)| key.trim().trim_start_matches('-').replace('.', "/")).collect())
}

async fn live(disk: &Disk, bus: &Bus, rules: bool) -> Result<Observed, sys::Error> {
    let table = async { if rules { nft::list().await } else { Ok(Listing::Unknown) } };
    let (networkd, machines, images, units, systemd, net, nftables, table, files) = tokio::join!(
        bus.networkd_answers(),
        bus.machines(),
        bus.images(),
        bus.nspawn_units(),
        bus.systemd_version(),
        network(),
        nft::look(),
        table,
        files(disk),
    );
    networkd?;
    let mut observed = Observed { live: true, ..files? };
    (observed.machines, observed.images, observed.units) = (machines?, images?, units?);
    (observed.systemd, observed.nftables) = (systemd?, nftables?);
    let drift = drift(&observed.files, table?).await;
    if let Some(nftables) = &mut observed.nftables {
        nftables.drift = drift;
    }
    (observed.links, observed.addresses, observed.default_routes) = net?;
    observed.missing = missing(disk, &observed.files);
    observed.sharing = Disk::new(Path::new("/")).sharing(Path::new("/var/lib/machines"));
    let of_link =
        |link: &Link| [accept_ra, proxy_ndp, proxy_delay, evict_nocarrier].map(|key| key(&link.name));
    let switches = observed.links.iter().flat_map(of_link);
    let switches =
        switches.chain([FORWARDING, INOTIFY_INSTANCES, NEIGHBOURS, SRC_VALID_MARK].map(str::to_owned));
    let switches = switches.chain(BRIDGE_NETFILTER.map(|(_, key)| key.to_owned()));
    observed.sysctls = switches.filter_map(|key| Some((key.clone(), kernel::get(&key)?))).collect();
    Ok(observed)
}

/// Of the trees that machines have, or may be made of.
fn strangers(disk: &Disk, observed: &Observed) -> BTreeMap<String, Stranger> {
    let defined = observed.files.keys().filter(|path| path.parent() == Some(Path::new(MACHINES_DIR)));
    let defined = defined.filter_map(|path| path.file_stem()?.to_str()?.parse::<MachineName>().ok());
    let names: BTreeSet<String> =
        defined.map(|name| name.to_string()).chain(observed.images.iter().cloned()).collect();
    let strangers = names.into_iter().filter_map(|name| {
        let stranger = disk.tree(&name)?.stranger()?;
        Some((name, stranger))
    });
    strangers.collect()
}

/// As it is written down, and, where these files are this host's, as the kernel knows it.
fn hostnames(disk: &Disk) -> Result<BTreeSet<String>, sys::Error> {
    let written = disk.read(Path::new("/etc/hostname"))?;
    let now = disk.is_this_host().then(|| kernel::get("kernel/hostname")).flatten();
    let lines = [written, now].into_iter().flatten();
    let names = lines.map(|text| text.trim().to_owned());
    Ok(names.filter(|name| !name.is_empty() && name != "(none)").collect())
}

/// Links, addresses and default routes; a netlink socket takes one dump at a time.
async fn network() -> Result<(Vec<Link>, Vec<Address>, Vec<DefaultRoute>), sys::Error> {
    let net = Net::host()?;
    Ok((net.links().await?, net.addresses().await?, net.default_routes().await?))
}

/// What `list` shows, without what only a plan needs, and, for root, the addresses of those
/// machines that run; machined may start for it.
///
/// # Errors
/// When a file cannot be read, or machined or the kernel does not answer.
pub async fn machines(
    disk: &Disk,
    bus: Option<&Bus>,
) -> Result<(Observed, BTreeMap<String, Vec<Address>>), sys::Error> {
    let (mut observed, addresses) = match bus {
        None => (files(disk).await?, BTreeMap::new()),
        Some(bus) => located(disk, bus).await?,
    };
    observed.strangers = strangers(disk, &observed);
    Ok((observed, addresses))
}

async fn located(disk: &Disk, bus: &Bus) -> Result<(Observed, BTreeMap<String, Vec<Address>>), sys::Error> {
    let net = Net::host()?;
    let machines = async {
        let machines = bus.machines().await?;
        let addresses = if is_root() { addresses(&machines).await } else { BTreeMap::new() };
        Ok::<_, sys::Error>((machines, addresses))
    };
    // A netlink socket takes one dump at a time.
    let own = async { Ok::<_, sys::Error>((net.links().await?, net.addresses().await?)) };
    let (machines, units, own, files) = tokio::join!(machines, bus.nspawn_units(), own, files(disk));
    let mut observed = Observed { live: true, ..files? };
    let addresses;
    (observed.machines, addresses) = machines?;
    observed.units = units?;
    (observed.links, observed.addresses) = own?;
    Ok((observed, addresses))
}

/// What a start or stop needs to know: what is wanted, what runs, and whether the firewall is there.
///
/// # Errors
/// When a file cannot be read, or machined or nft does not answer.
pub async fn running(disk: &Disk, bus: &Bus) -> Result<Observed, sys::Error> {
    let mut observed = Observed { live: true, ..Observed::default() };
    read_inputs(&mut observed, disk)?;
    if !observed.files.contains_key(Path::new(STATE_FILE)) {
        // The leases are read from the rendered files then.
        rendered(disk, &mut observed.files)?;
    }
    if let Some(text) = disk.read(Path::new(FIREWALL_FILE))? {
        observed.files.insert(FIREWALL_FILE.into(), text);
        observed.files.extend(disk.folder(Path::new(FIREWALL_DIR), |name| name.ends_with(".nft"))?);
    }
    observed.missing = missing(disk, &observed.files);
    observed.strangers = strangers(disk, &observed);
    let (machines, table) = tokio::join!(bus.machines(), nft::list());
    observed.machines = machines?;
    let table = table?;
    let ours = matches!(table, Listing::Table(_));
    let known = !matches!(table, Listing::Unknown);
    let drift = drift(&observed.files, table).await;
    observed.nftables = known.then(|| Nftables { ours, drift, ..Nftables::default() });
    Ok(observed)
}

/// What concerns a few machines alone, of a host with many: reading what all others have takes as long as there are
/// others. None where there are few, and where more is to be looked at: the table was flushed, or there is no state.
///
/// # Errors
/// As [`running`].
pub async fn alone(disk: &Disk, bus: &Bus, names: &[&MachineName]) -> Result<Option<Observed>, sys::Error> {
    if disk.names(Path::new(FIREWALL_DIR))?.len() < MANY_PARTS || !disk.exists(Path::new(STATE_FILE)) {
        return Ok(None);
    }
    let mut observed = Observed { live: true, ..Observed::default() };
    let definitions = names.iter().map(|name| spec::definition_path(name));
    for path in definitions.chain([HOST_FILE.into()]) {
        observed.files.extend(disk.read_definition(&path)?.map(|text| (path, text)));
    }
    for path in [STATE_FILE, FIREWALL_FILE].map(Path::new) {
        observed.files.extend(disk.read(path)?.map(|text| (path.to_owned(), text)));
    }
    let profiles = disk.names(Path::new(PROFILES_DIR))?.into_iter().filter(|name| name.ends_with(".toml"));
    for path in profiles.map(|name| Path::new(PROFILES_DIR).join(name)) {
        observed.files.extend(disk.read_definition(&path)?.map(|text| (path, text)));
    }
    observed.machine_id = disk.read(Path::new("/etc/machine-id"))?;
    let is_in = |folder: &str, file: String| disk.has(&Path::new(folder).join(file));
    let those = |is: &dyn Fn(&MachineName) -> bool| -> BTreeSet<MachineName> {
        names.iter().filter(|name| is(name)).map(|name| (*name).clone()).collect()
    };
    observed.enabled = those(&|name| is_in(WANTS_DIR, name.unit()));
    observed.stopped = those(&|name| is_in(STOPPED_DIR, name.to_string()));
    observed.missing = missing(disk, &observed.files);
    observed.strangers = strangers(disk, &observed);
    let net = Net::host()?;
    let (machines, units, links, ours) =
        tokio::join!(bus.machines(), bus.nspawn_units(), net.links(), nft::is_loaded());
    (observed.machines, observed.units, observed.links) = (machines?, units?, links?);
    observed.nftables = Some(Nftables { ours: true, ..Nftables::default() });
    Ok(Some(observed).filter(|_| ours.is_ok_and(|ours| ours)))
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
async fn files(disk: &Disk) -> Result<Observed, sys::Error> {
    let disk = disk.clone();
    let read = move || {
        let mut observed = Observed::default();
        read_inputs(&mut observed, &disk)?;
        rendered(&disk, &mut observed.files)?;
        observed.enabled = names(&disk, WANTS_DIR, MachineName::from_unit)?;
        observed.stopped = names(&disk, STOPPED_DIR, |name| name.parse().ok())?;
        read_claims(&mut observed, &disk)?;
        Ok(observed)
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What definitions, and files that a definition may be made of, bind into machines, and is not there.
fn missing(disk: &Disk, files: &BTreeMap<PathBuf, String>) -> BTreeSet<PathBuf> {
    // Few machines have any: the others are not parsed for it.
    let binds = files
        .iter()
        .filter(|(_, text)| ["ind", "verlay", "evice", "rofile"].iter().any(|word| text.contains(word)));
    let profiles = Profiles::read(&spec::readable(files));
    let sources = binds.flat_map(|(path, text)| {
        if path.starts_with(MACHINES_DIR) {
            let machine = profiles.machine(path, text).ok();
            let sources = machine.iter().flat_map(MachineSpec::bind_sources);
            return sources.map(|source| source.path).collect();
        }
        if path.extension().is_none_or(|end| end != "nspawn") || Origin::of(text) != Origin::Foreign {
            return Vec::new();
        }
        let written = Ini::parse(text);
        let files = written.sections().filter(|(section, _)| *section == "Files");
        let settings = files.flat_map(|(_, settings)| settings);
        settings.flat_map(|(key, value)| spec::sources(key, value)).collect()
    });
    sources.chain(nat64::PROGRAMS.map(PathBuf::from)).filter(|path| !disk.exists(path)).collect()
}

/// The user's files, and the state. A definition that cannot be read stands for itself alone.
fn read_inputs(observed: &mut Observed, disk: &Disk) -> Result<(), sys::Error> {
    let paths = |folder: &Path| -> Result<Vec<PathBuf>, sys::Error> {
        Ok(disk.names(folder)?.into_iter().map(|name| folder.join(name)).collect())
    };
    let definitions = paths(Path::new(MACHINES_DIR))?.into_iter().chain(paths(Path::new(PROFILES_DIR))?);
    let definitions = definitions.filter(|path| path.to_string_lossy().ends_with(".toml"));
    // Who may not read keys and secrets, as root may, has no use for them.
    let secrets = paths(Path::new(SECRETS_DIR)).unwrap_or_default();
    let keys = paths(Path::new(NETWORK_DIR))?.into_iter().chain(secrets);
    let keys = keys.filter(|path| ManagedFile::parse(path).is_some_and(|file| file.is_confidential()));
    for path in definitions.chain(keys) {
        match disk.read_definition(&path) {
            Ok(text) => observed.files.extend(text.map(|text| (path, text))),
            Err(error) => _ = observed.unreadable.insert(path, error.to_string()),
        }
    }
    for single in [STATE_FILE, HOSTS_FILE].map(Path::new) {
        observed.files.extend(disk.read(single)?.map(|text| (single.to_owned(), text)));
    }
    let host = Path::new(HOST_FILE);
    observed.files.extend(disk.read_definition(host)?.map(|text| (host.to_owned(), text)));
    // nftables.service, and what changes it.
    for path in nftables_unit::UNITS {
        observed.files.extend(disk.read(Path::new(path))?.map(|text| (path.into(), text)));
        let drop_ins = format!("{path}.d");
        observed.files.extend(disk.folder(Path::new(&drop_ins), |name| name.ends_with(".conf"))?);
    }
    observed.machine_id = disk.read(Path::new("/etc/machine-id"))?;
    Ok(())
}

/// What others wrote that has these machines started otherwise than their template says. Whoever may not read it,
/// changes nothing either.
pub fn foreign_starts<'n>(
    disk: &Disk,
    names: impl IntoIterator<Item = &'n MachineName>,
) -> Vec<ForeignStart> {
    let units = names.into_iter().map(MachineName::unit).chain(["systemd-nspawn@.service".to_owned()]);
    let mut paths = Vec::new();
    for unit in units {
        for folder in ["/etc/systemd/system", "/run/systemd/system"].map(Path::new) {
            let drop_ins = folder.join(format!("{unit}.d"));
            let names = disk.names(&drop_ins).unwrap_or_default().into_iter();
            paths.extend(names.filter(|name| name.ends_with(".conf")).map(|name| drop_ins.join(name)));
            paths.extend(Some(folder.join(&unit)).filter(|path| disk.is_file(path)));
        }
    }
    paths.retain(|path| ManagedFile::parse(path).is_none());
    let starts = paths.into_iter().filter_map(|path| {
        let text = disk.read(&path).ok()??;
        let ini = Ini::parse(&text);
        let commands: Vec<&str> = ini.values("Service", "ExecStart").collect();
        let command = (*commands.last()?).to_owned();
        Some(ForeignStart { path, command })
    });
    starts.collect()
}

/// The definitions of a host, and what lies beside them: of those, files alone.
///
/// # Errors
/// When they cannot be read.
pub fn definitions(disk: &Disk) -> Result<Observed, sys::Error> {
    let mut observed = Observed::default();
    read_inputs(&mut observed, disk)?;
    Ok(observed)
}

/// The names of machines that have a definition, whether it can be read or not.
///
/// # Errors
/// When the folder cannot be read.
pub fn defined(disk: &Disk) -> Result<BTreeSet<MachineName>, sys::Error> {
    let names = disk.names(Path::new(MACHINES_DIR))?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".toml")?.parse().ok()).collect())
}

/// The profiles of a host.
///
/// # Errors
/// When they cannot be read.
pub fn profiles(disk: &Disk) -> Result<Profiles, sys::Error> {
    let texts = disk.folder(Path::new(PROFILES_DIR), |name| name.ends_with(".toml"))?;
    Ok(Profiles::read(&spec::readable(&texts)))
}

/// What is known of snapshots, by path.
///
/// # Errors
/// When it cannot be read.
pub fn snapshots(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, sys::Error> {
    Ok(disk.folder(Path::new(SNAPSHOTS_DIR), |name| name.ends_with(".toml"))?)
}

/// What is known of backups, by path.
///
/// # Errors
/// When it cannot be read.
pub fn backups(disk: &Disk) -> Result<BTreeMap<PathBuf, String>, sys::Error> {
    Ok(disk.folder(Path::new(BACKUPS_DIR), |name| name.ends_with(".toml"))?)
}

/// Which trees are nsctl's, and which trees those of machines are.
fn read_claims(observed: &mut Observed, disk: &Disk) -> Result<(), sys::Error> {
    observed.files.extend(disk.folder(Path::new(TREES_DIR), |_| true)?);
    observed.files.extend(snapshots(disk)?);
    observed.files.extend(backups(disk)?);
    let defined = observed.files.keys().chain(observed.unreadable.keys());
    let machines = defined.filter_map(|path| match path.parent() {
        Some(folder) if folder == Path::new(MACHINES_DIR) => path.file_stem()?.to_str()?.parse().ok(),
        Some(folder) if folder == Path::new(TREES_DIR) => path.file_name()?.to_str()?.parse().ok(),
        _ => None,
    });
    let machines: BTreeSet<MachineName> = machines.collect();
    // Read once: a thousand definitions without a tree open nothing.
    let listed = disk.tree_names();
    let may_be = |name: &MachineName| {
        let has = |names: &BTreeSet<String>| {
            names.contains(name.as_str()) || names.contains(&format!("{name}.raw"))
        };
        listed.as_ref().is_none_or(has)
    };
    let trees = machines.into_iter().filter(may_be);
    let trees = trees.filter_map(|name| Some((disk.tree_identity(name.as_str())?, name)));
    observed.trees = trees.map(|(id, name)| (name, id)).collect();
    Ok(())
}

/// The machines that the files in a folder are named after.
fn names(
    disk: &Disk,
    folder: &str,
    machine: impl Fn(&str) -> Option<MachineName>,
) -> Result<BTreeSet<MachineName>, sys::Error> {
    Ok(disk.names(Path::new(folder))?.iter().filter_map(|name| machine(name)).collect())
}

/// Every file that is ours or may be, and what stood in the place of one before.
fn rendered(disk: &Disk, files: &mut BTreeMap<PathBuf, String>) -> Result<(), sys::Error> {
    for (dir, nested) in FOLDERS {
        let dir = Path::new(dir);
        let is_ours = |path: &Path| {
            let place = origin_of_kept(path).unwrap_or_else(|| path.to_owned());
            ManagedFile::parse(&place).is_some_and(|file| file.is_rendered())
        };
        let Some(end) = nested else {
            files.extend(disk.folder(dir, |name| is_ours(&dir.join(name)))?);
            continue;
        };
        for folder in disk.names(dir)?.into_iter().filter(|name| name.ends_with(end)) {
            let folder = dir.join(folder);
            files.extend(disk.folder(&folder, |name| is_ours(&folder.join(name)))?);
        }
    }
    let paths = IN_FOLDERS_OF_OTHERS.map(|file| file.path()).into_iter();
    // FRR's package gives its user all that lies there; what has not our mark then is nobody's to show.
    files.extend(paths.filter_map(|path| {
        let (text, is_roots) = disk.read_beside(&path)?;
        (is_roots || Origin::of(&text) == Origin::Ours).then_some((path, text))
    }));
    Ok(())
}

/// The addresses of machines, read from their own network namespaces, all at
/// once. A machine that ends meanwhile has none.
pub async fn addresses(machines: &BTreeMap<String, Running>) -> BTreeMap<String, Vec<Address>> {
    let asked = machines.iter().map(async |(name, running)| {
        let own = async { Net::machine(running.leader)?.addresses().await };
        (name.clone(), own.await.unwrap_or_default())
    });
    together(asked).await.into_iter().collect()
}
