//! systemd's manager: units, and the jobs that start and stop them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};
use zbus_systemd::zbus::{OwnedObjectPath, proxy::CacheProperties};

use super::patience::{look, question};
use super::{Bus, BusError, SYSTEMD};
use crate::name::MachineName;
use crate::observed::Service;
use crate::sys::{build, stamp, together};

/// What to do with units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    TryRestart,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::TryRestart => "restart",
        }
    }
}

type Proxy = ManagerProxy<'static>;
/// What systemd tells of a unit.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// As long as systemctl(1) waits for it.
const RELOAD_TIME: Duration = Duration::from_secs(180);
/// DefaultTimeoutStartSec= where nobody set another (systemd-system.conf(5)), in microseconds.
const USUAL_TIME: u64 = 90_000_000;

/// How many machines begin to start before the first has: all of a thousand at once would
/// take each other the time, and systemd gives a start up after 90 s (systemd-system.conf(5)).
const AT_ONCE: usize = 64;

/// The jobs of one command.
struct Jobs {
    verb: Verb,
    /// And the unit of each.
    under_way: HashMap<OwnedObjectPath, String>,
    /// Jobs that ended, of others too: one may be over before we hear which it is.
    over: HashMap<OwnedObjectPath, (String, String)>,
    faults: Vec<BusError>,
    /// When one of them last ended, or they began.
    since: Instant,
    /// How long one may take, once that has been asked; within, none: for ever.
    allowed: Option<Option<Duration>>,
}

impl Jobs {
    fn new(verb: Verb) -> Jobs {
        let (under_way, over, faults) = (HashMap::new(), HashMap::new(), Vec::new());
        Jobs { verb, under_way, over, faults, since: Instant::now(), allowed: None }
    }

    fn queued(&mut self, job: OwnedObjectPath, unit: String) {
        match self.over.remove(&job) {
            Some((unit, result)) => self.conclude(unit, result),
            None => _ = self.under_way.insert(job, unit),
        }
    }

    fn ended(&mut self, job: OwnedObjectPath, unit: String, result: String) {
        if self.under_way.remove(&job).is_some() {
            self.conclude(unit, result);
        } else {
            self.over.insert(job, (unit, result));
        }
    }

    fn conclude(&mut self, unit: String, result: String) {
        self.since = Instant::now();
        if result != "done" {
            let (verb, said) = (self.verb.word(), String::new());
            self.faults.push(BusError::Job { unit, verb, result, said });
        }
    }
}

/// How long one waits for the journal.
const JOURNAL_TIME: Duration = Duration::from_secs(2);

