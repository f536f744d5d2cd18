//! `nsctl fleet`: the hosts that share a pool, by etcd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::fault::{argument, live_only};
use crate::cli::session::fleet::{Said, held_now, remember, remembered, say, settled, tell, wanted, write};
use crate::cli::session::{About, Session, is_live, live_bus, this_host};
use crate::cli::text::{self, out, sanitize};
use crate::cli::{Fault, Global};
use crate::fleet::{self, Conflict, Differences, View};
use crate::name::MachineName;
use crate::observe;
use crate::plan::{Scope, spec_of};
use crate::pool::{Lease, Prefix, Subnet};
use crate::spec::Fleet as FleetSpec;
use crate::sys::{self, Disk, Etcd, kernel};
use crate::visible::few;

/// Hosts that share one pool, and agree by etcd on who has what of it
#[derive(Debug, Clone, Subcommand)]
pub enum Fleet {
    /// Share this host's pool with the hosts that are there
    Join(Join),
    /// Show the hosts, and which members of etcd answer
    Status,
    /// Show the machines of all hosts
    List,
    /// Compare what etcd has of this host with what is here
    Check {
        /// Have etcd say what is here: what it has forgotten comes back, what is gone is freed
        #[arg(long)]
        fix: bool,
    },
    /// Free all that a host has which is gone for good
    Forget(Forget),
}

