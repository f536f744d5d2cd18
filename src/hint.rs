//! Errors that teach: what fixes one, in a sentence or a command.

/// An error that may know what fixes it.
pub trait Hint: std::error::Error + Send + Sync + 'static {
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Hint for std::io::Error {}
