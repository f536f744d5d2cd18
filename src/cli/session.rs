//! What every verb that changes the host begins and ends with.

mod alone;
pub mod fleet;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use crate::cli::report::Report;
use crate::cli::text::{err, joined, sanitize};
use crate::hint::Hint;

use crate::apply::{self, Interrupt, Listener, Unresolved, Verified, World};
use crate::backup::host_tag;
use crate::cli::fault::{live_only, unknown};
use crate::cli::progress::Progress;
use crate::cli::{Fault, Global, audit};
use crate::emit::ManagedFile;
use crate::fleet::View;
use crate::name::MachineName;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Change, Plan, Refusal, Scope, Wanted, needed, next_addresses, plan, spec_of};
use crate::spec::{MachineSpec, Problems, SecretId, Spec};
use crate::state::{STATE_FILE, State, StateError};
use crate::sys::{self, Bus, Disk, Lock, credential, kernel, lock, neighbour};

/// The host, locked and read.
pub struct Session {
    pub disk: Disk,
    pub bus: Option<Bus>,
    pub observed: Observed,
    pub spec: Spec,
    pub state: State,
    pub progress: Progress,
    /// What could be neither finished nor undone: its machines are left alone.
    unresolved: Vec<Unresolved>,
    pub report: Report,
    /// Just one machine's files are read.
    is_alone: bool,
    /// What the fleet's etcd knew when it was asked.
    fleet: RefCell<Option<View>>,
    /// Another host of the fleet was first, the time before.
    is_again: bool,
    lock: Lock,
    /// None before the host is read: until then a signal just ends us.
    interrupt: Option<RefCell<Interrupt>>,
}

/// This host, and no other of its name.
pub fn this_host() -> String {
    host_tag(&kernel::machine_id())
}

/// Whether the files below a folder are all there is.
pub fn is_live(global: &Global) -> bool {
    global.root == Path::new("/")
}

/// The bus of a live host.
pub async fn bus(global: &Global) -> Result<Option<Bus>, Fault> {
    if is_live(global) { Ok(Some(Bus::connect().await?)) } else { Ok(None) }
}

/// The bus of a live host that we may change, for what cannot be done to files alone.
pub async fn live_bus(global: &Global, what: &str) -> Result<Bus, Fault> {
    must_be_root(global)?;
    bus(global).await?.ok_or_else(|| live_only(what))
}

/// Checks that we may change the host.
pub fn must_be_root(global: &Global) -> Result<(), Fault> {
    if is_live(global) && !sys::is_root() {
        return Err(Fault::new("only root can change this host").hint("run it with sudo"));
    }
    Ok(())
}

/// Tells who only reads of plans that were cut short. Nobody waits for a lock here.
pub fn tell_of_journal(disk: &Disk) {
    let unresolved = apply::cut_short(disk).unwrap_or_else(|error| {
        err!("{}", sanitize(&format!("note: {error}; nothing can be changed until that is fixed")));
        error.hint().iter().for_each(|hint| err!("hint: {}", sanitize(hint)));
        Vec::new()
    });
    for left in unresolved {
        if left.why.is_empty() {
            let command = sanitize(&left.command);
            err!(
                "note: `nsctl {command}` was cut short; the next command that changes the host fixes that first"
            );
        } else {
            err!("{}", told_unresolved(&left));
        }
    }
}

/// The machines that wait until a command that was cut short is undone.
pub fn held(unresolved: &[Unresolved]) -> Vec<Refusal> {
    let waiting = unresolved.iter().filter(|left| !left.why.is_empty());
    let each = waiting.flat_map(|left| left.machines.iter().map(move |name| (left, name)));
    let refusals = each.map(|(Unresolved { command, why, .. }, name)| {
        let hint = format!(
            "fix what is named there, or, where that is inside the machine, `nsctl stop {name}`; each nsctl that \
             changes the host tries it again"
        );
        Refusal::of(name, format!("'{name}' waits until `nsctl {command}` is undone:\n{}", why.join("\n")), hint)
    });
    refusals.collect()
}

