//! What a machine holds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PoolError, Subnet};

/// What a machine holds: a /64, or its number in a prefix that is delegated and may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Lease {
    Number(u32),
    Subnet(Subnet),
}

impl Lease {
    /// The number, where it is only that.
    pub fn number(self) -> Option<u32> {
        match self {
            Lease::Number(number) => Some(number),
            Lease::Subnet(_) => None,
        }
    }

    /// Its place among all that can be held: numbers come before what is unicast.
    pub(super) fn place(self) -> u64 {
        match self {
            Lease::Number(number) => number.into(),
            Lease::Subnet(subnet) => subnet.0,
        }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lease::Subnet(subnet) => subnet.fmt(f),
            Lease::Number(number) => f.pad(&format!("subnet {number:#x}")),
        }
    }
}

/// In files a number stands where it has its place behind a prefix: `0:0:0:2a::/64`.
impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        Subnet(lease.place()).to_string()
    }
}

impl FromStr for Lease {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Lease, PoolError> {
        let subnet: Subnet = text.parse()?;
        Ok(u32::try_from(subnet.0).map_or(Lease::Subnet(subnet), Lease::Number))
    }
}

impl TryFrom<String> for Lease {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Lease, PoolError> {
        text.parse()
    }
}
