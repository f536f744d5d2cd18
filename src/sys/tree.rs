//! A machine's tree. A guest may have put anything there: links that lead
//! elsewhere, pipes, endless files. No path is followed out of the tree.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, RenameFlags, fcntl, readlinkat, renameat, renameat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use super::{subvolume, within};
use crate::observed::{Stranger, TreeId};
use crate::provision::{Guest, Init, TreeEdit};

/// No file that we read of a guest is longer: half a file would be taken for a whole one.
const LIMIT: u64 = 16 << 20;
/// What a guest starts at its boot.
const WANTED: &str = "etc/systemd/system/multi-user.target.wants";
const NETWORKD: &str = "systemd-networkd.service";
/// A file that is being written.
const DRAFT: &str = ".nsctl-draft";

mod ioctl {
    // linux/fs.h, FS_IOC_GETFLAGS and SETFLAGS.
    nix::ioctl_read!(get_flags, b'f', 1, nix::libc::c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, nix::libc::c_long);
}

/// `FS_IMMUTABLE_FL`.
const IMMUTABLE: nix::libc::c_long = 0x10;

/// Which tree the folder or disk image of this name is; none if there is none.
pub fn identity(name: &str) -> Option<TreeId> {
    identity_in(Path::new("/var/lib/machines"), name)
}

/// The same, of the trees in another folder.
pub fn identity_in(machines: &Path, name: &str) -> Option<TreeId> {
    let places = [machines.join(name), machines.join(format!("{name}.raw"))];
    places.iter().find_map(|place| identity_at(place))
}

pub(super) fn identity_at(place: &Path) -> Option<TreeId> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(place).ok()?;
    let meta = file.metadata().ok()?;
    if let Some(subvolume) = subvolume::of(&file) {
        return Some(TreeId::subvolume(u128::from_be_bytes(subvolume.uuid)));
    }
    let born = meta.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(TreeId::inode(meta.ino(), born.as_nanos()))
}

/// Waits until machined lets go of a tree that it is at work with; whether it held it, and did
/// let go in time. It locks the file of this name beside the tree, by open file description
/// (fcntl(2)), and deletes it afterwards.
pub async fn wait_until_unlocked(name: &str, limit: Duration) -> bool {
    let path = Path::new("/var/lib/machines").join(format!(".#{name}.lck"));
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else { return false };
    let (l_type, l_whence) = (nix::libc::F_WRLCK as i16, nix::libc::SEEK_SET as i16);
    let whole = nix::libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    if fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).is_ok() {
        return false;
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole)).is_ok()));
    matches!(tokio::time::timeout(limit, receiver).await, Ok(Ok(true)))
}

/// Makes sure that all trees are on the disk, as they are now (syncfs(2)).
///
/// # Errors
/// When the disk does not take them.
pub fn settle_all() -> std::io::Result<()> {
    Ok(nix::unistd::syncfs(File::open("/var/lib/machines")?)?)
}

