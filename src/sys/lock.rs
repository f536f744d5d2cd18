//! One nsctl at a time changes the host; who waits says for whom.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use super::disk::{Disk, DiskError};

use crate::hint::Hint;

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

impl Hint for LockError {
    fn hint(&self) -> Option<String> {
        match self {
            LockError::Busy { .. } => {
                Some("wait for it to end, or give it more time with --wait SECONDS".into())
            }
            LockError::Io(error) => error.hint(),
            LockError::Disk(error) => error.hint(),
        }
    }
}

/// Held until it is released or dropped; the kernel frees it if we are killed (flock(2)).
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Whoever changes the host has this one.
pub const OF_HOST: &str = "/var/lib/nsctl/lock";
/// Who makes backups, or proves one: one at a time.
pub const OF_BACKUPS: &str = "/var/lib/nsctl/backups.lock";
/// Who makes images, which takes long and changes nothing else.
pub const OF_IMAGES: &str = "/var/lib/nsctl/images.lock";

impl Lock {
    /// Takes a lock, waiting for another holder; `tell` hears once whom we wait for.
    ///
    /// # Errors
    /// When another nsctl holds it for longer than `limit`.
    pub async fn take(
        disk: &Disk,
        path: &str,
        limit: Duration,
        tell: impl Fn(&str),
    ) -> Result<Lock, LockError> {
        let lock = Lock { file: disk.open_lock(Path::new(path))? };
        lock.wait(limit, tell).await?;
        Ok(lock)
    }

    /// Lets others have it.
    pub fn release(&self) {
        // What cannot be unlocked is freed when we end.
        let _ = self.file.unlock();
    }

    /// Has it again.
    ///
    /// # Errors
    /// When another nsctl holds it for longer than `limit`.
    pub async fn retake(&self, limit: Duration) -> Result<(), LockError> {
        self.wait(limit, |_| {}).await
    }

    async fn wait(&self, limit: Duration, tell: impl Fn(&str)) -> Result<(), LockError> {
        let mut told = false;
        let begin = tokio::time::Instant::now();
        loop {
            match self.file.try_lock() {
                Ok(()) => return Ok(write_holder(&self.file)?),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
            let holder = read_holder(&self.file);
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

fn write_holder(mut file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "nsctl {} (process {})", super::command_line(), std::process::id())
}

fn read_holder(mut file: &File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(512).read_to_string(&mut text));
    let line = crate::visible::visible(text.trim());
    match read {
        Ok(_) if !line.is_empty() => format!("`{line}`"),
        _ => "another nsctl".into(),
    }
}
