//! Errors that teach: what mends one, in a sentence or a command.

/// An error that may know what mends it.
pub trait Hint: std::error::Error + Send + Sync + 'static {
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Hint for std::io::Error {}
