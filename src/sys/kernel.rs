//! The kernel's switches below /proc/sys.

use fs_err as fs;

/// The value of a switch, if there is such a switch.
pub fn get(key: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().to_owned())
}

/// Sets a switch.
///
/// # Errors
/// When the kernel does not take the value.
pub fn set(key: &str, value: &str) -> std::io::Result<()> {
    fs::write(format!("/proc/sys/{key}"), value)
}
