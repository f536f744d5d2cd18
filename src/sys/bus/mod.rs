//! D-Bus: systemd, machined, networkd and importd, in the few verbs that we need
//! (org.freedesktop.systemd1(5), .machine1(5), .network1(5), .import1(5)).

/// A proxy that asks the service each time.
macro_rules! uncached {
    ($proxy:ty, $connection:expr, $service:expr) => {
        <$proxy>::builder($connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(sort($service, "connecting"))
    };
}

use std::collections::BTreeMap;

use crate::observed::Managed;

mod importd;
mod machined;
mod network_manager;
mod systemd;

pub use importd::{Hears, Transfer};
pub use machined::Image;
pub use systemd::Verb;
use zbus_systemd::zbus::{self, Connection, DBusError, proxy::CacheProperties};
use zbus_systemd::{machine1, network1, systemd1};

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
    #[error("the transfer of '{name}' failed{}{said}", if .said.is_empty() { "" } else { ": " })]
    Transfer { name: String, said: String, fetches: bool },
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
            // Of a plain tar, importd since systemd 258 takes no padding that comes late.
            BusError::Transfer { said, fetches: true, .. } if said.contains("Broken pipe") => {
                Some("download it with `curl -LO URL`, then `nsctl image import FILE`".into())
            }
            BusError::Transfer { fetches, .. } => {
                let curl = "; with systemd 258 or later, is libcurl there (on Debian: libcurl4t64)?";
                let curl = if *fetches { curl } else { "" };
                Some(format!("`journalctl -u systemd-importd -n 20` says why{curl}"))
            }
            BusError::Refused { .. } | BusError::Nonsense(_) => None,
        }
    }

    /// Whether something else is at work with it just now.
    pub fn is_busy(&self) -> bool {
        matches!(self, BusError::Refused { answer, .. } if answer.contains("EBUSY"))
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

/// The four services of the host.
#[derive(Debug, Clone)]
pub struct Bus {
    connection: Connection,
    systemd: systemd1::ManagerProxy<'static>,
    machined: machine1::ManagerProxy<'static>,
    networkd: network1::ManagerProxy<'static>,
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

    /// What networkd does with each link.
    ///
    /// # Errors
    /// When networkd is not there.
    pub async fn managed(&self) -> Result<BTreeMap<u32, Managed>, BusError> {
        let text = self.networkd.describe().await.map_err(sort(NETWORKD, "describing links"))?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| BusError::Nonsense(NETWORKD))?;
        let links = json["Interfaces"].as_array().into_iter().flatten().filter_map(|link| {
            let index = u32::try_from(link["Index"].as_u64()?).ok()?;
            let text = |key: &str| link[key].as_str().map(str::to_owned);
            let state = text("AdministrativeState").unwrap_or_default();
            Some((index, Managed { file: text("NetworkFile"), state }))
        });
        Ok(links.collect())
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
}
