//! What a change has to do with the other hosts of a fleet: they are asked before something is new, and told of
//! what is gone.

use std::path::Path;
use std::time::Duration;

use super::{About, Session, this_host};
use crate::apply::JOURNAL_DIR;
use crate::cli::Fault;
use crate::cli::fault::live_only;
use crate::emit::{ManagedFile, NETWORK_DIR, NSPAWN_DIR, Origin};
use crate::fleet::{self, Conflict, FLEET_FILE, Machines, Memory, View, Wanted, agree, losers};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Plan, Refusal};
use crate::pool::Lease;
use crate::spec::{Fleet, Spec};
use crate::state;
use crate::sys::disk::FileEdit;
use crate::sys::{self, Disk, Etcd, EtcdError, kernel};

/// How often somebody else may be first.
const TRIES: usize = 50;
/// How long one who was not waits, at most, in milliseconds.
const PAUSE: u128 = 60;
/// How long another nsctl may change this host until what is gone is freed.
const LOCK_TIME: Duration = Duration::from_secs(60);

/// What came of saying something to etcd.
pub enum Said {
    /// What of it this host could not have; and whether etcd has more for this host's than it has.
    Done { conflicts: Vec<Conflict>, has_more: bool },
    /// It was not; whether a part of it was written before somebody else was in between.
    Refused { fault: Fault, wrote: bool },
}

impl Said {
    fn silent(error: EtcdError) -> Said {
        Said::Refused { fault: Fault::from(error).unheard(), wrote: false }
    }
}

impl Session {
    /// What others have, where something is new here. Where nobody answers that is told when something is to be
    /// agreed on.
    pub(super) async fn hear_fleet(&mut self, about: About<'_>) {
        let Some(fleet) = self.spec.host.fleet.clone().filter(|_| self.observed.live) else { return };
        let is_new = |name: &MachineName| {
            let routed = self.spec.machines.get(name).map(|machine| machine.network.routed().is_some());
            routed.is_none_or(|routed| routed && self.state.leases.get(name).is_none())
        };
        let asks = match about {
            About::Nobody => false,
            // Who has no lease may be about to get one.
            About::Those(names) => names.iter().any(|name| self.state.leases.get(name).is_none()),
            About::Everybody => self.spec.machines.keys().any(is_new),
        };
        if !asks && !self.is_again {
            return;
        }
        let Ok(etcd) = Etcd::of(&self.disk, &fleet) else { return };
        if let Ok(view) = etcd.view().await {
            let mut elsewhere = view.elsewhere(&this_host());
            elsewhere.push((Lease::Subnet(fleet.own), "this host itself".to_owned()));
            self.state.leases.share(elsewhere, view.resting());
            self.fleet.replace(Some(view));
        }
    }

    /// Before a plan: everybody else is told what this host is about to have, or it has none of it.
    pub(super) async fn agree(&self, plan: &Plan) -> Result<(), Fault> {
        let (Some(change), Some(fleet)) = (&plan.fleet, &self.spec.host.fleet) else { return Ok(()) };
        let mut memory = remembered(&self.disk)?;
        let asks: Machines =
            change.asks.clone().into_iter().filter(|(name, lease)| !memory.knows(name, *lease)).collect();
        let is_own_known = memory.own == Some(fleet.own);
        // Below a folder nobody is asked, and what is new there waits for its own host.
        if asks.is_empty() && (is_own_known || !self.observed.live) {
            return Ok(());
        }
        if !self.observed.live {
            return Err(live_only("machines of a fleet are agreed on with its other hosts"));
        }
        let before = memory.clone();
        memory.may_have_more = true;
        remember(&self.disk, &memory)?;
        match self.ask(fleet, &mut memory, &asks).await {
            Ok(Said::Done { .. }) => remember(&self.disk, &memory),
            Ok(Said::Refused { fault, wrote }) => {
                // Where nothing was written there, what was asked for is not there either.
                memory.may_have_more = before.may_have_more || wrote;
                remember(&self.disk, &memory)?;
                // What this host was without etcd before, it stays.
                let is_nothing_new = asks.is_empty() && before.own.is_none() && fault.is_unheard();
                if is_nothing_new { Ok(()) } else { Err(unheard(fault, &asks)) }
            }
            Err(fault) => Err(unheard(fault, &asks)),
        }
    }

