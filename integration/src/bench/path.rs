//! The data path: from upstream into a machine and back, beside the same veth and route without our table, and
//! beside other container managers that carry the same traffic to the same tree; with many machines' rules
//! loaded; and from machine to machine, beside a bridge.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use fs_err as fs;

use super::figures::{Figures, Goal, Sheet};
use super::rivals::{self, Rival};
use super::traffic::{self, End, PORT};
use crate::lab::{Lab, Suite, Trees, until};

const ROUNDS: usize = 9;
/// How many echo requests make one figure.
const ECHOES: u32 = 20_000;

/// What is measured, and how much of the other side is to be reached.
struct Measure {
    what: &'static str,
    unit: &'static str,
    goal: Goal,
    /// From upstream, and the machine.
    take: fn(&End, &End) -> Result<f64>,
}

const MEASURES: [Measure; 9] = [
    Measure {
        what: "TCP into the machine, 1 stream",
        unit: "Gbit/s",
        goal: Goal::AtLeast(0.97),
        take: |up, machine| traffic::throughput(up, machine, 1),
    },
    Measure {
        what: "TCP into the machine, 16 streams",
        unit: "Gbit/s",
        goal: Goal::AtLeast(0.97),
        take: |up, machine| traffic::throughput(up, machine, 16),
    },
    Measure {
        what: "TCP out of the machine, 1 stream",
        unit: "Gbit/s",
        goal: Goal::AtLeast(0.97),
        take: |up, machine| traffic::throughput(machine, up, 1),
    },
    Measure {
        what: "TCP out of the machine, 16 streams",
        unit: "Gbit/s",
        goal: Goal::AtLeast(0.97),
        take: |up, machine| traffic::throughput(machine, up, 16),
    },
    Measure {
        what: "UDP of 64 bytes into the machine",
        unit: "thousand a second",
        goal: Goal::AtLeast(0.95),
        take: traffic::packets,
    },
    Measure {
        what: "new TCP connections into the machine",
        unit: "a second",
        goal: Goal::AtLeast(0.93),
        take: traffic::connections,
    },
    Measure {
        what: "round trip, median",
        unit: "µs",
        goal: Goal::Times(1.1),
        take: |up, machine| Ok(traffic::round_trips(up, machine, 0, ECHOES)?.median()),
    },
    Measure {
        what: "round trip, 99th percentile",
        unit: "µs",
        goal: Goal::Times(1.1),
        take: |up, machine| Ok(traffic::round_trips(up, machine, 0, ECHOES)?.quantile(0.99)),
    },
    Measure {
        what: "round trip under load, median",
        unit: "µs",
        goal: Goal::Times(1.1),
        take: |up, machine| Ok(traffic::loaded_round_trips(up, machine, ECHOES)?.median()),
    },
];

/// One way to have traffic reach a machine.
struct Side {
    name: String,
    /// Shell that loads its rules, and no others.
    rules: String,
    machine: End,
}

const NO_TABLE: &str = "nft 'table inet nsctl; delete table inet nsctl'";
const OURS: &str = "nft -f /var/lib/nsctl/firewall.nft";
/// What is known passes, and all else does: what the kernel's connection tracking takes by itself.
const TRACKED: &str = "nft 'table inet nsctl; delete table inet nsctl; table inet nsctl { chain forward { \
    type filter hook forward priority filter; ct state established,related accept; }; }'";

/// Against the kernel's limit, and the limit of all that keep track of connections.
pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = house(trees, suite)?;
    let up = upstream(&lab)?;
    let machine = guest(&lab, "web", "2001:db8:a:1::2")?;
    let side =
        |name: &str, rules: &str| Side { name: name.into(), rules: rules.into(), machine: machine.clone() };
    let sides = [side("nsctl", OURS), side("no table", NO_TABLE), side("tracking alone", TRACKED)];
    let all = rounds(&lab, &up, &sides, &MEASURES.each_ref())?;
    for (measure, figures) in MEASURES.iter().zip(&all) {
        let [ours, none, tracked] = &figures[..] else { continue };
        sheet.in_turn(measure.what, measure.unit, ours, ("no table", none), measure.goal);
        let what = format!("{}, connection tracking alone", measure.what);
        sheet.in_turn(&what, measure.unit, tracked, ("no table", none), measure.goal);
    }
    between_machines(&lab, sheet)
}

