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

/// What tells this host from others (machine-id(5)).
pub fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default()
}

/// What this host is called (hostname(7)).
pub fn hostname() -> String {
    get("kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Random bits.
///
/// # Errors
/// When the kernel gives none.
pub fn random() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}
