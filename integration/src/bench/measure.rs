//! Commands inside a host, timed from outside: elapsed time, processor time, memory.

use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::libc;

use crate::lab::Lab;

/// What one command took, with all processes that it waited for.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Milliseconds.
    pub elapsed: f64,
    /// Milliseconds of processor time, in user space and in the kernel.
    pub cpu: f64,
    /// Megabytes, of the largest process.
    pub memory: f64,
}

/// Runs a line of shell inside the host, which must succeed.
pub fn cost(lab: &Lab, line: &str) -> Result<Cost> {
    let mut command = lab.enter(&["sh", "-euc", line])?;
    cost_of(&mut command, line)
}

#[allow(clippy::cast_precision_loss)]
fn cost_of(command: &mut Command, line: &str) -> Result<Cost> {
    let begin = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = libc::pid_t::try_from(child.id())?;
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours and not yet waited for; both places are ours. rusage is plain numbers.
    let (waited, usage) = unsafe {
        let waited = libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr());
        (waited, usage.assume_init())
    };
    let elapsed = milliseconds(begin.elapsed());
    ensure!(waited == pid, "cannot wait for `{line}`");
    ensure!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "`{line}` failed ({status})");
    let time = |time: libc::timeval| time.tv_sec as f64 * 1000.0 + time.tv_usec as f64 / 1000.0;
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok(Cost { elapsed, cpu, memory: usage.ru_maxrss as f64 / 1024.0 })
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