/// In one line.
fn told_unresolved(Unresolved { command, machines, why }: &Unresolved) -> String {
    let of = if machines.is_empty() { String::new() } else { format!(" ({})", joined(machines, ", ")) };
    sanitize(&format!("note: `nsctl {command}`{of} is not fixed yet: {}", why.join("; "))).replace('\n', " ")
}

/// The machines that a verb is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    Nobody,
    Those(&'a [&'a MachineName]),
    Everybody,
}

impl About<'_> {
    fn is(self, name: &MachineName) -> bool {
        match self {
            About::Nobody => false,
            About::Those(names) => names.contains(&name),
            About::Everybody => true,
        }
    }
}

impl Session {
    /// The host, locked, and with nothing half done that could be fixed; with nobody waiting any more
    /// for the machines that it is about.
    async fn take(global: &Global, about: About<'_>) -> Result<Session, Fault> {
        let mut host = Session::take_as_it_is(global).await?;
        let begin = sys::now();
        let limit = Duration::from_secs(global.wait);
        loop {
            let waited_for = apply::waited_for(&host.disk)?;
            let Some(name) = waited_for.iter().find(|name| about.is(name)) else { break };
            if begin.elapsed() >= limit {
                return Err(Fault::new(format!("another nsctl still waits for '{name}'"))
                    .hint("wait for it to end, or give it more time with --wait SECONDS"));
            }
            host.progress.says_in_passing(&format!("another nsctl waits for '{name}'"));
            host.lock.release();
            tokio::time::sleep(Duration::from_millis(50)).await;
            host.lock.retake(limit).await?;
        }
        host.recover().await?;
        Ok(host)
    }

    async fn take_as_it_is(global: &Global) -> Result<Session, Fault> {
        must_be_root(global)?;
        let disk = Disk::new(&global.root);
        let progress = Progress::new(global);
        let wait = Duration::from_secs(global.wait);
        let tell = |holder: &str| progress.says(&format!("waiting for {holder}"));
        let lock = Lock::take(&disk, lock::OF_HOST, wait, tell).await?;
        let (bus, report, unresolved, interrupt) =
            (bus(global).await?, global.report.clone(), Vec::new(), None);
        let (observed, spec, state) = Default::default();
        let is_alone = false;
        Ok(Session {
            disk,
            bus,
            observed,
            spec,
            state,
            progress,
            unresolved,
            report,
            is_alone,
            fleet: RefCell::default(),
            is_again: global.is_again.get(),
            lock,
            interrupt,
        })
    }

    async fn recover(&mut self) -> Result<(), Fault> {
        self.unresolved = apply::recover(&World { lock: None, ..self.world() }).await?;
        for left in &self.unresolved {
            self.progress.says(&told_unresolved(left));
        }
        Ok(())
    }

    fn known(self, observed: Observed, spec: Spec, state: State) -> Session {
        // What came while it read is heard yet.
        let interrupt = self.interrupt.or_else(|| Some(RefCell::new(Interrupt::begin())));
        Session { observed, spec, state, interrupt, ..self }
    }

    /// Locks the host, fixes what a killed nsctl left, and reads everything.
    pub async fn begin(global: &Global, about: About<'_>) -> Result<Session, Fault> {
        Session::begin_with(global, about, state).await
    }

    /// The same, with another way to come by the leases.
    pub async fn begin_with(
        global: &Global,
        about: About<'_>,
        state: impl Fn(&Observed) -> Result<State, StateError>,
    ) -> Result<Session, Fault> {
        Session::take(global, about).await?.read_with(about, state).await
    }

    async fn read_all(self, about: About<'_>) -> Result<Session, Fault> {
        self.read_with(about, state).await
    }

