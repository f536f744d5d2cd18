//! `nsctl image`: what machines are made from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::apply::image::{Making, make};
use crate::apply::{Listener, World};
use crate::cli::fault::{argument, live_only};
use crate::cli::machine::show::duration;
use crate::cli::progress::Progress;
use crate::cli::remote::Named;
use crate::cli::report::Report;
use crate::cli::session::{bus, live_bus};
use crate::cli::text::{self, out};
use crate::cli::{Fault, Global};
use crate::name::MachineName;
use crate::observe;
use crate::plan::spec_of;
use crate::spec::image::{Build, ImageWord, is_image_name, name_for};
use crate::spec::recipe::{package, recipes};
use crate::spec::{bytes, definition_path};
use crate::sys::bus::Image as BusImage;
use crate::sys::usage::{self, Usage};
use crate::sys::{self, Bus, Disk, Lock, Thing, build, lock, what_is_at};

/// Images: what machines are made from
#[derive(Debug, Clone, Subcommand)]
pub enum Image {
    /// Show all images and trees in /var/lib/machines
    List,
    /// Build one of a distribution's packages: debian:trixie, ubuntu:resolute, arch:, fedora:43
    Build {
        /// The distribution and its release
        #[arg(value_name = "DISTRIBUTION:RELEASE")]
        word: String,
        /// Where its packages come from, for this once
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
    /// Import a tar file, a disk image (FILE.raw) or a folder
    Import {
        /// The file or folder
        path: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Fetch a tar file or disk image, or oci:IMAGE from a container registry
    Pull {
        /// https://…, or oci:…
        #[arg(value_name = "URL")]
        word: String,
        /// What must fit: the SHA256SUMS file beside it, or that and its signature
        #[arg(long, value_enum, default_value_t = Verify::Signature)]
        verify: Verify,
        #[command(flatten)]
        target: Target,
    },
    /// Delete an image
    Remove {
        /// The image's name
        #[arg(add = crate::cli::complete::images())]
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Image {
    /// The file or folder that it reads.
    pub fn named(&self) -> Option<Named> {
        match self {
            Image::Import { path, .. } => Some(Named::read(path)),
            _ => None,
        }
    }
}

/// What comes of it.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The image's name [default: the file's, without its endings]
    #[arg(long)]
    name: Option<String>,
    /// How much it may hold, unpacked: 500M, 20G
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = size)]
    max_size: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Verify {
    Signature,
    Checksum,
    No,
}

impl Verify {
    fn word(self) -> &'static str {
        match self {
            Verify::Signature => "signature",
            Verify::Checksum => "checksum",
            Verify::No => "no",
        }
    }
}

/// As much as an image may hold where nobody says.
pub const MAX_SIZE: u64 = 64 << 30;

/// Bytes, with a suffix K, M, G or T (of 1024).
pub fn size(word: &str) -> Result<u64, String> {
    bytes(word).ok_or_else(|| "it is a number of bytes such as 500M or 20G".into())
}

pub async fn run(global: &Global, verb: Image) -> Result<u8, Fault> {
    match verb {
        Image::List => list(global).await,
        Image::Build { word, mirror } => {
            let ImageWord::Build(wanted) = argument(&word)? else {
                return Err(Fault::wrong(format!("'{}' is no distribution", word.escape_debug()))
                    .hint("debian:trixie, ubuntu:resolute, arch:, fedora:43"));
            };
            let works = Works::begin(global).await?;
            let name = wanted.image();
            let mirror = mirror.or(works.mirror.clone());
            works.make(&name, MAX_SIZE, || recipe(&wanted, mirror.as_deref()).map(Making::Build), true).await
        }
        Image::Import { path, target } => {
            let path = std::path::absolute(&path)?;
            let why = match what_is_at(&path) {
                None => Some("does not exist"),
                // Nobody may ever write to a pipe, and who waits for that hears nothing else.
                Some(Thing::Other) => Some("is neither a file nor a folder"),
                Some(Thing::File | Thing::Folder) => None,
            };
            if let Some(why) = why {
                return Err(Fault::new(format!("{} {why}", path.display()))
                    .hint("it is the path of a tar file, a disk image or a folder"));
            }
            let name = target.name(&path.to_string_lossy())?;
            Works::begin(global).await?.make(&name, target.max_size, || Ok(Making::Import(path)), false).await
        }
        Image::Pull { word, verify, target } => {
            let making = remote(&word, verify)?;
            let name = target.name(word.trim_start_matches("oci:"))?;
            Works::begin(global).await?.make(&name, target.max_size, || Ok(making), false).await
        }
        Image::Remove { name, yes } => remove(global, &name, yes).await,
    }
}

impl Target {
    fn name(&self, word: &str) -> Result<String, Fault> {
        let name = self.name.clone().or_else(|| name_for(word)).filter(|name| is_image_name(name));
        name.ok_or_else(|| Fault::wrong("that makes no name for an image").hint("say one: --name NAME"))
    }
}

fn remote(word: &str, verify: Verify) -> Result<Making, Fault> {
    match argument(word)? {
        ImageWord::Url(url) => Ok(Making::Pull { url, verify: verify.word().to_owned() }),
        ImageWord::Oci(reference) => Ok(Making::Oci(reference)),
        _ => Err(Fault::wrong(format!("'{}' is nothing to fetch", word.escape_debug()))
            .hint("https://…, or oci:…; `nsctl image import` takes a file")),
    }
}

fn recipe(wanted: &Build, mirror: Option<&str>) -> Result<crate::spec::recipe::Recipe, Fault> {
    let ways = recipes(wanted, mirror);
    build::choose(&ways).cloned().ok_or_else(|| {
        let tools = text::joined(ways.iter().map(|way| way.tool), " or ");
        let install = ways.first().map_or("", |way| package(way.tool));
        Fault::new(format!("{wanted} is built with {tools}, and there is none"))
            .hint(format!("on Debian: `apt install {install}`"))
    })
}

/// Where images are made: one at a time, beside what else changes the host.
pub struct Works {
    disk: Disk,
    bus: Bus,
    progress: Progress,
    mirror: Option<String>,
    report: Report,
    _lock: Lock,
}

impl Works {
    pub async fn begin(global: &Global) -> Result<Works, Fault> {
        let bus = live_bus(global, "images are made").await?;
        let disk = Disk::new(&global.root);
        let mirror = spec_of(&observe::host(&disk, None).await?)?.host.images.mirror;
        let progress = Progress::new(global);
        let wait = Duration::from_secs(global.wait.max(3600));
        let tell = |holder: &str| progress.says(&format!("waiting for {holder}"));
        let lock = Lock::take(&disk, lock::OF_IMAGES, wait, tell).await?;
        Ok(Works { disk, bus, progress, mirror, report: global.report.clone(), _lock: lock })
    }

