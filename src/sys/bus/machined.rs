//! systemd-machined: running machines and their trees.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use zbus_systemd::machine1;
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, MACHINED, sort};
use crate::name::MachineName;
use crate::observed::Running;

impl Bus {
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
}