/// Against other container managers.
pub fn beside_rivals(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = house(trees, suite)?;
    let measured = with_rivals(&lab);
    let torn_down: Result<Vec<()>> = rivals::ALL.iter().map(|rival| rival.tear_down(&lab)).collect();
    let (sides, all) = measured?;
    for (measure, figures) in MEASURES.iter().zip(&all) {
        let goal = match measure.goal {
            Goal::AtLeast(_) => Goal::AtLeast(1.0),
            _ => Goal::Times(1.0),
        };
        for (side, theirs) in sides.iter().zip(figures).skip(1) {
            sheet.in_turn(measure.what, measure.unit, &figures[0], (&side.name, theirs), goal);
        }
    }
    torn_down.map(drop)
}

fn with_rivals(lab: &Lab) -> Result<(Vec<Side>, Vec<Vec<Figures>>)> {
    let machine = guest(lab, "web", "2001:db8:a:1::2")?;
    let mut sides = vec![Side { name: "nsctl".into(), rules: OURS.into(), machine }];
    for rival in &rivals::ALL {
        rival.set_up(lab)?;
        rival.sh(lab, &format!("create peer {}", rival.address(1)))?;
        sides.push(beside(lab, rival)?);
    }
    let all = rounds(lab, &upstream(lab)?, &sides, &MEASURES.each_ref())?;
    Ok((sides, all))
}

/// A rival's machine that runs: its own rules alone are loaded, and what it has of them upstream finds.
fn beside(lab: &Lab, rival: &Rival) -> Result<Side> {
    let (name, address) = (rival.name, &rival.address(1));
    let process = lab.sh(&rival.line("process peer"))?;
    lab.router.script(&format!("ip -6 route add {address}/128 via 2001:db8:ffff::2 dev up0"))?;
    let answers = || Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", address])?.ok());
    until(Duration::from_secs(30), &format!("{name} answers"), answers)?;
    Ok(Side { name: name.into(), rules: NO_TABLE.into(), machine: end(lab, process.trim(), address)? })
}

fn house(trees: &Trees, suite: Suite) -> Result<Lab> {
    let lab = Lab::boot(trees, suite)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    Ok(lab)
}

/// A machine with its ports open.
fn guest(lab: &Lab, name: &str, address: &str) -> Result<End> {
    lab.nsctl_ok(&format!("create {name} --routed --image debian-13 --open tcp/{PORT} --open udp/{PORT}"))?;
    lab.booted(name)?;
    guest_of(lab, name, address)
}

/// The network of a process of the host's.
fn end(lab: &Lab, process: &str, address: &str) -> Result<End> {
    let net = PathBuf::from(format!("/proc/{}/root/proc/{process}/ns/net", lab.init()?));
    Ok(End { net, address: address.parse()? })
}

fn upstream(lab: &Lab) -> Result<End> {
    let net = PathBuf::from(format!("/proc/{}/ns/net", lab.router.pid()));
    Ok(End { net, address: "2001:db8:ffff::1".parse()? })
}

/// All sides in turn, again and again, one measure after the other: the machine that we run on is not as quick at
/// all times. The figures of each measure, by side.
fn rounds(lab: &Lab, up: &End, sides: &[Side], measures: &[&Measure]) -> Result<Vec<Vec<Figures>>> {
    let mut all = vec![vec![Figures::default(); sides.len()]; measures.len()];
    for (measure, figures) in measures.iter().zip(&mut all) {
        for round in 0..ROUNDS {
            for (side, figures) in sides.iter().zip(figures.iter_mut()) {
                lab.sh(&side.rules)?;
                let figure = (measure.take)(up, &side.machine);
                let what = || format!("{}, {} in round {round}", measure.what, side.name);
                figures.add(figure.with_context(what)?);
            }
        }
    }
    Ok(all)
}

