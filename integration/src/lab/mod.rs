//! Throwaway hosts: a real systemd as PID 1 of its own namespaces, an upstream
//! router and a LAN in two more, all gone when the value is dropped.

mod cgroup;
mod disk;
mod guest;
mod host;
mod kea;
mod net;
pub mod run;
mod trees;

pub use guest::{install_tiny_guest, tiny_guest};
pub use host::{LAN, Lab, REPOSITORY, binary, until};
pub use kea::kea;
pub use net::{Daemon, Namespace};
pub use run::Done;
pub use trees::{Suite, Trees, alone_with, remove_tree, snapshot, subvolume};
