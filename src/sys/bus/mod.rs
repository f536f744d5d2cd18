//! D-Bus: systemd, machined, networkd and importd, in the few verbs that we need
//! (org.freedesktop.systemd1(5), .machine1(5), .network1(5), .import1(5)).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::hint::Hint;
use crate::observed::{Link, Managed};

mod importd;
mod machined;
mod network_manager;
mod patience;
mod signals;
mod systemd;

pub use importd::{Hears, Transfer};
pub use machined::Image;
use patience::{Manager, Patience};
pub use signals::Signal;
pub use systemd::{Verb, last_words};
use zbus_systemd::zbus::{self, DBusError, fdo::PropertiesProxy};
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
    #[error("{unit} did not {verb}: its job ended as '{result}'{}{said}", if .said.is_empty() { "" } else { "; it said at last: " })]
    Job { unit: String, verb: &'static str, result: String, said: String },
    #[error("the transfer of '{name}' failed{}{said}", if .said.is_empty() { "" } else { ": " })]
    Transfer { name: String, said: String, fetches: bool },
    #[error("{0} answered with something that cannot be read")]
    Nonsense(&'static str),
    #[error("{service} hangs: it did not answer within {} s", .after.as_secs_f64())]
    Hangs { service: &'static str, after: Duration },
    #[error("{unit} did not {verb} within {} s: its job still waits", .after.as_secs())]
    Endless { unit: String, verb: &'static str, after: Duration },
    #[error("systemd-networkd has not yet decided what to do with {link}, {} s after it was asked", .after.as_secs())]
    Undecided { link: String, after: Duration },
    #[error("the transfer of '{name}' stands still: nothing has come of it for {} s", .after.as_secs())]
    Stalled { name: String, after: Duration },
}

impl Hint for BusError {
    fn hint(&self) -> Option<String> {
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
            BusError::Hangs { service, .. } => Some(wake(service)),
            BusError::Endless { .. } => Some("`systemctl list-jobs --after` tells what it waits for".into()),
            BusError::Stalled { .. } => {
                Some("`journalctl -u systemd-importd -n 20` says more; `systemctl restart systemd-importd` ends it".into())
            }
            BusError::Undecided { link, .. } => {
                Some(format!("`networkctl status {link}` tells how it is; it waits for udev, where that runs"))
            }
            BusError::Refused { .. } | BusError::Nonsense(_) => None,
        }
    }
}

impl BusError {
    /// Whether the answer is that it was not even begun, and not that nobody knows: where a guest's
    /// own systemd does not answer machined in time, it may yet do what it was asked.
    pub fn is_refusal(&self) -> bool {
        let unsure = ["Timeout", "ETIMEDOUT", "Disconnected", "ECONNRESET"];
        matches!(self, BusError::Refused { answer, .. } if !unsure.iter().any(|word| answer.contains(word)))
    }

    /// Whether something else is at work with it just now.
    pub fn is_busy(&self) -> bool {
        matches!(self, BusError::Refused { answer, .. } if answer.contains("EBUSY"))
    }

    /// Whether somebody hangs, so that others who wait for it may wait for ever.
    pub fn is_hang(&self) -> bool {
        matches!(self, BusError::Hangs { .. } | BusError::Stalled { .. })
    }

    /// Whether the service says that there is no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self, BusError::Refused { answer, .. }
            if answer.contains("NoSuchImage") || answer.contains("NoSuchUnit") || answer.contains("No image"))
    }
}

/// What becomes of a service that hangs.
fn wake(service: &str) -> String {
    match service {
        SYSTEMD => "`systemctl status init.scope` and `journalctl -b _PID=1 -n 50` tell what it does".into(),
        patience::DBUS => {
            "`systemctl status dbus` tells how it is; `systemctl kill --signal=CONT dbus` wakes one that \
             was stopped, and where that does not help the host must be rebooted"
                .into()
        }
        _ => format!(
            "`systemctl status {service}` tells how it is, `systemctl restart {service}` fixes it; machines run on"
        ),
    }
}

