//! The session of the README on a throwaway host, for real.

use anyhow::Result;

use crate::lab::{Lab, Suite, Trees};

/// What a person types, and where.
enum Line {
    Host(&'static str),
    Router(&'static str),
    Word(&'static str),
}

const SESSION: [Line; 13] = [
    Line::Word(
        "A host with systemd 257 has booted; a router sends 2001:db8:a::/48 to it, enp6s0 is on a LAN.",
    ),
    Line::Host("nsctl init --pool 2001:db8:a::/48 --uplink wan0"),
    Line::Host("nsctl create minecraft --routed --image debian-13"),
    Line::Host("nsctl bridge create vbr0 --uplink enp6s0"),
    Line::Word(
        "A machine made by hand, running with systemd's stock network, goes to the bridge as it runs:",
    ),
    Line::Host("machinectl clone debian-13 buildbot"),
    Line::Host("systemctl start systemd-nspawn@buildbot"),
    Line::Host("nsctl attach buildbot --bridge vbr0"),
    Line::Host("nsctl list"),
    Line::Word("From outside, through the host, into the machine:"),
    Line::Router("ping -6 -c3 -i0.3 2001:db8:a:1::2"),
    Line::Word("And a subnet that nobody has is refused instead of going round in circles:"),
    Line::Router("ping -6 -c1 -W2 2001:db8:a:99::2"),
];

pub fn run() -> Result<()> {
    let trees = Trees::open(&[Suite::Trixie])?;
    let lab = Lab::boot(&trees, Suite::Trixie)?;
    for line in SESSION {
        let (place, words) = match line {
            Line::Word(text) => {
                println!("\n{text}");
                continue;
            }
            Line::Host(words) => ("host", words),
            Line::Router(words) => ("router", words),
        };
        println!("\n{place}# {words}");
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = if place == "host" { lab.enter(&words)? } else { lab.router.command(&words) };
        let status = command.status()?;
        // The last ping is to fail.
        anyhow::ensure!(status.success() || place == "router", "{words:?} ended with {status}");
    }
    Ok(())
}