    async fn ask(&self, fleet: &Fleet, memory: &mut Memory, asks: &Machines) -> Result<Said, Fault> {
        let etcd = match Etcd::of(&self.disk, fleet) {
            Ok(etcd) => etcd,
            Err(error) => return Ok(Said::silent(error)),
        };
        let mut wanted = wanted(&self.spec, fleet, held_now(&self.disk)?)?;
        // What was seen before the plan was made will do, where nothing has changed since.
        let seen = self.fleet.take();
        let mut view = match seen {
            Some(view) => view,
            None => match etcd.view().await {
                Ok(view) => view,
                Err(error) => return Ok(Said::silent(error)),
            },
        };
        let is_behind = view.hosts.get(&wanted.id).is_none_or(|host| host.epoch < view.epoch);
        if is_behind || memory.is_ahead_of(&view, &wanted.id) {
            say(&etcd, memory, &wanted, false, Some(view), |_, _, _| None).await?;
            view = etcd.view().await?;
        }
        wanted.machines.extend(asks.clone());
        let refuses =
            |memory: &Memory, view: &View, conflicts: &[Conflict]| refused(memory, asks, view, conflicts);
        let said = say(&etcd, memory, &wanted, false, Some(view), refuses).await?;
        if let Said::Done { conflicts, has_more } = &said {
            settled(memory, &wanted, conflicts, *has_more);
            conflicts.iter().for_each(|conflict| self.note(conflict.to_string()));
        }
        Ok(said)
    }

    /// The machines that are new here, and cannot be: others have their names, or nobody can be asked.
    pub async fn unheard(&self, plan: &Plan) -> Vec<Refusal> {
        let (Some(change), Some(fleet)) = (&plan.fleet, &self.spec.host.fleet) else { return Vec::new() };
        let memory = remembered(&self.disk).unwrap_or_default();
        let asks = change.asks.iter().filter(|(name, lease)| !memory.knows(name, **lease));
        let names: Vec<MachineName> = asks.map(|(name, _)| name.clone()).collect();
        if names.is_empty() || !self.observed.live {
            return Vec::new();
        }
        let hint = "`nsctl fleet status` tells which members of etcd answer";
        let view = match Etcd::of(&self.disk, fleet) {
            Ok(etcd) => etcd.view().await,
            Err(error) => Err(error),
        };
        match view {
            Err(error) => {
                let refusal =
                    |name| Refusal::of(name, format!("'{name}' needs the other hosts' word: {error}"), hint);
                names.iter().map(refusal).collect()
            }
            Ok(view) => {
                let elsewhere = |name: &&MachineName| {
                    view.machines.get(*name).is_some_and(|holding| holding.host != this_host())
                };
                let refusal = |name: &MachineName| {
                    let host = view
                        .machines
                        .get(name)
                        .map(|holding| view.name_of(&holding.host))
                        .unwrap_or_default();
                    let what = format!("there is a machine named '{name}' on {host}");
                    Refusal::of(name, what, "names are unique in a fleet: take another")
                };
                names.iter().filter(elsewhere).map(refusal).collect()
            }
        }
    }

    /// After a plan, whatever came of it: what this host has no more is everybody's again.
    pub(super) async fn free(&self, plan: &Plan) {
        let (Some(change), Some(fleet)) = (&plan.fleet, &self.spec.host.fleet) else { return };
        if !self.observed.live || (change.asks.is_empty() && !change.frees) {
            return;
        }
        match self.free_now(fleet).await {
            Ok(conflicts) => conflicts.iter().for_each(|conflict| self.note(conflict.to_string())),
            Err(fault) => self.note(format!(
                "what this host has no more is not yet free for the others: {fault}; the next command that makes \
                 or removes a machine frees it, or `nsctl fleet check --fix`"
            )),
        }
    }

