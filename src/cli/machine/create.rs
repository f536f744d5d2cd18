//! `nsctl create`: a machine from nothing to its first answer.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::Ipv6Net;

use crate::apply::Interrupt;
use crate::cli::fault::argument;
use crate::cli::image;
use crate::cli::machine::handwritten::{self, checked, taken_over};
use crate::cli::machine::secret;
use crate::cli::remote::Named;
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::emit::names::is_reserved;
use crate::name::MachineName;
use crate::observe;
use crate::plan::{NewImage, Refusal, Scope, Source, guests, taken};
use crate::provision::{FirstBoot, Init};
use crate::spec::image::{Build, ImageWord, Kind, kind_of};
use crate::spec::{
    BridgePort, Ipv4, MachineSpec, Network, OpenPort, Problems, Profiles, Routed, SecretId, Values,
};
use crate::sys::archive::Unpacked;
use crate::sys::tree::Tree;
use crate::sys::{Disk, Thing, what_is_at};

/// Make a machine, start it, and see that it answers
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("way").args(["routed", "bridge", "profile"]).multiple(true).required(true))]
pub struct Create {
    /// The machine's name
    name: String,
    #[command(flatten)]
    network: NetworkArgs,
    /// Give it the settings of this profile, too, its network if nothing else is said; may be given several times
    #[arg(long, value_name = "PROFILE", add = crate::cli::complete::profiles())]
    profile: Vec<String>,
    /// Give it more than a /64, for a machine that routes on (Docker, nsctl, a VPN server inside): a
    /// prefix of this length, 60 say
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u8).range(9..=64))]
    prefix: Option<u8>,
    /// Route this prefix to it, too, which the provider routes to this host; may be given several
    /// times
    #[arg(long, value_name = "PREFIX", value_parser = crate::pool::route)]
    route: Vec<Ipv6Net>,
    /// An image's name, debian:trixie, a tar file, disk image or folder, https://…, oci:…
    /// [default: an existing tree of that name, else defaults.image, else this host's own
    /// distribution]
    #[arg(long, value_name = "IMAGE", add = crate::cli::complete::images())]
    image: Option<String>,
    /// Let the world in to this port: tcp/443, udp/5000-5010, "tcp/22 from 2001:db8::/32"; may be
    /// given several times
    #[arg(long, value_name = "PROTO/PORT")]
    open: Vec<String>,
    /// IPv4: a private address behind the host's own (nat), a translation (nat64), none, or an address that the provider
    /// routes to this host, or looks for on its uplink [default: defaults.ipv4, else none]
    #[arg(long, value_name = "nat|nat64|none|ADDRESS")]
    ipv4: Option<Ipv4>,
    /// Do not start it now; it still starts with the host
    #[arg(long)]
    no_start: bool,
    /// Give it a secret, which is in this file: db-password=/root/password; may be given several times
    #[arg(long, value_name = "ID=FILE")]
    secret: Vec<String>,
    #[command(flatten)]
    first_boot: FirstBootArgs,
}

/// What a new tree gets for its first boot.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "First boot")]
struct FirstBootArgs {
    /// The guest's own name for itself [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A public key with which root may come in by SSH
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Root's password: the first line of this file, as it is or hashed
    #[arg(long, value_name = "FILE")]
    root_password_file: Option<PathBuf>,
    /// A script that runs once, as root, when the network is up
    #[arg(long, value_name = "SCRIPT")]
    run: Option<PathBuf>,
    /// How much a file may hold, unpacked: 500M, 20G
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = crate::cli::image::size)]
    max_size: u64,
}

impl Create {
    /// The files that it reads, but for the image: a definition names that, and it is the host's.
    pub fn named(&self) -> Vec<Named> {
        let first_boot = &self.first_boot;
        let options = [
            ("--ssh-key", &first_boot.ssh_key),
            ("--root-password-file", &first_boot.root_password_file),
            ("--run", &first_boot.run),
        ];
        let files =
            options.into_iter().filter_map(|(option, file)| Some(Named::by(option, file.as_deref()?)));
        let secrets = self
            .secret
            .iter()
            .filter_map(|word| Some(Named::by("--secret", Path::new(word.split_once('=')?.1))));
        files.chain(secrets).collect()
    }
}

