//! Images, made whole or not at all: under another name first, which the next
//! nsctl takes away where this one is killed.

use std::path::{Path, PathBuf};

use super::{Interrupt, Listener, StepError, World};
use crate::name::MachineName;
use crate::spec::definition_path;
use crate::spec::image::{Kind, kind_of};
use crate::spec::recipe::Recipe;
use crate::sys::archive::{Packing, Unpacked};
use crate::sys::build::Building;
use crate::sys::bus::Transfer;
use crate::sys::tree;
use crate::sys::{self, Bus, BusError, Disk, Thing, what_is_at};

/// What an image is made of.
#[derive(Debug)]
pub enum Making {
    /// A distribution's packages.
    Build(Recipe),
    /// A tar or disk image, or a folder.
    Import(PathBuf),
    /// How the download is verified: "signature", "checksum" or "no" (importctl(1)).
    Pull { url: String, verify: String },
    /// An image of a container registry's.
    Oci(String),
}

/// Makes an image of this name, of `limit` bytes at the most.
///
/// # Errors
/// Why there is none.
pub async fn make(world: World<'_>, making: Making, name: &str, limit: u64) -> Result<(), StepError> {
    let bus = world.bus.ok_or(StepError::Offline)?;
    let draft = format!("nsctl-partial-{name}");
    bus.remove_image(&draft).await?;
    let mut interrupt = Interrupt::begin();
    let done = tokio::select! {
        done = transfer(bus, making, &draft, limit, world.listener) => done,
        () = interrupt.came() => Err(StepError::Interrupted),
    };
    if let Err(error) = done {
        // What it was doing may be over already.
        let _ = bus.cancel_transfer(&draft).await;
        bus.remove_image(&draft).await?;
        // The user knows the image by its own name alone.
        return Err(match error {
            StepError::Sys(sys::Error::Bus(BusError::Transfer { said, fetches, .. })) => {
                BusError::Transfer { name: name.to_owned(), said, fetches }.into()
            }
            other => other,
        });
    }
    bus.rename_image(&draft, name).await?;
    Ok(tokio::task::spawn_blocking(tree::settle_all).await.unwrap_or(Ok(()))?)
}

async fn transfer(
    bus: &Bus,
    making: Making,
    name: &str,
    limit: u64,
    listener: &dyn Listener,
) -> Result<(), StepError> {
    let hears = |part| listener.progresses(part);
    match making {
        Making::Build(recipe) => build(bus, &recipe, name, listener).await,
        Making::Import(path) if what_is_at(&path) == Some(Thing::Folder) => {
            import_folder(bus, &path, name, listener).await
        }
        Making::Import(path) => import_file(bus, &path, name, limit, listener).await,
        Making::Oci(reference) => {
            Ok(bus.transfer(Transfer::PullOci(reference), name, trees(), &hears).await?)
        }
        Making::Pull { url, verify } => {
            let plain = url.split(['?', '#']).next().unwrap_or_default();
            let what = Transfer::Pull { kind: kind_of(plain).unwrap_or(Kind::Tar), url, verify };
            bounded(bus.transfer(what, name, trees(), &hears), limit).await
        }
    }
}

/// Where importd writes trees.
fn trees() -> Option<&'static Path> {
    Some(Path::new("/var/lib/machines"))
}

/// Ends a download that takes more room than it may.
async fn bounded(download: impl Future<Output = Result<(), BusError>>, limit: u64) -> Result<(), StepError> {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(200);
    let room = || Disk::new(Path::new("/")).room(Path::new("/var/lib/machines"));
    let before = room();
    let mut download = std::pin::pin!(download);
    loop {
        match tokio::time::timeout(LOOK, &mut download).await {
            Ok(done) => return Ok(done?),
            Err(_) if before.saturating_sub(room()) > limit => {
                return Err(StepError::TooLarge { limit });
            }
            Err(_) => {}
        }
    }
}

