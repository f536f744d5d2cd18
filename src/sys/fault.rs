//! Points at which a test can kill or stop us, and a shorter patience (feature `faults`).

use std::time::Duration;

/// Dies by SIGKILL if this is the point that NSCTL_KILL_AT counts to; stops by
/// SIGSTOP at that of NSCTL_STOP_AT.
#[cfg(feature = "faults")]
pub fn point() {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::Signal;
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let is_at = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok()) == Some(number);
    for (name, signal) in [("NSCTL_KILL_AT", Signal::SIGKILL), ("NSCTL_STOP_AT", Signal::SIGSTOP)] {
        if is_at(name) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), signal);
        }
    }
}

/// Nothing, in a release.
#[cfg(not(feature = "faults"))]
pub fn point() {}

/// How long a test lets services take to answer: NSCTL_BUS_LIMIT, in ms. None in a release.
pub fn bus_limit() -> Option<Duration> {
    let limit = cfg!(feature = "faults").then(|| std::env::var("NSCTL_BUS_LIMIT").ok());
    Some(Duration::from_millis(limit??.parse().ok()?))
}
