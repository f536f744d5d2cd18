//! What goes wrong with files.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::hint::Hint;

/// What went wrong with a file; the text names it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("cannot {doing} {}: {source}", .path.display())]
    At { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {limit} bytes; no file of its kind is", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
}

impl Hint for DiskError {
    fn hint(&self) -> Option<String> {
        match self {
            DiskError::Io(error) | DiskError::At { source: error, .. } => match error.kind() {
                ErrorKind::PermissionDenied => Some("run it as root".into()),
                ErrorKind::StorageFull => Some("make room on that file system, then try again".into()),
                ErrorKind::ReadOnlyFilesystem => {
                    Some("mount that file system read-write, then try again".into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}