/// How etcd is reached: by TLS, with a certificate, a password, or both, or by a socket of this host's
#[derive(Debug, Clone, Args)]
pub struct Join {
    /// The members of etcd: https://HOST:2379, or unix:///FOLDER/NAME:NUMBER
    #[arg(long, value_name = "URL,...", value_delimiter = ',', required = true)]
    etcd: Vec<String>,
    /// The certificate of who signed theirs [default: whom this host trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// By which etcd knows this host
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Who this host is to etcd
    #[arg(long, value_name = "USER", requires = "password_file")]
    user: Option<String>,
    /// Its password, which root alone may read
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// The /64 that this host has for itself [default: what it had there, or the first that nobody has]
    #[arg(long, value_name = "PREFIX")]
    own: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Forget {
    /// The host's name, or its id
    host: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(global: &Global, args: Fleet) -> Result<u8, Fault> {
    match args {
        Fleet::Join(args) => join(global, args).await,
        Fleet::Status => status(global).await,
        Fleet::List => list(global).await,
        Fleet::Check { fix } => check(global, fix).await,
        Fleet::Forget(args) => forget(global, args).await,
    }
}

async fn join(global: &Global, args: Join) -> Result<u8, Fault> {
    live_bus(global, "a host joins a fleet").await?;
    let session = Session::begin(global, About::Nobody).await?;
    let pool = shared_pool(&session)?;
    let whole = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
    let chosen: Option<Subnet> = args.own.as_deref().map(argument).transpose()?;
    let mut fleet = FleetSpec {
        etcd: args.etcd,
        ca: whole(args.ca)?,
        cert: whole(args.cert)?,
        key: whole(args.key)?,
        user: args.user,
        password_file: whole(args.password_file)?,
        own: pool.subnet(0).ok_or_else(|| Fault::new("the pool has no /64 for each machine"))?,
    };
    if let Some(fault) = fleet.fault() {
        return Err(Fault::wrong(fault));
    }
    let etcd = Etcd::of(&session.disk, &fleet)?;
    let view = etcd.view().await?;
    let machines = held_now(&session.disk)?;
    must_be_itself(&session, &view)?;
    let taken: Vec<Lease> = machines.values().flatten().copied().collect();
    let before = view.hosts.get(&this_host()).map(|host| host.own);
    let known = session.spec.host.fleet.as_ref().map(|fleet| fleet.own).or(before);
    let own = chosen.or(known).or_else(|| view.free_for_host(pool, &taken));
    fleet.own = own.ok_or_else(|| Fault::new(format!("nothing of {pool} is free for this host itself")))?;
    if taken.iter().any(|lease| lease.overlaps(Lease::Subnet(fleet.own))) {
        return Err(
            Fault::new(format!("a machine of this host has {}", fleet.own)).hint("name another with --own")
        );
    }
    let mut host = session.spec.host.clone();
    host.fleet = Some(fleet.clone());
    let wanted = wanted(&with(&session, &host), &fleet, machines)?;
    let change = session.change(Scope::Host).host(&host)?.settle()?;
    let plan = session.plan(&change)?;
    // What it remembers of an etcd that was elsewhere tells whether this one has forgotten something.
    let before = remembered(&session.disk)?;
    let mut memory = before.clone();
    memory.may_have_more = true;
    remember(&session.disk, &memory)?;
    // Nothing of it is there where a part cannot be.
    let refuses = |memory: &fleet::Memory, view: &View, conflicts: &[Conflict]| {
        must_agree(conflicts).err().or_else(|| must_be_said(memory, view))
    };
    if let Said::Refused { fault, .. } = say(&etcd, &mut memory, &wanted, true, None, refuses).await? {
        match session.disk.exists(Path::new(fleet::FLEET_FILE)) && before == fleet::Memory::default() {
            true => session.disk.forget_file(Path::new(fleet::FLEET_FILE)).map_err(sys::Error::from)?,
            false => remember(&session.disk, &before)?,
        }
        return Err(fault);
    }
    settled(&mut memory, &wanted, &[], false);
    remember(&session.disk, &memory)?;
    session.perform(&plan).await?;
    session.say(match memory.hosts.len() {
        ..2 => format!("this host is the first to share {pool}; it has {} for itself", fleet.own),
        count => format!("{count} hosts share {pool}; this one has {} for itself", fleet.own),
    });
    if session.spec.host.own_address() != host.own_address() && !wanted.machines.is_empty() {
        session.say("`nsctl apply` brings that to the machines that there are; those that run restart");
    }
    Ok(0)
}

/// Where etcd has forgotten something, what is free is known once all have said what they have.
fn must_be_said(memory: &fleet::Memory, view: &View) -> Option<Fault> {
    let mut silent = memory.silent(view);
    // It is about to say it.
    silent.retain(|name| view.hosts.get(&this_host()).is_none_or(|host| host.name != *name));
    let first = silent.first()?;
    let what = format!("etcd has forgotten something, and {} did not say again what they have", few(&silent));
    let hint = format!(
        "`nsctl fleet check --fix` there, or, where it is gone for good, `nsctl fleet forget {first}`"
    );
    Some(Fault::new(what).hint(hint))
}

/// A copy of another host, machine-id and all, would take what is that one's.
fn must_be_itself(session: &Session, view: &View) -> Result<(), Fault> {
    let id = kernel::machine_id();
    if id.trim().len() != 32 {
        return Err(Fault::new("this host has no machine-id, by which others know it")
            .hint("`systemd-machine-id-setup` makes one (machine-id(5))"));
    }
    let was_here = session.spec.host.fleet.is_some() || session.disk.exists(Path::new(fleet::FLEET_FILE));
    match view.hosts.get(&this_host()).filter(|_| !was_here) {
        Some(other) => Err(Fault::new(format!("a host with this one's machine-id is in the fleet: {}", other.name)).hint(
            format!(
                "of a copy: remove /etc/machine-id, and `systemd-machine-id-setup`; where it is this host, set up \
                 anew: `nsctl fleet forget {}` on another",
                other.name
            ),
        )),
        None => Ok(()),
    }
}

fn with(session: &Session, host: &crate::spec::HostSpec) -> crate::spec::Spec {
    crate::spec::Spec { host: host.clone(), ..session.spec.clone() }
}

fn shared_pool(session: &Session) -> Result<Prefix, Fault> {
    let host = &session.spec.host;
    if host.share.is_some() {
        return Err(Fault::new("this host has a share of the pool, which nobody else leases from").hint(
            "take `share` out of /etc/nsctl/nsctl.toml first, where all hosts are to agree on each lease",
        ));
    }
    host.whole.filter(|pool| !pool.is_single()).ok_or_else(|| {
        Fault::new("hosts share a pool that has a /64 for each machine, and this one has none")
            .hint("`nsctl init --pool PREFIX --uplink INTERFACE` first, on each of them with the same prefix")
    })
}

fn must_agree(conflicts: &[Conflict]) -> Result<(), Fault> {
    let Some(first) = conflicts.first() else { return Ok(()) };
    let hint = match first {
        Conflict::Pool { .. } => "on each host the same: `nsctl init --pool`",
        Conflict::Name { .. } => "`nsctl rename` gives one of them another name",
        Conflict::Lease { .. } => "`nsctl remove` or `nsctl attach NAME --bridge BR` one of them first",
    };
    let more =
        if conflicts.len() > 1 { format!(", and {} more", conflicts.len() - 1) } else { String::new() };
    Err(Fault::new(format!("this host cannot join: {first}{more}")).hint(hint))
}

/// The fleet that this host is in, for who only looks.
fn of_host(global: &Global) -> Result<(FleetSpec, Disk, crate::spec::Spec), Fault> {
    if !is_live(global) {
        return Err(live_only("the hosts of a fleet are asked"));
    }
    let disk = Disk::new(&global.root);
    let spec = spec_of(&observe::definitions(&disk)?)?;
    let fleet = spec.host.fleet.clone().ok_or_else(|| {
        Fault::new("this host is in no fleet").hint("`nsctl fleet join --etcd https://HOST:2379 …`")
    })?;
    Ok((fleet, disk, spec))
}

#[derive(Serialize)]
struct StatusView {
    /// This host.
    host: String,
    pool: Option<Prefix>,
    members: Vec<Member>,
    hosts: Vec<HostView>,
}

#[derive(Serialize)]
struct Member {
    endpoint: String,
    answers: bool,
}

#[derive(Serialize)]
struct HostView {
    id: String,
    name: String,
    own: Subnet,
    machines: usize,
    /// Whether it has said what it has since etcd forgot something.
    current: bool,
}

async fn status(global: &Global) -> Result<u8, Fault> {
    let (fleet, disk, _) = of_host(global)?;
    let etcd = Etcd::of(&disk, &fleet)?;
    let (view, members) = tokio::join!(etcd.view(), etcd.members());
    let members: Vec<Member> =
        members.into_iter().map(|(endpoint, answers)| Member { endpoint, answers }).collect();
    if !global.json {
        for member in &members {
            let how = if member.answers { "answers" } else { "does not answer" };
            out!("{} {how}", sanitize(&member.endpoint));
        }
    }
    let view = view?;
    let shown = StatusView { host: this_host(), pool: view.pool, members, hosts: hosts(&view) };
    if global.json {
        global.report.answer(&shown)?;
        return Ok(0);
    }
    let row = |host: &HostView| {
        let mine = if host.id == shown.host { " (this one)" } else { "" };
        let current = if host.current { "yes" } else { "not since etcd forgot something" };
        vec![
            format!("{}{mine}", host.name),
            host.own.to_string(),
            host.machines.to_string(),
            current.to_owned(),
        ]
    };
    out!(
        "{}",
        text::table(
            &["HOST", "OWN", "MACHINES", "CURRENT"],
            &shown.hosts.iter().map(row).collect::<Vec<_>>()
        )
    );
    Ok(0)
}

fn hosts(view: &View) -> Vec<HostView> {
    let of = |(id, host): (&String, &fleet::Host)| HostView {
        id: id.clone(),
        name: host.name.clone(),
        own: host.own,
        machines: view.machines.values().filter(|holding| holding.host == *id).count(),
        current: host.epoch >= view.epoch,
    };
    view.hosts.iter().map(of).collect()
}

#[derive(Serialize)]
struct MachineView<'v> {
    name: &'v MachineName,
    host: &'v str,
    lease: Option<Lease>,
}

async fn list(global: &Global) -> Result<u8, Fault> {
    let (fleet, disk, _) = of_host(global)?;
    let view = Etcd::of(&disk, &fleet)?.view().await?;
    let of = |(name, holding): (&'_ MachineName, &'_ fleet::Holding)| (name.clone(), holding.clone());
    let all: Vec<_> = view.machines.iter().map(of).collect();
    let rows: Vec<MachineView<'_>> = all
        .iter()
        .map(|(name, holding)| MachineView { name, host: view.name_of(&holding.host), lease: holding.lease })
        .collect();
    if global.json {
        global.report.answer(&rows)?;
    } else if rows.is_empty() {
        out!("no machines");
    } else {
        let cells = |row: &MachineView<'_>| {
            vec![
                row.name.to_string(),
                row.host.to_owned(),
                row.lease.map_or("-".into(), |lease| lease.to_string()),
            ]
        };
        out!("{}", text::table(&["MACHINE", "HOST", "PREFIX"], &rows.iter().map(cells).collect::<Vec<_>>()));
    }
    Ok(0)
}

