//! The kernel's switches below /proc/sys.

use std::path::PathBuf;

use fs_err as fs;

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

/// The value of a switch, if there is such a switch.
pub fn get(key: &str) -> Option<String> {
    Some(fs::read_to_string(path(key)).ok()?.trim().to_owned())
}

/// Sets a switch.
///
/// # Errors
/// When the kernel does not take the value.
pub fn set(key: &str, value: &str) -> std::io::Result<()> {
    fs::write(path(key), value)
}
