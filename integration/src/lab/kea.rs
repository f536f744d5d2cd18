//! ISC Kea, as the ISP's or the LAN's DHCP server.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use fs_err as fs;

use super::host::until;
use super::net::{Daemon, Namespace};

/// Starts a server in a namespace; gone when dropped. `dir` is for its own files.
pub fn kea(
    place: &Namespace,
    program: &str,
    interface: &str,
    dir: &Path,
    config: &serde_json::Value,
) -> Result<Daemon> {
    fs::create_dir_all(dir)?;
    let file = dir.join(format!("{program}.json"));
    fs::write(&file, config.to_string())?;
    // It does not listen on an address that is still being checked for duplicates.
    let settled = || {
        let shown = place.script(&format!("ip -6 addr show dev {interface} scope link -tentative"))?;
        Ok(shown.contains("fe80"))
    };
    until(Duration::from_secs(10), "the server's interface has its address", settled)?;
    let told = dir.join(format!("{program}.log"));
    let log = fs::File::create(&told)?.into_parts().0;
    let mut command = place.command(&[program, "-c", &file.to_string_lossy()]);
    command.env("KEA_PIDFILE_DIR", dir).env("KEA_LOCKFILE_DIR", dir).env("KEA_DHCP_DATA_DIR", dir);
    command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
    let server = Daemon::spawn(&mut command)?;
    // Who asks before it listens asks again after 4, 8, 16 s (RFC 2131 4.1).
    let listens = || Ok(fs::read_to_string(&told)?.contains("_STARTED"));
    until(Duration::from_secs(20), &format!("{program} has started"), listens)?;
    Ok(server)
}
