//! What nsctl computes for a thousand machines has not grown by a tenth.

use anyhow::Result;

use crate::bench;
use crate::lab::Lab;

pub fn run(lab: &mut Lab) -> Result<()> {
    bench::counts::compare(lab, include_str!("../../../bench/RESULTS.md"))
}
