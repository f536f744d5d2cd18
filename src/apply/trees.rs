//! Trees of machines: made, renamed, and made fit for their first boot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::StepError;
use super::{Listener, image};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::observed::{Sharing, TreeId};
use crate::plan::Source;
use crate::provision::{self, FirstBoot, Texts};
use crate::sys::disk::FileEdit;
use crate::sys::frozen::Frozen;
use crate::sys::kernel::random;
use crate::sys::tree::{self, Tree};
use crate::sys::{self, Bus, BusError, Disk, compare, quota};

/// Makes a tree, or leaves none.
pub async fn make_tree(
    bus: &Bus,
    source: &Source,
    to: &MachineName,
    listener: &dyn Listener,
) -> Result<(), StepError> {
    if bus.has_image(to.as_str()).await? {
        return Err(StepError::TreeTaken(to.clone()));
    }
    match source {
        Source::Clone(from) => copied(from, to.as_str(), bus.clone_image(from, to)).await,
        Source::File { path, limit } => image::import_file(bus, path, to.as_str(), *limit, listener).await,
        Source::Folder(folder) => image::import_folder(bus, folder, to.as_str(), listener).await,
    }
}

/// Waits for a copy, and looks through it where files share nothing: machined of systemd 257 was seen to call one
/// done that had ended in the middle, for want of room.
async fn copied(
    from: &str,
    to: &str,
    copy: impl Future<Output = Result<(), BusError>>,
) -> Result<(), StepError> {
    let since = i64::try_from(sys::seconds_since_1970()).unwrap_or(i64::MAX);
    copy.await?;
    if Disk::new(Path::new("/")).sharing(Path::new("/var/lib/machines")) != Sharing::Copy {
        return Ok(());
    }
    // That takes long, and others of ours go on meanwhile.
    let (source, copy) = (from.to_owned(), to.to_owned());
    match tokio::task::spawn_blocking(move || compare::lost(&source, &copy, since)).await {
        Ok(Ok(lost)) if lost > 0 => Err(StepError::Incomplete { from: from.to_owned(), lost }),
        // Who made folders that nobody can look into has only himself to thank.
        _ => Ok(()),
    }
}

/// Makes a snapshot of a machine's tree; one that stands still meanwhile goes on, whatever becomes of us.
pub async fn snapshot(
    disk: &Disk,
    bus: &Bus,
    machine: &MachineName,
    image: &str,
    freeze: bool,
) -> Result<(), StepError> {
    if bus.has_image(image).await? {
        return Err(StepError::SnapshotTaken(image.to_owned()));
    }
    let mut made = snapshot_once(bus, machine, image, freeze).await;
    for _ in 0..TRIES {
        if !made.as_ref().is_err_and(|error| is_passing(error, freeze)) {
            break;
        }
        remove_snapshot(bus, image).await?;
        made = snapshot_once(bus, machine, image, freeze).await;
    }
    // machined copies the machine's settings, too, which start nothing here.
    disk.forget_file(&Path::new("/etc/systemd/nspawn").join(format!("{image}.nspawn")))?;
    made
}

async fn snapshot_once(bus: &Bus, machine: &MachineName, image: &str, freeze: bool) -> Result<(), StepError> {
    let frozen = match freeze && bus.leader(machine).await?.is_some() {
        true => Some(Frozen::begin(bus, &machine.unit()).await?),
        false => None,
    };
    let made = copied(machine.as_str(), image, bus.snapshot_image(machine.as_str(), image)).await;
    if let Some(frozen) = frozen {
        frozen.end(bus).await?;
    }
    made
}

/// How often a snapshot is begun again.
const TRIES: usize = 3;

/// Where files are copied one by one, a machine that runs may remove one just then. And machined, which was just asked
/// for a shell in a machine, waits for it: as long as that stands still, for ever.
fn is_passing(error: &StepError, freeze: bool) -> bool {
    match error {
        StepError::Sys(sys::Error::Bus(BusError::Refused { answer, .. })) => {
            answer.contains("No such file") || answer.contains("FileNotFound")
        }
        StepError::Sys(sys::Error::Bus(BusError::Hangs { .. })) => freeze,
        _ => false,
    }
}

/// While machined's own child still works with it, it is busy.
pub async fn remove_snapshot(bus: &Bus, image: &str) -> Result<(), StepError> {
    // A machine's own tree that was kept has its limit; of one that is full btrfs deletes nothing.
    let _ = quota::limit(image, None);
    match bus.remove_image(image).await {
        Err(error) if error.is_busy() && tree::wait_until_unlocked(image, BUSY_TIME).await => {
            Ok(bus.remove_image(image).await?)
        }
        removed => Ok(removed?),
    }
}

/// The machine's own tree is kept by a rename, so that no copy of it is needed; and not by machined, which takes
/// the machine's settings along.
pub async fn swap(bus: &Bus, machine: &MachineName, from: &str, aside: &str) -> Result<(), StepError> {
    if tree::identity(aside).is_some() {
        return Err(StepError::SnapshotTaken(aside.to_owned()));
    }
    tree::rename(machine.as_str(), aside)?;
    sys::fault::point();
    copied(from, machine.as_str(), bus.clone_image(from, machine)).await
}

