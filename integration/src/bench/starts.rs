//! From the command to the first answer, for machines that are there and stopped.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fs_err as fs;

use super::figures::{Figures, Goal, Sheet};
use super::measure::{cost, milliseconds};
use super::probe::Probe;
use super::rivals::{self, Rival};
use crate::lab::{Lab, Suite, Trees, until};

const STARTS: usize = 9;

/// A machine as systemd's documentation has it: the host announces its /64, and
/// the guest's stock 80-container-host0.network does the rest.
const STOCK: &str = "[Match]
Name=ve-stock

[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
IPv6SendRA=yes

[Address]
Address=2001:db8:b:1::1/64

[IPv6Prefix]
Prefix=2001:db8:b:1::/64
";

/// One way to have the same tree run.
pub struct Side {
    pub name: &'static str,
    pub start: String,
    pub stop: String,
    pub address: String,
    /// The host's link to it.
    pub link: String,
}

/// Of one side: to the first ping, and to the first byte of TCP.
#[derive(Default, Clone)]
pub struct Answers {
    pub ping: Figures,
    pub tcp: Figures,
}

/// Beside the stock set-up, on every version.
pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    let sides = [ours(&lab)?, stock(&lab)?];
    let answers = measure(&lab, &sides)?;
    report(sheet, suite, &sides, &answers);
    share(&lab, suite, &sides[0], sheet)
}

/// Beside the stock set-up and the other container managers.
pub fn beside_rivals(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    let mut sides = vec![ours(&lab)?, stock(&lab)?];
    for rival in &rivals::ALL {
        rival.set_up(&lab)?;
        sides.push(rival.stopped(&lab, rival.name, "plain", 1)?);
        if let Some(name) = rival.hooked {
            sides.push(rival.stopped(&lab, name, "hooked", 2)?);
        }
    }
    let answers = measure(&lab, &sides);
    let torn_down: Result<Vec<()>> = rivals::ALL.iter().map(|rival| rival.tear_down(&lab)).collect();
    report(sheet, suite, &sides, &answers?);
    torn_down.map(drop)
}

fn report(sheet: &mut Sheet, suite: Suite, sides: &[Side], answers: &[Answers]) {
    let systemd = suite.systemd();
    let ours = &answers[0];
    for (side, theirs) in sides.iter().zip(answers).skip(1) {
        let (ping, tcp) = match side.name {
            "stock RA" => (0.05, 0.2),
            "Podman" => (1.1, 1.0),
            _ => (1.0, 1.0),
        };
        let what = |what: &str| format!("start to {what}, systemd {systemd}");
        sheet.pair(&what("ping"), "ms", &ours.ping, (side.name, &theirs.ping), Goal::Times(ping));
        sheet.pair(&what("first byte"), "ms", &ours.tcp, (side.name, &theirs.tcp), Goal::Times(tcp));
    }
}

fn ours(lab: &Lab) -> Result<Side> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create ours --routed --image debian-13")?;
    lab.nsctl_ok("stop ours")?;
    Ok(Side {
        name: "nsctl",
        start: "nsctl start ours".into(),
        stop: "nsctl stop ours".into(),
        address: "2001:db8:a:1::2".into(),
        link: "ve-ours".into(),
    })
}

fn stock(lab: &Lab) -> Result<Side> {
    lab.sh(&format!(
        "printf '%s' '{STOCK}' > /etc/systemd/network/10-stock.network; networkctl reload
         machinectl clone debian-13 stock
         mkdir -p /etc/systemd/nspawn; printf '[Exec]\\nBoot=yes\\nParameters=systemd.firstboot=no\\n' > /etc/systemd/nspawn/stock.nspawn
         systemctl start systemd-nspawn@stock"
    ))?;
    let address = slaac(lab)?;
    lab.nsctl_ok("stop stock")?;
    Ok(Side {
        name: "stock RA",
        start: "systemctl start systemd-nspawn@stock".into(),
        stop: "nsctl stop stock".into(),
        address,
        link: "ve-stock".into(),
    })
}

