//! Commands inside a machine, for nsctl's own purposes.

use std::time::Duration;

use tokio::time::timeout;

use super::bus::{Bus, BusError};
use super::kernel::random;
use super::pty::Pty;
use crate::exec::{ExecStream, Token};
use crate::hint::Hint;
use crate::name::MachineName;

/// How long a guest may take to start a shell.
const BEGIN_TIME: Duration = Duration::from_secs(10);
/// How long our commands may take.
const END_TIME: Duration = Duration::from_secs(60);
/// No command of ours says more that is worth reading: the packages of a large guest are a few hundred KiB.
const LIMIT: usize = 1 << 20;

/// Why a command inside did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error(transparent)]
    Bus(#[from] BusError),
    /// It has been asked, and said no: nothing was begun.
    #[error(transparent)]
    Refused(BusError),
    #[error("the terminal of '{0}' cannot be used")]
    Io(String, #[source] std::io::Error),
    #[error("'{name}' started no shell within {} s", BEGIN_TIME.as_secs())]
    Deaf { name: String },
    #[error("a command in '{name}' did not end within {} s", .after.as_secs())]
    Endless { name: String, after: Duration },
    #[error("'{0}' ended meanwhile")]
    Ended(String),
    #[error("inside '{name}': {said}")]
    Failed { name: String, said: String },
}

impl Hint for GuestError {
    fn hint(&self) -> Option<String> {
        match self {
            GuestError::Bus(error) | GuestError::Refused(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs a script of sh(1) as root in a machine that runs. Whatever the guest does, it ends.
///
/// # Errors
/// When it cannot be run, or fails; what it said is in the error.
pub async fn run(
    bus: &Bus,
    name: &MachineName,
    script: &str,
    words: &[String],
) -> Result<String, GuestError> {
    follow(bus, name, script, words, END_TIME, |_| {}).await
}

/// The same, for so long at the most; each line is heard as it comes, and the last of what was said is given.
///
/// # Errors
/// When it cannot be run, or fails; what it said at last is in the error.
pub async fn follow(
    bus: &Bus,
    name: &MachineName,
    script: &str,
    words: &[String],
    limit: Duration,
    heard: impl FnMut(&str),
) -> Result<String, GuestError> {
    let endless = |_| GuestError::Endless { name: name.to_string(), after: limit };
    timeout(limit, whole(bus, name, script, words, heard)).await.map_err(endless)?
}

async fn whole(
    bus: &Bus,
    name: &MachineName,
    script: &str,
    words: &[String],
    mut heard: impl FnMut(&str),
) -> Result<String, GuestError> {
    let io = |error| GuestError::Io(name.to_string(), error);
    let mut command = vec!["/bin/sh".to_owned(), "-ec".to_owned(), script.to_owned(), "nsctl".to_owned()];
    command.extend_from_slice(words);
    let mut stream = ExecStream::new(Token::new(random().map_err(io)?));
    let words = Token::wrap(&command, true);
    let opened = bus.open_shell(name.as_str(), "root", "/bin/sh", words, Vec::new()).await;
    let pty = opened.map_err(|error| {
        if error.is_refusal() { GuestError::Refused(error) } else { GuestError::Bus(error) }
    })?;
    let deaf = |_| GuestError::Deaf { name: name.to_string() };
    let begun = timeout(BEGIN_TIME, begin(&pty, &mut stream)).await.map_err(deaf)?;
    let (text, mut status) = begun.map_err(io)?;
    let mut said = Said::default();
    said.add(&text, &mut heard);
    let mut buffer = [0; 4096];
    loop {
        if let Some(status) = status {
            let text = said.text();
            let failed = || GuestError::Failed { name: name.to_string(), said: text.clone() };
            return if status == 0 { Ok(text) } else { Err(failed()) };
        }
        let length = pty.read(&mut buffer, false).await.map_err(io)?;
        if length == 0 {
            return Err(GuestError::Ended(name.to_string()));
        }
        let (more, ended) = stream.feed(&buffer[..length]);
        said.add(&more, &mut heard);
        status = ended;
        // What comes without a pause would let nobody look at the clock.
        tokio::task::yield_now().await;
    }
}

/// The last of what a command says.
#[derive(Debug, Default)]
struct Said {
    text: Vec<u8>,
    /// Where the line begins that is not over.
    line: usize,
}

impl Said {
    fn add(&mut self, more: &[u8], heard: &mut impl FnMut(&str)) {
        for byte in more {
            self.text.push(*byte);
            // Progress is shown by lines that are written over.
            if matches!(byte, b'\n' | b'\r') {
                let line = String::from_utf8_lossy(&self.text[self.line..]);
                if !line.trim().is_empty() {
                    heard(line.trim());
                }
                self.line = self.text.len();
            }
        }
        if self.text.len() > 2 * LIMIT {
            let first = self.text.len() - LIMIT;
            self.text.drain(..first);
            self.line = self.line.saturating_sub(first);
        }
    }

    fn text(&self) -> String {
        let first = self.text.len().saturating_sub(LIMIT);
        String::from_utf8_lossy(&self.text[first..]).trim().to_owned()
    }
}

/// Waits until the command has been begun; gives what it has said, and its status if it has ended.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn begin(pty: &Pty, stream: &mut ExecStream) -> std::io::Result<(Vec<u8>, Option<u8>)> {
    let mut buffer = [0; 4096];
    loop {
        let length = pty.read(&mut buffer, true).await?;
        let said = stream.feed(&buffer[..length]);
        if stream.has_begun() {
            return Ok(said);
        }
        if let Some(answer) = stream.answer() {
            pty.write_all(&answer).await?;
        }
        // What comes without a pause would let nobody look at the clock.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_heard_and_a_flood_is_not_kept() {
        let mut said = Said::default();
        let mut lines = Vec::new();
        for piece in ["Unpack", "ing 1 %\rUnpacking 2 %\r", "\n\nSetting up", " x\nno end"] {
            said.add(piece.as_bytes(), &mut |line: &str| lines.push(line.to_owned()));
        }
        assert_eq!(lines, ["Unpacking 1 %", "Unpacking 2 %", "Setting up x"]);
        assert!(said.text().ends_with("Setting up x\nno end"));
        for _ in 0..1000 {
            said.add(&[b'x'; 4096], &mut |_| {});
        }
        assert!(said.text.len() <= 2 * LIMIT + 4096);
        said.add(b"\nlast\n", &mut |line| lines.push(line.chars().take(4).collect()));
        assert_eq!(lines.last().map(String::as_str), Some("last"));
        assert!(said.text().ends_with("last"));
    }
}