    async fn free_now(&self, fleet: &Fleet) -> Result<Vec<Conflict>, Fault> {
        if remembered(&self.disk)?.is(&held_now(&self.disk)?) {
            return Ok(Vec::new());
        }
        // What another nsctl asks for meanwhile is not written down here yet.
        self.lock.retake(LOCK_TIME).await.map_err(sys::Error::from)?;
        let mut memory = remembered(&self.disk)?;
        // What another one is at work with, or could not undo, may yet be as it was.
        if !self.disk.names(Path::new(JOURNAL_DIR))?.is_empty() {
            memory.may_have_more = true;
            remember(&self.disk, &memory)?;
            return Ok(Vec::new());
        }
        let wanted = wanted(&self.spec, fleet, held_now(&self.disk)?)?;
        tell(&Etcd::of(&self.disk, fleet)?, &self.disk, &mut memory, &wanted).await
    }
}

/// Has etcd know what this host has, and nothing else of its; what of it somebody else has, too.
pub async fn tell(
    etcd: &Etcd,
    disk: &Disk,
    memory: &mut Memory,
    wanted: &Wanted,
) -> Result<Vec<Conflict>, Fault> {
    memory.give_up(&wanted.machines);
    remember(disk, memory)?;
    match say(etcd, memory, wanted, true, None, |_, _, _| None).await? {
        Said::Done { conflicts, .. } => {
            settled(memory, wanted, &conflicts, false);
            remember(disk, memory)?;
            Ok(conflicts)
        }
        Said::Refused { fault, .. } => Err(fault),
    }
}

/// What came of it is remembered.
pub fn settled(memory: &mut Memory, wanted: &Wanted, conflicts: &[Conflict], has_more: bool) {
    let lost = losers(conflicts);
    memory.agree(wanted.machines.iter().filter(|(name, _)| !lost.contains(*name)));
    let own = |conflict: &Conflict| matches!(conflict, Conflict::Lease { machine: None, .. });
    memory.own = (!conflicts.iter().any(own)).then_some(wanted.own);
    memory.may_have_more = has_more;
}

/// Why what is asked for cannot be had. What this host has already, and somebody else, too, stands in nobody's way.
fn refused(memory: &Memory, asks: &Machines, view: &View, conflicts: &[Conflict]) -> Option<Fault> {
    for conflict in conflicts {
        match conflict {
            Conflict::Pool { .. } => {
                let hint = "another etcd, or another pool: the hosts of a fleet share one";
                return Some(Fault::new(conflict.to_string()).hint(hint));
            }
            Conflict::Name { machine, .. } if asks.contains_key(machine) => {
                return Some(
                    Fault::new(conflict.to_string()).hint("names are unique in a fleet: take another"),
                );
            }
            Conflict::Lease { machine: Some(machine), .. } if asks.contains_key(machine) => {
                let hint = "`nsctl fleet list` shows who holds what";
                return Some(Fault::new(format!("'{machine}': {conflict}")).hint(hint).outrun());
            }
            Conflict::Lease { machine: None, .. } => {
                let hint = "`own` below [fleet] in /etc/nsctl/nsctl.toml must be this host's alone: `nsctl fleet join --own PREFIX`";
                return Some(Fault::new(format!("this host itself: {conflict}")).hint(hint));
            }
            _ => {}
        }
    }
    let silent = memory.silent(view);
    let first = silent.first()?;
    let names = silent.join(", ");
    let what =
        "etcd has forgotten something: nothing is new until all hosts have said again what they have, and";
    Some(Fault::new(format!("{what} {names} did not")).hint(format!(
        "`nsctl fleet check --fix` there, or, where it is gone for good, `nsctl fleet forget {first}`"
    )))
}

fn unheard(fault: Fault, asks: &Machines) -> Fault {
    if asks.is_empty() {
        return fault.before("what this host has for itself needs the other hosts' word".to_owned());
    }
    let names: Vec<String> = asks.keys().map(|name| format!("'{name}'")).collect();
    fault.before(format!("{} needs the other hosts' word", names.join(", ")))
}

/// What this host wants to have.
pub fn wanted(spec: &Spec, fleet: &Fleet, machines: Machines) -> Result<Wanted, Fault> {
    let pool = spec.host.whole.ok_or_else(|| Fault::new("a fleet shares a pool, and this host has none"))?;
    let (id, name) = (this_host(), kernel::hostname());
    let name = if fleet::is_host_name(&name) && !name.is_empty() { name } else { id.clone() };
    Ok(Wanted { id, name, own: fleet.own, pool, machines })
}