/// The address that the stock guest chooses; it depends on its MAC, which stays.
fn slaac(lab: &Lab) -> Result<String> {
    let mut found = None;
    until(Duration::from_secs(30), "the stock machine has its address", || {
        let machine = lab.machine("stock")?;
        let addresses = machine["addresses"].as_array().cloned().unwrap_or_default();
        found = addresses
            .iter()
            .filter_map(|a| a.as_str())
            .find(|a| a.starts_with("2001:db8:b:1:"))
            .map(str::to_owned);
        Ok(found.is_some())
    })?;
    found.context("no address")
}

/// All sides in turn, again and again; the first round does not count.
fn measure(lab: &Lab, sides: &[Side]) -> Result<Vec<Answers>> {
    let mut answers = vec![Answers::default(); sides.len()];
    for round in 0..=STARTS {
        for (side, answers) in sides.iter().zip(&mut answers) {
            let (ping, tcp) = answered(lab, &side.start, &side.address, &side.link)
                .with_context(|| format!("{} in round {round}", side.name))?;
            lab.sh(&side.stop)?;
            if round > 0 {
                answers.ping.add(milliseconds(ping));
                answers.tcp.add(milliseconds(tcp));
            }
        }
    }
    Ok(answers)
}

/// Starts something; the time until it answers a ping, and on TCP.
pub fn answered(lab: &Lab, line: &str, address: &str, link: &str) -> Result<(Duration, Duration)> {
    let (host, address) = (lab.init()?, address.parse()?);
    let mut command = lab.enter(&["sh", "-euc", line])?;
    let begin = Instant::now();
    let ping = Probe::ping(host, address, begin);
    let tcp = Probe::tcp(host, address, 7777, begin);
    let eager = Probe::eager(host, link, begin);
    crate::lab::run::check(&mut command)?;
    eager.end()?;
    Ok((ping.end()?, tcp.end()?))
}

/// nsctl's part of the processor time that a start takes of the whole host.
fn share(lab: &Lab, suite: Suite, ours: &Side, sheet: &mut Sheet) -> Result<()> {
    let mut shares = Figures::default();
    for _ in 0..STARTS {
        shares.add(part(lab, &ours.start, "ours")?);
        lab.sh(&ours.stop)?;
    }
    let what = format!("nsctl's share of the processor time of `start`, systemd {}", suite.systemd());
    sheet.single(&what, "%", &shares, 3.0);
    Ok(())
}

/// The part, in percent, that a command has in the processor time of all that comes about
/// until the machine has booted. It runs beside the host's own control group.
pub fn part(lab: &Lab, line: &str, machine: &str) -> Result<f64> {
    let before = used(lab)?;
    let entering = cost(lab, ":")?.cpu;
    let mine = cost(lab, line)?.cpu - entering;
    lab.booted(machine)?;
    Ok(100.0 * mine / (used(lab)? - before + mine))
}

/// Milliseconds of processor time that all of the host has taken.
fn used(lab: &Lab) -> Result<f64> {
    let text = fs::read_to_string(lab.cgroup().join("cpu.stat"))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("no usage_usec")?;
    Ok(usage.trim().parse::<f64>()? / 1000.0)
}

impl Rival {
    /// A container of the tree, made and stopped; plain or hooked.
    fn stopped(&self, lab: &Lab, name: &'static str, kind: &str, number: usize) -> Result<Side> {
        let address = self.address(number);
        self.sh(lab, &format!("create {kind} {address}"))?;
        self.sh(lab, &format!("stop {kind}"))?;
        if self.hooked.is_some() {
            self.sh(lab, &format!("{kind} {kind}"))?;
        }
        Ok(Side {
            name,
            start: self.line(&format!("start {kind}")),
            stop: self.line(&format!("stop {kind}")),
            address,
            link: self.link(kind),
        })
    }
}
