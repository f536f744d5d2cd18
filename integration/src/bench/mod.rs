//! What nsctl takes, beside what it is measured against: alternately, in one
//! run, on every suite.

mod figures;
mod probe;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::{Lab, Suite, Trees, tiny_guest, until};
use figures::Figures;
use probe::Probe;

const STARTS: usize = 9;
const LISTS: usize = 15;
const MACHINES: usize = 50;

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

pub fn run(filter: Option<&str>) -> Result<()> {
    let suites: Vec<Suite> =
        Suite::ALL.into_iter().filter(|suite| filter.is_none_or(|word| word == suite.name())).collect();
    let trees = Trees::open(&suites)?;
    println!(
        "| systemd | what | nsctl (min, median, max) | against | | (min, median, max) | ratio | to reach |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for suite in suites {
        starts(&trees, suite)?;
        lists(&trees, suite)?;
    }
    Ok(())
}

fn starts(trees: &Trees, suite: Suite) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create ours --routed --image debian-13")?;
    lab.nsctl_ok("stop ours")?;
    lab.sh(&format!(
        "printf '%s' '{STOCK}' > /etc/systemd/network/10-stock.network; networkctl reload
         machinectl clone debian-13 stock
         mkdir -p /etc/systemd/nspawn; printf '[Exec]\\nBoot=yes\\nParameters=systemd.firstboot=no\\n' > /etc/systemd/nspawn/stock.nspawn
         systemctl start systemd-nspawn@stock"
    ))?;
    let stock = slaac(&lab)?;
    lab.nsctl_ok("stop stock")?;
    let (mut ping, mut tcp) = ([Figures::new(), Figures::new()], [Figures::new(), Figures::new()]);
    for _ in 0..STARTS {
        let sides = [
            ("nsctl start ours", "2001:db8:a:1::2", "ours"),
            ("systemctl start systemd-nspawn@stock", &stock, "stock"),
        ];
        for (side, (start, address, name)) in sides.into_iter().enumerate() {
            let (first_ping, first_byte) = one_start(&lab, start, address, name)?;
            ping[side].add(first_ping);
            tcp[side].add(first_byte);
            lab.nsctl_ok(&format!("stop {name}"))?;
        }
    }
    figures::row(suite, "start to the first answered ping", &ping, "stock RA set-up", "a quarter");
    figures::row(suite, "start to the first byte of TCP", &tcp, "stock RA set-up", "half");
    Ok(())
}

/// The address that the stock guest chooses; it hangs on its MAC, which stays.
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

fn one_start(lab: &Lab, start: &str, address: &str, name: &str) -> Result<(Duration, Duration)> {
    let begin = Instant::now();
    let address = address.parse()?;
    let ping = Probe::ping(lab.init()?, address, begin);
    let tcp = Probe::tcp(lab.init()?, address, 7777, begin);
    // A neighbour that is asked too early is asked again after a second, which
    // would round both sides up: make that 20 ms, as soon as the link is there.
    let eager = format!(
        "until ip ntable change name ndisc_cache dev ve-{name} retrans 20 mcast_probes 1000 2>/dev/null; do sleep 0.01; done"
    );
    let mut eager = lab.enter(&["sh", "-c", &eager])?.spawn()?;
    lab.must(&start.split(' ').collect::<Vec<_>>())?;
    let times = (ping.end()?, tcp.end()?);
    eager.wait()?;
    Ok(times)
}

fn lists(trees: &Trees, suite: Suite) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let mut script = String::new();
    for k in 0..MACHINES {
        script += &format!("nsctl -q create m{k} --routed --image tiny --no-start\n");
    }
    lab.sh(&script)?;
    lab.sh(&format!("systemctl start $(seq -f 'systemd-nspawn@m%g' 0 {})", MACHINES - 1))?;
    until(Duration::from_secs(60), "every machine has its address", || {
        let list = lab.list()?;
        let machines = list.as_array().cloned().unwrap_or_default();
        Ok(machines.len() == MACHINES
            && machines.iter().all(|m| m["addresses"].as_array().is_some_and(|a| !a.is_empty())))
    })?;
    let times = lab.must(&[
        "bash",
        "-c",
        &format!(
            "for i in $(seq {LISTS}); do
                a=$EPOCHREALTIME; nsctl list > /dev/null; b=$EPOCHREALTIME
                machinectl list -l --no-pager > /dev/null; c=$EPOCHREALTIME
                echo $((${{b/./}} - ${{a/./}})) $((${{c/./}} - ${{b/./}}))
             done"
        ),
    ])?;
    let mut sides = [Figures::new(), Figures::new()];
    for word in times.lines().flat_map(|line| line.split(' ').enumerate()) {
        sides[word.0].add(Duration::from_micros(word.1.parse()?));
    }
    figures::row(suite, &format!("list with {MACHINES} machines"), &sides, "machinectl list -l", "a fifth");
    Ok(())
}
