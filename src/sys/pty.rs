//! The master's end of a machine's terminal (pty(7)), and our own terminal.

use std::io::{ErrorKind, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::Winsize;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

mod ioctl {
    use nix::pty::Winsize;
    nix::ioctl_read_bad!(get_size, nix::libc::TIOCGWINSZ, Winsize);
    nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);
}

/// How often a terminal that nobody has opened yet is looked at: until then the
/// kernel calls it closed, and has no event for its opening.
const LOOK: Duration = Duration::from_millis(10);

/// A terminal whose other end a machine has.
#[derive(Debug)]
pub struct Pty {
    master: AsyncFd<OwnedFd>,
}

impl Pty {
    /// Takes the master's end.
    ///
    /// # Errors
    /// When the kernel does not let it be waited for.
    pub fn new(master: OwnedFd) -> std::io::Result<Pty> {
        let flags = OFlag::from_bits_truncate(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned by what is registered, and closed after it.
        let master = unsafe { AsyncFd::register(master)? };
        Ok(Pty { master })
    }

    /// Reads what is there; nothing when the other end is closed. One who is
    /// `patient` waits until it has been opened.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, buffer: &mut [u8], patient: bool) -> std::io::Result<usize> {
        let mut was_closed = false;
        loop {
            match nix::unistd::read(self.master.get_ref(), buffer) {
                Ok(length) => return Ok(length),
                Err(Errno::EIO) if patient => was_closed = true,
                Err(Errno::EIO) => return Ok(0),
                Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            if was_closed {
                tokio::time::sleep(LOOK).await;
            } else {
                self.master.readable().await?.clear_ready();
            }
        }
    }

    /// Writes as much of it as fits, once something does.
    ///
    /// # Errors
    /// When the other end is closed.
    pub async fn write(&self, text: &[u8]) -> std::io::Result<usize> {
        loop {
            match nix::unistd::write(self.master.get_ref(), text) {
                Ok(length) => return Ok(length),
                Err(Errno::EAGAIN) => self.master.writable().await?.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When the other end is closed.
    pub async fn write_all(&self, mut text: &[u8]) -> std::io::Result<()> {
        while !text.is_empty() {
            text = &text[self.write(text).await?..];
        }
        Ok(())
    }

    /// Makes it as large as our own terminal, if we have one.
    pub fn fit(&self) {
        if let Some(size) = size(std::io::stdout().as_fd()) {
            // SAFETY: the size is a plain value that lives through the call.
            let _ = unsafe { ioctl::set_size(self.master.get_ref().as_raw_fd(), &size) };
        }
    }
}

fn size(terminal: BorrowedFd<'_>) -> Option<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills in a value of ours that lives through the call.
    unsafe { ioctl::get_size(terminal.as_raw_fd(), &mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(size)
}

/// The terminal that we are in, wherever our output goes (tty(4)).
///
/// # Errors
/// When we are in none.
pub fn terminal() -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")
}

/// Whether a person sits at both ends.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Our own terminal, which hands every key on; as before when dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn begin() -> std::io::Result<Raw> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// What comes in on standard input, piece by piece, until its end. Read by a
/// thread: the kernel has no events for a plain file.
pub fn stdin() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match std::io::Read::read(&mut std::io::stdin(), &mut buffer) {
                Ok(0) => break,
                Ok(length) if sender.blocking_send(buffer[..length].to_vec()).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
    });
    receiver
}
