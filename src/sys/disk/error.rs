//! What goes wrong with files.

use std::path::PathBuf;

use crate::hint::Hint;

/// What went wrong with a file; the text names it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {doing} {}: {source}", .path.display())]
    At { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {limit} bytes; no file of its kind is", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
}

impl Hint for DiskError {
    fn hint(&self) -> Option<String> {
        match self {
            DiskError::At { source, .. } => source.hint(),
            DiskError::TooLarge { .. } => None,
        }
    }
}
