//! systemd-importd: trees from archives, folders, the web, and archives from trees.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::StreamExt;
use zbus_systemd::import1::{ManagerProxy, TransferProxy};
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, IMPORTD, sort};

/// How often importd is asked how far it is: not every version says so by itself.
const LOOK: Duration = Duration::from_millis(250);

/// What importd is to do.
#[derive(Debug)]
pub enum Transfer {
    ImportTar(File),
    ImportRaw(File),
    ImportFolder(File),
    PullTar {
        url: String,
        verify: String,
    },
    PullRaw {
        url: String,
        verify: String,
    },
    PullOci {
        reference: String,
    },
    /// Into a file, packed as its name says: "uncompressed", "xz", "gzip", "bzip2", "zstd".
    ExportTar {
        file: File,
        format: String,
    },
}

/// Hears how far a transfer is, from 0 to 1.
pub type Hears<'a> = &'a dyn Fn(f64);

fn fd(file: File) -> zbus::OwnedFd {
    zbus::OwnedFd::from(OwnedFd::from(file))
}

impl Bus {
    async fn importd(&self) -> Result<ManagerProxy<'static>, BusError> {
        uncached!(ManagerProxy, &self.connection, IMPORTD)
    }

    /// Does a transfer of the image of this name, whole or not at all: importd
    /// works beside its place, and puts it there when it is done.
    ///
    /// # Errors
    /// When importd cannot be reached, or says no.
    pub async fn transfer(&self, what: Transfer, name: &str, hears: Hears<'_>) -> Result<(), BusError> {
        let doing = || sort(IMPORTD, format!("cannot transfer '{name}'"));
        let importd = self.importd().await?;
        let mut ended = importd.receive_transfer_removed().await.map_err(doing())?;
        let local = name.to_owned();
        let fetches =
            matches!(what, Transfer::PullTar { .. } | Transfer::PullRaw { .. } | Transfer::PullOci { .. });
        let begun = match what {
            Transfer::ImportTar(file) => importd.import_tar(fd(file), local, false, false).await,
            Transfer::ImportRaw(file) => importd.import_raw(fd(file), local, false, false).await,
            Transfer::ImportFolder(file) => importd.import_file_system(fd(file), local, false, false).await,
            Transfer::PullTar { url, verify } => importd.pull_tar(url, local, verify, false).await,
            Transfer::PullRaw { url, verify } => importd.pull_raw(url, local, verify, false).await,
            Transfer::PullOci { reference } => importd.pull_oci(reference, local, "machine".into(), 0).await,
            Transfer::ExportTar { file, format } => importd.export_tar(local, fd(file), format).await,
        };
        let (id, path) = begun.map_err(doing())?;
        let mut said = String::new();
        let watched = self.watch(path, hears, &mut said);
        let end = async {
            while let Some(signal) = ended.next().await {
                let Ok(args) = signal.args() else { continue };
                if args.transfer_id == id {
                    return Some(args.result == "done");
                }
            }
            None
        };
        let done = tokio::select! {
            // What it complained of came before the end.
            biased;
            () = watched => None,
            done = end => done,
        };
        match done {
            Some(true) => Ok(()),
            Some(false) => Err(BusError::Transfer { name: name.to_owned(), said, fetches }),
            None => Err(BusError::Nonsense(IMPORTD)),
        }
    }

    /// Tells how far a transfer is, and keeps what it complained of; never ends.
    async fn watch(&self, path: OwnedObjectPath, hears: Hears<'_>, said: &mut String) {
        let builder = TransferProxy::builder(&self.connection).path(path);
        let Ok(transfer) = builder.cache_properties(CacheProperties::No).build().await else {
            return std::future::pending().await;
        };
        let Ok(mut messages) = transfer.receive_log_message().await else {
            return std::future::pending().await;
        };
        loop {
            match tokio::time::timeout(LOOK, messages.next()).await {
                Ok(Some(message)) => {
                    if let Ok(args) = message.args()
                        && args.priority & LEVEL <= ERROR
                        && said.len() < ENOUGH
                    {
                        said.push_str(if said.is_empty() { "" } else { "; " });
                        said.push_str(args.line.trim().trim_end_matches('.'));
                    }
                }
                Ok(None) => return std::future::pending().await,
                Err(_) => {
                    if let Ok(progress) = transfer.progress().await {
                        hears(progress);
                    }
                }
            }
        }
    }

    /// Ends a transfer that is under way, and waits for its end.
    ///
    /// # Errors
    /// When importd cannot be reached.
    pub async fn cancel_transfer(&self, name: &str) -> Result<(), BusError> {
        let doing = || sort(IMPORTD, format!("cannot end the transfer of '{name}'"));
        let importd = self.importd().await?;
        let mut ended = importd.receive_transfer_removed().await.map_err(doing())?;
        let transfers = importd.list_transfers().await.map_err(doing())?;
        let Some(transfer) = transfers.into_iter().find(|transfer| transfer.3 == name) else {
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
}

/// syslog(3)'s priorities: a level, and above its bits a facility.
const LEVEL: u32 = 7;
const ERROR: u32 = 3;
/// So many bytes of complaints are kept; there may be one for each file.
const ENOUGH: usize = 400;
