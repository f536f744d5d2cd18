//! The picture in the README shows what nsctl says.

use anyhow::Result;

use crate::demo::{PICTURE, is_drawn, play};
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let text = play(lab, |_| {})?;
    must!(is_drawn(&text), "{PICTURE} is out of date: `target/debug/lab demo --draw`");
    Ok(())
}