async fn check(global: &Global, fix: bool) -> Result<u8, Fault> {
    let (fleet, disk, spec) = of_host(global)?;
    let etcd = Etcd::of(&disk, &fleet)?;
    let session = if fix { Some(Session::begin(global, About::Nobody).await?) } else { None };
    let wanted = wanted(&spec, &fleet, held_now(&disk)?)?;
    let mut memory = remembered(&disk)?;
    if session.is_some() {
        tell(&etcd, &disk, &mut memory, &wanted).await?;
    }
    let found = Differences::of(&etcd.view().await?, &wanted, &memory);
    drop(session);
    if global.json {
        global.report.answer(&found)?;
        return Ok(u8::from(!found.is_none()));
    }
    if found.is_none() {
        global.report.say(format!("etcd and this host agree on what it has ({})", wanted.machines.len()));
        return Ok(0);
    }
    for (what, list) in found.lists().into_iter().filter(|(_, list)| !list.is_empty()) {
        out!("{}", sanitize(&format!("{what}: {}", few(list))));
    }
    let is_fixable = !found.missing.is_empty() || !found.left.is_empty();
    if is_fixable && !fix {
        text::err!("hint: `nsctl fleet check --fix` has etcd say what is here");
    }
    Ok(1)
}

async fn forget(global: &Global, args: Forget) -> Result<u8, Fault> {
    let session = Session::begin(global, About::Nobody).await?;
    let (fleet, disk, _) = of_host(global)?;
    let etcd = Etcd::of(&disk, &fleet)?;
    let mut view = etcd.view().await?;
    let memory = remembered(&disk)?;
    let (id, name) = named(&view, &memory, &args.host)?;
    if id == this_host() {
        return Err(Fault::new("this host is not gone").hint("`nsctl deinit` has it leave the fleet"));
    }
    session.progress.end();
    let machines: Vec<&MachineName> =
        view.machines.iter().filter(|(_, holding)| holding.host == id).map(|(name, _)| name).collect();
    let of_it = if machines.is_empty() { String::new() } else { format!(": {}", few(&machines)) };
    let question = format!(
        "This frees the names and prefixes of {} machines of {}{of_it}. Where it still runs, others may get the addresses \
         that it uses. Go on?",
        machines.len(),
        sanitize(&name)
    );
    text::agree(args.yes, &question)?;
    loop {
        let ops = fleet::leave(&view, &id, sys::seconds_since_1970());
        if write(&etcd, &mut view, &ops).await?.0 {
            break;
        }
        view = etcd.view().await?;
    }
    session.say(format!("{name} is in the fleet no longer"));
    Ok(0)
}

