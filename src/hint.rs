//! Errors that teach: what fixes one, in a sentence or a command.

/// An error that may know what fixes it.
pub trait Hint: std::error::Error + Send + Sync + 'static {
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Hint for std::io::Error {
    fn hint(&self) -> Option<String> {
        use std::io::ErrorKind;
        let hint = match self.kind() {
            ErrorKind::PermissionDenied => "run it as root",
            ErrorKind::StorageFull => "make room on that file system, then try again",
            ErrorKind::Unsupported => "what a pipe gives, `cat` puts into a file, which can be read",
            ErrorKind::ReadOnlyFilesystem => "mount that file system read-write, then try again",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