/// The last line that the journal has of a unit's own processes, of the last so long: nspawn's, or of its guest's
/// console, which the journal does not tell apart. Not what systemd says of the unit.
pub async fn last_words(unit: &str, ago: Duration) -> String {
    let now = Duration::from_nanos(u64::try_from(stamp()).unwrap_or_default());
    let since = format!("--since=@{}", now.saturating_sub(ago).as_secs());
    let unit = format!("_SYSTEMD_UNIT={unit}");
    let mut command = tokio::process::Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--lines=1", "--output=cat", &since, &unit]);
    command.env("PATH", build::PATH).kill_on_drop(true);
    let said = tokio::time::timeout(JOURNAL_TIME, command.output()).await;
    let said = said.ok().and_then(Result::ok).map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

async fn with_last_words(fault: BusError, ago: Duration) -> BusError {
    let BusError::Job { unit, verb, result, .. } = fault else { return fault };
    let said = last_words(&unit, ago).await;
    BusError::Job { unit, verb, result, said }
}

fn doing(verb: Verb) -> String {
    format!("systemd does not {} a unit", verb.word())
}

impl Bus {
    /// Makes systemd read its units again: if it must for one of these, or in any case
    /// where none is named.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn reload_systemd(&self, units: &BTreeSet<String>) -> Result<(), BusError> {
        let stale = together(units.iter().map(|unit| self.is_stale(unit))).await;
        if stale.is_empty() || stale.contains(&true) {
            // It answers nobody while it reads.
            let limit = RELOAD_TIME.max(question());
            self.systemd.ask_within(limit, "systemd does not reload", async |s| s.reload().await).await?;
        }
        Ok(())
    }

    /// Whether systemd has another unit in mind than the disk has: it loads the unit, and
    /// compares (org.freedesktop.systemd1(5), NeedDaemonReload).
    async fn is_stale(&self, unit: &str) -> bool {
        let ask = async |s: &Proxy| {
            let path = s.load_unit(unit.to_owned()).await?;
            let proxy = UnitProxy::builder(self.patience.connection()).path(path);
            proxy.cache_properties(CacheProperties::No).build().await?.need_daemon_reload().await
        };
        self.systemd.ask("asking for a unit's state", ask).await.unwrap_or(true)
    }

    /// The version of systemd: 257.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn systemd_version(&self) -> Result<u32, BusError> {
        let text = self.systemd.ask("asking for its version", async |s| s.version().await).await?;
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| BusError::Nonsense(SYSTEMD))
    }

    /// Whether services run, and start with the host.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn services(&self, names: &[&str]) -> Result<BTreeMap<String, Service>, BusError> {
        let units: Vec<String> = names.iter().map(|name| format!("{name}.service")).collect();
        let listed = self.units(vec!["active".into()], units).await?;
        let mut services = BTreeMap::new();
        for name in names {
            let unit = format!("{name}.service");
            let asked = async |s: &Proxy| s.get_unit_file_state(unit.clone()).await;
            let state = self.systemd.ask("asking for a unit's file", asked).await.unwrap_or_default();
            let active = listed.iter().any(|listed| listed.0 == unit);
            let enabled = ["enabled", "static", "indirect", "alias", "generated"].contains(&state.as_str());
            let masked = state.starts_with("masked");
            services.insert((*name).to_owned(), Service { active, enabled, masked });
        }
        Ok(services)
    }

    /// Whether systemd-resolved runs.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn resolved_runs(&self) -> Result<bool, BusError> {
        self.is_active("systemd-resolved.service").await
    }

    /// Whether a unit is active.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn is_active(&self, unit: &str) -> Result<bool, BusError> {
        Ok(!self.units(vec!["active".into()], vec![unit.to_owned()]).await?.is_empty())
    }

    /// Starts or stops units, so many at a time, and awaits the ends of the jobs.
    ///
    /// # Errors
    /// The first unit whose job did not end well, after all that were queued have ended.
    pub async fn run(&self, verb: Verb, units: &[String]) -> Result<(), BusError> {
        let hear = async |s: &Proxy| {
            // Once a connection: a second time is refused, and does not matter.
            let _ = s.subscribe().await;
            s.receive_job_removed().await
        };
        let mut ended = self.systemd.ask(doing(verb), hear).await?;
        let mut todo = units.iter();
        let mut asked = FuturesUnordered::new();
        let mut jobs = Jobs::new(verb);
        let began = Instant::now();
        loop {
            // Stops take no time of each other's; but systemd's answers are read in time.
            let busy = asked.len() + if verb == Verb::Start { jobs.under_way.len() } else { 0 };
            let free = if jobs.faults.is_empty() { AT_ONCE - busy } else { 0 };
            asked.extend(todo.by_ref().take(free).map(|unit| self.queue(verb, unit)));
            if asked.is_empty() && jobs.under_way.is_empty() {
                let Some(fault) = jobs.faults.into_iter().next() else { return Ok(()) };
                return Err(with_last_words(fault, began.elapsed()).await);
            }
            tokio::select! {
                Some(job) = asked.next() => match job {
                    Ok(job) => job.into_iter().for_each(|(job, unit)| jobs.queued(job, unit)),
                    Err(fault) => jobs.faults.push(fault),
                },
                signal = ended.next() => {
                    let signal = signal.ok_or(BusError::Nonsense(SYSTEMD))?;
                    if let Ok(end) = signal.args() {
                        jobs.ended(end.job.clone(), end.unit.clone(), end.result.clone());
                    }
                }
                () = tokio::time::sleep(look()) => self.still_comes(&mut jobs).await?,
            }
        }
    }

    /// Nothing has been heard for a while: does systemd still answer, and may the jobs still end?
    async fn still_comes(&self, jobs: &mut Jobs) -> Result<(), BusError> {
        self.patience.ping(SYSTEMD).await?;
        let Some((job, unit)) = jobs.under_way.iter().next() else { return Ok(()) };
        let allowed = match jobs.allowed {
            Some(allowed) => allowed,
            None => *jobs.allowed.insert(self.allowed(jobs.verb, unit).await),
        };
        match allowed.filter(|allowed| jobs.since.elapsed() > *allowed) {
            None => Ok(()),
            Some(after) => {
                let error = BusError::Endless { unit: unit.clone(), verb: jobs.verb.word(), after };
                // It must not come about later, when nobody expects it.
                let id = job.as_str().rsplit('/').next().and_then(|id| id.parse().ok());
                if let Some(id) = id {
                    let _ = self.systemd.ask("cancelling a job", async |s| s.cancel_job(id).await).await;
                }
                Err(error)
            }
        }
    }

    /// How long systemd itself gives a job of such a unit, and some more; none: for ever.
    /// A stop has up to four times of its own: to ask and to kill, twice
    /// (systemd.service(5), TimeoutStopSec=).
    async fn allowed(&self, verb: Verb, unit: &str) -> Option<Duration> {
        let ask = async |s: &Proxy| {
            let path = s.get_unit(unit.to_owned()).await?;
            let service = ServiceProxy::builder(self.patience.connection()).path(path);
            let service = service.cache_properties(CacheProperties::No).build().await?;
            Ok((service.timeout_start_u_sec().await?, service.timeout_stop_u_sec().await?))
        };
        let times = self.systemd.ask("asking for a unit's timeouts", ask).await;
        let (start, stop) = times.unwrap_or((USUAL_TIME, USUAL_TIME));
        let whole = match verb {
            Verb::Start => start,
            Verb::Stop => stop.saturating_mul(4),
            Verb::TryRestart => start.saturating_add(stop.saturating_mul(4)),
        };
        // What is unlimited is all ones.
        (whole != u64::MAX).then(|| Duration::from_micros(whole) + question())
    }

    /// Queues the job; none where there is nothing to do: to stop what was never loaded.
    async fn queue(&self, verb: Verb, unit: &str) -> Result<Option<(OwnedObjectPath, String)>, BusError> {
        let (name, mode) = (unit.to_owned(), "replace".to_owned());
        let queue = async |s: &Proxy| match verb {
            Verb::Start => s.start_unit(name, mode).await,
            Verb::Stop => s.stop_unit(name, mode).await,
            Verb::TryRestart => s.try_restart_unit(name, mode).await,
        };
        match self.systemd.ask(doing(verb), queue).await {
            Err(fault) if verb != Verb::Start && fault.is_missing() => Ok(None),
            job => job.map(|job| Some((job, unit.to_owned()))),
        }
    }

    /// Units in these states whose names match.
    async fn units(&self, states: Vec<String>, patterns: Vec<String>) -> Result<Vec<Listed>, BusError> {
        let ask = async |s: &Proxy| s.list_units_by_patterns(states, patterns).await;
        self.systemd.ask("listing units", ask).await
    }

    /// The processes of a unit; none where it does not run.
    pub async fn processes(&self, unit: &str) -> Vec<u32> {
        let asked = async |s: &Proxy| s.get_unit_processes(unit.to_owned()).await;
        let listed = self.systemd.ask("asking for a unit's processes", asked).await.unwrap_or_default();
        listed.into_iter().map(|(_, process, _)| process).collect()
    }

    /// Lets all processes of a unit stand still, or go on (systemctl(1), freeze).
    ///
    /// # Errors
    /// When systemd or the kernel cannot.
    pub async fn freeze(&self, unit: &str, on: bool) -> Result<(), BusError> {
        let (doing, unit) =
            (format!("cannot {} {unit}", if on { "freeze" } else { "thaw" }), unit.to_owned());
        let ask = async |s: &Proxy| match on {
            true => s.freeze_unit(unit).await,
            false => s.thaw_unit(unit).await,
        };
        self.systemd.wait_for(doing, ask).await
    }

    /// Forgets that units failed, so that `list` does not call a removed machine failed.
    pub async fn reset_failed(&self, units: &[String]) {
        for unit in units {
            // It may well not have failed.
            let reset = async |s: &Proxy| s.reset_failed_unit(unit.clone()).await;
            let _ = self.systemd.ask("forgetting that a unit failed", reset).await;
        }
    }

    /// The ActiveState of every nspawn unit that systemd has loaded.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn nspawn_units(&self) -> Result<BTreeMap<MachineName, String>, BusError> {
        let units = self.units(Vec::new(), vec!["systemd-nspawn@*.service".to_owned()]).await?;
        Ok(units.into_iter().filter_map(|u| Some((MachineName::from_unit(&u.0)?, u.3))).collect())
    }
}
