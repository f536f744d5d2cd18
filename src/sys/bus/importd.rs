//! systemd-importd: trees from archives.

use std::fs::File;

use futures_util::StreamExt;
use zbus_systemd::import1;
use zbus_systemd::zbus::{OwnedFd, proxy::CacheProperties};

use super::{Bus, BusError, IMPORTD, sort};
use crate::name::MachineName;

impl Bus {
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