/// What this host has, as its disk says: by definitions, by leases, and by what is rendered of a definition that is
/// gone.
pub fn held_now(disk: &Disk) -> Result<Machines, Fault> {
    let leases = match disk.read(state::path())? {
        Some(text) => state::parse(Some(&text))?.leases,
        None => {
            let files = disk.folder(Path::new(NETWORK_DIR), |name| name.contains("-nsctl-"))?;
            state::rebuild(&files)?.leases
        }
    };
    let rendered = disk.folder(Path::new(NSPAWN_DIR), |name| name.ends_with(".nspawn"))?;
    let ours = rendered.into_iter().filter(|(_, text)| Origin::of(text) != Origin::Foreign);
    let ours = ours.filter_map(|(path, _)| match ManagedFile::parse(&path)? {
        ManagedFile::Nspawn(name) => Some(name),
        _ => None,
    });
    let names = observe::defined(disk)?.into_iter().chain(leases.held().keys().cloned()).chain(ours);
    Ok(names.map(|name| (name.clone(), leases.get(&name))).collect())
}

pub fn remembered(disk: &Disk) -> Result<Memory, Fault> {
    Ok(Memory::parse(disk.read(Path::new(FLEET_FILE))?.as_deref()))
}

pub fn remember(disk: &Disk, memory: &Memory) -> Result<(), Fault> {
    let text = memory.render();
    let edit = FileEdit { path: Path::new(FLEET_FILE), text: Some(&text), mode: Some(0o600) };
    Ok(disk.change(&[edit]).map_err(sys::Error::from)?)
}

/// Says to etcd what this host has, until nobody was in between; with `frees`, what it has no more, too. One that has
/// forgotten something gets back what was this host's, and everybody else is asked to say so, too. Nothing is
/// written where that is refused.
pub async fn say(
    etcd: &Etcd,
    memory: &mut Memory,
    wanted: &Wanted,
    frees: bool,
    mut seen: Option<View>,
    refuses: impl Fn(&Memory, &View, &[Conflict]) -> Option<Fault>,
) -> Result<Said, Fault> {
    let mut wrote = false;
    for _ in 0..TRIES {
        let mut view = match seen.take() {
            Some(view) => view,
            None => etcd.view().await?,
        };
        let mut ops = Vec::new();
        // Where another host has found it first, the epoch is a new one already.
        if memory.epoch > view.epoch || (memory.is_ahead_of(&view, &wanted.id) && memory.epoch == view.epoch)
        {
            view.epoch = memory.epoch + 1;
            ops.push(fleet::next_epoch(view.epoch));
        }
        ops.extend(
            memory
                .lost(&view)
                .filter(|(id, _)| **id != wanted.id)
                .map(|(id, host)| fleet::known_again(id, &host)),
        );
        let (more, conflicts) = agree(&view, wanted, frees, sys::seconds_since_1970());
        if let Some(fault) = refuses(memory, &view, &conflicts) {
            return Ok(Said::Refused { fault, wrote });
        }
        let has_more = !frees && !fleet::freed(&view, wanted, 0).is_empty();
        ops.extend(more);
        let (done, begun) = write(etcd, &mut view, &ops).await?;
        wrote |= begun;
        if done {
            memory.saw(&view);
            return Ok(Said::Done { conflicts, has_more });
        }
        let pause = kernel::random().map_err(EtcdError::Run)? % PAUSE;
        tokio::time::sleep(Duration::from_millis(u64::try_from(pause).unwrap_or_default())).await;
    }
    Err(Fault::new("others are at work with the fleet all the time").hint("try again"))
}

/// Whether all of it was written, with nothing else in between; and whether a part of it was.
pub async fn write(etcd: &Etcd, view: &mut View, ops: &[fleet::Op]) -> Result<(bool, bool), Fault> {
    let mut begun = false;
    for part in ops.chunks(fleet::AT_ONCE) {
        match etcd.change(view.generation, part).await? {
            Some(revision) => (view.generation, view.revision) = (revision, revision),
            None => return Ok((false, begun)),
        }
        begun = true;
    }
    Ok((true, begun))
}
