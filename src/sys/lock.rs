//! One nsctl at a time changes the host; who waits says for whom.

use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::disk::{Disk, DiskError};

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("gave up after {seconds} s: {holder} is still changing the host")]
    Busy { holder: String, seconds: u64 },
    #[error("cannot lock the host")]
    Io(#[from] std::io::Error),
    #[error("cannot lock the host")]
    Disk(#[from] DiskError),
}

impl LockError {
    pub fn hint(&self) -> Option<String> {
        match self {
            LockError::Busy { .. } => {
                Some("wait for it to end, or give it more time with --wait SECONDS".into())
            }
            LockError::Io(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("run it as root".into())
            }
            LockError::Io(_) => None,
            LockError::Disk(error) => error.hint(),
        }
    }
}

/// Held until dropped; the kernel frees it if we are killed.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<std::fs::File>,
}

/// Whether some nsctl is changing the host just now.
pub fn is_held(disk: &Disk) -> bool {
    let Ok(Some(file)) = disk.open_to_read(Path::new(LOCK_FILE)) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, nix::errno::Errno::EAGAIN)))
}

const LOCK_FILE: &str = "/var/lib/nsctl/lock";

impl Lock {
    /// Takes the lock of the host, waiting for another holder;
    /// `tell` hears once whom we wait for.
    ///
    /// # Errors
    /// When another nsctl holds it for longer than `limit`.
    pub async fn take(disk: &Disk, limit: Duration, tell: impl Fn(&str)) -> Result<Lock, LockError> {
        Lock::take_at(disk, LOCK_FILE, limit, tell).await
    }

    /// The lock of who makes images, which takes long and changes nothing else.
    ///
    /// # Errors
    /// When another nsctl holds it for longer than `limit`.
    pub async fn of_images(disk: &Disk, limit: Duration, tell: impl Fn(&str)) -> Result<Lock, LockError> {
        Lock::take_at(disk, "/var/lib/nsctl/images.lock", limit, tell).await
    }

    async fn take_at(
        disk: &Disk,
        path: &str,
        limit: Duration,
        tell: impl Fn(&str),
    ) -> Result<Lock, LockError> {
        let mut file = disk.open_lock(Path::new(path))?;
        let mut told = false;
        let begin = tokio::time::Instant::now();
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut locked) => {
                    write_holder(&mut locked)?;
                    return Ok(Lock { _file: locked });
                }
                Err((again, nix::errno::Errno::EAGAIN)) => file = again,
                Err((_, errno)) => return Err(LockError::Io(errno.into())),
            }
            let holder = read_holder(&mut file);
            if begin.elapsed() >= limit {
                return Err(LockError::Busy { holder, seconds: limit.as_secs() });
            }
            if !told {
                tell(&holder);
                told = true;
            }
            // A blocking flock(2) cannot be given up; and nothing tells when a lock is freed.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn write_holder(file: &mut std::fs::File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "nsctl {} (process {})", super::command_line(), std::process::id())
}

fn read_holder(file: &mut std::fs::File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(512).read_to_string(&mut text));
    let line = crate::visible::visible(text.trim());
    match read {
        Ok(_) if !line.is_empty() => format!("`{line}`"),
        _ => "another nsctl".into(),
    }
}
