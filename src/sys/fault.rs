//! Points at which a test can kill us (feature `faults`).

/// Dies by SIGKILL if this is the point that NSCTL_KILL_AT counts to.
#[cfg(feature = "faults")]
pub fn point() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    let fatal = std::env::var("NSCTL_KILL_AT").ok().and_then(|text| text.parse::<u32>().ok());
    if fatal == Some(number) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing, in a release.
#[cfg(not(feature = "faults"))]
pub fn point() {}
