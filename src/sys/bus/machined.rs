//! systemd-machined: running machines and their trees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use zbus_systemd::machine1::{MachineProxy, ManagerProxy};
use zbus_systemd::zbus::{self, OwnedObjectPath, proxy::CacheProperties};

use super::{Bus, BusError, MACHINED};
use crate::name::MachineName;
use crate::observed::Running;
use crate::sys::processes::uid_shift;
use crate::sys::pty::Pty;
use crate::sys::together;

/// One of machined's images.
#[derive(Debug, Clone)]
pub struct Image {
    pub name: String,
    /// "directory", "subvolume", "raw".
    pub kind: String,
    pub read_only: bool,
    /// Microseconds since 1970; none where nobody knows.
    pub created: Option<u64>,
    /// Bytes, where the file system counts them.
    pub size: Option<u64>,
}

type Proxy = ManagerProxy<'static>;

const MACHINED_NAME: &str = "org.freedesktop.machine1";
const MACHINE: &str = "org.freedesktop.machine1.Machine";
/// How long a guest may take until its own bus is there.
const BOOT_TIME: Duration = Duration::from_secs(30);
/// How long a shell may take: machined asks the guest twice, which may let it wait as long.
const SHELL_TIME: Duration = Duration::from_secs(60);
/// How often it is looked for: nothing tells of it.
const LOOK: Duration = Duration::from_millis(50);