impl FirstBootArgs {
    /// The same, once it is sure that all of it can be had.
    fn first_boot(self) -> Result<FirstBoot, Fault> {
        let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if let Some(name) = self.hostname.as_deref() {
            let plain =
                (1..=64).contains(&name.len()) && name.chars().all(label) && !name.starts_with(['-', '.']);
            if !plain || is_reserved(name) {
                return Err(Fault::wrong(format!("'{}' is no name for a host", name.escape_debug())).hint(
                    "letters, digits, '-' and '.', and nothing that means another host: web.example.org",
                ));
            }
        }
        let file = |path: Option<PathBuf>| match path {
            Some(path) if what_is_at(&path) != Some(Thing::File) => {
                Err(Fault::new(format!("{} is not a file", path.display()))
                    .hint("nothing was changed; name a file that is there"))
            }
            path => Ok(path.map(std::path::absolute).transpose()?),
        };
        Ok(FirstBoot {
            hostname: self.hostname,
            ssh_key: file(self.ssh_key)?,
            root_password: file(self.root_password_file)?,
            run: file(self.run)?,
            ..FirstBoot::default()
        })
    }
}

/// How a machine meets the world: by one way, or by both.
#[derive(Debug, Clone, Args)]
pub struct NetworkArgs {
    /// Give it a /64 of the pool, routed by this host
    #[arg(long)]
    routed: bool,
    /// Put it on this bridge; its addresses come from the LAN. With --routed: by a second interface,
    /// lan0
    #[arg(long, value_name = "BR", add = crate::cli::complete::bridges())]
    bridge: Option<String>,
    /// In this VLAN of the bridge's, without seeing its tags
    #[arg(long, value_name = "ID", requires = "bridge", value_parser = clap::value_parser!(u16).range(2..=4094))]
    vlan: Option<u16>,
}

impl NetworkArgs {
    /// Whether nothing is said.
    fn is_open(&self) -> bool {
        !self.routed && self.bridge.is_none()
    }

    pub fn network(&self) -> Result<Network, Fault> {
        let bridge = self.bridge.as_deref().map(argument).transpose()?;
        let port = bridge.map(|bridge| BridgePort { bridge, vlan: self.vlan });
        Ok(match port {
            Some(port) if !self.routed => Network::Bridge(port),
            lan => Network::Routed(Routed { lan, ..Routed::default() }),
        })
    }
}