/// The host that a word means: by its name or its id, also one of which etcd has forgotten all but its machines, or all.
fn named(view: &View, memory: &fleet::Memory, word: &str) -> Result<(String, String), Fault> {
    let mut known: BTreeMap<&str, &str> =
        memory.hosts.iter().map(|(id, host)| (id.as_str(), host.name.as_str())).collect();
    let of_machines = view.machines.values().map(|holding| holding.host.as_str());
    let of_leases = view.leases.values().map(|holder| holder.host.as_str());
    for id in of_machines.chain(of_leases).chain(view.hosts.keys().map(String::as_str)) {
        known.insert(
            id,
            view.hosts.get(id).map_or_else(|| known.get(id).copied().unwrap_or(id), |host| &host.name),
        );
    }
    // One of which something is left was not forgotten to the end.
    let has_more = |id: &str| {
        view.hosts.contains_key(id)
            || view.machines.values().any(|holding| holding.host == id)
            || view.leases.values().any(|holder| holder.host == id)
    };
    known.retain(|id, _| !view.gone.contains(*id) || has_more(id));
    let mut found = known.iter().filter(|(id, name)| **id == word || **name == word);
    match (found.next(), found.next()) {
        (Some((id, name)), None) => Ok(((*id).to_owned(), (*name).to_owned())),
        (Some(_), Some(_)) => Err(Fault::new(format!("several hosts are called {}", word.escape_debug()))
            .hint("`nsctl fleet status --json` tells their ids")),
        _ => {
            let names: Vec<&str> = known.values().copied().collect();
            Err(Fault::new(format!("there is no host {} in the fleet", word.escape_debug()))
                .hint(format!("there are: {}", few(&names))))
        }
    }
}

/// Takes this host out of its fleet, once nothing of the pool is its own any more.
pub async fn leave(session: &Session) -> Result<(), Fault> {
    let Some(fleet) = session.spec.host.fleet.as_ref().filter(|_| session.observed.live) else {
        return Ok(());
    };
    let etcd = Etcd::of(&session.disk, fleet)?;
    loop {
        let mut view = etcd.view().await?;
        let ops = fleet::leave(&view, &this_host(), sys::seconds_since_1970());
        if write(&etcd, &mut view, &ops).await?.0 {
            return Ok(session.disk.forget_file(Path::new(fleet::FLEET_FILE)).map_err(sys::Error::from)?);
        }
    }
}

/// How etcd and this host differ, for doctor; none of a host that is in no fleet.
pub async fn look(disk: &Disk, spec: &crate::spec::Spec) -> Option<Result<Differences, String>> {
    let fleet = spec.host.fleet.as_ref()?;
    let differences = async {
        let wanted = wanted(spec, fleet, held_now(disk)?)?;
        let view = Etcd::of(disk, fleet)?.view().await?;
        Ok::<_, Fault>(Differences::of(&view, &wanted, &remembered(disk)?))
    };
    Some(differences.await.map_err(|fault| fault.to_string()))
}