    async fn read_with(
        self,
        about: About<'_>,
        state: impl Fn(&Observed) -> Result<State, StateError>,
    ) -> Result<Session, Fault> {
        let (disk, bus) = (&self.disk, self.bus.as_ref());
        let observed = match about {
            About::Everybody => observe::host(disk, bus).await?,
            About::Nobody | About::Those(_) => observe::host_but_rules(disk, bus).await?,
        };
        let (spec, state) = (spec_of(&observed)?, state(&observed)?);
        let observed = with_starts(disk, observed, &spec, about);
        let mut session = Session { is_alone: false, ..self.known(observed, spec, state) };
        session.hear_fleet(about).await;
        Ok(session)
    }

    /// Just what a stop needs to know: which machines run. Nothing that is wrong with files
    /// stands in its way.
    pub async fn begin_to_stop(global: &Global) -> Result<Session, Fault> {
        let mut host = Session::take_as_it_is(global).await?;
        if let Err(fault) = host.recover().await {
            host.progress.end();
            host.report.fault(&fault);
        }
        let bus = host.bus.as_ref().ok_or_else(not_below_root)?;
        let units = bus.nspawn_units().await.unwrap_or_default();
        let observed = Observed { machines: bus.machines().await?, units, live: true, ..Observed::default() };
        Ok(host.known(observed, Spec::default(), State::default()))
    }

    /// A machine of ours, if its definition can be used.
    pub fn machine(&self, name: &MachineName) -> Result<&MachineSpec, Fault> {
        if let Some(problems) = self.spec.broken.get(name) {
            return Err(Problems(problems.clone()).into());
        }
        let known = self.spec.machines.keys().map(MachineName::as_str);
        self.spec.machines.get(name).ok_or_else(|| unknown(name.as_str(), known))
    }

    /// What is wanted, to begin with: what there is.
    pub fn world(&self) -> World<'_> {
        World {
            disk: &self.disk,
            bus: self.bus.as_ref(),
            listener: &self.progress,
            lock: Some(&self.lock),
            interrupt: self.interrupt.as_ref(),
        }
    }

    /// Why these machines are left alone.
    pub fn held(&self, takes: impl Fn(&MachineName) -> bool) -> Vec<Refusal> {
        let mut held = held(&self.unresolved);
        held.retain(|refusal| refusal.machine.as_ref().is_some_and(&takes));
        held
    }

    /// Hears which of the addresses that these machines would get somebody on the uplink has; they
    /// are leased to none.
    pub async fn ask_neighbours(&mut self, names: &[&MachineName]) -> Result<(), Fault> {
        let next = next_addresses(&self.spec, &self.state, names);
        let link = self.spec.host.answers_on().and_then(|link| self.observed.link(link.as_str()));
        let Some(link) = link.filter(|_| !next.is_empty()) else { return Ok(()) };
        let found = neighbour::in_use(link, None, &next).await.map_err(sys::NetError::from)?;
        self.spec.own_addresses.extend(&found);
        self.observed.elsewhere.extend(found);
        Ok(())
    }

    /// A change of what there is, to be made.
    pub fn change(&self, scope: Scope) -> Change<'_> {
        Change::of(&self.spec, &self.state, &self.observed, scope)
    }

    /// Settles a change, and carries it out; gives what was wanted.
    pub async fn make(&self, change: Change<'_>) -> Result<Wanted, Fault> {
        let wanted = change.settle()?;
        self.carry_out(&wanted).await?;
        Ok(wanted)
    }

    /// Plans for machines that are not held.
    pub fn plan(&self, wanted: &Wanted) -> Result<Plan, Fault> {
        let named = |name: &MachineName| match &wanted.scope {
            Scope::Machine(one) | Scope::Alone(one) => name == one,
            Scope::Renamed(old, new) => name == old || name == new,
            Scope::All => true,
            Scope::Records | Scope::Host | Scope::Bridge(_) => false,
        };
        let held = self.held(named);
        if held.is_empty() { Ok(plan(wanted, &self.observed)?) } else { Err(held.into()) }
    }

    /// Plans, tells, does, and prints what was seen.
    pub async fn carry_out(&self, wanted: &Wanted) -> Result<Vec<Verified>, Fault> {
        let plan = self.plan(wanted)?;
        plan.notes.iter().for_each(|note| self.note(note));
        self.perform(&plan).await
    }

    /// Does a plan that the user knows, and prints what was seen.
    pub async fn perform(&self, plan: &Plan) -> Result<Vec<Verified>, Fault> {
        self.must_decrypt(plan).await?;
        self.agree(plan).await?;
        let command = sys::command_line();
        let plan = apply::modes::settled(&self.disk, plan);
        let verified = apply::apply(&self.world(), &plan, &command).await;
        self.free(&plan).await;
        self.progress.end();
        if self.observed.live {
            audit::write_down(&plan, verified.as_ref().err().map(|error| error as &dyn std::fmt::Display));
        }
        let verified = verified?;
        verified.iter().for_each(|verified| self.report.saw(verified));
        Ok(verified)
    }

    /// Nothing is brought down that could not start again: systemd must be able to decrypt what the machines that a
    /// plan starts have for secrets.
    pub async fn must_decrypt(&self, plan: &Plan) -> Result<(), Fault> {
        let refusals = self.undecrypted(plan).await;
        if refusals.is_empty() { Ok(()) } else { Err(refusals.into()) }
    }

    /// Machines that a plan starts, and that could not start.
    pub async fn undecrypted(&self, plan: &Plan) -> Vec<Refusal> {
        undecrypted(&self.disk, plan).await
    }

    /// Lets others change the host while a machine is only looked at.
    pub fn release(&self) {
        self.lock.release();
    }

    /// Tells what the user should know, even if quiet.
    pub fn note(&self, note: impl AsRef<str>) {
        self.report.note(note.as_ref());
        self.progress.says(&format!("note: {}", note.as_ref()));
    }

    /// Prints a line of a result, unless quiet.
    pub fn say(&self, line: impl AsRef<str>) {
        self.progress.end();
        self.report.say(line);
    }
}

