//! systemd's manager: units, and the jobs that start and stop them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use zbus_systemd::systemd1::UnitProxy;
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, SYSTEMD, sort};
use crate::name::MachineName;
use crate::observed::Service;
use crate::sys::together;

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

/// How many machines begin to start before the first has: all of a thousand at once would
/// take each other the time, and systemd gives a start up after 90 s (systemd-system.conf(5)).
const AT_ONCE: usize = 64;

/// The jobs of one command.
struct Jobs {
    verb: Verb,
    under_way: HashSet<OwnedObjectPath>,
    /// Jobs that ended, of others too: one may be over before we hear which it is.
    over: HashMap<OwnedObjectPath, (String, String)>,
    faults: Vec<BusError>,
}

impl Jobs {
    fn queued(&mut self, job: OwnedObjectPath) {
        match self.over.remove(&job) {
            Some((unit, result)) => self.conclude(unit, result),
            None => _ = self.under_way.insert(job),
        }
    }

    fn ended(&mut self, job: OwnedObjectPath, unit: String, result: String) {
        if self.under_way.remove(&job) {
            self.conclude(unit, result);
        } else {
            self.over.insert(job, (unit, result));
        }
    }

    fn conclude(&mut self, unit: String, result: String) {
        if result != "done" {
            self.faults.push(BusError::Job { unit, verb: self.verb.word(), result });
        }
    }
}

fn doing(verb: Verb) -> impl FnOnce(zbus::Error) -> BusError {
    sort(SYSTEMD, format!("systemd does not {} a unit", verb.word()))
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
            self.systemd.reload().await.map_err(sort(SYSTEMD, "systemd does not reload"))?;
        }
        Ok(())
    }

    /// Whether systemd has another unit in mind than the disk has: it loads the unit, and
    /// compares (org.freedesktop.systemd1(5), NeedDaemonReload).
    async fn is_stale(&self, unit: &str) -> bool {
        let Ok(path) = self.systemd.load_unit(unit.to_owned()).await else { return true };
        let proxy = UnitProxy::builder(&self.connection).path(path);
        match proxy.cache_properties(CacheProperties::No).build().await {
            Ok(proxy) => proxy.need_daemon_reload().await.unwrap_or(true),
            Err(_) => true,
        }
    }

    /// The version of systemd: 257.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn systemd_version(&self) -> Result<u32, BusError> {
        let text = self.systemd.version().await.map_err(sort(SYSTEMD, "asking for its version"))?;
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| BusError::Nonsense(SYSTEMD))
    }

    /// Whether services run, and start with the host.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn services(&self, names: &[&str]) -> Result<BTreeMap<String, Service>, BusError> {
        let doing = || sort(SYSTEMD, "listing units");
        let units: Vec<String> = names.iter().map(|name| format!("{name}.service")).collect();
        let listed =
            self.systemd.list_units_by_patterns(vec!["active".into()], units).await.map_err(doing())?;
        let mut services = BTreeMap::new();
        for name in names {
            let unit = format!("{name}.service");
            let state = self.systemd.get_unit_file_state(unit.clone()).await.unwrap_or_default();
            let active = listed.iter().any(|listed| listed.0 == unit);
            let enabled = ["enabled", "static", "indirect", "alias", "generated"].contains(&state.as_str());
            let masked = state.starts_with("masked");
            services.insert((*name).to_owned(), Service { active, enabled, masked });
        }
        Ok(services)
    }

    /// Restarts systemd-resolved if it runs.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart_resolved(&self) -> Result<(), BusError> {
        self.run(Verb::TryRestart, &["systemd-resolved.service".to_owned()]).await
    }

    /// Whether systemd-resolved runs.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn resolved_runs(&self) -> Result<bool, BusError> {
        let pattern = vec!["systemd-resolved.service".to_owned()];
        let units = self.systemd.list_units_by_patterns(vec!["active".into()], pattern).await;
        Ok(!units.map_err(sort(SYSTEMD, "listing units"))?.is_empty())
    }

    /// Starts or stops units, so many at a time, and awaits the ends of the jobs.
    ///
    /// # Errors
    /// The first unit whose job did not end well, after all that were queued have ended.
    pub async fn run(&self, verb: Verb, units: &[String]) -> Result<(), BusError> {
        // Once a connection: a second time is refused, and does not matter.
        let _ = self.systemd.subscribe().await;
        let mut ended = self.systemd.receive_job_removed().await.map_err(doing(verb))?;
        let mut todo = units.iter();
        let mut asked = FuturesUnordered::new();
        let mut jobs = Jobs { verb, under_way: HashSet::new(), over: HashMap::new(), faults: Vec::new() };
        loop {
            // Stops take no time of each other's; but systemd's answers are read in time.
            let busy = asked.len() + if verb == Verb::Start { jobs.under_way.len() } else { 0 };
            let free = if jobs.faults.is_empty() { AT_ONCE - busy } else { 0 };
            asked.extend(todo.by_ref().take(free).map(|unit| self.queue(verb, unit)));
            if asked.is_empty() && jobs.under_way.is_empty() {
                return jobs.faults.into_iter().next().map_or(Ok(()), Err);
            }
            tokio::select! {
                Some(job) = asked.next() => match job {
                    Ok(job) => job.into_iter().for_each(|job| jobs.queued(job)),
                    Err(fault) => jobs.faults.push(fault),
                },
                signal = ended.next() => {
                    let signal = signal.ok_or(BusError::Nonsense(SYSTEMD))?;
                    if let Ok(end) = signal.args() {
                        jobs.ended(end.job.clone(), end.unit.clone(), end.result.clone());
                    }
                }
            }
        }
    }

    /// Queues the job; none where there is nothing to do: to stop what was never loaded.
    async fn queue(&self, verb: Verb, unit: &str) -> Result<Option<OwnedObjectPath>, BusError> {
        let (unit, mode) = (unit.to_owned(), "replace".to_owned());
        let job = match verb {
            Verb::Start => self.systemd.start_unit(unit, mode).await,
            Verb::Stop => self.systemd.stop_unit(unit, mode).await,
            Verb::TryRestart => self.systemd.try_restart_unit(unit, mode).await,
        };
        match job.map_err(doing(verb)) {
            Err(fault) if verb != Verb::Start && fault.is_missing() => Ok(None),
            job => job.map(Some),
        }
    }

    /// The processes of a unit; none where it does not run.
    pub async fn processes(&self, unit: &str) -> Vec<u32> {
        let listed = self.systemd.get_unit_processes(unit.to_owned()).await.unwrap_or_default();
        listed.into_iter().map(|(_, process, _)| process).collect()
    }

    /// Forgets that units failed, so that `list` does not call a removed machine failed.
    pub async fn reset_failed(&self, units: &[String]) {
        for unit in units {
            // It may well not have failed.
            let _ = self.systemd.reset_failed_unit(unit.clone()).await;
        }
    }

    /// The ActiveState of every nspawn unit that systemd has loaded.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn nspawn_units(&self) -> Result<BTreeMap<MachineName, String>, BusError> {
        let pattern = vec!["systemd-nspawn@*.service".to_owned()];
        let units = self.systemd.list_units_by_patterns(Vec::new(), pattern).await;
        let units = units.map_err(sort(SYSTEMD, "listing units"))?;
        Ok(units.into_iter().filter_map(|u| Some((MachineName::from_unit(&u.0)?, u.3))).collect())
    }
}
