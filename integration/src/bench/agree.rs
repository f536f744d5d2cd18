//! How the cost of one create grows with what a fleet has: against a real etcd, which knows hosts and leases that are
//! nowhere else.

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use nsctl::fleet::{AT_ONCE, View, Wanted, agree, script};
use nsctl::pool::{Lease, Prefix};

use super::figures::{Figures, Goal, Sheet};
use super::measure::cost;
use crate::lab::{Lab, Suite, Trees, tiny_guest, until};

const POOL: &str = "2001:db8::/32";
/// Hosts, and how many machines each has.
const FLEETS: [(u64, u64); 3] = [(1, 10), (100, 10), (1_000, 10)];
const ROUNDS: usize = 7;
const SOCKET: &str = "unix://etcd:0";

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.install("etcd-server etcd-client")?;
    lab.nsctl_ok(&format!("init --pool {POOL} --uplink wan0"))?;
    let mut count = 0;
    let alone = creates(&lab, &mut count)?;
    lab.sh(&format!(
        "systemctl disable --now -q etcd 2> /dev/null || true; mkdir -m 700 /run/trial
         systemd-run -q --unit=trial --property=WorkingDirectory=/run/trial etcd --data-dir /root/trial --listen-client-urls {SOCKET} \
         --advertise-client-urls {SOCKET} --listen-peer-urls unix://peer:0 --initial-advertise-peer-urls unix://peer:0 \
         --initial-cluster default=unix://peer:0"
    ))?;
    until(std::time::Duration::from_secs(20), "etcd answers", || {
        Ok(lab.nsctl("fleet join --etcd unix:///run/trial/etcd:0")?.ok())
    })?;
    let (mut known, mut first) = (0, 4096);
    for (hosts, machines) in FLEETS {
        for host in known..hosts {
            first = fill(&lab, host, machines, first)?;
        }
        known = hosts;
        let what = format!("one create, {} leases of {hosts} other hosts in etcd", hosts * machines);
        let agreed = creates(&lab, &mut count)?;
        sheet.pair(&what, "ms", &agreed, ("without a fleet", &alone), Goal::Times(2.0));
    }
    Ok(())
}

/// A host that says what it has.
fn fill(lab: &Lab, host: u64, machines: u64, first: u64) -> Result<u64> {
    let pool: Prefix = POOL.parse()?;
    let etcdctl = format!("cd /run/trial; ETCDCTL_API=3 etcdctl --endpoints={SOCKET}");
    let mut wanted = Wanted {
        id: format!("{host:016x}"),
        name: format!("host-{host}"),
        own: pool.subnet(first).context("it is not in the pool")?,
        pool,
        machines: Default::default(),
    };
    for machine in 1..=machines {
        let lease = pool.subnet(first + machine).map(Lease::Subnet);
        wanted.machines.insert(format!("x{host}-{machine}").parse()?, lease);
    }
    // Nothing of another host's is looked at: all of it is new.
    let alone = View { pool: Some(pool), ..View::default() };
    let (ops, _) = agree(&alone, &wanted, false, 0);
    for part in ops.chunks(AT_ONCE) {
        let answer = lab.sh(&format!("{etcdctl} get /nsctl/generation -w json"))?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let generation = answer["kvs"][0]["mod_revision"].as_u64().unwrap_or_default();
        fs::write(lab.root()?.join("root/txn"), script(generation, part, u128::from(first)))?;
        let done = lab.sh(&format!("{etcdctl} txn < /root/txn"))?;
        ensure!(done.starts_with("SUCCESS"), "{done}");
    }
    Ok(first + machines + 1)
}

fn creates(lab: &Lab, count: &mut u32) -> Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..ROUNDS {
        *count += 1;
        let line = format!("nsctl create own{count} --routed --image tiny --no-start");
        figures.add(cost(lab, &line)?.elapsed);
    }
    Ok(figures)
}
