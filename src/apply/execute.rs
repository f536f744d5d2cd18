//! Each step, done. Small: what to do was decided before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};

use super::error::StepError;
use super::executor::Performed;
use super::start::start;
use super::verify;
use super::{Verified, World, backup, links, trees, upgrade};
use crate::emit::expose::Unit;
use crate::emit::{self, FIREWALL_DIR, FIREWALL_FILE, MANY_PARTS, Origin};
use crate::name::MachineName;
use crate::nftables::part;
use crate::observed::STOPPED_DIR;
use crate::plan::{self, Step};
use crate::spec::{Bind, HealthCheck};
use crate::sys::bus::Verb;
use crate::sys::disk::FileEdit;
use crate::sys::{self, Bus, Disk, Net, bird, guest, kernel, limits, mounts, nft, quota, together, tree};

/// How long a machine may take to stop before it is asked again.
const DEAF_TIME: Duration = Duration::from_secs(2);

/// Does steps that are taken together; `started` is when the machines were asked to
/// start, if they were.
///
/// # Errors
/// Which of them failed, and why: of several the first, unless one says that it left nothing.
pub async fn perform(world: World<'_>, stage: &[Step], started: Option<Instant>) -> Performed {
    if stage.iter().all(Step::is_write) {
        return write(world, stage).map(|()| Vec::new()).map_err(|error| (0, error.into()));
    }
    let done = together(stage.iter().map(|step| one(world, step, started))).await;
    let (mut seen, mut faults) = (Vec::new(), Vec::new());
    for (at, done) in done.into_iter().enumerate() {
        match done {
            Ok(verified) => seen.extend(verified),
            Err(error) => faults.push((at, error)),
        }
    }
    faults.sort_by_key(|(at, error)| (!error.left_nothing(), *at));
    faults.into_iter().next().map_or(Ok(seen), Err)
}