const SYSTEMD: &str = "systemd";
const MACHINED: &str = "systemd-machined";
const NETWORKD: &str = "systemd-networkd";
const IMPORTD: &str = "systemd-importd";
const RESOLVED: &str = "systemd-resolved";

/// In the names of errors that say that a service is not there.
const MISSING: [&str; 7] =
    ["ServiceUnknown", "NameHasNoOwner", "NoReply", "NoServer", "Spawn.", "ServiceNotFound", "TimedOut"];

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
        let short = name.as_str();
        // A service that is masked, absent or broken cannot be activated: systemd itself answers for its unit.
        let dead = short.ends_with("UnitMasked") || text.as_deref().is_some_and(|t| t.contains("dbus-org."));
        if dead || MISSING.iter().any(|word| short.contains(word)) {
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
    patience: Patience,
    systemd: Manager<systemd1::ManagerProxy<'static>>,
    machined: Manager<machine1::ManagerProxy<'static>>,
    networkd: Manager<network1::ManagerProxy<'static>>,
}

impl Bus {
    /// Connects to the system bus.
    ///
    /// # Errors
    /// When there is no bus, or it hangs.
    pub async fn connect() -> Result<Bus, BusError> {
        let patience = Patience::connect().await?;
        Ok(Bus {
            systemd: patience.manager(SYSTEMD).await?,
            machined: patience.manager(MACHINED).await?,
            networkd: patience.manager(NETWORKD).await?,
            patience,
        })
    }

    /// The services that run and give no sign of life. None is started for this.
    pub async fn hanging(&self) -> Vec<&'static str> {
        let all = [SYSTEMD, NETWORKD, MACHINED, RESOLVED, IMPORTD];
        let asked = all.map(async |service| self.patience.is_hanging(service).await.then_some(service));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Whether networkd answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn networkd_answers(&self) -> Result<(), BusError> {
        self.networkd.ask("asking for its state", async |n| n.operational_state().await).await.map(drop)
    }

    /// Makes networkd read its files again: it answers when every link is as they say.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn reload_networkd(&self) -> Result<(), BusError> {
        self.networkd.wait_for("networkd does not reload", async |n| n.reload().await).await
    }

    /// Makes it set up a link anew, by its index.
    ///
    /// # Errors
    /// When networkd does not do so, or does not run it.
    pub async fn reconfigure(&self, index: u32) -> Result<(), BusError> {
        let index = i32::try_from(index).unwrap_or_default();
        let what = "networkd does not set up a link anew";
        self.networkd.wait_for(what, async |n| n.reconfigure_link(index).await).await
    }

    /// What networkd does with each link.
    ///
    /// # Errors
    /// When networkd is not there.
    pub async fn managed(&self) -> Result<BTreeMap<u32, Managed>, BusError> {
        let text = self.networkd.ask("describing links", async |n| n.describe().await).await?;
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

    /// The .network file that networkd uses for a link; none if it leaves the link alone. Of a
    /// link that it has not looked at yet (it has just started, or udev has not told it of the
    /// link), nobody knows: its decision is waited for.
    ///
    /// # Errors
    /// When networkd is not there, or does not decide.
    pub async fn network_file(&self, link: &Link) -> Result<Option<String>, BusError> {
        let index = i32::try_from(link.index).map_err(|_| BusError::Nonsense(NETWORKD))?;
        let changes = async |n: &network1::ManagerProxy<'static>| {
            let (_, path) = n.get_link_by_index(index).await?;
            let properties =
                PropertiesProxy::new(n.inner().connection(), n.inner().destination(), path).await?;
            properties.receive_properties_changed().await
        };
        let mut changes = self.networkd.ask("asking for a link", changes).await?;
        let decided = async {
            loop {
                let managed = self.managed().await?.remove(&link.index);
                match managed {
                    Some(managed) if managed.is_undecided() => changes.next().await,
                    managed => return Ok(managed.and_then(|managed| managed.file)),
                };
            }
        };
        let after = patience::question();
        let undecided = |_| BusError::Undecided { link: link.name.clone(), after };
        tokio::time::timeout(after, decided).await.map_err(undecided)?
    }
}
