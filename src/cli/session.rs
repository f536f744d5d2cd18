//! What every verb that changes the host begins and ends with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::text::out;

use super::progress::Progress;
use super::{Fault, Global};
use crate::apply::{self, Journal, Listener, Sighting, World};
use crate::emit;
use crate::observe;
use crate::observed::Observed;
use crate::plan::{Plan, Wanted, plan};
use crate::pool::Subnet;
use crate::spec::{HOST_FILE, MACHINES_DIR, Problems, Spec};
use crate::state::{STATE_FILE, State, StateError};
use crate::sys::{self, Bus, Disk, Lock};

/// The host, locked and read.
pub struct Session {
    pub disk: Disk,
    pub bus: Option<Bus>,
    pub observed: Observed,
    pub spec: Spec,
    pub state: State,
    pub progress: Progress,
    quiet: bool,
    _lock: Lock,
}

/// Whether the files below a folder are all there is.
pub fn is_live(global: &Global) -> bool {
    global.root == Path::new("/")
}

/// The bus of a live host.
pub async fn bus(global: &Global) -> Result<Option<Bus>, Fault> {
    if is_live(global) { Ok(Some(Bus::connect().await?)) } else { Ok(None) }
}

/// Checks that we may change the host.
pub fn must_be_root(global: &Global) -> Result<(), Fault> {
    if is_live(global) && !sys::is_root() {
        return Err(Fault::new("only root can change this host").hint("run it with sudo"));
    }
    Ok(())
}

/// Tells who only reads of a plan that was cut short. Nobody waits for a lock here.
pub fn tell_of_journal(disk: &Disk) {
    if let Ok(Some(journal)) = Journal::find(disk)
        && !sys::lock::is_held(disk)
    {
        let command = super::text::tame(&journal.command);
        super::text::err!(
            "note: `nsctl {command}` was cut short; the next command that changes the host mends that first"
        );
    }
}

/// The host, locked, and with nothing half done.
struct Locked {
    disk: Disk,
    bus: Option<Bus>,
    progress: Progress,
    quiet: bool,
    lock: Lock,
}

impl Locked {
    async fn take(global: &Global) -> Result<Locked, Fault> {
        must_be_root(global)?;
        if !global.root.is_dir() {
            return Err(Fault::new(format!("{} is not a folder", global.root.display())));
        }
        let disk = Disk::new(&global.root);
        let progress = Progress::new(global.quiet);
        let wait = Duration::from_secs(global.wait);
        let lock = Lock::take(&disk, wait, |holder| progress.says(&format!("waiting for {holder}"))).await?;
        let bus = bus(global).await?;
        apply::recover(World { disk: &disk, bus: bus.as_ref(), listener: &progress }).await?;
        Ok(Locked { disk, bus, progress, quiet: global.quiet, lock })
    }

    fn known(self, observed: Observed, state: State) -> Result<Session, Fault> {
        let spec = spec(&observed)?;
        let Locked { disk, bus, progress, quiet, lock } = self;
        Ok(Session { disk, bus, observed, spec, state, progress, quiet, _lock: lock })
    }
}

impl Session {
    /// Locks the host, mends what a killed nsctl left, and reads everything.
    pub async fn begin(global: &Global) -> Result<Session, Fault> {
        Session::begin_with(global, state).await
    }

    /// The same, with another way to come by the leases.
    pub async fn begin_with(
        global: &Global,
        state: impl Fn(&Observed) -> Result<State, StateError>,
    ) -> Result<Session, Fault> {
        let host = Locked::take(global).await?;
        let observed = observe::host(&host.disk, host.bus.as_ref()).await?;
        let state = state(&observed)?;
        host.known(observed, state)
    }

    /// Just what a start or stop needs to know: it is to begin at once.
    pub async fn begin_to_run(global: &Global) -> Result<Session, Fault> {
        let host = Locked::take(global).await?;
        let Some(bus) = &host.bus else {
            return Err(Fault::new("machines are started and stopped on a running host, not below --root"));
        };
        let observed = observe::running(&host.disk, bus).await?;
        let state = state(&observed)?;
        host.known(observed, state)
    }

    /// What is wanted, to begin with: what there is.
    pub fn world(&self) -> World<'_> {
        World { disk: &self.disk, bus: self.bus.as_ref(), listener: &self.progress }
    }

    /// Plans, once it is sure that what will be written can be read again.
    pub fn plan(&self, wanted: &Wanted) -> Result<Plan, Fault> {
        let mut after = Observed { files: self.observed.files.clone(), ..Observed::default() };
        for (path, text) in &wanted.inputs {
            match text {
                Some(text) => _ = after.files.insert(path.clone(), text.clone()),
                None => _ = after.files.remove(path),
            }
        }
        spec(&after)?;
        Ok(plan(wanted, &self.observed)?)
    }

    /// Plans, tells, does, and prints what was seen.
    pub async fn carry_out(&self, wanted: &Wanted) -> Result<Vec<Sighting>, Fault> {
        let plan = self.plan(wanted)?;
        for note in &plan.notes {
            self.progress.says(&format!("note: {note}"));
        }
        self.perform(&plan).await
    }

    /// Does a plan that the user knows, and prints what was seen.
    pub async fn perform(&self, plan: &Plan) -> Result<Vec<Sighting>, Fault> {
        let command = sys::command_line();
        let sightings = apply::apply(self.world(), plan, &command).await;
        self.progress.end();
        let sightings = sightings?;
        if !self.quiet {
            for sighting in &sightings {
                out!("{}", tell(sighting));
            }
        }
        Ok(sightings)
    }

    /// Prints a line of a result, unless quiet.
    pub fn say(&self, line: impl AsRef<str>) {
        self.progress.end();
        if !self.quiet {
            out!("{}", super::text::tame(line.as_ref()));
        }
    }
}

/// The state: from the state file, or from the rendered files where it is missing.
pub fn state(observed: &Observed) -> Result<State, StateError> {
    match observed.file(Path::new(STATE_FILE)) {
        None => crate::state::rebuild(&observed.files),
        text => crate::state::parse(text),
    }
}

/// The spec that the observed files hold.
pub fn spec(observed: &Observed) -> Result<Spec, Problems> {
    let definitions: BTreeMap<PathBuf, String> = observed
        .files
        .iter()
        .filter(|(path, _)| path.parent() == Some(Path::new(MACHINES_DIR)))
        .map(|(path, text)| (path.clone(), text.clone()))
        .collect();
    let spec = Spec::parse(observed.file(Path::new(HOST_FILE)), &definitions)?;
    Ok(Spec { debian_nftables: emit::nftables_unit::is_known(&observed.files), ..spec })
}

/// A sighting as a sentence.
pub fn tell(sighting: &Sighting) -> String {
    match sighting {
        Sighting::Answers { machine, address, planned, after } => {
            let after = after.map(|after| format!(" ({:.2} s after its start)", after.as_secs_f64()));
            let after = after.unwrap_or_default();
            if Subnet::of(*planned).is_delegated() {
                format!("{machine} answers at {address} today{after}")
            } else if address == planned {
                format!("{machine} answers at {address}{after}")
            } else {
                format!(
                    "{machine} answers at {address}, which its guest chose by RA; it does not read the file with {planned}"
                )
            }
        }
        Sighting::OnLan { machine, addresses } if addresses.is_empty() => {
            format!("{machine} has no address from the LAN yet; `nsctl show {machine}` tells")
        }
        Sighting::OnLan { machine, addresses } => {
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{machine} has {} from the LAN", all.join(", "))
        }
    }
}
