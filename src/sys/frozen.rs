//! A unit that stands still for a moment. Were we killed meanwhile, it would stand still until somebody looks: so
//! another process lets it go on as soon as we are gone.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::{Bus, BusError, Error};

/// Waits until nobody holds its standard input any more.
const GUARD: &str = "trap '' INT TERM HUP; cat > /dev/null; exec systemctl thaw \"$1\"";

/// How long all its processes may take to do so.
const LIMIT: Duration = Duration::from_secs(30);

/// A unit that stands still.
#[derive(Debug)]
pub struct Frozen {
    unit: String,
    guard: Child,
    held: Option<ChildStdin>,
}

impl Frozen {
    /// From now on, until [`Frozen::end`], or our own.
    ///
    /// # Errors
    /// When systemd or the kernel cannot.
    pub async fn begin(bus: &Bus, unit: &str) -> Result<Frozen, Error> {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", unit]).env("PATH", super::build::PATH).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut guard = command.spawn()?;
        let held = guard.stdin.take();
        let frozen = Frozen { unit: unit.to_owned(), guard, held };
        // One that cannot stand still, as its disk hangs, goes on, and holds up nobody.
        let asked = tokio::time::timeout(LIMIT, bus.freeze(unit, true)).await;
        asked.unwrap_or_else(|_| {
            Err(BusError::Endless { unit: unit.to_owned(), verb: "freeze", after: LIMIT })
        })?;
        super::fault::point();
        Ok(frozen)
    }

    /// It goes on.
    ///
    /// # Errors
    /// When systemd does not say so; it is asked again.
    pub async fn end(self, bus: &Bus) -> Result<(), Error> {
        Ok(bus.freeze(&self.unit, false).await?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.held.take());
        // Once it has asked systemd again, it is gone; nobody waits for one that hangs.
        for _ in 0..20 {
            if !matches!(self.guard.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
