//! A guest's packages, upgraded, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::slice;
use std::time::Duration;

use super::error::{StepError, chain};
use super::execute::stop;
use super::start::start;
use super::{World, trees, verify};
use crate::emit::ManagedFile;
use crate::name::MachineName;
use crate::snapshot::{Label, image};
use crate::spec::HealthCheck;
use crate::sys::disk::FileEdit;
use crate::sys::{self, Bus, fault, guest, health, now, quota, tree, vitals};
use crate::upgrade::{ASKS_FOR_RESTART, PREPARE, PackageManager, Vitals, WayBack};

/// How long a machine whose upgrade is taken back may take to stop, before it is ended.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How long a machine may take until it does again what it did, where its check says nothing else.
pub const AGAIN_TIME: Duration = Duration::from_secs(60);
/// How long one may take of which a unit has failed: something else may start that again.
const FAILED_TIME: Duration = Duration::from_secs(10);
/// How long one that does not yet is left alone.
const LOOK: Duration = Duration::from_millis(500);
/// How many lines of what a package manager said at last are told.
const LAST: usize = 12;

/// Has the guest's own package manager install what there is.
pub async fn upgrade(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    manager: PackageManager,
    limit: Duration,
) -> Result<(), StepError> {
    let script = format!("{PREPARE}{}", manager.upgrade());
    let heard = |line: &str| world.listener.hears(machine, line);
    let before = guest::run(bus, machine, manager.installed(), &[]).await?;
    match guest::follow(bus, machine, &script, &[], limit, heard).await {
        // dnf was seen to be content with that.
        Ok(said) if guest::run(bus, machine, manager.installed(), &[]).await? == before => {
            Err(StepError::NothingInstalled(last_lines(&said, LAST)))
        }
        Ok(_) => Ok(()),
        Err(sys::GuestError::Failed { said, .. }) => Err(StepError::Packages(last_lines(&said, LAST))),
        Err(error) => Err(error.into()),
    }
}

