//! What the guides say that one types, typed, and what they say that comes of it, seen.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;

use crate::demo::settled;
use crate::lab::{Lab, until};
use crate::must;

const VPS: &str = include_str!("../../../docs/guides/vps-48.md");
const LAN: &str = include_str!("../../../docs/guides/lan-bridge.md");

/// What only this laboratory has: an image at hand, so that no distribution is built anew.
const HOST: &str =
    "mkdir -p /etc/nsctl; printf '[defaults]\\nimage = \"debian-13\"\\n' > /etc/nsctl/nsctl.toml";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh(HOST)?;
    let routed = || Ok(lab.sh("ip -6 route show default")?.contains("dev wan0"));
    until(Duration::from_secs(20), "the host has a router", routed)?;
    // What `doctor --probe` waits for.
    let mut ping = lab.router.command(&["ping", "-6", "-i0.2", "2001:db8:a::1"]);
    let mut ping = ping.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let done = follow(lab, VPS, &[]);
    ping.kill()?;
    ping.wait()?;
    done?;
    lab.nsctl_ok("remove minecraft --yes")?;
    // The other way to a bridge, which is there by then; and what its owner must answer.
    follow(lab, LAN, &["--address 192.168.5.9/24"])
}

/// Types each command of a page's sessions.
fn follow(lab: &Lab, page: &str, but: &[&str]) -> Result<()> {
    let mut typed = 0;
    for (command, wanted) in sessions(page) {
        if but.iter().any(|word| command.contains(word)) {
            continue;
        }
        typed += 1;
        let yes = if command.contains("bridge create") { " --yes" } else { "" };
        let done = lab.run(&["sh", "-c", &format!("{command}{yes}")])?;
        let said: Vec<String> = done.stdout.lines().map(settled).filter(|line| !line.is_empty()).collect();
        let wanted: Vec<String> =
            wanted.iter().map(|line| settled(line)).filter(|line| !line.is_empty()).collect();
        must!(said == wanted, "`{command}` says:\n{}\nand the guide:\n{}", done.all(), wanted.join("\n"));
    }
    must!(typed > 3, "the guide has no sessions");
    Ok(())
}

/// The commands of a page, and what stands below each.
fn sessions(page: &str) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("# ") {
            Some(command) => all.push((command.to_owned(), Vec::new())),
            None => all.last_mut().into_iter().for_each(|(_, said)| said.push(line.to_owned())),
        }
    }
    all
}
