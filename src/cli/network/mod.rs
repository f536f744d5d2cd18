//! Verbs about bridges, ports, names and addresses.

pub mod bridge;
pub mod dns;
pub mod expose;
pub mod open;
pub mod pool;
pub mod reservation;
