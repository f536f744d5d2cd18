//! Trees out of backups, and the proof that a machine comes up from one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::StepError;
use super::{World, upgrade};
use crate::backup::BackupId;
use crate::emit::{TRIAL_DIR, Trial};
use crate::name::MachineName;
use crate::spec::Repository;
use crate::sys::backups::{Progress, Store};
use crate::sys::bus::Verb;
use crate::sys::disk::FileEdit;
use crate::sys::{self, Bus, fault, quota, tree, trial};
use crate::upgrade::FAILED_UNITS;

/// How long a machine on trial may take until it does what the machine did: a guest may wait two minutes for a network
/// that it does not get.
const TRIAL_TIME: Duration = Duration::from_secs(300);
/// Nothing tells when a guest's bus begins to listen: how long one that does not yet is left alone.
const LOOK: Duration = Duration::from_millis(500);
/// How long a guest must live that tells nothing.
const MUTE_TIME: Duration = Duration::from_secs(60);
/// The same, beside what its check gives it.
const MORE_TIME: Duration = Duration::from_secs(60);

/// Puts the tree of a backup under this name.
pub async fn restore(
    world: World<'_>,
    machine: &MachineName,
    image: &str,
    (from, id): (&Repository, &BackupId),
    disk: Option<u64>,
) -> Result<(), StepError> {
    if tree::is_there(image)? {
        return Err(StepError::SnapshotTaken(image.to_owned()));
    }
    let store = Store::of(world.disk, from)?;
    let (needs, has) = (store.room(id).await?, world.disk.room(Path::new("/var/lib/machines")));
    if let Some(needs) = needs.filter(|needs| *needs > has) {
        return Err(StepError::NoRoom { needs, has });
    }
    let limit = || {
        fault::point();
        // Where this file system has no limits, the machine's own definition is told so later.
        if disk.is_some()
            && let Err(error) = quota::limit(image, disk)
        {
            world.listener.says(&format!("note: {}", sys::Error::from(error)));
        }
    };
    let hears = |progress| match progress {
        Progress::Part(part) => world.listener.progresses(part),
        Progress::Bytes(bytes) => world.listener.counts(bytes),
    };
    Ok(store.restore(machine, id, image, limit, hears).await?)
}

/// Starts a tree as a machine that nobody outside of it hears of, waits until it does what the machine did, and ends it.
pub async fn prove(world: World<'_>, bus: &Bus, image: &str, trial: &Trial) -> Result<(), StepError> {
    let unproved = |error| StepError::NotProved(Box::new(error));
    let proved = proved(world, bus, image, trial).await.map_err(unproved);
    let ended = end_proof(world, bus, &trial.name).await;
    proved.and(ended)
}

async fn proved(world: World<'_>, bus: &Bus, image: &str, trial: &Trial) -> Result<(), StepError> {
    let files = files(&trial.name);
    // Variables of a definition may be private; the other one its guest reads, whose users are nobody here.
    let texts = [(&trial.nspawn, 0o600), (&trial.network, 0o644)];
    for (path, (text, mode)) in files.iter().zip(texts) {
        world.disk.change(&[FileEdit { path, text: Some(text), mode: Some(mode) }])?;
    }
    fault::point();
    trial::start(image, trial).await?;
    fault::point();
    let leader =
        bus.leader(&trial.name).await?.ok_or_else(|| StepError::NoTrial("it ended at once".into()))?;
    trial::give_link(leader, &trial.addresses).await?;
    let limit = trial.check.as_ref().map_or(TRIAL_TIME, |check| check.within() + MORE_TIME);
    has_booted(bus, trial, limit).await?;
    upgrade::works_as_before(bus, &trial.name, &trial.before, trial.check.as_ref(), limit).await
}

/// Of a machine that did not run, or did not tell, nothing else is asked.
async fn has_booted(bus: &Bus, trial: &Trial, limit: Duration) -> Result<(), StepError> {
    if trial.before.failed.is_some() {
        return Ok(());
    }
    let begin = sys::now();
    while begin.elapsed() < limit {
        if sys::guest::run(bus, &trial.name, FAILED_UNITS, &[]).await.is_ok() {
            return Ok(());
        }
        if bus.leader(&trial.name).await?.is_none() {
            return Err(StepError::NoTrial("it ended".into()));
        }
        // One that told nothing when it ran, either, has no way to: it lives.
        if trial.ran && begin.elapsed() > MUTE_TIME {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(StepError::NoTrial(format!("it has not booted within {} s", limit.as_secs())))
}

/// Done already, where it does not run.
pub async fn end_proof(world: World<'_>, bus: &Bus, name: &MachineName) -> Result<(), StepError> {
    let unit = [trial::unit(name)];
    bus.run(Verb::Stop, &unit).await?;
    bus.reset_failed(&unit).await;
    for path in files(name) {
        world.disk.forget_file(&path).map_err(sys::Error::from)?;
    }
    Ok(())
}

/// What nspawn reads, and what its guest reads of its network.
fn files(name: &MachineName) -> [PathBuf; 2] {
    [
        Path::new("/run/systemd/nspawn").join(format!("{name}.nspawn")),
        Path::new(TRIAL_DIR).join(format!("{name}.network")),
    ]
}