/// Does one step.
pub async fn one(
    world: World<'_>,
    step: &Step,
    started: Option<Instant>,
) -> Result<Option<Verified>, StepError> {
    let bus = world.bus.ok_or(StepError::Offline);
    match step {
        Step::Claim { machine } => trees::claim(world.disk, machine)?,
        Step::Disclaim { machine } => trees::disclaim(world.disk, machine)?,
        Step::Enable { machines } => enable(world.disk, machines, true)?,
        Step::Disable { machines } => enable(world.disk, machines, false)?,
        // Those are taken together.
        Step::Write { .. } => {}
        // All others change more than files.
        _ if bus.is_err() => return Err(StepError::Offline),
        Step::MakeTree { source, to, .. } => trees::make_tree(bus?, source, to, world.listener).await?,
        Step::Snapshot { machine, image, freeze } => {
            trees::snapshot(world.disk, bus?, machine, image, *freeze).await?;
        }
        Step::RemoveSnapshot { image } => trees::remove_snapshot(bus?, image).await?,
        Step::SwapTree { machine, from, aside } => trees::swap(bus?, machine, from, aside).await?,
        Step::SwapBack { machine, aside } => trees::swap_back(bus?, machine, aside).await?,
        Step::MoveTree { from, to } => trees::move_tree(from, to)?,
        Step::Upgrade { machine, manager, limit, .. } => {
            upgrade::upgrade(world, bus?, machine, *manager, Duration::from_secs(*limit)).await?;
        }
        Step::Revert { machine, back } => upgrade::revert(world, bus?, machine, back).await?,
        Step::RestartIfAsked { machine, addresses } => {
            upgrade::restart_if_asked(world, bus?, machine, addresses).await?;
        }
        Step::WorksAsBefore { machine, before, check } => {
            let limit = check.as_ref().map_or(upgrade::AGAIN_TIME, HealthCheck::within);
            upgrade::works_as_before(bus?, machine, before, check.as_ref(), limit).await?;
        }
        Step::Restore { machine, image, from, id, disk } => {
            backup::restore(world, machine, image, (from, id), *disk).await?;
        }
        Step::Prove { image, trial } => backup::prove(world, bus?, image, trial).await?,
        Step::EndProof { name } => backup::end_proof(world, bus?, name).await?,
        Step::RenameTree { from, to } => {
            trees::rename_tree(bus?, from, to).await?;
            rename_stopped(world.disk, from, to);
        }
        Step::Provision { machine, first_boot } => trees::provision_tree(machine, first_boot)?,
        Step::RemoveImage { name, tree } => {
            trees::remove_tree(bus?, name, tree.as_ref()).await?;
            // Whoever has its name next is another.
            forget_stopped(world.disk, slice::from_ref(name));
        }
        Step::Stop { machines } => stop(bus?, machines).await?,
        Step::Kill { machines } => {
            let bus = bus?;
            bus.signal(machines, nix::libc::SIGKILL).await?;
            stop(bus, machines).await?;
        }
        Step::Start { machines, addresses } => {
            start(bus?, machines, addresses).await?;
            forget_stopped(world.disk, machines);
        }
        Step::Listen { units } => bus?.run(Verb::Start, units).await?,
        Step::Deafen { units } => {
            // What a socket has started holds it open.
            let services =
                units.iter().filter_map(|unit| Some(format!("{}.service", unit.strip_suffix(".socket")?)));
            bus?.run(Verb::Stop, &units.iter().cloned().chain(services).collect::<Vec<_>>()).await?;
        }
        Step::Inside { machine, old, new } => exchange(bus?, machine, old, new).await?,
        Step::Limit { machine, new, .. } => limit(world, bus?, machine, new).await?,
        Step::LimitDisk { machine, new, .. } => quota::limit(machine.as_str(), *new)?,
        Step::Bind { machine, binds, devices } => bind(world, bus?, machine, binds, devices).await?,
        Step::Unbind { machine, binds, devices } => unbind(world, bus?, machine, binds, devices).await?,
        Step::ReloadSystemd { units } => bus?.reload_systemd(units).await?,
        Step::ReloadNetworkd => bus?.reload_networkd().await?,
        Step::RestartResolved => {
            // systemd lets a service begin five times in ten seconds, and counts anew after this
            // (systemd.unit(5), StartLimitBurst=).
            let resolved = ["systemd-resolved.service".to_owned()];
            let bus = bus?;
            bus.reset_failed(&resolved).await;
            bus.run(Verb::TryRestart, &resolved).await?;
        }
        Step::ReloadBird => bird::configure().await.map_err(sys::Error::from)?,
        Step::ReloadFirewall { prune, part } => reload_firewall(*prune, part.as_deref()).await?,
        Step::Switch { key, new, .. } => kernel::set(key, new)?,
        Step::PoolRoute { pool } => links::pool_route(*pool).await?,
        Step::DropUnreachable { routes } => Net::host()?.drop_unreachable(routes).await?,
        Step::TunnelUp { link, .. } => links::tunnel_up(link).await?,
        Step::Delegation => links::delegation().await?,
        Step::BridgeUp { bridge, port, .. } => links::bridge_up(bridge, port).await?,
        Step::FilterVlans { bridge, on, places, .. } => {
            links::filter_vlans(bridge, *on, places).await?;
        }
        Step::DeleteLink { name } => Net::host()?.delete(name.as_str()).await?,
        Step::FlushPort { port } => Net::host()?.flush(port.as_str()).await?,
        Step::Move { machine, link, bridge, .. } => links::replug(bus?, machine, link, bridge).await?,
        Step::Probe { link, addresses } => links::probe(link, addresses).await?,
        Step::Answer { machine, address } => {
            return Ok(Some(verify::answer(bus?, machine, *address, started).await?));
        }
        Step::LanAddress { machine, moved, second } => {
            let link = second.then_some(emit::LAN);
            return Ok(Some(verify::lan_address(bus?, machine, link, *moved).await?));
        }
        Step::Check { machine, check } => {
            return Ok(Some(verify::works(bus?, machine, check, started).await));
        }
    }
    Ok(None)
}

/// Does the inverses of steps that may or may not have been begun; gives those that
/// could not be done, and why.
pub async fn take_back(world: World<'_>, stage: &[Step]) -> Vec<(Step, StepError)> {
    let mut faults = Vec::new();
    if stage.iter().all(Step::is_write) {
        let mut due = Vec::new();
        for step in stage {
            match due_write(world, step) {
                Ok(write) => due.extend(write),
                Err(error) => faults.push((step.clone(), error)),
            }
        }
        if write(world, &due).is_err() {
            // One stands in the way of all: the others are done without it.
            let tries = due.iter().map(|step| (step, write(world, slice::from_ref(step))));
            faults.extend(tries.filter_map(|(step, done)| Some((step.clone(), done.err()?.into()))));
        }
        return faults;
    }
    for step in stage {
        if let Err(error) = take_one_back(world, step).await {
            faults.push((step.clone(), error));
        }
    }
    faults
}