/// Whether there is a tree of this name.
///
/// # Errors
/// When that cannot be told.
pub fn is_there(name: &str) -> std::io::Result<bool> {
    let machines = Path::new("/var/lib/machines");
    for place in [machines.join(name), machines.join(format!("{name}.raw"))] {
        match std::fs::symlink_metadata(place) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The names of all trees, also of those that machined hides.
///
/// # Errors
/// When they cannot be read.
pub fn names() -> std::io::Result<Vec<String>> {
    let entries = std::fs::read_dir("/var/lib/machines")?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Makes an empty tree of this name, where it can be a subvolume, as machined's are; gives its path.
///
/// # Errors
/// When there is one, or none can be made.
pub fn make(name: &str) -> std::io::Result<PathBuf> {
    let place = Path::new("/var/lib/machines").join(name);
    let machines = File::open("/var/lib/machines")?;
    match subvolume::make(&machines, name) {
        Ok(()) => {}
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EPERM) => std::fs::create_dir(&place)?,
        Err(error) => return Err(error.into()),
    }
    Ok(place)
}

/// Lets a snapshot's tree be written to: a subvolume is read-only as such, a folder or disk image is immutable
/// (machined does it so, and that of systemd 262 takes it back for none).
///
/// # Errors
/// When there is none, or the kernel does not.
pub fn let_write(name: &str) -> std::io::Result<()> {
    let machines = Path::new("/var/lib/machines");
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let open = |place| std::fs::OpenOptions::new().read(true).custom_flags(flags).open(place);
    let tree = open(machines.join(name)).or_else(|_| open(machines.join(format!("{name}.raw"))))?;
    if subvolume::of(&tree).is_some() {
        return Ok(subvolume::let_write(&tree)?);
    }
    let mut flags = 0;
    // SAFETY: the kernel fills in a number of ours that lives through the call.
    match unsafe { ioctl::get_flags(tree.as_raw_fd(), &raw mut flags) } {
        // A file system without such flags has none that keeps us from writing.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => return Ok(()),
        read => read?,
    };
    if flags & IMMUTABLE != 0 {
        // SAFETY: the same.
        unsafe { ioctl::set_flags(tree.as_raw_fd(), &(flags & !IMMUTABLE))? };
    }
    Ok(())
}

/// Gives a tree another name that none has, and makes sure that it outlives a power cut.
///
/// # Errors
/// When there is none, or another of the new name.
pub fn rename(from: &str, to: &str) -> std::io::Result<()> {
    let machines = File::open("/var/lib/machines")?;
    let flags = RenameFlags::RENAME_NOREPLACE;
    match renameat2(&machines, from, &machines, to, flags) {
        Err(Errno::ENOENT) => {
            renameat2(
                &machines,
                format!("{from}.raw").as_str(),
                &machines,
                format!("{to}.raw").as_str(),
                flags,
            )?;
        }
        done => done?,
    }
    machines.sync_all()
}

/// The folder of a tree.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    owner: (Uid, Gid),
}

impl Tree {
    /// The tree of this name; none if there is none, or if it is a disk image.
    pub fn of(name: &str) -> Option<Tree> {
        Tree::at(&Path::new("/var/lib/machines").join(name))
    }

    /// The tree in a folder.
    pub fn at(folder: &Path) -> Option<Tree> {
        let root = File::open(folder).ok()?;
        let meta = root.metadata().ok().filter(std::fs::Metadata::is_dir)?;
        let owner = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        Some(Tree { root: root.into(), owner })
    }

    fn open(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        within::open(&self.root, path, flags)
    }

    /// Its root, to open what is below.
    ///
    /// # Errors
    /// When no more files can be open.
    pub fn folder(&self) -> std::io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// Whose its root is: what the machine's own root makes is his.
    pub fn owner(&self) -> (Uid, Gid) {
        self.owner
    }

    /// A small text file; none if there is no such plain file.
    pub fn text(&self, path: &str) -> Option<String> {
        let file = File::from(self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?);
        let plain = file.metadata().ok()?.is_file();
        let mut text = String::new();
        let read = plain.then(|| file.take(LIMIT + 1).read_to_string(&mut text))?.ok()?;
        (read as u64 <= LIMIT).then_some(text)
    }

    /// What is in a folder: names, and whether they are folders.
    pub fn entries(&self, path: &str) -> Vec<(String, bool)> {
        let path = if path.trim_matches('/').is_empty() { "." } else { path };
        let Ok(folder) = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return Vec::new() };
        let Ok(mut dir) = nix::dir::Dir::from_fd(folder) else { return Vec::new() };
        let entries = dir.iter().flatten().filter_map(|entry| {
            let name = entry.file_name().to_str().ok()?.to_owned();
            Some((name, entry.file_type() == Some(nix::dir::Type::Directory)))
        });
        entries.filter(|(name, _)| name != "." && name != "..").collect()
    }

    /// Whether a path leads to something.
    pub fn has(&self, path: &str) -> bool {
        self.open(path, OFlag::O_PATH).is_ok()
    }

    /// The last part of the path that a path leads to, its links followed.
    fn leads_to(&self, path: &str) -> Option<String> {
        let found = self.open(path, OFlag::O_PATH).ok()?;
        let place = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
        Some(place.file_name()?.to_str()?.to_owned())
    }

    /// The names in a folder.
    fn names(&self, path: &str) -> Vec<String> {
        let Ok(folder) = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return Vec::new() };
        let Ok(mut folder) = nix::dir::Dir::from_fd(folder) else { return Vec::new() };
        let entries = folder.iter().flatten();
        entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect()
    }

    /// What the guest is.
    pub fn guest(&self) -> Guest {
        let folders = ["usr/lib/systemd/system", "lib/systemd/system"];
        let unit = |name: &str| folders.iter().any(|folder| self.has(&format!("{folder}/{name}")));
        Guest {
            init: self.init(),
            has_networkd: unit("systemd-networkd.service"),
            has_resolved: unit("systemd-resolved.service"),
            network_managed: self.network_managed(),
            resolv_conf: self.resolv_conf(),
            has_dbus_id: self.is_plain("var/lib/dbus/machine-id"),
            shadow: self.text("etc/shadow"),
            has_local_d: self.has("etc/local.d"),
        }
    }

    fn init(&self) -> Init {
        match self.leads_to("sbin/init").or_else(|| self.leads_to("init")).as_deref() {
            Some("systemd") => Init::Systemd(self.systemd_version()),
            Some("busybox") => Init::Busybox,
            _ => Init::Other,
        }
    }

    /// The number in the name of libsystemd-shared-NNN.so; 0 where there is none.
    fn systemd_version(&self) -> u32 {
        let lib = self.names("usr/lib").into_iter().filter(|name| name.contains("-linux-gnu"));
        let folders = lib.map(|name| format!("usr/lib/{name}/systemd"));
        let others = ["usr/lib/systemd", "lib/systemd", "usr/lib64/systemd"].map(str::to_owned);
        let libraries = folders.chain(others).flat_map(|folder| self.names(&folder));
        let versions = libraries.filter_map(|name| {
            let rest = name.strip_prefix("libsystemd-shared-")?;
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        });
        versions.max().unwrap_or(0)
    }

    /// Whether systemd is its init and starts networkd.
    pub fn runs_networkd(&self) -> bool {
        // A thousand trees are asked for each list: no folder is read.
        let wanted = self.open(&format!("{WANTED}/{NETWORKD}"), OFlag::O_PATH | OFlag::O_NOFOLLOW).is_ok();
        let masked = || self.link(&format!("etc/systemd/system/{NETWORKD}")).as_deref() == Some("/dev/null");
        wanted && !masked() && self.leads_to("sbin/init").as_deref() == Some("systemd")
    }

    /// What becomes of its network where it does not.
    pub fn stranger(&self) -> Option<Stranger> {
        if self.runs_networkd() {
            return None;
        }
        let guest = self.guest();
        let fits = guest.has_networkd && !guest.network_managed && matches!(guest.init, Init::Systemd(_));
        Some(if fits { Stranger::UntilProvisioned } else { Stranger::Always })
    }

    /// Where a link leads to, as it says itself.
    fn link(&self, path: &str) -> Option<String> {
        let link = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).ok()?;
        readlinkat(&link, "").ok()?.into_string().ok()
    }

    fn network_managed(&self) -> bool {
        let wanted = self.names(WANTED);
        let managers =
            ["systemd-networkd.service", "NetworkManager.service", "connman.service", "dhcpcd.service"];
        let ifupdown = self.text("etc/network/interfaces").is_some_and(|text| text.contains("host0"));
        ifupdown || wanted.iter().any(|unit| managers.contains(&unit.as_str()))
    }

    /// resolved's own is not there before the guest runs; nor is an empty one anything.
    fn resolv_conf(&self) -> Option<String> {
        if let Some(link) = self.link("etc/resolv.conf").filter(|link| link.contains("run/")) {
            return Some(link);
        }
        self.text("etc/resolv.conf").filter(|text| !text.trim().is_empty())
    }

    fn is_plain(&self, path: &str) -> bool {
        let found = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW);
        found.is_ok_and(|fd| File::from(fd).metadata().is_ok_and(|meta| meta.is_file()))
    }

    /// Makes a change.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn change(&self, change: &TreeEdit) -> std::io::Result<()> {
        match change {
            TreeEdit::Write { path, text, mode } => self.write(path, text, *mode),
            TreeEdit::Remove { path } => self.remove(path),
            TreeEdit::Link { path, to } => {
                let (folder, name) = self.folder_of(path)?;
                let _ = unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir);
                symlinkat(to.as_str(), &folder, name)?;
                let (uid, gid) = self.owner;
                Ok(fchownat(&folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
            }
        }
    }

    /// Removes a file, or a link, and not what it leads to.
    fn remove(&self, path: &str) -> std::io::Result<()> {
        let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
        // It is not made for that.
        if !folders.is_empty() && self.open(folders, OFlag::O_RDONLY | OFlag::O_DIRECTORY).is_err() {
            return Ok(());
        }
        let (folder, name) = self.folder_of(path)?;
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces a file; one that is there keeps its owner and permissions.
    fn write(&self, path: &str, text: &str, mode: u32) -> std::io::Result<()> {
        let (folder, name) = self.folder_of(path)?;
        let old = self.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).ok();
        let old = old.and_then(|fd| File::from(fd).metadata().ok()).filter(std::fs::Metadata::is_file);
        let (owner, mode) = match old {
            Some(meta) => ((Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid())), meta.mode() & 0o777),
            None => (self.owner, mode),
        };
        let _ = unlinkat(&folder, DRAFT, UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut draft =
            File::from(nix::fcntl::openat(&folder, DRAFT, flags, Mode::from_bits_truncate(0o600))?);
        draft.write_all(text.as_bytes())?;
        fchown(&draft, Some(owner.0), Some(owner.1))?;
        fchmod(&draft, Mode::from_bits_truncate(mode))?;
        Ok(renameat(&folder, DRAFT, &folder, name)?)
    }

    /// The folder that a path is in, made where it is missing, and its last part.
    fn folder_of<'p>(&self, path: &'p str) -> std::io::Result<(OwnedFd, &'p str)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut so_far = PathBuf::new();
        let mut folder = self.root.try_clone()?;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            so_far.push(part);
            let place = so_far.to_string_lossy();
            folder = match self.open(&place, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
                Err(Errno::ENOENT) => {
                    mkdirat(&folder, part, Mode::from_bits_truncate(0o755))?;
                    let made = self.open(&place, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                    fchown(&made, Some(self.owner.0), Some(self.owner.1))?;
                    // What holds keys is nobody else's business.
                    if matches!(part, ".ssh" | "credstore") {
                        fchmod(made.as_fd(), Mode::from_bits_truncate(0o700))?;
                    }
                    made
                }
                found => found?,
            };
        }
        Ok((folder, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_known_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        let id = identity_at(&one).unwrap();
        std::fs::rename(&one, &other).unwrap();
        assert_eq!(identity_at(&other), Some(id.clone()));
        std::fs::create_dir(&one).unwrap();
        assert_ne!(identity_at(&one), Some(id));
        std::os::unix::fs::symlink(&one, folder.path().join("link")).unwrap();
        assert_eq!(identity_at(&folder.path().join("link")), None);
    }

    #[test]
    fn a_long_file_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let long = "user:*:1::::::\n".repeat(10_000);
        std::fs::write(folder.path().join("shadow"), &long).unwrap();
        std::fs::write(folder.path().join("huge"), "x".repeat(17 << 20)).unwrap();
        let tree = Tree::at(folder.path()).unwrap();
        assert_eq!(tree.text("shadow").as_deref(), Some(&*long));
        assert_eq!(tree.text("huge"), None);
    }

    #[test]
    fn nothing_leads_out_of_a_tree() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, inside.path().join(at)).unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        link(outside.path(), "etc");
        link(&outside.path().join("secret"), "shadow");
        let tree = Tree::at(inside.path()).unwrap();
        assert_eq!(tree.text("shadow"), None);
        assert_eq!(tree.text("etc/secret"), None);
        let write =
            |path: &str| tree.change(&TreeEdit::Write { path: path.into(), text: "y".into(), mode: 0o600 });
        assert!(write("etc/new").is_err() || !outside.path().join("new").exists());
        write("shadow").unwrap();
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "x");
        assert_eq!(tree.text("shadow").as_deref(), Some("y"));
        write("root/.ssh/authorized_keys").unwrap();
        assert_eq!(tree.text("root/.ssh/authorized_keys").as_deref(), Some("y"));
    }
}
