//! The outside world in small verbs. The only room that touches D-Bus, netlink,
//! files and the clock.

pub mod bus;
pub mod disk;
pub mod kernel;
pub mod lock;
pub mod net;
pub mod ping;

pub use bus::{Bus, BusError};
pub use disk::{Disk, DiskError};
pub use lock::{Lock, LockError};
pub use net::{Net, NetError};