/// Two machines of one host, beside the same two on a bridge without any filter.
fn between_machines(lab: &Lab, sheet: &mut Sheet) -> Result<()> {
    let web = guest_of(lab, "web", "2001:db8:a:1::2")?;
    let db = guest(lab, "db", "2001:db8:a:2::2")?;
    lab.sh("ip link add plain type bridge; ip link set plain up")?;
    for (name, number) in [("web", 1), ("db", 2)] {
        let leader = lab.must(&["machinectl", "show", name, "-p", "Leader", "--value"])?;
        lab.sh(&format!(
            "ip link add plain{number} type veth peer name plain0 netns {leader}
             ip link set plain{number} master plain up
             nsenter -t {leader} -n sh -euc 'ip addr add 2001:db8:b::{number}/64 dev plain0 nodad; ip link set plain0 up'",
            leader = leader.trim()
        ))?;
    }
    let bridged = |end: &End, number| {
        Ok::<_, anyhow::Error>(End { address: format!("2001:db8:b::{number}").parse()?, ..end.clone() })
    };
    let plain = [bridged(&web, 1)?, bridged(&db, 2)?];
    let measures = [&MEASURES[0], &MEASURES[1], &MEASURES[4], &MEASURES[5]];
    let mut all = vec![[Figures::default(), Figures::default()]; measures.len()];
    for (measure, figures) in measures.iter().zip(&mut all) {
        for _ in 0..ROUNDS {
            for ((rules, [from, to]), figures) in
                [(OURS, [&web, &db]), (NO_TABLE, plain.each_ref())].into_iter().zip(figures.iter_mut())
            {
                lab.sh(rules)?;
                figures.add((measure.take)(from, to)?);
            }
        }
    }
    for (measure, [ours, theirs]) in measures.iter().zip(&all) {
        let what = measure.what.replace("into the machine", "from machine to machine");
        sheet.in_turn(&what, measure.unit, ours, ("a plain bridge", theirs), Goal::AtLeast(0.9));
    }
    Ok(())
}

/// A machine that runs already.
fn guest_of(lab: &Lab, name: &str, address: &str) -> Result<End> {
    let leader = lab.must(&["machinectl", "show", name, "-p", "Leader", "--value"])?;
    end(lab, leader.trim(), address)
}

/// With the rules of so many machines loaded, beside those of one.
pub fn among(lab: &Lab, many: &[usize], sheet: &mut Sheet) -> Result<()> {
    let machine = guest_of(lab, "m1", "2001:db8:a:1::2")?;
    let up = upstream(lab)?;
    let sides: Vec<Side> = many
        .iter()
        .map(|machines| Side {
            name: format!("{machines} machines"),
            rules: format!("{NO_TABLE}; nft -f /root/rules-{machines}.nft"),
            machine: machine.clone(),
        })
        .collect();
    let measures = [&MEASURES[1], &MEASURES[4], &MEASURES[5], &MEASURES[6]];
    let all = rounds(lab, &up, &sides, &measures)?;
    for (measure, figures) in measures.iter().zip(&all) {
        let goal =
            if matches!(measure.goal, Goal::AtLeast(_)) { Goal::AtLeast(0.97) } else { Goal::Times(1.03) };
        for (side, with) in sides.iter().zip(figures).skip(1) {
            let what = format!("{}, rules of {}", measure.what, side.name);
            sheet.in_turn(&what, measure.unit, with, ("of one", &figures[0]), goal);
        }
    }
    Ok(())
}

/// Keeps the rules as they are by now, as one file.
pub fn keep_rules(lab: &Lab, machines: usize) -> Result<()> {
    let root = lab.root()?;
    let shared = fs::read_to_string(root.join("var/lib/nsctl/firewall.nft"))?;
    let mut text: String =
        shared.lines().filter(|line| !line.starts_with("include ")).map(|line| format!("{line}\n")).collect();
    for entry in fs::read_dir(root.join("var/lib/nsctl/firewall"))? {
        text.push_str(&fs::read_to_string(entry?.path())?);
    }
    Ok(fs::write(root.join(format!("root/rules-{machines}.nft")), text)?)
}