/// The last lines of what a program said; those that it wrote over itself do not count.
pub fn last_lines(said: &str, count: usize) -> String {
    let last = said.lines().map(|line| line.rsplit('\r').find(|part| !part.trim().is_empty()).unwrap_or(""));
    let lines: Vec<&str> = last.map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Restarts a machine whose guest asks for it.
pub async fn restart_if_asked(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    addresses: &BTreeMap<MachineName, Ipv6Addr>,
) -> Result<(), StepError> {
    let script = format!("{PREPARE}{ASKS_FOR_RESTART}");
    let reasons = guest::run(bus, machine, &script, &[]).await?;
    if reasons.is_empty() {
        return Ok(());
    }
    reasons.lines().for_each(|line| world.listener.hears(machine, line.trim()));
    fault::point();
    let machines = [machine.clone()];
    stop(bus, &machines).await?;
    fault::point();
    Ok(start(bus, &machines, addresses).await?)
}

/// Waits until a machine does all that it did before, and passes its check if it did.
pub async fn works_as_before(
    bus: &Bus,
    machine: &MachineName,
    before: &Vitals,
    check: Option<&HealthCheck>,
    limit: Duration,
) -> Result<(), StepError> {
    let begin = now();
    loop {
        let left = limit.saturating_sub(begin.elapsed()).max(LOOK);
        let (lost, has_failed) = lost(bus, machine, before, check.map(|check| (check, left))).await?;
        if lost.is_empty() {
            return Ok(());
        }
        // A service that needs its time has it; one that has failed is not started again by anybody.
        let limit = if has_failed { FAILED_TIME } else { limit };
        if begin.elapsed() >= limit {
            return Err(StepError::NotAsBefore(lost));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn lost(
    bus: &Bus,
    machine: &MachineName,
    before: &Vitals,
    check: Option<(&HealthCheck, Duration)>,
) -> Result<(Vec<String>, bool), StepError> {
    let leader = verify::leader(bus, machine).await?;
    let ports = |all: BTreeSet<u16>, mine: &BTreeSet<u16>| all.intersection(mine).copied().collect();
    let mine =
        |now: Vitals| Vitals { tcp: ports(now.tcp, &before.tcp), udp: ports(now.udp, &before.udp), ..now };
    let (mut lost, has_failed) = match vitals::look(bus, machine, leader, mine).await {
        Ok(now) => (before.lost(&now), before.has_failed_since(&now)),
        Err(error) => (vec![error.to_string()], false),
    };
    if let Some((check, left)) = check.filter(|_| !has_failed)
        && let Err(why) = health::ask(bus, machine, leader, check, left).await
    {
        lost.push(format!("it fails its check, {check}: {why}"));
    }
    Ok((lost, has_failed))
}

/// Makes a machine what it was before its upgrade; what became of it is kept as a snapshot. Each part is done where
/// it is not done yet, so that this can be cut short anywhere, and begun again.
pub async fn revert(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    back: &WayBack,
) -> Result<(), StepError> {
    let (from, aside) = (image(machine, &back.snapshot), image(machine, &back.aside));
    let (is_kept, is_aside) = (tree::is_there(&from)?, tree::is_there(&aside)?);
    if !is_aside && !is_kept {
        world
            .listener
            .says(&format!("note: the snapshot {} of '{machine}' is gone: it stays as it is", back.snapshot));
        return forget(world, machine, &back.aside);
    }
    // What it may have done since, nobody wants to lose. A way back that has begun is gone to its end.
    let record = ManagedFile::Snapshot(machine.clone(), back.aside.clone()).path();
    let is_begun = is_aside || world.disk.exists(&record);
    if !is_begun && sys::seconds_since_1970() > back.until {
        world.listener.says(&format!(
            "note: the upgrade of '{machine}' was cut short long ago: the machine stays as it is; `nsctl upgrade \
             {machine}` goes on with it, `nsctl rollback {machine} {}` makes it what it was before",
            back.snapshot
        ));
        return Ok(());
    }
    if is_kept {
        // As long as that cannot be had, the machine runs on.
        tree::let_write(&from)?;
        // There may be no room for it: what matters is the machine.
        if let Err(error) =
            world.disk.change(&[FileEdit { path: &record, text: Some(&back.record), mode: None }])
        {
            let place = format!("/var/lib/machines/{aside}");
            world.listener.says(&format!("note: {place} is kept without its record: {}", chain(&error)));
        }
        fault::point();
        end(bus, machine).await?;
        exchange(machine, &from, &aside)?;
    }
    if !matches!(bus.leader(machine).await, Ok(Some(_))) {
        start(bus, slice::from_ref(machine), &back.addresses).await?;
    }
    fault::point();
    finish(world, machine, back)
}

/// Its services may put their files in order; one that hangs is ended.
async fn end(bus: &Bus, machine: &MachineName) -> Result<(), StepError> {
    let machines = [machine.clone()];
    match tokio::time::timeout(STOP_TIME, stop(bus, &machines)).await {
        Ok(Ok(())) => {}
        _ => {
            bus.signal(&machines, nix::libc::SIGKILL).await?;
            stop(bus, &machines).await?;
        }
    }
    fault::point();
    Ok(())
}

/// Two renames: nothing is copied, so a disk that the upgrade has filled is no obstacle.
fn exchange(machine: &MachineName, from: &str, aside: &str) -> Result<(), StepError> {
    if tree::is_there(machine.as_str())? {
        tree::rename(machine.as_str(), aside)?;
        fault::point();
    }
    tree::rename(from, machine.as_str())?;
    fault::point();
    Ok(())
}

/// What nsctl has written down of the two.
fn finish(world: World<'_>, machine: &MachineName, back: &WayBack) -> Result<(), StepError> {
    forget(world, machine, &back.snapshot)?;
    if world.disk.exists(&ManagedFile::Claim(machine.clone()).path()) {
        trees::claim(world.disk, machine)?;
    }
    if back.disk.is_some() {
        quota::limit(machine.as_str(), back.disk)?;
    }
    Ok(())
}

/// A record that has no tree.
fn forget(world: World<'_>, machine: &MachineName, label: &Label) -> Result<(), StepError> {
    let path = ManagedFile::Snapshot(machine.clone(), label.clone()).path();
    Ok(world.disk.change(&[FileEdit { path: &path, text: None, mode: None }])?)
}
