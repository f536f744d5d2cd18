//! NetworkManager, where it runs beside networkd (org.freedesktop.NetworkManager).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use zbus_systemd::zbus::{self, OwnedObjectPath, Proxy};

use super::Bus;

const NAME: &str = "org.freedesktop.NetworkManager";
/// NM_ACTIVATION_STATE_FLAG_EXTERNAL: somebody else configured it.
const EXTERNAL: u32 = 0x80;
/// How long it may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

impl Bus {
    /// The interfaces that NetworkManager runs; none where it does not run itself. It is
    /// not started for this.
    pub async fn network_managers_links(&self) -> BTreeSet<String> {
        // One that hangs says nothing of its links; doctor does not wait long for that.
        let asked = tokio::time::timeout(LIMIT, self.ask_network_manager()).await;
        asked.unwrap_or(Ok(BTreeSet::new())).unwrap_or_default()
    }

    async fn ask_network_manager(&self) -> zbus::Result<BTreeSet<String>> {
        let dbus = zbus::fdo::DBusProxy::new(self.patience.connection()).await?;
        if !dbus.name_has_owner(NAME.try_into()?).await? {
            return Ok(BTreeSet::new());
        }
        let manager =
            Proxy::new(self.patience.connection(), NAME, "/org/freedesktop/NetworkManager", NAME).await?;
        let devices: Vec<OwnedObjectPath> = manager.call("GetDevices", &()).await?;
        let managed = join_all(devices.into_iter().map(|device| self.managed_by_it(device))).await;
        Ok(managed.into_iter().flatten().flatten().collect())
    }

    /// The name of a device that it has configured, and not only found so.
    async fn managed_by_it(&self, device: OwnedObjectPath) -> zbus::Result<Option<String>> {
        let device =
            Proxy::new(self.patience.connection(), NAME, device, "org.freedesktop.NetworkManager.Device")
                .await?;
        let active: OwnedObjectPath = device.get_property("ActiveConnection").await?;
        if active.as_str() == "/" {
            return Ok(None);
        }
        let interface = "org.freedesktop.NetworkManager.Connection.Active";
        let active = Proxy::new(self.patience.connection(), NAME, active, interface).await?;
        let flags: u32 = active.get_property("StateFlags").await?;
        let name = device.get_property("Interface").await?;
        Ok((flags & EXTERNAL == 0).then_some(name))
    }
}
