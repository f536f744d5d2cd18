//! Debian root trees, built once and kept outside the repository in a btrfs
//! image: hosts and guests are then snapshots that cost nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::cgroup;
use super::run::{capture, check, words};

/// One supported systemd, named after the Debian suite that brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    Bookworm,
    Trixie,
    Forky,
}

impl Suite {
    pub const ALL: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

    pub fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Forky => "forky",
        }
    }

    pub fn named(word: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == word)
    }
}

impl Suite {
    /// Packages that hosts can install, beside those of their own tree.
    fn extras(self) -> &'static str {
        match self {
            Suite::Trixie => {
                "mmdebstrap debootstrap xz-utils zstd ifupdown iptables ufw firewalld docker.io docker-cli podman crun netavark uidmap \
                 lxc incus-base dnsmasq-base btrfs-progs openssh-server openssh-client libcurl4t64 tayga unbound bind9 bind9-dnsutils dnf rpm createrepo-c pacman-package-manager restic valgrind sudo expect etcd-server etcd-client bird2 frr"
            }
            // systemd 258 and later load libcurl only where they find it.
            Suite::Forky => {
                "mmdebstrap debootstrap xz-utils zstd ifupdown iptables ufw firewalld docker.io docker-cli libcurl4t64 tayga \
                 unbound bind9 bind9-dnsutils dnf rpm createrepo-c pacman-package-manager restic btrfs-progs openssh-server openssh-client valgrind sudo expect etcd-server etcd-client bird2"
            }
            Suite::Bookworm => {
                "mmdebstrap debootstrap xz-utils zstd ifupdown iptables ufw firewalld docker.io tayga unbound \
                 bind9 bind9-dnsutils dnf rpm createrepo-c pacman-package-manager restic btrfs-progs openssh-server openssh-client valgrind sudo expect etcd-server etcd-client bird2"
            }
        }
    }

    /// The version of systemd that the suite brings.
    pub fn systemd(self) -> u32 {
        match self {
            Suite::Bookworm => 252,
            Suite::Trixie => 257,
            Suite::Forky => 262,
        }
    }
}

const PACKAGES: &str = "mount,systemd,systemd-sysv,systemd-container,systemd-resolved,dbus,iproute2,\
     nftables,iputils-ping,procps,kmod,udev,ca-certificates,network-manager";

/// Bump when a tree is prepared differently, so that old ones are rebuilt.
const GENERATION: u32 = 20;
const REPOSITORY: &str = include_str!("repository.sh");

const TOOLS: [&str; 11] = [
    "mmdebstrap",
    "apt-ftparchive",
    "mkfs.btrfs",
    "mkfs.ext4",
    "btrfs",
    "unshare",
    "nsenter",
    "ip",
    "ping",
    "dnsmasq",
    "losetup",
];

/// The cache, mounted in a mount namespace of this process alone.
#[derive(Debug, Clone)]
pub struct Trees {
    mounted: PathBuf,
}

impl Trees {
    /// Checks tools and privilege, mounts the cache and builds what is missing for these suites.
    ///
    /// # Errors
    /// When something that the laboratory needs is not there: it never skips.
    pub fn open(suites: &[Suite]) -> Result<Trees> {
        ensure!(nix::unistd::geteuid().is_root(), "the laboratory needs root (namespaces, mounts)");
        for tool in TOOLS {
            check(&mut words(&["sh", "-c", &format!("command -v {tool}")]))
                .with_context(|| format!("the laboratory needs {tool}; `make tools` installs it"))?;
        }
        let cache = cache();
        let mounted = cache.join("pool");
        fs::create_dir_all(&mounted)?;
        // The mount ends with this process, however it ends.
        unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let trees = Trees { mounted };
        let _building = lock(&cache.join("lock"))?;
        trees.mount_pool(&cache.join("pool.btrfs"))?;
        fs::create_dir_all(trees.runs())?;
        cgroup::sweep()?;
        trees.sweep()?;
        for &suite in suites {
            trees.ensure(suite).with_context(|| format!("the {} tree", suite.name()))?;
        }
        Ok(trees)
    }