    /// Makes an image, and says so; one that is there is as good where it is always the same.
    async fn make(
        &self,
        name: &str,
        limit: u64,
        making: impl FnOnce() -> Result<Making, Fault>,
        may_be_there: bool,
    ) -> Result<u8, Fault> {
        let made = self.ensure(name, limit, making).await?;
        if !made && !may_be_there {
            return Err(Fault::new(format!("there is already an image named '{name}'"))
                .hint(format!("say another name: --name NAME; or delete it: `nsctl image remove {name}`")));
        }
        self.progress.end();
        let how = if made { "is" } else { "was there already: it is" };
        self.report.say(format!(
            "the image {how} {name}; `nsctl create NAME --routed --image {name}` makes a machine of it"
        ));
        Ok(0)
    }

    async fn ensure(
        &self,
        name: &str,
        limit: u64,
        making: impl FnOnce() -> Result<Making, Fault>,
    ) -> Result<bool, Fault> {
        if self.bus.images().await?.contains(name) {
            return Ok(false);
        }
        let making = making()?;
        self.progress.says_in_passing(&format!("making the image '{name}'"));
        let world = World {
            disk: &self.disk,
            bus: Some(&self.bus),
            listener: &self.progress,
            lock: None,
            interrupt: None,
        };
        make(world, making, name, limit).await?;
        Ok(true)
    }
}

/// The image of a word, made where it is not there yet and can be made.
pub async fn ensure(global: &Global, word: &ImageWord) -> Result<(), Fault> {
    let Some(name) = kept(word) else { return Ok(()) };
    let works = Works::begin(global).await?;
    let mirror = works.mirror.clone();
    let making = || match word {
        ImageWord::Build(wanted) => recipe(wanted, mirror.as_deref()).map(Making::Build),
        ImageWord::Url(url) => remote(url, Verify::Signature),
        ImageWord::Oci(reference) => remote(&format!("oci:{reference}"), Verify::Signature),
        ImageWord::Name(_) | ImageWord::Path(_) => Err(Fault::new("nothing is to be made")),
    };
    works.ensure(&name, MAX_SIZE, making).await.map(drop)
}

/// The name of the image that is kept of a word; none where none is.
pub fn kept(word: &ImageWord) -> Option<String> {
    match word {
        ImageWord::Build(build) => Some(build.image()),
        ImageWord::Url(word) | ImageWord::Oci(word) => name_for(word),
        ImageWord::Name(_) | ImageWord::Path(_) => None,
    }
}

#[derive(Serialize)]
struct Row {
    name: String,
    kind: String,
    read_only: bool,
    /// Seconds since 1970.
    created: Option<u64>,
    /// Bytes, where the file system counts them.
    size: Option<u64>,
    /// What it takes of the disk.
    disk: Option<Usage>,
    /// Whether it is the tree of a machine of nsctl's.
    machine: bool,
}

async fn list(global: &Global) -> Result<u8, Fault> {
    let disk = Disk::new(&global.root);
    let bus = bus(global).await?.ok_or_else(|| live_only("images are listed"))?;
    let mut rows: Vec<Row> = bus.all_images().await?.into_iter().map(|image| row(&disk, image)).collect();
    let names: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let mut used = usage::of_images(&names);
    rows.iter_mut().for_each(|row| row.disk = used.remove(&row.name));
    rows.sort_by(|a, b| (a.machine, &a.name).cmp(&(b.machine, &b.name)));
    if global.json {
        global.report.answer(&rows)?;
        return Ok(0);
    }
    if rows.is_empty() {
        out!("no images; `nsctl image build debian:trixie` makes one");
        return Ok(0);
    }
    let now = sys::seconds_since_1970();
    let cells = rows.iter().map(|row| {
        let told = |of: fn(Usage) -> u64| row.disk.map_or("-".to_owned(), |disk| text::bytes(of(disk)));
        let age = row.created.map_or("-".to_owned(), |created| duration(now.saturating_sub(created)));
        let used = if row.machine { "a machine's tree" } else { "an image" };
        let sizes = [told(Usage::whole), told(|disk| disk.own), told(|disk| disk.shared)];
        let [size, own, shared] = sizes;
        vec![row.name.clone(), row.kind.clone(), age, size, own, shared, used.to_owned()]
    });
    out!(
        "{}",
        text::table(&["NAME", "KIND", "AGE", "SIZE", "OWN", "SHARED", "WHAT"], &cells.collect::<Vec<_>>())
    );
    Ok(0)
}

fn row(disk: &Disk, BusImage { name, kind, read_only, created, size }: BusImage) -> Row {
    let machine = name.parse::<MachineName>().is_ok_and(|name| disk.exists(&definition_path(&name)));
    let created = created.map(|micros| micros / 1_000_000);
    Row { machine, name, kind, read_only, created, size, disk: None }
}

async fn remove(global: &Global, name: &str, yes: bool) -> Result<u8, Fault> {
    let works = Works::begin(global).await?;
    let images = works.bus.all_images().await?;
    if !images.iter().any(|image| image.name == name) {
        let there = text::joined(images.iter().map(|image| &image.name), ", ");
        return Err(Fault::new(format!("there is no image named '{}'", name.escape_debug()))
            .hint(format!("there are: {there}")));
    }
    if let Ok(machine) = name.parse::<MachineName>() {
        if works.disk.exists(&definition_path(&machine)) {
            return Err(Fault::new(format!("'{name}' is the tree of a machine"))
                .hint(format!("`nsctl remove {name}` deletes the machine")));
        }
        if works.bus.leader(&machine).await?.is_some() {
            return Err(Fault::new(format!("'{name}' is running")).hint(format!("`nsctl stop {name}` first")));
        }
    }
    works.progress.end();
    let place = Path::new("/var/lib/machines").join(name);
    let spec = spec_of(&observe::host(&works.disk, None).await?)?;
    let users = spec.machines.iter().filter(|(_, machine)| machine.image.as_deref() == Some(name));
    let of = match text::joined(users.map(|(machine, _)| machine), ", ") {
        none if none.is_empty() => none,
        users => format!(", of which the definitions of {users} say that they are made"),
    };
    text::agree(yes, &format!("This deletes {}{of}. Go on?", place.display()))?;
    works.bus.remove_image(name).await?;
    works.report.say(format!("removed {name}"));
    Ok(0)
}
