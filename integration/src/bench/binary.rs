//! The program itself.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use fs_err as fs;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::figures::{Figures, Sheet};
use super::measure::milliseconds;
use crate::lab::{Suite, Trees, binary};

const ROUNDS: usize = 25;

#[allow(clippy::cast_precision_loss)]
pub fn run(_: &Trees, _: Suite, sheet: &mut Sheet) -> Result<()> {
    let program = binary("NSCTL_BIN", "../release/nsctl")?;
    let mut size = Figures::default();
    size.add(fs::metadata(&program)?.len() as f64 / 1e6);
    sheet.single("size of the program", "MB", &size, 6.0);
    for (what, forget) in [("nsctl --version", false), ("nsctl --version, not in the page cache", true)] {
        let mut times = Figures::default();
        for _ in 0..ROUNDS {
            if forget {
                let file = fs::File::open(&program)?;
                file.sync_all()?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            }
            let begin = Instant::now();
            let status = Command::new(&program).arg("--version").stdout(Stdio::null()).status()?;
            times.add(milliseconds(begin.elapsed()));
            ensure!(status.success(), "{what} failed");
        }
        sheet.single(what, "ms", &times, 5.0);
    }
    Ok(())
}
