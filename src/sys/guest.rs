//! Commands inside a machine, for nsctl's own purposes.

use std::time::Duration;

use tokio::time::timeout;

use super::bus::{Bus, BusError};
use super::pty::{Pty, random};
use crate::exec::{ExecStream, Token};
use crate::hint::Hint;
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
    /// It has been asked, and said no: nothing was begun.
    #[error(transparent)]
    Refused(BusError),
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
    let endless = |_| GuestError::Endless { name: name.to_string() };
    timeout(END_TIME, whole(bus, name, script, words)).await.map_err(endless)?
}

async fn whole(bus: &Bus, name: &MachineName, script: &str, words: &[String]) -> Result<String, GuestError> {
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
    let (mut text, mut status) = begun.map_err(io)?;
    let mut buffer = [0; 4096];
    loop {
        text.truncate(LIMIT);
        if let Some(status) = status {
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            let failed = || GuestError::Failed { name: name.to_string(), said: text.clone() };
            return if status == 0 { Ok(text) } else { Err(failed()) };
        }
        let length = pty.read(&mut buffer, false).await.map_err(io)?;
        if length == 0 {
            return Err(GuestError::Ended(name.to_string()));
        }
        let (more, ended) = stream.feed(&buffer[..length]);
        text.extend(more);
        status = ended;
        // What comes without a pause would let nobody look at the clock.
        tokio::task::yield_now().await;
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
