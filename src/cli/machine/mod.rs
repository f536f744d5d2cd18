//! Verbs about one machine, or all of them.

pub mod adopt;
pub mod attach;
pub mod clone;
pub mod cp;
pub mod create;
pub mod export;
pub mod handmade;
pub mod list;
pub mod logs;
pub mod look;
pub mod remove;
pub mod run;
pub mod shell;
pub mod show;
pub mod view;
