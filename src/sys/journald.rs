//! The host's journal: what nsctl has written down there, and what it reads.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::build;

/// Where the journal takes entries in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const SOCKET: &str = "/run/systemd/journal/socket";

/// Writes an entry down; a host without a journal has none.
pub fn write(fields: &[(&str, &str)]) {
    let entry: Vec<u8> = fields.iter().flat_map(|(key, value)| field(key, value)).collect();
    let sent = UnixDatagram::unbound().and_then(|socket| {
        // Who does not take it at once is not waited for.
        socket.set_nonblocking(true)?;
        socket.send_to(&entry, SOCKET)
    });
    if let Err(error) = sent {
        tracing::debug!(call = "write", %error, "journal");
    }
}

/// With its length before it, so that no value is taken for a field.
fn field(key: &str, value: &str) -> Vec<u8> {
    let length = (value.len() as u64).to_le_bytes();
    [key.as_bytes(), b"\n", &length, value.as_bytes(), b"\n"].concat()
}

/// journalctl(1), a JSON document a line; it ends with us.
///
/// # Errors
/// When it cannot be run.
pub fn entries(words: &[String]) -> io::Result<Child> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--all", "--output=json"]).args(words);
    command.env("PATH", build::PATH).env("LC_ALL", "C.UTF-8").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_value_is_taken_for_a_field() {
        assert_eq!(super::field("A", "x\nB=y"), b"A\n\x05\0\0\0\0\0\0\0x\nB=y\n");
    }
}