/// As long as the machine's own tree is kept, what has its name is the other, whole or not; once it is back, nothing
/// is to be done, however often this is tried.
pub async fn swap_back(bus: &Bus, machine: &MachineName, aside: &str) -> Result<(), StepError> {
    // machined deletes the settings of what it deletes: those of this name are nobody's.
    let discarded = format!(".{machine}@discarded.by.nsctl");
    if tree::identity(aside).is_some() {
        if tree::identity(machine.as_str()).is_some() {
            // machined's own child may still copy.
            tree::wait_until_unlocked(machine.as_str(), BUSY_TIME).await;
            remove_snapshot(bus, &discarded).await?;
            tree::rename(machine.as_str(), &discarded)?;
        }
        sys::fault::point();
        tree::rename(aside, machine.as_str())?;
    }
    remove_snapshot(bus, &discarded).await
}

/// Done already, where the tree has its new name alone, and where it has gone. Not by machined, which takes the
/// machine's settings along.
pub fn move_tree(from: &str, to: &str) -> Result<(), StepError> {
    match (tree::identity(from), tree::identity(to)) {
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(StepError::SnapshotTaken(to.to_owned())),
        (Some(_), None) => Ok(tree::rename(from, to)?),
    }
}

/// Done already, where the tree has its new name.
pub async fn rename_tree(bus: &Bus, from: &MachineName, to: &MachineName) -> Result<(), StepError> {
    if bus.has_image(to.as_str()).await? && !bus.has_image(from.as_str()).await? {
        return Ok(());
    }
    Ok(bus.rename_image(from.as_str(), to.as_str()).await?)
}

/// A disk image is left as it is: what is in it cannot be reached.
pub fn provision_tree(machine: &MachineName, first_boot: &FirstBoot) -> Result<(), StepError> {
    let Some(tree) = Tree::of(machine.as_str()) else {
        return if first_boot.is_plain() { Ok(()) } else { Err(StepError::NoTree(machine.clone())) };
    };
    let read = |path: &PathBuf| Disk::new(Path::new("/")).read(path).map(Option::unwrap_or_default);
    let text = |path: &Option<PathBuf>| path.as_ref().map(read).transpose();
    let texts = Texts {
        ssh_key: text(&first_boot.ssh_key)?,
        password_hash: text(&first_boot.root_password)?.map(|password| hash(&password)).transpose()?,
        run: text(&first_boot.run)?,
    };
    let id = format!("{:032x}", random()? | 1);
    for change in provision::changes(&tree.guest(), first_boot, &texts, machine, &id)? {
        tree.change(&change)?;
    }
    Ok(())
}

/// Writes down which tree is the machine's, so that no other of its name is ever taken for it.
pub fn claim(disk: &Disk, machine: &MachineName) -> Result<(), StepError> {
    let id = tree::identity(machine.as_str()).ok_or_else(|| StepError::NoTree(machine.clone()))?;
    let path = ManagedFile::Claim(machine.clone()).path();
    Ok(disk.change(&[FileEdit { path: &path, text: Some(&format!("{id}\n")), mode: None }])?)
}

/// Forgets it.
pub fn disclaim(disk: &Disk, machine: &MachineName) -> Result<(), StepError> {
    Ok(disk.remove(&ManagedFile::Claim(machine.clone()).path())?)
}

/// Deletes a tree, if it is still the one that was meant. While machined's own child still
/// deletes it, it is busy: its lock is waited for.
pub async fn remove_tree(bus: &Bus, name: &MachineName, id: Option<&TreeId>) -> Result<(), StepError> {
    let there = tree::identity(name.as_str());
    if id.is_some() && there.is_some() && there.as_ref() != id {
        return Err(StepError::AnotherTree(name.clone()));
    }
    match bus.remove_image(name.as_str()).await {
        Err(error) if error.is_busy() && tree::wait_until_unlocked(name.as_str(), BUSY_TIME).await => {
            Ok(bus.remove_image(name.as_str()).await?)
        }
        removed => Ok(removed?),
    }
}

/// How long machined may go on deleting a tree that a killed nsctl asked it to delete.
const BUSY_TIME: Duration = Duration::from_secs(60);

/// The first line of a file, as shadow(5) has it: hashed already, or hashed now.
fn hash(text: &str) -> Result<String, StepError> {
    let password = text.lines().next().unwrap_or_default();
    if password.starts_with('$') && !password.contains(':') {
        return Ok(password.to_owned());
    }
    let hashed =
        sha_crypt::PasswordHasher::hash_password(&sha_crypt::ShaCrypt::default(), password.as_bytes());
    hashed.map(|hash| hash.as_str().to_owned()).map_err(|_| StepError::NoHash)
}
