//! Random commands, kills and crashes, a minute long; `make torture` goes on for longer.

use anyhow::Result;

use crate::lab::Lab;

pub fn run(lab: &mut Lab) -> Result<()> {
    crate::torture::short(lab)
}
