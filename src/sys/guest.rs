//! Commands inside a machine, for nsctl's own purposes.

use std::time::Duration;

use super::bus::{Bus, BusError};
use super::pty::random;
use crate::frame::{Frame, Token};
use crate::name::MachineName;

/// How long a guest may take to start a shell.
const BEGIN_TIME: Duration = Duration::from_secs(10);
/// How long our commands may take.
const END_TIME: Duration = Duration::from_secs(60);
/// No command of ours says more that is worth reading.
const LIMIT: usize = 64 << 10;

/// Why a command inside did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the terminal of '{0}' cannot be used")]
    Io(String, #[source] std::io::Error),
    #[error("'{name}' started no shell within {} s", BEGIN_TIME.as_secs())]
    Deaf { name: String },
    #[error("a command in '{name}' did not end within {} s", END_TIME.as_secs())]
    Endless { name: String },
    #[error("'{0}' ended meanwhile")]
    Ended(String),
    #[error("inside '{name}': {said}")]
    Failed { name: String, said: String },
}

/// Runs a script of sh(1) as root in a machine that runs.
///
/// # Errors
/// When it cannot be run, or fails; what it said is in the error.
pub async fn run(
    bus: &Bus,
    name: &MachineName,
    script: &str,
    words: &[String],
) -> Result<String, GuestError> {
    let whole = || name.to_string();
    let io = |error| GuestError::Io(whole(), error);
    let mut command = vec!["/bin/sh".to_owned(), "-ec".to_owned(), script.to_owned(), "nsctl".to_owned()];
    command.extend_from_slice(words);
    let token = Token::new(random().map_err(io)?);
    let pty =
        bus.open_shell(name.as_str(), "root", "/bin/sh", token.wrap(&command, true), Vec::new()).await?;
    let mut frame = Frame::new(token);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let begun = frame.has_begun();
        let limit = if begun { END_TIME } else { BEGIN_TIME };
        let name = whole();
        let late = if begun { GuestError::Endless { name } } else { GuestError::Deaf { name } };
        let length = tokio::time::timeout(limit, pty.read(&mut buffer, !begun))
            .await
            .map_err(|_| late)?
            .map_err(io)?;
        if length == 0 {
            return Err(GuestError::Ended(whole()));
        }
        let (text, status) = frame.feed(&buffer[..length]);
        said.extend(text);
        said.truncate(LIMIT);
        let text = || String::from_utf8_lossy(&said).trim().to_owned();
        match status {
            None => {}
            Some(0) => return Ok(text()),
            Some(_) => return Err(GuestError::Failed { name: whole(), said: text() }),
        }
    }
}
