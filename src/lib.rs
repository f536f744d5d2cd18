//! nsctl gives each systemd-nspawn machine a routed IPv6 /64 of its own, or a
//! place on a bridge, by writing plain systemd files.
//!
//! Deciding is pure; only [`sys`] touches the world, and nothing imports [`cli`].

pub mod apply;
pub mod backup;
pub mod cli;
pub mod doctor;
pub mod emit;
pub mod events;
pub mod exec;
pub mod fleet;
pub mod handwritten;
pub mod hint;
pub mod identity;
pub mod inspect;
pub mod manual;
pub mod metrics;
pub mod name;
pub mod nftables;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod pool;
pub mod provision;
pub mod publish;
pub mod settings;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod stats;
pub mod sys;
pub mod upgrade;
pub mod visible;
