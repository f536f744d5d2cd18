//! systemd-importd: trees from archives, folders, the web, and archives from trees.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use zbus_systemd::import1::{ManagerProxy, TransferProxy, TransferRemovedStream};
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, IMPORTD, patience::Manager};
use crate::spec::image::Kind;
use crate::sys::{Disk, fault};

/// How often importd is asked how far it is: not every version says so by itself.
const LOOK: Duration = Duration::from_millis(250);

/// How long nothing may change. A server that sends nothing is given up by importd itself, after
/// a minute.
const STILL: Duration = Duration::from_secs(300);

/// What importd is to do.
#[derive(Debug)]
pub enum Transfer {
    /// A tar or disk image, of a file or pipe.
    Import(Kind, File),
    /// What is in a folder.
    ImportFolder(File),
    /// A tar or disk image, from the web.
    Pull { kind: Kind, url: String, verify: String },
    /// An image of a container registry's.
    PullOci(String),
    /// Into a file, which is not packed.
    ExportTar(File),
}

/// Hears how far a transfer is, from 0 to 1.
pub type Hears<'a> = &'a dyn Fn(f64);

fn fd(file: File) -> zbus::OwnedFd {
    zbus::OwnedFd::from(OwnedFd::from(file))
}

impl Bus {
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
        let importd: Manager<ManagerProxy> = self.patience.manager(IMPORTD).await?;
        let mut ended = importd.ask(doing(), async |i| i.receive_transfer_removed().await).await?;
        let fetches = matches!(what, Transfer::Pull { .. } | Transfer::PullOci(_));
        let (id, path) = importd.ask(doing(), async |i| begin(i, what, name.to_owned()).await).await?;
        let mut said = String::new();
        let watched = self.watch(path, name, grows, hears, &mut said);
        let done = tokio::select! {
            // What it complained of came before the end.
            biased;
            error = watched => return Err(error),
            result = end(&mut ended, id) => result.ok_or(BusError::Nonsense(IMPORTD))? == "done",
        };
        if done { Ok(()) } else { Err(BusError::Transfer { name: name.to_owned(), said, fetches }) }
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
        let importd: Manager<ManagerProxy> = self.patience.manager(IMPORTD).await?;
        let mut ended = importd.ask(doing(), async |i| i.receive_transfer_removed().await).await?;
        let transfers = importd.ask(doing(), async |i| i.list_transfers().await).await?;
        let Some(transfer) = transfers.into_iter().find(|transfer| transfer.3 == name) else {
            return Ok(());
        };
        importd.ask(doing(), async |i| i.cancel_transfer(transfer.0).await).await?;
        importd.wait_for(doing(), async |_| Ok(end(&mut ended, transfer.0).await)).await.map(drop)
    }
}

/// How a transfer ends; none: nobody tells any more.
async fn end(ended: &mut TransferRemovedStream, id: u32) -> Option<String> {
    while let Some(signal) = ended.next().await {
        if let Some(args) = signal.args().ok().filter(|args| args.transfer_id == id) {
            return Some(args.result.clone());
        }
    }
    None
}

async fn begin(
    importd: &ManagerProxy<'static>,
    what: Transfer,
    local: String,
) -> zbus::Result<(u32, OwnedObjectPath)> {
    match what {
        Transfer::Import(Kind::Tar, file) => importd.import_tar(fd(file), local, false, false).await,
        Transfer::Import(Kind::Raw, file) => importd.import_raw(fd(file), local, false, false).await,
        Transfer::ImportFolder(file) => importd.import_file_system(fd(file), local, false, false).await,
        Transfer::Pull { kind: Kind::Tar, url, verify } => importd.pull_tar(url, local, verify, false).await,
        Transfer::Pull { kind: Kind::Raw, url, verify } => importd.pull_raw(url, local, verify, false).await,
        Transfer::PullOci(reference) => importd.pull_oci(reference, local, "machine".into(), 0).await,
        Transfer::ExportTar(file) => importd.export_tar(local, fd(file), "uncompressed".into()).await,
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
