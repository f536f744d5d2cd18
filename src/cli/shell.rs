//! `nsctl shell`: a terminal in a machine, or one command.

use std::io::Write;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::session::{bus, must_be_root};
use super::{Fault, Global};
use crate::frame::{Frame, Token};
use crate::name::MachineName;
use crate::sys::pty::{Pty, Raw, is_terminal, random, stdin};

/// Open a shell in a machine, or run a command there; its exit status is ours
#[derive(Debug, Args)]
pub struct Shell {
    /// The machine's name
    name: String,
    /// The user inside the machine
    #[arg(long, short, default_value = "root")]
    user: String,
    /// The command and its words [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Pressed three times in a row it leaves the machine alone: Ctrl-].
const LEAVE: u8 = 0x1d;
/// What ends the input of a terminal: Ctrl-D.
const END: u8 = 0x04;
/// The user's own shell, as getent(1) knows it.
const LOGIN: &str =
    "shell=$(getent passwd \"$(id -un)\" 2>/dev/null | cut -d: -f7); exec \"${shell:-/bin/sh}\" -l";

pub async fn run(global: &Global, args: Shell) -> Result<u8, Fault> {
    let name: MachineName = args.name.parse()?;
    must_be_root(global)?;
    let Some(bus) = bus(global).await? else {
        return Err(Fault::new("a shell needs a running machine, not a folder of files"));
    };
    if bus.leader(&name).await?.is_none() {
        return Err(Fault::new(format!("'{name}' is not running")).hint(format!("`nsctl start {name}`")));
    }
    let command = match args.command.is_empty() {
        true => vec!["/bin/sh".to_owned(), "-c".to_owned(), LOGIN.to_owned()],
        false => args.command,
    };
    let person = is_terminal();
    let token = Token::new(random()?);
    let words = token.wrap(&command, !person);
    let environment = crate::sys::terminal_kind().map(|kind| format!("TERM={kind}")).into_iter().collect();
    let pty =
        bus.open_shell(name.as_str(), &args.user, "/bin/sh", words, environment).await.map_err(|e| {
            Fault::from(e)
                .hint(format!("a shell is opened by the guest's own systemd: is it up? `nsctl logs {name}`"))
        })?;
    pty.fit();
    let raw = person.then(Raw::begin).transpose()?;
    let status = forward(&pty, Frame::new(token)).await;
    drop(raw);
    status?.ok_or_else(|| Fault::new(format!("the connection to '{name}' ended before the command did")))
}

/// Hands everything on, both ways, until the command ends.
async fn forward(pty: &Pty, mut frame: Frame) -> Result<Option<u8>, Fault> {
    let mut input = stdin();
    let mut resized = signal(SignalKind::window_change())?;
    let mut buffer = [0; 4096];
    let mut leaving = 0;
    let mut hears = true;
    loop {
        let begun = frame.has_begun();
        tokio::select! {
            length = pty.read(&mut buffer, !begun) => {
                let length = length?;
                let (text, status) = frame.feed(&buffer[..length]);
                show(&text)?;
                if status.is_some() || length == 0 {
                    show(&frame.rest())?;
                    return Ok(status);
                }
            }
            piece = input.recv(), if hears && begun => match piece {
                Some(piece) => {
                    leaving = pressed(leaving, &piece);
                    if leaving >= 3 {
                        return Ok(None);
                    }
                    pty.write_all(&piece).await?;
                }
                None => {
                    hears = false;
                    pty.write_all(&[END]).await?;
                }
            },
            _ = resized.recv() => pty.fit(),
        }
    }
}

/// How often in a row the way out was pressed.
fn pressed(before: usize, piece: &[u8]) -> usize {
    let last = piece.iter().rev().take_while(|byte| **byte == LEAVE).count();
    if last == piece.len() { before + last } else { last }
}

fn show(text: &[u8]) -> Result<(), Fault> {
    let mut out = std::io::stdout();
    out.write_all(text)?;
    Ok(out.flush()?)
}
