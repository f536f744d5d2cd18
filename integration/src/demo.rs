//! The session of the README on a throwaway host, for real, and its picture.

use anyhow::{Result, ensure};
use fs_err as fs;

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

/// The picture of the session.
pub const PICTURE: &str = "docs/session.svg";

/// Plays the session, and draws it where that is asked for.
pub fn run(draw: bool) -> Result<()> {
    let trees = Trees::open(&[Suite::Trixie])?;
    let lab = Lab::boot(&trees, Suite::Trixie)?;
    let text = play(&lab, |line| println!("{line}"))?;
    if draw {
        fs::write(PICTURE, picture(&text))?;
    }
    Ok(())
}

/// Plays the session; gives what stands on the terminal then.
pub fn play(lab: &Lab, mut hear: impl FnMut(&str)) -> Result<Vec<String>> {
    let mut text = Vec::new();
    let mut put = |line: &str| {
        hear(line);
        text.push(line.to_owned());
    };
    for line in SESSION {
        let (place, words) = match line {
            Line::Word(word) => {
                put("");
                put(word);
                continue;
            }
            Line::Host(words) => ("host", words),
            Line::Router(words) => ("router", words),
        };
        put("");
        put(&format!("{place}# {words}"));
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = if place == "host" { lab.enter(&words)? } else { lab.router.command(&words) };
        let output = command.stderr(std::process::Stdio::inherit()).output()?;
        String::from_utf8_lossy(&output.stdout).lines().for_each(&mut put);
        // With a machine-id it asks nobody anything at its first boot (systemd-firstboot(1)).
        if let ["machinectl", "clone", _, machine] = words[..] {
            lab.sh(&format!("systemd-machine-id-setup --root=/var/lib/machines/{machine} 2> /dev/null"))?;
        }
        // A person looks, too, before it goes on.
        if let Some(machine) = words.last().and_then(|word| word.strip_prefix("systemd-nspawn@")) {
            // Its guest has set its end up.
            lab.sh(&format!("until ip link show ve-{machine} | grep -q LOWER_UP; do sleep 0.2; done"))?;
        }
        // The last ping is to fail.
        ensure!(output.status.success() || place == "router", "{words:?} ended with {}", output.status);
    }
    Ok(text)
}

/// Whether the picture still shows what nsctl says; times and the LAN's addresses are others each time.
pub fn is_drawn(text: &[String]) -> bool {
    let drawn = include_str!("../../docs/session.svg");
    let lines = drawn
        .lines()
        .filter_map(|line| line.split_once("xml:space=\"preserve\">")?.1.strip_suffix("</text>"));
    let drawn: Vec<String> =
        lines.map(|line| settled(&unescaped(line))).filter(|line| !line.is_empty()).collect();
    let said: Vec<String> = text.iter().map(|line| settled(line)).filter(|line| !line.is_empty()).collect();
    for (said, drawn) in said.iter().zip(&drawn).filter(|(said, drawn)| said != drawn) {
        println!("said:  {said}\ndrawn: {drawn}");
    }
    said == drawn
}

/// A line without what is another each time.
pub fn settled(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let word = word.trim_end_matches(',');
        let other = ["2001:db8:5:", "2001:db8:ffff:0:", "192.168.5.", "fe80:", "dhcp-host="];
        let is_lan = other.iter().any(|start| word.starts_with(start));
        let digits = word.trim_start_matches("time=").trim_start_matches('(').trim_end_matches("ms");
        let is_time =
            digits.contains('.') && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '/'));
        let is_count = word.chars().all(|c| c.is_ascii_digit());
        if is_lan {
            "LAN".to_owned()
        } else if is_time || word.ends_with("ms") {
            "TIME".to_owned()
        } else if is_count {
            "COUNT".to_owned()
        } else {
            word.to_owned()
        }
    });
    let mut words: Vec<String> = words.collect();
    // Nor does one know which of its addresses the LAN has given yet.
    words.dedup();
    if words == ["LAN"] { String::new() } else { words.join(" ") }
}

const ROW: usize = 18;

/// A terminal as an SVG, which scales and can be copied from.
fn picture(text: &[String]) -> String {
    let lines: Vec<&String> = text.iter().skip_while(|line| line.is_empty()).collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(80);
    let (width, height) = (columns * 84 / 10 + 32, lines.len() * ROW + 32);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"14\">\n\
         <title>A session with nsctl</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#1e2430\"/>\n"
    );
    for (row, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        let colour = if line.starts_with("host# ") || line.starts_with("router# ") {
            "#8fd48f"
        } else if line.ends_with(['.', ':']) {
            "#8b95a7"
        } else {
            "#e6e9ef"
        };
        let y = 16 + (row + 1) * ROW - 4;
        let line = escaped(line);
        svg += &format!("<text x=\"16\" y=\"{y}\" fill=\"{colour}\" xml:space=\"preserve\">{line}</text>\n");
    }
    svg + "</svg>\n"
}

fn escaped(line: &str) -> String {
    line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescaped(line: &str) -> String {
    line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}