/// What is to be written so that a file is as it was before; none where it is. What others
/// have changed meanwhile in a file that all machines share stays as they want it.
fn due_write(world: World<'_>, step: &Step) -> Result<Option<Step>, StepError> {
    let Step::Write { path, old, new, mode } = step else { return Ok(None) };
    let current = world.disk.read(path)?;
    if current == *new {
        return Ok(None);
    }
    // A power cut leaves the beginning of a new file, or no more than its length.
    let begun = |text: &str| {
        text.trim_matches('\0').is_empty() || old.as_ref().is_some_and(|old| old.starts_with(text))
    };
    let torn = current.as_deref().is_some_and(begun) && world.disk.is_file(path);
    // machined copies and removes .nspawn files along with trees.
    let nspawn = path.extension().is_some_and(|end| end == "nspawn");
    let machined = nspawn && current.as_deref().is_none_or(|text| Origin::of(text) != Origin::Edited);
    if current == *old || machined || torn {
        return Ok(Some(step.clone()));
    }
    let merged = plan::take_back(path, current.as_deref(), old.as_deref(), new.as_deref());
    let new = merged.ok_or_else(|| StepError::Touched(path.clone()))?;
    let due = Step::Write { path: path.clone(), old: current.clone(), new: new.clone(), mode: *mode };
    Ok((current != new).then_some(due))
}

async fn take_one_back(world: World<'_>, step: &Step) -> Result<(), StepError> {
    if let (Step::RemoveImage { name, .. }, Some(bus)) = (step, world.bus) {
        bus.cancel_transfer(name.as_str()).await?;
    }
    if let Step::LimitDisk { machine, .. } = step
        && tree::identity(machine.as_str()).is_none()
    {
        return Ok(());
    }
    if let (Step::Move { machine, .. }, Some(bus)) = (step, world.bus)
        && bus.leader(machine).await?.is_none()
    {
        return Ok(());
    }
    let on_disk = matches!(step, Step::Enable { .. } | Step::Disable { .. } | Step::Disclaim { .. });
    if on_disk || world.bus.is_some() {
        one(world, step, None).await?;
    }
    Ok(())
}

/// Remembers that somebody stopped these machines, until they are started or the host is.
pub fn remember_stopped(disk: &Disk, machines: &[MachineName]) {
    let paths: Vec<PathBuf> = machines.iter().map(stopped_file).collect();
    let marks = paths.iter().map(|path| FileEdit { path, text: Some(""), mode: None });
    // Without it the next `apply` starts them again, and says so.
    let _ = disk.change(&marks.collect::<Vec<_>>());
}

fn forget_stopped(disk: &Disk, machines: &[MachineName]) {
    for path in machines.iter().map(stopped_file) {
        let _ = disk.forget_file(&path);
    }
}

/// Who was stopped by hand stays so under another name; done twice it is as done once.
fn rename_stopped(disk: &Disk, from: &MachineName, to: &MachineName) {
    if disk.exists(&stopped_file(from)) {
        remember_stopped(disk, slice::from_ref(to));
        forget_stopped(disk, slice::from_ref(from));
    }
}

fn stopped_file(machine: &MachineName) -> PathBuf {
    Path::new(STOPPED_DIR).join(machine.as_str())
}

/// Changes files in one go.
fn write(world: World<'_>, steps: &[Step]) -> Result<(), sys::Error> {
    let changes = steps.iter().filter_map(|step| match step {
        Step::Write { path, new, mode, .. } => Some(FileEdit { path, text: new.as_deref(), mode: *mode }),
        _ => None,
    });
    Ok(world.disk.change(&changes.collect::<Vec<_>>())?)
}

