//! systemd-importd: trees from archives, folders, the web, and archives from trees.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus_systemd::import1::{ManagerProxy, TransferProxy};
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, IMPORTD, patience::Manager};
use crate::sys::{Disk, fault};

/// How often importd is asked how far it is: not every version says so by itself.
const LOOK: Duration = Duration::from_millis(250);

/// How long nothing may change. A server that sends nothing is given up by importd itself, after
/// a minute.
const STILL: Duration = Duration::from_secs(300);

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
    async fn importd(&self) -> Result<Manager<ManagerProxy<'static>>, BusError> {
        manager!(ManagerProxy, &self.patience, IMPORTD)
    }

    /// Does a transfer of the image of this name, whole or not at all: importd
    /// works beside its place, and puts it there when it is done. `grows` is where it
    /// writes; without it, nobody knows whether a transfer stands still.
    ///
    /// # Errors
    /// When importd cannot be reached, hangs or says no, or nothing comes of it any more.
    pub async fn transfer(
        &self,
        what: Transfer,
        name: &str,
        grows: Option<&Path>,
        hears: Hears<'_>,
    ) -> Result<(), BusError> {
        let doing = || format!("cannot transfer '{name}'");
        let importd = self.importd().await?;
        let mut ended = importd.ask(doing(), async |i| i.receive_transfer_removed().await).await?;
        let fetches =
            matches!(what, Transfer::PullTar { .. } | Transfer::PullRaw { .. } | Transfer::PullOci { .. });
        let (id, path) = importd.ask(doing(), async |i| begin(i, what, name.to_owned()).await).await?;
        let mut said = String::new();
        let watched = self.watch(path, name, grows, hears, &mut said);
        let end = async {
            while let Some(signal) = ended.next().await {
                let Ok(args) = signal.args() else { continue };
                if args.transfer_id == id {
                    return Ok(args.result == "done");
                }
            }
            Err(BusError::Nonsense(IMPORTD))
        };
        let done = tokio::select! {
            // What it complained of came before the end.
            biased;
            error = watched => Err(error),
            done = end => done,
        };
        if done? { Ok(()) } else { Err(BusError::Transfer { name: name.to_owned(), said, fetches }) }
    }

    /// Tells how far a transfer is, and keeps what it complained of; ends when importd
    /// hangs, or nothing has changed for long.
    async fn watch(
        &self,
        path: OwnedObjectPath,
        name: &str,
        grows: Option<&Path>,
        hears: Hears<'_>,
        said: &mut String,
    ) -> BusError {
        let builder = TransferProxy::builder(self.patience.connection()).path(path);
        let heard = async {
            let transfer = builder.cache_properties(CacheProperties::No).build().await?;
            let messages = transfer.receive_log_message().await?;
            Ok((transfer, messages))
        };
        // A transfer that is over already is no object any more.
        let (transfer, mut messages) = match self.patience.ask(IMPORTD, "watching it", heard).await {
            Err(error @ BusError::Hangs { .. }) => return error,
            Err(_) => return std::future::pending().await,
            Ok(heard) => heard,
        };
        let (mut since, mut last) = (Instant::now(), None);
        loop {
            match tokio::time::timeout(LOOK, messages.next()).await {
                Ok(Some(message)) => {
                    since = Instant::now();
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
                    let progress = self.patience.ask(IMPORTD, "asking how far it is", transfer.progress());
                    let progress = match progress.await {
                        Err(error @ BusError::Hangs { .. }) => return error,
                        progress => progress.ok(),
                    };
                    progress.into_iter().for_each(hears);
                    let now = (progress.map(f64::to_bits), grows.map(room));
                    if last != Some(now) {
                        (since, last) = (Instant::now(), Some(now));
                    }
                    let still = fault::bus_limit().unwrap_or(STILL);
                    if grows.is_some() && since.elapsed() > still {
                        return BusError::Stalled { name: name.to_owned(), after: still };
                    }
                }
            }
        }
    }

    /// Ends a transfer that is under way, and waits for its end.
    ///
    /// # Errors
    /// When importd cannot be reached, or hangs.
    pub async fn cancel_transfer(&self, name: &str) -> Result<(), BusError> {
        let doing = || format!("cannot end the transfer of '{name}'");
        let importd = self.importd().await?;
        let mut ended = importd.ask(doing(), async |i| i.receive_transfer_removed().await).await?;
        let transfers = importd.ask(doing(), async |i| i.list_transfers().await).await?;
        let Some(transfer) = transfers.into_iter().find(|transfer| transfer.3 == name) else {
            return Ok(());
        };
        importd.ask(doing(), async |i| i.cancel_transfer(transfer.0).await).await?;
        let end = async |_: &ManagerProxy<'static>| {
            while let Some(signal) = ended.next().await {
                if signal.args().is_ok_and(|args| args.transfer_id == transfer.0) {
                    break;
                }
            }
            Ok(())
        };
        importd.wait_for(doing(), end).await
    }
}

async fn begin(
    importd: &ManagerProxy<'static>,
    what: Transfer,
    local: String,
) -> zbus::Result<(u32, OwnedObjectPath)> {
    match what {
        Transfer::ImportTar(file) => importd.import_tar(fd(file), local, false, false).await,
        Transfer::ImportRaw(file) => importd.import_raw(fd(file), local, false, false).await,
        Transfer::ImportFolder(file) => importd.import_file_system(fd(file), local, false, false).await,
        Transfer::PullTar { url, verify } => importd.pull_tar(url, local, verify, false).await,
        Transfer::PullRaw { url, verify } => importd.pull_raw(url, local, verify, false).await,
        Transfer::PullOci { reference } => importd.pull_oci(reference, local, "machine".into(), 0).await,
        Transfer::ExportTar { file, format } => importd.export_tar(local, fd(file), format).await,
    }
}

/// What is left where a transfer writes: it has come on where that has changed.
fn room(place: &Path) -> u64 {
    Disk::new(Path::new("/")).room(place)
}

/// syslog(3)'s priorities: a level, and above its bits a facility.
const LEVEL: u32 = 7;
const ERROR: u32 = 3;
/// So many bytes of complaints are kept; there may be one for each file.
const ENOUGH: usize = 400;