pub async fn run(global: &Global, args: Create) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let profiles = observe::profiles(&Disk::new(&global.root))?;
    let mut network = if args.network.is_open() {
        of_profiles(&profiles, &args.profile)?
    } else {
        args.network.network()?
    };
    if let Network::Routed(routed) = &mut network {
        routed.prefix = args.prefix.or(routed.prefix);
        routed.routes.extend(&args.route);
    }
    let routed_only = args.ipv4.is_some() || args.prefix.is_some() || !args.route.is_empty();
    let open: Vec<OpenPort> = args.open.iter().map(|word| argument(word)).collect::<Result<_, _>>()?;
    if network.bridge().is_some() && (routed_only || !open.is_empty()) {
        let what = "--open, --ipv4, --prefix and --route are for routed machines: a bridged one is a host of \
                    the LAN";
        return Err(Fault::wrong(what).hint("leave them away, or make it --routed"));
    }
    let secrets = secrets(global, &args.secret).await?;
    let max_size = args.first_boot.max_size;
    let mut first_boot = args.first_boot.first_boot()?;
    let mut session = Session::begin(global, About::Those(&[&name])).await?;
    refuse_taken(&session, &name)?;
    must_have_secrets(&session, (&args.profile, !args.no_start), &name, &secrets)?;
    let word = source(&session, &name, args.image.as_deref())?;
    let made_first = word
        .as_ref()
        .filter(|word| image::kept(word).is_some_and(|image| !session.observed.images.contains(&image)));
    let tar = word.as_ref().and_then(tar_file);
    let mut scanned = None;
    if made_first.is_some() || tar.is_some() {
        let machine = MachineSpec {
            profile: args.profile.clone(),
            open: open.clone(),
            ipv4: args.ipv4,
            ..MachineSpec::new(network.clone())
        };
        must_be_possible(&session, &name, &machine)?;
        // That takes long, and others may change the host meanwhile.
        drop(session);
        if let Some(word) = made_first {
            image::ensure(global, word).await?;
        }
        scanned = match tar {
            Some(path) => Some(scan(path, max_size).await?),
            None => None,
        };
        session = Session::begin(global, About::Those(&[&name])).await?;
        refuse_taken(&session, &name)?;
    }
    if word.is_none() && !first_boot.is_plain() {
        return Err(Fault::new(format!("'{name}' has a tree already, which is left as it is"))
            .hint("what is for the first boot goes with --image, which makes a new tree"));
    }
    if network.routed().is_some() {
        session.ask_neighbours(&[&name]).await?;
    }
    let asked = MachineSpec { ipv4: args.ipv4, ..MachineSpec::new(network.clone()) };
    (first_boot.servers, first_boot.zone) = resolver(&session, &asked);
    let made = word.as_ref().map(|word| new_image(word, &name, first_boot, max_size)).transpose()?;
    let nspawn = handwritten::find(&session, name.as_str())?;
    // An image may come with settings of its own; those of the machine's name go before.
    let of_image = match made.as_ref().map(|made| &made.source) {
        Some(Source::Clone(image)) if nspawn.is_none() => handwritten::find(&session, image)?,
        _ => None,
    };
    let mut machine = MachineSpec {
        secret: secrets.iter().map(|(id, _)| id.clone()).collect(),
        profile: args.profile,
        image: word.as_ref().map(ToString::to_string),
        open,
        ipv4: args.ipv4,
        ..MachineSpec::new(network)
    };
    if let Some(file) = nspawn.as_ref().or(of_image.as_ref()) {
        file.absorbed_by(&mut machine);
    }
    let init = scanned.or_else(|| init_of(&session, &name, made.as_ref().map(|made| &made.source)));
    heed_init(&mut machine, init);
    let change = session.change(Scope::Machine(name.clone())).define(&name, &machine)?.image(made);
    let mut change = taken_over(checked(change, &machine, &name)?, nspawn);
    for (id, text) in secrets {
        change = change.secret(&name, &id, Some(text));
    }
    if let Some(Init::Busybox | Init::Other) = init {
        change = change.chosen(&name, guests::host_part(&name, &session.observed));
    }
    let wanted = session.make(change.start(&name, !args.no_start)).await?;
    if wanted.start.is_empty() {
        let subnet = wanted.leases.get(&name).map_or(String::new(), |subnet| format!(" with {subnet}"));
        let next = next_of(&session, &name);
        session.say(format!("created {name}{subnet}; {next}"));
    }
    Ok(0)
}

/// What was given along, encrypted.
async fn secrets(global: &Global, words: &[String]) -> Result<Vec<(SecretId, String)>, Fault> {
    let mut secrets: Vec<(SecretId, Vec<u8>)> = Vec::new();
    for word in words {
        let (id, file) = word.split_once('=').filter(|(_, file)| !file.is_empty()).ok_or_else(|| {
            Fault::wrong(format!("'{}' is no secret", word.escape_debug()))
                .hint("write it as ID=FILE: --secret db-password=/root/password")
        })?;
        let id: SecretId = argument(id)?;
        if secrets.iter().any(|(other, _)| *other == id) {
            return Err(Fault::wrong(format!("the secret {id} is given twice")).hint("give each once"));
        }
        secrets.push((id.clone(), secret::read_file(&id, Path::new(file))?));
    }
    if secrets.is_empty() { Ok(Vec::new()) } else { secret::encrypted(global, &secrets).await }
}

