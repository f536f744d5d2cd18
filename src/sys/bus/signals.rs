//! What the services tell of by themselves, to one who follows. Only what comes from them is heard: anybody may send
//! a signal to anybody (dbus-daemon(1)), and a proxy tells who sent it.

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, select_all};
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};
use zbus_systemd::zbus::fdo::{PropertiesChanged, PropertiesProxy};
use zbus_systemd::zbus::proxy::CacheProperties;
use zbus_systemd::zbus::{self, OwnedObjectPath};
use zbus_systemd::{machine1, network1};

use super::{Bus, BusError};

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// machined knows a machine, or no longer.
    MachineNew(String),
    MachineRemoved(String),
    /// systemd begins a job of a unit's, or it is over.
    JobNew {
        unit: String,
    },
    JobRemoved {
        unit: String,
        result: String,
    },
}

impl Bus {
    /// What machined and systemd tell of machines and jobs.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn signals(&self) -> Result<BoxStream<'static, Signal>, BusError> {
        let machines = async |m: &machine1::ManagerProxy<'static>| {
            Ok((m.receive_machine_new().await?, m.receive_machine_removed().await?))
        };
        let (new, removed) = self.machined.ask("listening to it", machines).await?;
        let new =
            new.filter_map(async |signal| Some(Signal::MachineNew(signal.args().ok()?.machine.clone())));
        let removed = removed
            .filter_map(async |signal| Some(Signal::MachineRemoved(signal.args().ok()?.machine.clone())));
        let jobs = async |s: &ManagerProxy<'static>| {
            // Once a connection: a second time is refused, and does not matter.
            let _ = s.subscribe().await;
            Ok((s.receive_job_new().await?, s.receive_job_removed().await?))
        };
        let (begun, over) = self.systemd.ask("listening to it", jobs).await?;
        let begun =
            begun.filter_map(async |signal| Some(Signal::JobNew { unit: signal.args().ok()?.unit.clone() }));
        let over = over.filter_map(async |signal| {
            let end = signal.args().ok()?;
            Some(Signal::JobRemoved { unit: end.unit.clone(), result: end.result.clone() })
        });
        Ok(select_all([new.boxed(), removed.boxed(), begun.boxed(), over.boxed()]).boxed())
    }

    /// How a unit ends each time that it fails (systemd.exec(5), `$SERVICE_RESULT`). Of one that has been started again
    /// by the time we ask nobody knows.
    ///
    /// # Errors
    /// When systemd does not answer, or has no such unit.
    pub async fn failures(&self, unit: &str) -> Result<BoxStream<'static, String>, BusError> {
        let listen = async |s: &ManagerProxy<'static>| {
            let path = s.get_unit(unit.to_owned()).await?;
            let connection = self.patience.connection();
            let service = ServiceProxy::builder(connection).path(path.clone());
            let service = service.cache_properties(CacheProperties::No).build().await?;
            let changes = changes(s.inner(), path.clone()).await?;
            let unit = UnitProxy::builder(connection).path(path);
            let unit = unit.cache_properties(CacheProperties::No).build().await?;
            Ok((service, changes, unit.active_state().await?))
        };
        let (service, changes, state) = self.systemd.ask("listening to a unit", listen).await?;
        // It is told again of one that has failed, too, when something else of it changes.
        let failed = changes.scan(state, |before, change| {
            let after = text(&change, "org.freedesktop.systemd1.Unit", "ActiveState");
            let has_failed = after.as_deref() == Some("failed") && *before != "failed";
            *before = after.unwrap_or(std::mem::take(before));
            std::future::ready(Some(has_failed))
        });
        let results = failed.filter_map(move |has_failed| {
            let service = service.clone();
            async move { if has_failed { service.result().await.ok() } else { None } }
        });
        Ok(results.filter(|result| std::future::ready(result != "success")).boxed())
    }

    /// A link's operational state each time that it changes (networkctl(1)).
    ///
    /// # Errors
    /// When networkd does not answer, or has no such link.
    pub async fn link_states(&self, index: u32) -> Result<BoxStream<'static, String>, BusError> {
        let index = i32::try_from(index).unwrap_or_default();
        let listen = async |n: &network1::ManagerProxy<'static>| {
            let (_, path) = n.get_link_by_index(index).await?;
            changes(n.inner(), path).await
        };
        let changes = self.networkd.ask("listening to a link", listen).await?;
        let states = changes
            .filter_map(async |change| text(&change, "org.freedesktop.network1.Link", "OperationalState"));
        Ok(states.boxed())
    }
}

/// The changes of properties of one of a service's objects.
async fn changes(
    manager: &zbus::Proxy<'static>,
    path: OwnedObjectPath,
) -> zbus::Result<impl futures_util::Stream<Item = PropertiesChanged> + Send + use<>> {
    let destination = manager.destination().to_owned();
    let properties = PropertiesProxy::new(manager.connection(), destination, path).await?;
    properties.receive_properties_changed().await
}

/// A text of an interface's that changed.
fn text(change: &PropertiesChanged, interface: &str, property: &str) -> Option<String> {
    let args = change.args().ok()?;
    let value = args.changed_properties.get(property).filter(|_| args.interface_name == interface)?;
    value.downcast_ref::<&str>().ok().map(str::to_owned)
}
