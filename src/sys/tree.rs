//! Files of a machine's tree. A guest may have put anything there: links that
//! lead elsewhere, pipes, endless files.

use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

use crate::name::MachineName;

/// No file that we read of a guest is longer.
const LIMIT: u64 = 64 << 10;

/// A small text file of a machine's tree, whose links do not lead out of it; none
/// if there is no such plain file.
pub fn read(name: &MachineName, path: &str) -> Option<String> {
    let root = std::fs::File::open(Path::new("/var/lib/machines").join(name.as_str())).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = std::fs::File::from(openat2(&root, path, how).ok()?);
    let plain = file.metadata().ok()?.is_file();
    let mut text = String::new();
    (plain && file.take(LIMIT).read_to_string(&mut text).is_ok()).then_some(text)
}