/// A folder, as it is.
pub async fn import_folder(
    bus: &Bus,
    folder: &Path,
    name: &str,
    listener: &dyn Listener,
) -> Result<(), StepError> {
    let what = Transfer::ImportFolder(Disk::open_foreign(folder)?);
    Ok(bus.transfer(what, name, trees(), &|part| listener.progresses(part)).await?)
}

/// A tar or disk image, unpacked and counted on its way.
pub async fn import_file(
    bus: &Bus,
    path: &Path,
    name: &str,
    limit: u64,
    listener: &dyn Listener,
) -> Result<(), StepError> {
    let kind = kind_of(&path.to_string_lossy()).unwrap_or(Kind::Tar);
    // importd reads these back and forth.
    if kind == Kind::Raw && path.extension().is_some_and(|end| end == "qcow2") {
        let what = Transfer::Import(kind, Disk::open_foreign(path)?);
        return Ok(bus.transfer(what, name, trees(), &|part| listener.progresses(part)).await?);
    }
    // A machine that nsctl exported is a tree, too.
    let (pipe, feed) = begun(path).await?.feed(kind, limit)?;
    let hears = |_: f64| listener.progresses(feed.progress());
    let done = bus.transfer(Transfer::Import(kind, pipe), name, trees(), &hears).await;
    // Nobody may be reading what is fed.
    if !done.as_ref().is_err_and(BusError::is_hang) {
        feed.end()?;
    }
    Ok(done?)
}

/// An archive, once its beginning has been read: what unpacks it may be slow to say anything.
async fn begun(path: &Path) -> Result<Unpacked, StepError> {
    // Its tool is the child of this thread, which lives as long as nsctl: tokio ends an idle one of its
    // own after ten seconds, and with that thread its children (PR_SET_PDEATHSIG, prctl(2)).
    let archive = Unpacked::open(path)?;
    let begin = move || Ok(archive.definition()?.1);
    tokio::task::spawn_blocking(begin).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic).into()))
}

/// Writes a machine's definition and tree to a new file.
///
/// # Errors
/// Why there is no such file.
pub async fn export(
    world: World<'_>,
    name: &MachineName,
    definition: &str,
    file: &Path,
) -> Result<(), StepError> {
    let bus = world.bus.ok_or(StepError::Offline)?;
    let mode = world.disk.mode(&definition_path(name)).unwrap_or(0o600);
    let (pipe, packing) = Packing::begin(file, definition, mode)?;
    let what = Transfer::ExportTar(pipe);
    let hears = |part| world.listener.progresses(part);
    let mut interrupt = Interrupt::begin();
    let done = tokio::select! {
        done = bus.transfer(what, name.as_str(), file.parent(), &hears) => done.map_err(StepError::from),
        () = interrupt.came() => Err(StepError::Interrupted),
    };
    if done.is_err() {
        let _ = bus.cancel_transfer(name.as_str()).await;
    }
    done?;
    Ok(packing.end()?)
}

/// Runs the tool of a distribution, and imports what it makes.
async fn build(bus: &Bus, recipe: &Recipe, name: &str, listener: &dyn Listener) -> Result<(), StepError> {
    let (mut building, tar) = Building::begin(recipe)?;
    let hears = |line: &str| listener.says_in_passing(line);
    let Some(tar) = tar else {
        building.end(&hears).await?;
        return import_folder(bus, &building.tree(), name, listener).await;
    };
    let (pipe, feed) = Unpacked::stream(recipe.tool, tar).feed(Kind::Tar, u64::MAX)?;
    // While the tool downloads, nothing comes: that is no standstill.
    let imported = async {
        match bus.transfer(Transfer::Import(Kind::Tar, pipe), name, None, &|_| {}).await {
            Err(error) if error.is_hang() => Err(StepError::from(error)),
            imported => Ok(imported),
        }
    };
    let built = async { Ok(building.end(&hears).await) };
    // The tool waits for ever for who does not read what it gives.
    let (built, imported) = tokio::try_join!(built, imported)?;
    built?;
    feed.end()?;
    Ok(imported?)
}
