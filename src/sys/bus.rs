//! D-Bus: systemd, machined, networkd and importd, in the few verbs that we need
//! (org.freedesktop.systemd1(5), .machine1(5), .network1(5), .import1(5)).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;

use futures_util::StreamExt;
use futures_util::future::join_all;
use zbus_systemd::zbus::{self, Connection, DBusError, OwnedFd, OwnedObjectPath, proxy::CacheProperties};
use zbus_systemd::{import1, machine1, network1, systemd1};

use crate::name::MachineName;
use crate::observed::Running;

/// What a service answered, or that it did not.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("the system bus cannot be reached")]
    NoBus(#[source] zbus::Error),
    #[error("{service} cannot be reached over D-Bus")]
    NoService { service: &'static str, source: zbus::Error },
    #[error("{doing}: {answer}")]
    Refused { doing: String, answer: String },
    #[error("{unit} did not {verb}: its job ended as '{result}'")]
    Job { unit: String, verb: &'static str, result: String },
    #[error("importing '{0}' failed")]
    Import(String),
    #[error("{0} answered with something that cannot be read")]
    Nonsense(&'static str),
}

impl BusError {
    pub fn hint(&self) -> Option<String> {
        match self {
            BusError::NoBus(_) => Some("is dbus running, and are you root? `systemctl status dbus`".into()),
            BusError::NoService { service, .. } => Some(format!(
                "`systemctl enable --now {service}`; on Debian it comes with the package {}",
                if *service == "systemd-networkd" { "systemd" } else { "systemd-container" }
            )),
            BusError::Job { unit, .. } => Some(format!("`journalctl -u {unit} -n 50` says why")),
            BusError::Import(_) => Some("`journalctl -u systemd-importd -n 20` says why".into()),
            BusError::Refused { .. } | BusError::Nonsense(_) => None,
        }
    }

    /// Whether the service says that there is no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self, BusError::Refused { answer, .. }
            if answer.contains("NoSuchImage") || answer.contains("NoSuchUnit") || answer.contains("No image"))
    }
}

const SYSTEMD: &str = "systemd";
const MACHINED: &str = "systemd-machined";
const NETWORKD: &str = "systemd-networkd";
const IMPORTD: &str = "systemd-importd";

/// Sorts an error of a call into "not there" and "said no".
fn sort(service: &'static str, doing: impl Into<String>) -> impl FnOnce(zbus::Error) -> BusError {
    let doing = doing.into();
    move |source| {
        let (name, text) = match &source {
            zbus::Error::MethodError(name, text, _) => (name.to_string(), text.clone()),
            // What the bus itself answers.
            zbus::Error::FDO(error) => (error.name().to_string(), error.description().map(str::to_owned)),
            _ => return BusError::NoService { service, source },
        };
        let missing = [
            "ServiceUnknown",
            "NameHasNoOwner",
            "NoReply",
            "NoServer",
            "Spawn.",
            "ServiceNotFound",
            "TimedOut",
        ];
        let short = name.as_str();
        // A service that is masked, absent or broken cannot be activated: systemd itself answers for its unit.
        let dead = short.ends_with("UnitMasked") || text.as_deref().is_some_and(|t| t.contains("dbus-org."));
        if dead || missing.iter().any(|word| short.contains(word)) {
            return BusError::NoService { service, source };
        }
        let answer = text.clone().unwrap_or_else(|| short.to_owned());
        let tag = short.rsplit('.').next().unwrap_or(short);
        let answer = if answer.contains(tag) { answer } else { format!("{answer} ({tag})") };
        BusError::Refused { doing, answer }
    }
}

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

/// The four services of the host.
#[derive(Debug, Clone)]
pub struct Bus {
    connection: Connection,
    systemd: systemd1::ManagerProxy<'static>,
    machined: machine1::ManagerProxy<'static>,
    networkd: network1::ManagerProxy<'static>,
}

macro_rules! uncached {
    ($proxy:ty, $connection:expr, $service:expr) => {
        <$proxy>::builder($connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(sort($service, "connecting"))
    };
}

impl Bus {
    /// Connects to the system bus.
    ///
    /// # Errors
    /// When there is no bus.
    pub async fn connect() -> Result<Bus, BusError> {
        let connection = Connection::system().await.map_err(BusError::NoBus)?;
        Ok(Bus {
            systemd: uncached!(systemd1::ManagerProxy, &connection, SYSTEMD)?,
            machined: uncached!(machine1::ManagerProxy, &connection, MACHINED)?,
            networkd: uncached!(network1::ManagerProxy, &connection, NETWORKD)?,
            connection,
        })
    }

    /// Whether networkd answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn networkd_answers(&self) -> Result<(), BusError> {
        self.networkd.operational_state().await.map(drop).map_err(sort(NETWORKD, "asking for its state"))
    }

    /// Makes networkd read its files again.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn reload_networkd(&self) -> Result<(), BusError> {
        self.networkd.reload().await.map_err(sort(NETWORKD, "networkd does not reload"))
    }

    /// The .network file that networkd uses for a link; none if it leaves the link alone.
    ///
    /// # Errors
    /// When networkd is not there.
    pub async fn network_file(&self, link: u32) -> Result<Option<String>, BusError> {
        let index = i32::try_from(link).map_err(|_| BusError::Nonsense(NETWORKD))?;
        let text = self.networkd.describe_link(index).await.map_err(sort(NETWORKD, "describing a link"))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| BusError::Nonsense(NETWORKD))?;
        Ok(json.get("NetworkFile").and_then(|file| file.as_str()).map(str::to_owned))
    }

    /// Makes systemd read its units again.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn reload_systemd(&self) -> Result<(), BusError> {
        self.systemd.reload().await.map_err(sort(SYSTEMD, "systemd does not reload"))
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

    /// Makes machines start with the host, and the target that pulls them in.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn enable(&self, machines: &[MachineName]) -> Result<(), BusError> {
        let mut units: Vec<String> = machines.iter().map(MachineName::unit).collect();
        units.push("machines.target".into());
        let doing = sort(SYSTEMD, "enabling machines");
        self.systemd.enable_unit_files(units, false, false).await.map(drop).map_err(doing)
    }

    /// Makes machines start with the host no longer.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn disable(&self, machines: &[MachineName]) -> Result<(), BusError> {
        let units = machines.iter().map(MachineName::unit).collect();
        let doing = sort(SYSTEMD, "disabling machines");
        self.systemd.disable_unit_files(units, false).await.map(drop).map_err(doing)
    }

    /// Starts or stops units: all jobs are queued at once, and their ends awaited.
    ///
    /// # Errors
    /// The first unit whose job did not end well, after all have ended.
    pub async fn run(&self, verb: Verb, units: &[String]) -> Result<(), BusError> {
        let doing = || sort(SYSTEMD, format!("systemd does not {} a unit", verb.word()));
        // Once a connection: a second time is refused, and does not matter.
        let _ = self.systemd.subscribe().await;
        let mut ended = self.systemd.receive_job_removed().await.map_err(doing())?;
        let queue = units.iter().map(async |unit| {
            let job = match verb {
                Verb::Start => self.systemd.start_unit(unit.clone(), "replace".into()).await,
                Verb::Stop => self.systemd.stop_unit(unit.clone(), "replace".into()).await,
                Verb::TryRestart => self.systemd.try_restart_unit(unit.clone(), "replace".into()).await,
            };
            job.map_err(doing())
        });
        let mut jobs = HashSet::new();
        let mut faults = Vec::new();
        for queued in join_all(queue).await {
            match queued {
                Ok(job) => _ = jobs.insert(job),
                // To stop what was never loaded is done already.
                Err(fault) if verb != Verb::Start && fault.is_missing() => {}
                Err(fault) => faults.push(fault),
            }
        }
        while !jobs.is_empty() {
            let Some(signal) = ended.next().await else { return Err(BusError::Nonsense(SYSTEMD)) };
            let Ok(args) = signal.args() else { continue };
            if jobs.remove(&args.job) && args.result != "done" {
                let (unit, result) = (args.unit.clone(), args.result.clone());
                faults.push(BusError::Job { unit, verb: verb.word(), result });
            }
        }
        faults.into_iter().next().map_or(Ok(()), Err)
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

    /// The containers that machined knows, by name.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn machines(&self) -> Result<BTreeMap<String, Running>, BusError> {
        let listed = self.machined.list_machines().await.map_err(sort(MACHINED, "listing machines"))?;
        let containers =
            listed.into_iter().filter(|(name, class, ..)| class == "container" && name != ".host");
        let asked = containers.map(async |(name, _, _, path)| {
            // A machine may end while we ask; then it is none.
            Some((name, self.machine(path).await.ok()?))
        });
        Ok(join_all(asked).await.into_iter().flatten().collect())
    }

    async fn machine(&self, path: OwnedObjectPath) -> zbus::Result<Running> {
        let proxy = machine1::MachineProxy::builder(&self.connection)
            .path(path)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let (leader, uid_shift) = tokio::join!(proxy.leader(), proxy.get_uid_shift());
        Ok(Running { leader: leader?, uid_shift: uid_shift.ok() })
    }

    /// Sends a signal to the PID 1 of machines. When that is killed, nspawn cleans
    /// up behind it, which it cannot when it is killed itself.
    ///
    /// # Errors
    /// When machined does not answer; that a machine does not run is no error.
    pub async fn signal(&self, machines: &[MachineName], signal: i32) -> Result<(), BusError> {
        for name in machines {
            let sent = self.machined.kill_machine(name.to_string(), "leader".into(), signal).await;
            match sent.map_err(sort(MACHINED, format!("cannot send a signal to '{name}'"))) {
                Ok(()) | Err(BusError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The process that is PID 1 of a machine, if it runs.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn leader(&self, name: &MachineName) -> Result<Option<u32>, BusError> {
        match self.machined.get_machine(name.to_string()).await {
            Ok(path) => Ok(self.machine(path).await.ok().map(|running| running.leader)),
            Err(error) => match sort(MACHINED, "asking for a machine")(error) {
                BusError::Refused { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The names of machined's images.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn images(&self) -> Result<BTreeSet<String>, BusError> {
        let images = self.machined.list_images().await.map_err(sort(MACHINED, "listing images"))?;
        Ok(images.into_iter().map(|image| image.0).filter(|name| name != ".host").collect())
    }

    /// Copies an image, sharing its blocks where the file system can.
    ///
    /// # Errors
    /// When machined cannot.
    pub async fn clone_image(&self, from: &str, to: &MachineName) -> Result<(), BusError> {
        let doing = sort(MACHINED, format!("cannot clone the image '{from}' as '{to}'"));
        self.machined.clone_image(from.to_owned(), to.to_string(), false).await.map_err(doing)
    }

    /// Deletes an image with everything in it.
    ///
    /// # Errors
    /// When machined cannot; that it is not there is no error.
    pub async fn remove_image(&self, name: &str) -> Result<(), BusError> {
        let removed = self.machined.remove_image(name.to_owned()).await;
        match removed.map_err(sort(MACHINED, format!("cannot remove the image '{name}'"))) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends an import that is under way, and waits for its end.
    ///
    /// # Errors
    /// When importd cannot be reached.
    pub async fn cancel_import(&self, name: &MachineName) -> Result<(), BusError> {
        let doing = || sort(IMPORTD, format!("cannot end the import of '{name}'"));
        let importd = uncached!(import1::ManagerProxy, &self.connection, IMPORTD)?;
        let mut ended = importd.receive_transfer_removed().await.map_err(doing())?;
        let transfers = importd.list_transfers().await.map_err(doing())?;
        let Some(transfer) = transfers.into_iter().find(|transfer| transfer.3 == name.as_str()) else {
            return Ok(());
        };
        importd.cancel_transfer(transfer.0).await.map_err(doing())?;
        while let Some(signal) = ended.next().await {
            if signal.args().is_ok_and(|args| args.transfer_id == transfer.0) {
                break;
            }
        }
        Ok(())
    }

    /// Makes a tree from an archive through systemd-importd.
    ///
    /// # Errors
    /// When importd cannot be reached, or does not like the archive.
    pub async fn import_tar(&self, file: File, name: &MachineName) -> Result<(), BusError> {
        let doing = || sort(IMPORTD, format!("cannot import '{name}'"));
        let importd = uncached!(import1::ManagerProxy, &self.connection, IMPORTD)?;
        let mut ended = importd.receive_transfer_removed().await.map_err(doing())?;
        let fd = OwnedFd::from(std::os::fd::OwnedFd::from(file));
        let (id, _) = importd.import_tar(fd, name.to_string(), false, false).await.map_err(doing())?;
        while let Some(signal) = ended.next().await {
            let Ok(args) = signal.args() else { continue };
            if args.transfer_id == id {
                let done = args.result == "done";
                return if done { Ok(()) } else { Err(BusError::Import(name.to_string())) };
            }
        }
        Err(BusError::Nonsense(IMPORTD))
    }
}