/// Who else has machines started; of those that the verb is about, or that have secrets.
fn with_starts(disk: &Disk, observed: Observed, spec: &Spec, about: About<'_>) -> Observed {
    let has_secrets =
        spec.machines.iter().filter(|(_, machine)| !machine.secret.is_empty()).map(|(name, _)| name);
    let starts = match about {
        About::Nobody => Vec::new(),
        About::Those(names) => observe::foreign_starts(disk, names.iter().copied()),
        About::Everybody => observe::foreign_starts(disk, has_secrets),
    };
    Observed { starts, ..observed }
}

/// Machines that a plan starts, and that could not start, as systemd could not decrypt what they have for secrets.
pub async fn undecrypted(disk: &Disk, plan: &Plan) -> Vec<Refusal> {
    let lost = lost(disk, &needed(plan, |path| disk.read(path).ok().flatten())).await;
    let refusal = |((name, id), why): ((MachineName, SecretId), String)| {
        let what = format!("'{name}' could not start: its secret {id} {why}");
        Refusal::of(
            &name,
            what,
            format!("`nsctl secret set {name} {id}` gives it that again; nothing was changed"),
        )
    };
    lost.into_iter().map(refusal).collect()
}

/// Those of these secrets that are not here, or that this host cannot decrypt, and why.
pub async fn lost(
    disk: &Disk,
    secrets: &[(MachineName, SecretId)],
) -> Vec<((MachineName, SecretId), String)> {
    let mut lost = Vec::new();
    for (name, id) in secrets {
        let path = ManagedFile::Secret(name.clone(), id.clone()).path();
        let why = if disk.exists(&path) {
            credential::can_decrypt(id, &path)
                .await
                .err()
                .map(|error| format!("cannot be decrypted: {error}"))
        } else {
            Some("is not on this host".to_owned())
        };
        lost.extend(why.map(|why| ((name.clone(), id.clone()), why)));
    }
    lost
}

/// The state: from the state file, or from the rendered files where it is missing.
pub fn state(observed: &Observed) -> Result<State, StateError> {
    match observed.file(Path::new(STATE_FILE)) {
        None => crate::state::rebuild(&observed.files),
        text => crate::state::parse(text),
    }
}

fn not_below_root() -> Fault {
    live_only("machines are started and stopped")
}