impl Bus {
    /// The containers that machined knows, by name.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn machines(&self) -> Result<BTreeMap<String, Running>, BusError> {
        let listed = self.machined.ask("listing machines", async |m| m.list_machines().await).await?;
        let containers =
            listed.into_iter().filter(|(name, class, ..)| class == "container" && name != ".host");
        let asked =
            containers.map(async |(name, _, _, path)| Ok(self.machine(path).await?.map(|m| (name, m))));
        let all: Result<Vec<_>, BusError> = together(asked).await.into_iter().collect();
        Ok(all?.into_iter().flatten().collect())
    }

    /// The names of the containers that machined knows.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn machine_names(&self) -> Result<BTreeSet<String>, BusError> {
        let listed = self.machined.ask("listing machines", async |m| m.list_machines().await).await?;
        let containers =
            listed.into_iter().filter(|(name, class, ..)| class == "container" && name != ".host");
        Ok(containers.map(|(name, ..)| name).collect())
    }

    /// A machine's first process, and the numbers of the host's ends of its links; none of one that has ended.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn whereabouts(&self, name: &str) -> Result<Option<(u32, Vec<u32>)>, BusError> {
        let doing = "asking for a machine";
        let path = match self.machined.ask(doing, async |m| m.get_machine(name.to_owned()).await).await {
            Ok(path) => path,
            Err(BusError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let links = async {
            let machine = MachineProxy::builder(self.patience.connection()).path(path.clone());
            let machine = machine.cache_properties(CacheProperties::No).build().await?;
            machine.network_interfaces().await
        };
        let links = self.patience.ask(MACHINED, "asking for a machine's links", links).await;
        let links = match links {
            Ok(links) => links.into_iter().filter_map(|index| u32::try_from(index).ok()).collect(),
            Err(error @ BusError::Hangs { .. }) => return Err(error),
            Err(_) => return Ok(None),
        };
        Ok(self.machine(path).await?.map(|running| (running.leader, links)))
    }

    /// A machine may end while we ask; then it is none.
    async fn machine(&self, path: OwnedObjectPath) -> Result<Option<Running>, BusError> {
        // Without a proxy, whose making costs more than the question: there may be a thousand.
        let asked = (MACHINE, "Leader");
        let properties = Some("org.freedesktop.DBus.Properties");
        let leader = async {
            let connection = self.patience.connection();
            let reply = connection.call_method(Some(MACHINED_NAME), &path, properties, "Get", &asked).await?;
            u32::try_from(reply.body().deserialize::<zbus::OwnedVariant>()?)
        };
        match self.patience.ask(MACHINED, "asking for a machine's leader", leader).await {
            Ok(leader) => Ok(Some(Running { leader, uid_shift: uid_shift(leader) })),
            Err(error @ BusError::Hangs { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Sends a signal to the PID 1 of machines. When that is killed, nspawn cleans
    /// up behind it, which it cannot when it is killed itself.
    ///
    /// # Errors
    /// When machined does not answer; that a machine does not run is no error.
    pub async fn signal(&self, machines: &[MachineName], signal: i32) -> Result<(), BusError> {
        for name in machines {
            match self.send_signal(name, signal).await {
                Ok(()) | Err(BusError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The same to one that runs.
    ///
    /// # Errors
    /// When machined does not answer, or refuses.
    pub async fn send_signal(&self, name: &MachineName, signal: i32) -> Result<(), BusError> {
        let doing = format!("cannot send a signal to '{name}'");
        let send = async |m: &Proxy| m.kill_machine(name.to_string(), "leader".into(), signal).await;
        self.machined.ask(doing, send).await
    }

    /// The process that is PID 1 of a machine, if it runs.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn leader(&self, name: &MachineName) -> Result<Option<u32>, BusError> {
        let doing = "asking for a machine";
        match self.machined.ask(doing, async |m| m.get_machine(name.to_string()).await).await {
            Ok(path) => Ok(self.machine(path).await?.map(|running| running.leader)),
            Err(BusError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A terminal in a machine, in which this command of its own runs as this user.
    /// One that has only just started has no bus of its own yet: it is waited for.
    ///
    /// # Errors
    /// When the machine does not run, or has no systemd and D-Bus of its own.
    pub async fn open_shell(
        &self,
        name: &str,
        user: &str,
        command: &str,
        words: Vec<String>,
        environment: Vec<String>,
    ) -> Result<Pty, BusError> {
        // machined takes the first word for the name that the command is called by, and systemd puts variables of its
        // own into all of them, where two dollars do not say that one is meant (systemd.service(5), "Command Lines").
        let words = std::iter::once(command.to_owned()).chain(words);
        let words: Vec<String> = words.map(|word| word.replace('$', "$$")).collect();
        let ask = async || {
            let (name, user, command) = (name.to_owned(), user.to_owned(), command.to_owned());
            let doing = format!("cannot open a shell in '{name}'");
            let (words, environment) = (words.clone(), environment.clone());
            let open = async |m: &Proxy| m.open_machine_shell(name, user, command, words, environment).await;
            self.machined.ask_within(SHELL_TIME, doing, open).await
        };
        loop {
            match ask().await {
                Ok((master, _)) => {
                    let master = std::os::fd::OwnedFd::from(master);
                    return Pty::new(master).map_err(|_| BusError::Nonsense(MACHINED));
                }
                Err(error @ BusError::Refused { .. }) if !self.is_young(name).await => return Err(error),
                Err(BusError::Refused { .. }) => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a machine has started so lately that it may still be booting.
    async fn is_young(&self, name: &str) -> bool {
        let asked = async |m: &Proxy| {
            let path = m.get_machine(name.to_owned()).await?;
            let machine = MachineProxy::builder(self.patience.connection()).path(path);
            machine.cache_properties(CacheProperties::No).build().await?.timestamp().await
        };
        let stamp = self.machined.ask("asking for a machine's age", asked).await;
        let started = stamp.map(|stamp| UNIX_EPOCH + Duration::from_micros(stamp));
        started.is_ok_and(|started| started.elapsed().is_ok_and(|age| age < BOOT_TIME))
    }

    /// Copies a file or folder into a machine that runs.
    ///
    /// # Errors
    /// When machined cannot: what is there already is replaced only by force, which
    /// systemd before 253 does not know.
    pub async fn copy_into(
        &self,
        name: &MachineName,
        from: &Path,
        to: &Path,
        force: bool,
    ) -> Result<(), BusError> {
        const REPLACE: u64 = 1;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let doing = format!("cannot copy {} to {}", from.display(), to.display());
        let (machine, from, to) = (name.to_string(), text(from), text(to));
        let copy = async |m: &Proxy| match force {
            true => m.copy_to_machine_with_flags(machine, from, to, REPLACE).await,
            false => m.copy_to_machine(machine, from, to).await,
        };
        self.machined.wait_for(doing, copy).await
    }

    /// The names of machined's images.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn images(&self) -> Result<BTreeSet<String>, BusError> {
        Ok(self.all_images().await?.into_iter().map(|image| image.name).collect())
    }

    /// Whether machined has an image of this name.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn has_image(&self, name: &str) -> Result<bool, BusError> {
        let doing = format!("asking for the image '{name}'");
        match self.machined.ask(doing, async |m| m.get_image(name.to_owned()).await).await {
            Err(error) if error.is_missing() => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// All images with what machined knows of them.
    ///
    /// # Errors
    /// When machined does not answer.
    pub async fn all_images(&self) -> Result<Vec<Image>, BusError> {
        let images = self.machined.ask("listing images", async |m| m.list_images().await).await?;
        // What begins with a dot is nobody's to use: this host, and snapshots.
        let seen = images.into_iter().filter(|image| !image.0.starts_with('.'));
        let images = seen.map(|(name, kind, read_only, created, _, size, _)| {
            // What is not counted is said to be all ones.
            let size = (size != u64::MAX).then_some(size);
            let created = (created > 0).then_some(created);
            Image { name, kind, read_only, created, size }
        });
        Ok(images.collect())
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// When machined cannot.
    pub async fn rename_image(&self, from: &str, to: &str) -> Result<(), BusError> {
        let doing = format!("cannot rename the image '{from}' to '{to}'");
        let rename = async |m: &Proxy| m.rename_image(from.to_owned(), to.to_owned()).await;
        self.machined.wait_for(doing, rename).await
    }

    /// The same, of a machine's tree, which may run; nobody writes to it.
    ///
    /// # Errors
    /// When machined cannot.
    pub async fn snapshot_image(&self, from: &str, to: &str) -> Result<(), BusError> {
        let doing = format!("cannot take a snapshot of '{from}'");
        let clone = async |m: &Proxy| m.clone_image(from.to_owned(), to.to_owned(), true).await;
        self.machined.wait_for(doing, clone).await
    }

    /// Copies an image, sharing its blocks where the file system can.
    ///
    /// # Errors
    /// When machined cannot.
    pub async fn clone_image(&self, from: &str, to: &MachineName) -> Result<(), BusError> {
        let doing = format!("cannot clone the image '{from}' as '{to}'");
        let clone = async |m: &Proxy| m.clone_image(from.to_owned(), to.to_string(), false).await;
        self.machined.wait_for(doing, clone).await
    }

    /// Deletes an image with everything in it.
    ///
    /// # Errors
    /// When machined cannot; that it is not there is no error.
    pub async fn remove_image(&self, name: &str) -> Result<(), BusError> {
        let doing = format!("cannot remove the image '{name}'");
        match self.machined.wait_for(doing, async |m| m.remove_image(name.to_owned()).await).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}
