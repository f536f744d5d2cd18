//! Paths below a folder whose owner may put links anywhere, and move folders meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// How often a path is walked again. Any rename and any mount on the whole host, at the moment of
/// a `..`, makes the kernel unsure of it (openat2(2), EAGAIN): twenty machines that boot at once
/// are enough for it.
const TRIES: usize = 1000;

/// Opens what a path leads to, as if the folder were the root: no link leads out of it.
///
/// # Errors
/// When it is not there, or cannot be opened.
pub fn open<P: NixPath + ?Sized>(root: &impl AsFd, path: &P, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 1..TRIES {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
            opened => return opened,
        }
    }
    openat2(root, path, how)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_moves_meanwhile_is_found_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("lib/systemd")).unwrap();
        fs::create_dir_all(at("usr/sbin")).unwrap();
        fs::write(at("lib/systemd/systemd"), "").unwrap();
        std::os::unix::fs::symlink("../../lib/systemd/systemd", at("usr/sbin/init")).unwrap();
        let root = File::open(folder.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::create_dir_all(at("one")).unwrap();
                    fs::rename(at("one"), at("other")).unwrap();
                    fs::remove_dir(at("other")).unwrap();
                }
            });
            let missed = (0..20_000).filter(|_| open(&root, "usr/sbin/init", OFlag::O_PATH).is_err()).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
    }
}