/// The links that `systemctl enable` makes, as the units' [Install] says. systemd itself
/// would make them, too, but take all its units for stale until it has read them again.
fn enable(disk: &Disk, machines: &[MachineName], on: bool) -> Result<(), sys::Error> {
    let links: Vec<PathBuf> = machines.iter().map(emit::wants_link).collect();
    if !on {
        let gone = links.iter().map(|path| FileEdit { path, text: None, mode: None });
        return Ok(disk.change(&gone.collect::<Vec<_>>())?);
    }
    let target = PathBuf::from(emit::TARGET_LINK);
    let target = (!disk.exists(&target)).then_some((target, "/usr/lib/systemd/system/machines.target"));
    let machines = links.into_iter().map(|path| (path, "/usr/lib/systemd/system/systemd-nspawn@.service"));
    Ok(disk.link(&machines.chain(target).collect::<Vec<_>>())?)
}

/// nspawn asks a machine once to stop, and one that is only just booting does
/// not hear it: it would be killed after a minute and a half. So it is asked again.
pub async fn stop(bus: &Bus, machines: &[MachineName]) -> Result<(), StepError> {
    let units: Vec<String> = machines.iter().map(MachineName::unit).collect();
    // What nspawn sends a machine that should stop (systemd(1), SIGRTMIN+3).
    let halt = nix::libc::SIGRTMIN() + 3;
    let mut stopping = std::pin::pin!(bus.run(Verb::Stop, &units));
    loop {
        match tokio::time::timeout(DEAF_TIME, &mut stopping).await {
            Ok(done) => break done?,
            Err(_) => tokio::select! {
                done = &mut stopping => break done?,
                sent = bus.signal(machines, halt) => sent?,
            },
        }
    }
    bus.reset_failed(&units).await;
    Ok(())
}

/// Other listeners in a machine that runs; one that does not has them when it starts.
async fn exchange(bus: &Bus, machine: &MachineName, old: &[Unit], new: &[Unit]) -> Result<(), StepError> {
    if bus.leader(machine).await?.is_none() {
        return Ok(());
    }
    let (script, words) = emit::expose::exchange(old, new);
    Ok(guest::run(bus, machine, script, &words).await.map(drop)?)
}

/// Other limits for a machine that runs; one that does not has them when it starts.
async fn limit(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    new: &BTreeMap<String, String>,
) -> Result<(), StepError> {
    let unit = machine.unit();
    if bus.leader(machine).await?.is_none() {
        // Who was killed in between may have left something.
        return Ok(limits::forget(world.disk, &unit, new)?);
    }
    Ok(limits::set(world.disk, &unit, new).await?)
}

/// More of the host for a machine that runs; one that does not sees it when it starts.
async fn bind(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    binds: &[Bind],
    devices: &[String],
) -> Result<(), StepError> {
    let Some(leader) = bus.leader(machine).await? else { return Ok(()) };
    limits::allow(world.disk, &machine.unit(), devices).await?;
    for bind in binds {
        sys::fault::point();
        mounts::show(leader, bind)?;
    }
    Ok(())
}

/// The other way round.
async fn unbind(
    world: World<'_>,
    bus: &Bus,
    machine: &MachineName,
    binds: &[Bind],
    devices: &[String],
) -> Result<(), StepError> {
    let Some(leader) = bus.leader(machine).await? else { return Ok(()) };
    binds.iter().rev().try_for_each(|bind| mounts::hide(leader, bind))?;
    Ok(limits::deny(world.disk, &machine.unit(), devices).await?)
}

/// The table as its file says; no file, no table.
/// A part of it goes into the table alone where that is large. Where there is little it is loaded whole, and so is
/// what cannot be changed by parts: then it is not as the files said.
async fn reload_firewall(prune: bool, part: Option<&str>) -> Result<(), sys::Error> {
    let (disk, file) = (Disk::new(Path::new("/")), Path::new(FIREWALL_FILE));
    if !disk.exists(file) {
        return Ok(nft::unload().await?);
    }
    let is_large = || Ok::<_, sys::Error>(disk.names(Path::new(FIREWALL_DIR))?.len() >= MANY_PARTS);
    if let Some(part) = part
        && is_large()?
        && nft::is_loaded().await?
        && let Some(text) = disk.read(file)?
        && nft::change(&(part::shared(&text) + part)).await.is_ok()
    {
        return Ok(());
    }
    nft::load(file).await?;
    if prune {
        nft::prune(file).await?;
    }
    Ok(())
}
