//! nsctl gives each systemd-nspawn machine a routed IPv6 /64 of its own, or a
//! place on a bridge, by writing plain systemd files.
//!
//! The rooms, from the ground up:
//!
//! - [`hint`]: errors that say what fixes them
//! - [`name`]: names of machines and interfaces, parsed once, valid ever after
//! - [`identity`]: what a LAN's DHCP server knows a machine by
//! - [`pool`]: prefixes, subnets, leases: the choice of the next /64
//! - [`provision`]: what makes a tree fit to boot unattended
//! - [`exec`]: a command in a machine's terminal, and how it ended
//! - [`settings`]: the settings that each version of systemd knows
//! - [`spec`]: what the user wants: nsctl.toml and machines.d/*.toml
//! - [`state`]: the state file: leases, and what must outlive a crash
//! - [`emit`]: spec + lease -> text of systemd's files
//! - [`handwritten`]: what somebody wrote by hand, as a definition
//! - [`nftables`]: what the kernel's rules say
//! - [`observed`]: a plain snapshot of a host
//! - [`plan`]: (what is wanted, what is observed) -> ordered steps
//! - [`sys`]: the outside world in small verbs: D-Bus, netlink, files
//! - [`observe`]: sys -> observed, read-only
//! - [`doctor`]: (what is wanted, what was seen) -> what is wrong
//! - [`inspect`]: sys -> what doctor looks at, read-only
//! - [`apply`]: steps -> sys, with journal, undo and verification
//! - [`cli`]: the command line; nothing imports it
//!
//! Deciding is pure; only [`sys`] touches the world.

pub mod apply;
pub mod cli;
pub mod doctor;
pub mod emit;
pub mod exec;
pub mod handwritten;
pub mod hint;
pub mod identity;
pub mod inspect;
pub mod name;
pub mod nftables;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod pool;
pub mod provision;
pub mod settings;
pub mod spec;
pub mod state;
pub mod sys;
pub mod visible;