/// What its profiles ask for is given along, or once it is there.
fn must_have_secrets(
    session: &Session,
    (profiles, starts): (&[String], bool),
    name: &MachineName,
    given: &[(SecretId, String)],
) -> Result<(), Fault> {
    let profiles = session.spec.profiles.of(profiles);
    let named = profiles.get("secret").and_then(|value| value.as_array()).into_iter().flatten();
    let named: Vec<SecretId> = named.filter_map(|value| value.as_str()?.parse().ok()).collect();
    must_be_its_own(session, name, &named, given)?;
    let is_given = |id: &SecretId| given.iter().any(|(given, _)| given == id);
    match named.iter().find(|id| starts && !is_given(id)) {
        None => Ok(()),
        Some(id) => Err(Fault::new(format!("'{name}' does not start without its secret {id}")).hint(format!(
            "give it along, `--secret {id}=FILE`; or `--no-start`, and then `nsctl secret set {name} {id}`"
        ))),
    }
}

/// What an earlier machine of that name was told is nothing for a new one.
pub fn must_be_its_own(
    session: &Session,
    name: &MachineName,
    secrets: &[SecretId],
    given: &[(SecretId, String)],
) -> Result<(), Fault> {
    let is_given = |id: &SecretId| given.iter().any(|(given, _)| given == id);
    match secrets.iter().find(|id| !is_given(id) && session.observed.has_secret(name, id)) {
        None => Ok(()),
        Some(id) => Err(Fault::new(format!("the secret {id} of an earlier machine '{name}' is here still"))
            .hint(format!("`nsctl secret remove {name} {id}` deletes it, `nsctl prune` all of those"))),
    }
}

/// The network that profiles give.
fn of_profiles(profiles: &Profiles, names: &[String]) -> Result<Network, Fault> {
    let text =
        toml::Table::from_iter([("profile".to_owned(), toml::Value::from(names.to_vec()))]).to_string();
    let path = Path::new("the command line");
    profiles.machine(path, &text).map(|machine| machine.network).map_err(|problems| {
        Fault::from(Problems(problems))
            .hint("a profile without a network leaves that to --routed or --bridge")
    })
}

/// Nobody waits for an image of a machine that cannot be.
fn must_be_possible(session: &Session, name: &MachineName, machine: &MachineSpec) -> Result<(), Fault> {
    let wanted = session.change(Scope::Machine(name.clone())).define(name, machine)?.settle()?;
    session.plan(&wanted).map(drop)
}

/// What is to be done with a machine that was made and does not run.
pub fn next_of(session: &Session, name: &MachineName) -> String {
    if session.observed.live {
        format!("`nsctl start {name}` starts it")
    } else if session.observed.images.contains(name.as_str()) {
        "it starts with the host".to_owned()
    } else {
        format!("its tree is not made below --root: put it into var/lib/machines/{name}")
    }
}

/// What an archive has for an init. Whoever does not want to wait for that need not.
async fn scan(path: PathBuf, max_size: u64) -> Result<Init, Fault> {
    let mut interrupt = Interrupt::begin();
    let scanning = tokio::task::spawn_blocking(move || Ok(Unpacked::open(&path)?.init(max_size)));
    tokio::select! {
        done = scanning => done.unwrap_or_else(|panic| Err(Fault::new(panic.to_string()))),
        () = interrupt.came() => Err(Fault::new("interrupted").hint("nothing was changed")),
    }
}

pub fn refuse_taken(session: &Session, name: &MachineName) -> Result<(), Fault> {
    if session.spec.machines.contains_key(name) || session.spec.broken.contains_key(name) {
        return Err(Fault::new(format!("there is already a machine named '{name}'"))
            .hint(format!("`nsctl show {name}` shows it; choose another name")));
    }
    if session.observed.is_running(name) {
        return Err(Fault::new(format!("'{name}' is running already, and nsctl did not make it"))
            .hint(format!("`nsctl attach {name} --routed` gives it a subnet as it is")));
    }
    match taken(name, &session.spec, &session.observed) {
        Some(refusal) => Err(vec![refusal].into()),
        None => Ok(()),
    }
}