    fn mount_pool(&self, image: &Path) -> Result<()> {
        if !image.exists() {
            let fresh = image.with_extension("new");
            fs::File::create(&fresh)?.set_len(40 << 30)?;
            check(&mut words(&["mkfs.btrfs", "-q", &fresh.to_string_lossy()]))?;
            fs::rename(&fresh, image)?;
        }
        let (image, target) = (image.to_string_lossy(), self.mounted.to_string_lossy());
        check(&mut words(&["mount", "-o", "loop,noatime,compress=no", &image, &target]))?;
        // importd turns them on, for all hosts and the next runs; a host of nsctl's has none.
        let _ = capture(&mut words(&["btrfs", "quota", "disable", &target]))?;
        Ok(())
    }

    /// The root tree of a host of this suite; never written to.
    pub fn host(&self, suite: Suite) -> PathBuf {
        self.mounted.join(format!("host-{}-{GENERATION}", suite.name()))
    }

    /// The tree that machines are made from.
    pub fn guest(&self, suite: Suite) -> PathBuf {
        self.mounted.join(format!("guest-{}-{GENERATION}", suite.name()))
    }

    /// A small repository of Debian packages, for hosts that install some.
    pub fn repository(&self, suite: Suite) -> PathBuf {
        self.mounted.join(format!("repository-{}-{GENERATION}", suite.name()))
    }

    /// Where throwaway hosts live, a folder each.
    pub fn runs(&self) -> PathBuf {
        self.mounted.join("runs")
    }

    /// Removes what a killed run left: its folder is named after its process.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(self.runs())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(owner).exists() {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    fn ensure(&self, suite: Suite) -> Result<()> {
        let (host, guest, repository) = (self.host(suite), self.guest(suite), self.repository(suite));
        if guest.exists() && host.exists() {
            return Ok(());
        }
        eprintln!("building the {} root tree (once)", suite.name());
        let fresh = self.mounted.join(format!("new-{}", suite.name()));
        for stale in [&fresh, &host, &guest, &repository] {
            if stale.exists() {
                remove_tree(stale)?;
            }
        }
        subvolume(&fresh)?;
        fs::create_dir_all(&repository)?;
        check(
            words(&[
                "mmdebstrap",
                "--quiet",
                "--variant=apt",
                "--format=directory",
                &format!("--include={PACKAGES}"),
                // The mirror of a suite in testing may be a frozen one.
                "--aptopt=Acquire::Check-Valid-Until \"false\"",
                &format!("--customize-hook={REPOSITORY}"),
                suite.name(),
                &fresh.to_string_lossy(),
            ])
            .env("REPO", &repository)
            .env("SUITE", suite.name())
            .env("EXTRAS", suite.extras()),
        )?;
        prepare_common(&fresh)?;
        let made = self.mounted.join(format!("new-guest-{}", suite.name()));
        if made.exists() {
            remove_tree(&made)?;
        }
        snapshot(&fresh, &made)?;
        prepare_guest(&made)?;
        prepare_host(&fresh)?;
        fs::rename(&made, &guest)?;
        fs::rename(&fresh, &host)?;
        Ok(())
    }
}

fn cache() -> PathBuf {
    std::env::var_os("NSCTL_LAB_CACHE").map_or_else(|| PathBuf::from("/var/cache/nsctl-lab"), PathBuf::from)
}

/// Until it is dropped, nobody else on this machine has it: some of what the kernel has is one
/// for all hosts of the laboratory.
pub fn alone_with(what: &str) -> Result<Flock<std::fs::File>> {
    lock(&cache().join(format!("{what}.lock")))
}

fn lock(path: &Path) -> Result<Flock<std::fs::File>> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path)?.into_parts().0;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("cannot lock the cache")
}

/// Makes an empty btrfs subvolume.
pub fn subvolume(path: &Path) -> Result<()> {
    check(&mut words(&["btrfs", "-q", "subvolume", "create", &path.to_string_lossy()]))?;
    Ok(())
}

