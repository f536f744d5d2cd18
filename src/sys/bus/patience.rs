//! Every call to a service goes through here: one that hangs is named, and nobody
//! waits for it for ever. zbus itself limits no call that a proxy makes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use zbus_systemd::zbus::proxy::{Builder, CacheProperties, Defaults, MethodFlags};
use zbus_systemd::zbus::{self, Connection, Proxy};

use super::{BusError, IMPORTD, MACHINED, NETWORKD, RESOLVED, SYSTEMD, sort};
use crate::sys::fault;

/// The bus itself: dbus-daemon(1) or dbus-broker(1).
pub const DBUS: &str = "dbus";

/// As long as systemd's own tools wait (sd_bus_set_method_call_timeout(3)).
const QUESTION: Duration = Duration::from_secs(25);
/// For a service that has let the same command down: what was done is undone, too.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a service that works for long is asked whether it still answers.
const LOOK: Duration = Duration::from_secs(5);
/// How long doctor waits for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// How long a service may take to answer.
pub fn question() -> Duration {
    fault::bus_limit().unwrap_or(QUESTION)
}

/// How often what takes long is looked at.
pub fn look() -> Duration {
    LOOK.min(question())
}

/// Where a service is on the bus.
fn address(service: &str) -> &'static str {
    match service {
        SYSTEMD => "org.freedesktop.systemd1",
        MACHINED => "org.freedesktop.machine1",
        NETWORKD => "org.freedesktop.network1",
        IMPORTD => "org.freedesktop.import1",
        RESOLVED => "org.freedesktop.resolve1",
        _ => "org.freedesktop.DBus",
    }
}

/// A connection, and which services have been waited for in vain.
#[derive(Debug, Clone)]
pub struct Patience {
    connection: Connection,
    deaf: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Patience {
    /// Connects to the system bus. One that hangs takes the connection, and says nothing.
    pub async fn connect() -> Result<Patience, BusError> {
        match timeout(question(), Connection::system()).await {
            Ok(connected) => {
                Ok(Patience { connection: connected.map_err(BusError::NoBus)?, deaf: Arc::default() })
            }
            Err(_) => Err(BusError::Hangs { service: DBUS, after: question() }),
        }
    }

    /// For what is heard; whoever is to answer is asked by [`Patience::ask`].
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for the answer to a question.
    pub async fn ask<T>(
        &self,
        service: &'static str,
        doing: impl Into<String>,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, BusError> {
        self.ask_within(question(), service, doing, call).await
    }

    /// Waits for an answer that may take another time than most.
    pub async fn ask_within<T>(
        &self,
        limit: Duration,
        service: &'static str,
        doing: impl Into<String>,
        call: impl Future<Output = zbus::Result<T>>,
    ) -> Result<T, BusError> {
        let limit = if self.is_deaf(service) { limit.min(AGAIN) } else { limit };
        let (doing, begun) = (doing.into(), Instant::now());
        let answer = timeout(limit, call).await;
        tracing::debug!(service, call = %doing, microseconds = begun.elapsed().as_micros(), "D-Bus");
        match answer {
            Ok(answer) => {
                self.note(service, false);
                answer.map_err(sort(service, doing))
            }
            Err(_) => Err(self.hangs(service, limit).await),
        }
    }

    /// The manager of a service.
    pub async fn manager<P>(&self, service: &'static str) -> Result<Manager<P>, BusError>
    where
        P: From<Proxy<'static>> + Defaults,
    {
        let made = Builder::<P>::new(&self.connection).cache_properties(CacheProperties::No).build();
        let proxy = self.ask(service, "connecting", made).await?;
        Ok(Manager { proxy, service, patience: self.clone() })
    }

    /// Ends when the service answers no more.
    async fn until_deaf(&self, service: &'static str) -> BusError {
        loop {
            tokio::time::sleep(look()).await;
            if let Err(error @ BusError::Hangs { .. }) = self.ping(service).await {
                return error;
            }
        }
    }

    /// Asks a service whether it is there (org.freedesktop.DBus.Peer).
    pub async fn ping(&self, service: &'static str) -> Result<(), BusError> {
        self.ask(service, "asking for a sign of life", self.peer(service)).await
    }

    /// Whether a service that runs gives no sign of life; it is not started for this.
    pub async fn is_hanging(&self, service: &'static str) -> bool {
        timeout(SIGN_OF_LIFE.min(question()), self.peer(service)).await.is_err()
    }

    async fn peer(&self, service: &'static str) -> zbus::Result<()> {
        let peer = Proxy::new(&self.connection, address(service), "/", "org.freedesktop.DBus.Peer").await?;
        peer.call_with_flags::<_, _, ()>("Ping", MethodFlags::NO_AUTO_START, &()).await.map(drop)
    }

    /// Who it is that hangs: the service, or the bus before it.
    async fn hangs(&self, service: &'static str, after: Duration) -> BusError {
        let bus = service != DBUS && self.is_hanging(DBUS).await;
        let service = if bus { DBUS } else { service };
        self.note(service, true);
        BusError::Hangs { service, after }
    }

    fn is_deaf(&self, service: &'static str) -> bool {
        let deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        deaf.contains(service) || deaf.contains(DBUS)
    }

    fn note(&self, service: &'static str, is_deaf: bool) {
        let mut deaf = self.deaf.lock().unwrap_or_else(PoisonError::into_inner);
        if is_deaf {
            deaf.insert(service);
        } else if !deaf.is_empty() {
            deaf.remove(service);
            deaf.remove(DBUS);
        }
    }
}

/// A service's manager, which is asked each time, and with patience alone.
#[derive(Debug, Clone)]
pub struct Manager<P> {
    proxy: P,
    service: &'static str,
    patience: Patience,
}

impl<P> Manager<P> {
    /// A question.
    pub async fn ask<T>(
        &self,
        doing: impl Into<String>,
        call: impl AsyncFnOnce(&P) -> zbus::Result<T>,
    ) -> Result<T, BusError> {
        self.patience.ask(self.service, doing, call(&self.proxy)).await
    }

    /// A question whose answer may take another time than most.
    pub async fn ask_within<T>(
        &self,
        limit: Duration,
        doing: impl Into<String>,
        call: impl AsyncFnOnce(&P) -> zbus::Result<T>,
    ) -> Result<T, BusError> {
        self.patience.ask_within(limit, self.service, doing, call(&self.proxy)).await
    }

    /// Work that takes as long as it takes, while its service still answers whoever asks.
    pub async fn wait_for<T>(
        &self,
        doing: impl Into<String>,
        call: impl AsyncFnOnce(&P) -> zbus::Result<T>,
    ) -> Result<T, BusError> {
        tokio::select! {
            answer = call(&self.proxy) => answer.map_err(sort(self.service, doing)),
            error = self.patience.until_deaf(self.service) => Err(error),
        }
    }
}