/// What a guest without a resolver of its own asks.
pub fn resolver(session: &Session, machine: &MachineSpec) -> (Vec<IpAddr>, Option<String>) {
    if machine.network.routed().is_none() {
        return (Vec::new(), None);
    }
    let host = &session.spec.host;
    (host.dns_servers_of(machine), host.dns.as_ref().map(|dns| dns.zone.clone()))
}

/// The tar file that a word names.
fn tar_file(word: &ImageWord) -> Option<PathBuf> {
    let ImageWord::Path(path) = word else { return None };
    let is_tar = kind_of(&path.to_string_lossy()) != Some(Kind::Raw);
    (is_tar && what_is_at(path) == Some(Thing::File)).then(|| path.clone())
}

/// The first program of a guest, as far as that can be seen before its tree is there.
fn init_of(session: &Session, name: &MachineName, source: Option<&Source>) -> Option<Init> {
    let tree = match source {
        None => session.disk.tree(name.as_str()),
        Some(Source::Clone(image)) => session.disk.tree(image),
        Some(Source::Folder(folder)) => Tree::at(folder),
        Some(Source::File { .. }) => None,
    };
    tree.map(|tree| tree.guest().init)
}

/// A guest whose init does not hear nspawn's own signal is told by its own to shut down.
fn heed_init(machine: &mut MachineSpec, init: Option<Init>) {
    if let Some(signal) = init.and_then(Init::kill_signal) {
        let exec = machine.nspawn.entry("Exec".to_owned()).or_default();
        exec.entry("KillSignal".to_owned()).or_insert_with(|| Values::One(signal.to_owned()));
    }
}

/// The word for the image that the tree is made from; none where the tree is there.
fn source(session: &Session, name: &MachineName, asked: Option<&str>) -> Result<Option<ImageWord>, Fault> {
    if let Some(word) = asked {
        return Ok(Some(argument(word)?));
    }
    let images = &session.observed.images;
    if images.contains(name.as_str()) || !session.observed.live {
        return Ok(None);
    }
    if let Some(default) = &session.spec.host.defaults.image {
        return Ok(Some(default.parse()?));
    }
    let release = session.disk.read(Path::new("/etc/os-release"))?.unwrap_or_default();
    if let Some(build) = Build::of_host(&release) {
        return Ok(Some(ImageWord::Build(build)));
    }
    Err(Fault::from(vec![Refusal::no_image(name, name.as_str(), images)])
        .hint("or set a default in /etc/nsctl/nsctl.toml: [defaults] image = \"…\""))
}

/// The tree that a word stands for. What is built or fetched is an image first, which is kept.
pub fn new_image(
    word: &ImageWord,
    name: &MachineName,
    first_boot: FirstBoot,
    limit: u64,
) -> Result<NewImage, Fault> {
    let source = match word {
        ImageWord::Name(image) => Source::Clone(image.clone()),
        ImageWord::Path(path) => {
            let path = std::path::absolute(path)?;
            match what_is_at(&path) {
                Some(Thing::Folder) => Source::Folder(path),
                Some(Thing::File) => Source::File { path, limit },
                other => {
                    let what = if other.is_some() { "is not a file" } else { "does not exist" };
                    return Err(Fault::new(format!("the image {} {what}", path.display())).hint(
                        "--image takes a tar file, a disk image or a folder, or an image's name: `nsctl image list`",
                    ));
                }
            }
        }
        other => Source::Clone(image::kept(other).ok_or_else(|| {
            Fault::new("that makes no name for an image").hint("`nsctl image pull URL --name NAME` first")
        })?),
    };
    Ok(NewImage { source, to: name.clone(), first_boot: Some(first_boot) })
}