/// Snapshots a subvolume: a copy that shares every block.
pub fn snapshot(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    check(&mut words(&["btrfs", "-q", "subvolume", "snapshot", &from, &to]))?;
    Ok(())
}

/// Removes a folder with the subvolumes in it, however deep they are: deleting
/// those whole is much quicker than file by file.
pub fn remove_tree(path: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let is_mount =
        |place: &Path| mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(place));
    let pool = path.ancestors().find(|place| is_mount(place)).context("no file system")?;
    let listed = check(&mut words(&["btrfs", "subvolume", "list", &pool.to_string_lossy()]))?;
    let all = listed.lines().filter_map(|line| Some(pool.join(line.split_once(" path ")?.1)));
    let mut inside: Vec<PathBuf> = all.filter(|place| place.starts_with(path)).collect();
    // What is in another comes after it in the order of names.
    inside.sort();
    // machined marks trees read-only, as btrfs-receive(8) does; of those no other can be deleted.
    for place in &inside {
        let _ = check(&mut words(&[
            "btrfs",
            "property",
            "set",
            "-f",
            "-ts",
            &place.to_string_lossy(),
            "ro",
            "false",
        ]));
    }
    for place in inside.iter().rev() {
        check(&mut words(&["btrfs", "-q", "subvolume", "delete", &place.to_string_lossy()]))?;
    }
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

fn prepare_common(root: &Path) -> Result<()> {
    fs::write(root.join("etc/machine-id"), "")?;
    fs::write(root.join("etc/fstab"), "")?;
    for timer in ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"] {
        mask(root, timer)?;
    }
    // There for the host whose uplink it runs; nobody else wants it.
    for unit in [
        "NetworkManager.service",
        "NetworkManager-dispatcher.service",
        "NetworkManager-wait-online.service",
        "wpa_supplicant.service",
    ] {
        mask(root, unit)?;
    }
    enable(root, "multi-user.target.wants", "systemd-networkd.service")?;
    Ok(())
}

fn prepare_host(root: &Path) -> Result<()> {
    // Services that would wait for hardware or for networks that no throwaway host has.
    for unit in ["systemd-networkd-wait-online.service", "console-getty.service", "getty.target"] {
        mask(root, unit)?;
    }
    fs::write(root.join("etc/hostname"), "labhost\n")?;
    let units = root.join("etc/systemd/network");
    fs::write(
        units.join("20-wan0.network"),
        "[Match]\nName=wan0\n\n[Network]\nAddress=2001:db8:ffff::2/64\n",
    )?;
    Ok(())
}

/// A guest that answers on TCP port 7777 through socket activation.
fn prepare_guest(root: &Path) -> Result<()> {
    fs::remove_file(root.join("etc/machine-id"))?;
    let _ = fs::remove_file(root.join("etc/hostname"));
    let units = root.join("etc/systemd/system");
    fs::write(
        units.join("hello.socket"),
        "[Socket]\nListenStream=7777\nAccept=yes\n[Install]\nWantedBy=sockets.target\n",
    )?;
    fs::write(
        units.join("hello@.service"),
        "[Service]\nExecStart=/bin/echo hello\nStandardInput=socket\nStandardOutput=socket\n",
    )?;
    fs::create_dir_all(units.join("sockets.target.wants"))?;
    symlink("../hello.socket", &units.join("sockets.target.wants/hello.socket"))
}

fn mask(root: &Path, unit: &str) -> Result<()> {
    symlink("/dev/null", &root.join("etc/systemd/system").join(unit))
}

fn enable(root: &Path, target: &str, unit: &str) -> Result<()> {
    let wants = root.join("etc/systemd/system").join(target);
    fs::create_dir_all(&wants)?;
    symlink(&format!("/lib/systemd/system/{unit}"), &wants.join(unit))
}

fn symlink(to: &str, at: &Path) -> Result<()> {
    if fs::symlink_metadata(at).is_ok() {
        fs::remove_file(at)?;
    }
    std::os::unix::fs::symlink(to, at).with_context(|| at.display().to_string())?;
    if !at.starts_with("/") {
        bail!("{} is not absolute", at.display());
    }
    Ok(())
}
