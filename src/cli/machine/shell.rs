//! `nsctl shell`: a terminal in a machine, or one command.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::fault::{argument, unknown};
use crate::cli::session::live_bus;
use crate::cli::text::err;
use crate::cli::{Fault, Global};
use crate::exec::{ExecStream, Token};
use crate::name::MachineName;
use crate::spec::MACHINES_DIR;
use crate::sys::kernel::random;
use crate::sys::pty::{Pty, Raw, is_terminal, stdin};
use crate::sys::{Bus, Disk, guest};

/// Open a shell in a machine, or run a command there; its exit status is ours
///
/// The status is the guest's word: no other user inside can forge it, but the user that the
/// command runs as, and the machine's root, can.
#[derive(Debug, Clone, Args)]
pub struct Shell {
    /// The machine's name; several: web,db
    #[arg(required_unless_present = "all", add = crate::cli::complete::any_machines())]
    name: Option<String>,
    /// In all machines of nsctl's that run, one after the other
    #[arg(long)]
    all: bool,
    /// The user inside the machine
    #[arg(long, short, default_value = "root")]
    user: String,
    /// The command and its words [default: the user's shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Pressed three times in a row it leaves the machine alone: Ctrl-].
const LEAVE: u8 = 0x1d;
const LEAVES: usize = 3;
/// How long a guest may take to start a shell.
const BEGIN_TIME: Duration = Duration::from_secs(20);
/// How often it is told that the input is over, until it ends.
const END_AGAIN: Duration = Duration::from_millis(200);
/// What ends the input of a terminal: Ctrl-D.
const END: u8 = 0x04;
/// The user's own shell, as getent(1) knows it.
const LOGIN: &str =
    "shell=$(getent passwd \"$(id -un)\" 2>/dev/null | cut -d: -f7); exec \"${shell:-/bin/sh}\" -l";

pub async fn run(global: &Global, args: Shell) -> Result<u8, Fault> {
    let bus = live_bus(global, "a shell is opened").await?;
    let Shell { name, all, user, mut command } = args;
    let names = match name {
        None if all => {
            return Err(Fault::wrong("a terminal is in one machine at a time")
                .hint("name a command, which runs in each: `nsctl shell --all uptime`"));
        }
        Some(first) if all => {
            command.insert(0, first);
            running(global, &bus).await?
        }
        name => {
            let words = name.unwrap_or_default();
            words.split(',').map(argument).collect::<Result<Vec<MachineName>, _>>()?
        }
    };
    if let [name] = names.as_slice() {
        return open(global, &bus, name, &user, command, &mut stdin()).await;
    }
    if command.is_empty() {
        return Err(Fault::wrong("a terminal is in one machine at a time")
            .hint("name a command, which runs in each: `nsctl shell --all uptime`"));
    }
    let (mut worst, mut pieces) = (0, stdin());
    for name in &names {
        err!("{name}:");
        let status =
            open(global, &bus, name, &user, command.clone(), &mut pieces).await.unwrap_or_else(|fault| {
                global.report.fault(&fault);
                1
            });
        worst = worst.max(status);
    }
    Ok(worst)
}

/// Those of nsctl's machines that run.
async fn running(global: &Global, bus: &Bus) -> Result<Vec<MachineName>, Fault> {
    let running = bus.machines().await?;
    let files = Disk::new(&global.root).names(Path::new(MACHINES_DIR))?;
    let ours = files.iter().filter_map(|file| file.strip_suffix(".toml")?.parse::<MachineName>().ok());
    Ok(ours.filter(|name| running.contains_key(name.as_str())).collect())
}

/// A machine that there is, but does not run, is not one that nobody knows.
async fn not_running(bus: &Bus, name: &MachineName) -> Result<Fault, Fault> {
    let known = bus.images().await?;
    if known.contains(name.as_str()) {
        return Ok(Fault::new(format!("'{name}' is not running")).hint(format!("`nsctl start {name}`")));
    }
    Ok(unknown(name.as_str(), bus.machines().await?.keys().map(String::as_str)))
}

async fn open(
    global: &Global,
    bus: &Bus,
    name: &MachineName,
    user: &str,
    command: Vec<String>,
    pieces: &mut Pieces,
) -> Result<u8, Fault> {
    if bus.leader(name).await?.is_none() {
        return Err(not_running(bus, name).await?);
    }
    let command = match command.is_empty() {
        true => vec!["/bin/sh".to_owned(), "-c".to_owned(), LOGIN.to_owned()],
        false => command,
    };
    let person = is_terminal();
    let token = Token::new(random()?);
    let words = Token::wrap(&command, !person);
    let environment = crate::sys::terminal_kind().map(|kind| format!("TERM={kind}")).into_iter().collect();
    let pty = bus.open_shell(name.as_str(), user, "/bin/sh", words, environment).await.map_err(|e| {
        Fault::from(e)
            .hint(format!("a shell is opened by the guest's own systemd: is it up? `nsctl logs {name}`"))
    })?;
    global.report.streams();
    pty.fit();
    let raw = person.then(Raw::begin).transpose()?;
    let status = forward(&pty, ExecStream::new(token), name, pieces).await;
    drop(raw);
    status?.ok_or_else(|| Fault::new(format!("the connection to '{name}' ended before the command did")))
}

/// What is typed, or comes through a pipe: of one reader, whichever machine it is for.
type Pieces = tokio::sync::mpsc::Receiver<Vec<u8>>;

/// What is on its way in.
#[derive(Default)]
struct Input {
    waits: Vec<u8>,
    leaving: usize,
    is_over: bool,
}

impl Input {
    /// Takes a piece; none: it is over, which a terminal is told by a key.
    fn take(&mut self, piece: Option<Vec<u8>>) {
        match piece {
            Some(piece) => {
                self.leaving = pressed(self.leaving, &piece);
                self.waits = piece;
            }
            None => {
                self.is_over = true;
                self.waits = vec![END];
            }
        }
    }
}

/// Hands everything on, both ways, until the command ends.
async fn forward(
    pty: &Pty,
    mut stream: ExecStream,
    name: &MachineName,
    pieces: &mut Pieces,
) -> Result<Option<u8>, Fault> {
    let deaf = |_| {
        Fault::new(format!("'{name}' started no shell within {} s", BEGIN_TIME.as_secs()))
            .hint(format!("`nsctl logs {name}` may tell why"))
    };
    let (text, status) =
        tokio::time::timeout(BEGIN_TIME, guest::begin(pty, &mut stream)).await.map_err(deaf)??;
    show(&text)?;
    if status.is_some() {
        return Ok(status);
    }
    let mut resized = signal(SignalKind::window_change())?;
    let mut again = tokio::time::interval(END_AGAIN);
    let mut buffer = [0; 4096];
    let mut input = Input::default();
    loop {
        let idle = input.waits.is_empty();
        tokio::select! {
            length = pty.read(&mut buffer, false) => {
                let length = length?;
                let (text, status) = stream.feed(&buffer[..length]);
                show(&text)?;
                if status.is_some() || length == 0 {
                    show(&stream.rest())?;
                    return Ok(status);
                }
            }
            piece = pieces.recv(), if idle && !input.is_over => {
                input.take(piece);
                if input.leaving >= LEAVES {
                    return Ok(None);
                }
            }
            // What the command says is read meanwhile: it may wait for that before it reads on.
            length = pty.write(&input.waits), if !idle => {
                input.waits.drain(..length?);
            }
            // A key that is pressed before a shell reads its line is lost, or ends but that line.
            _ = again.tick(), if idle && input.is_over => input.take(None),
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
