//! Verbs about the host as a whole.

pub mod doctor;
pub mod init;
pub mod reconcile;
pub mod state;
