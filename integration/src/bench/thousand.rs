//! The stretch: a thousand machines at once on one host. How far does it go, and what stops it?

use std::time::Instant;

use anyhow::{Context, Result};
use fs_err as fs;

use super::figures::Sheet;
use super::measure::{cost, milliseconds};
use crate::lab::run::{Done, capture};
use crate::lab::{Lab, Suite, Trees, tiny_guest};

const MACHINES: usize = 1000;

/// What the README says of hosts with more than 240 machines.
const LIMITS: &str = "mkdir -p /etc/systemd/system/systemd-networkd.service.d
printf '<busconfig><limit name=\"max_connections_per_user\">4096</limit><limit name=\"max_completed_connections\">8192</limit></busconfig>\n' > /etc/dbus-1/system.d/many.conf
printf '[Service]\nLimitNOFILE=65536\n' > /etc/systemd/system/systemd-networkd.service.d/many.conf
busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig
systemctl daemon-reload; systemctl restart systemd-networkd";

/// The kernel's limit of neighbours, which `nsctl init` raises on a real host. It is one for all
/// network namespaces, and that of the laboratory's host has no switch for it.
struct Neighbours {
    before: String,
}

impl Neighbours {
    const SWITCH: &str = "/proc/sys/net/ipv6/neigh/default/gc_thresh3";

    fn raise() -> Result<Neighbours> {
        let before = fs::read_to_string(Neighbours::SWITCH)?;
        fs::write(Neighbours::SWITCH, before.trim().parse::<u32>()?.max(8192).to_string())?;
        Ok(Neighbours { before })
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        let _ = fs::write(Neighbours::SWITCH, &self.before);
    }
}

pub fn run(trees: &Trees, suite: Suite, sheet: &mut Sheet) -> Result<()> {
    let lab = Lab::boot(trees, suite)?;
    tiny_guest(&lab, "tiny")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh(LIMITS)?;
    let _room = Neighbours::raise()?;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d
         for k in $(seq {MACHINES}); do
             cp -a --reflink=auto /var/lib/machines/tiny /var/lib/machines/m$k
             printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/m$k.toml
         done"
    ))?;
    let before = available()?;
    let begin = Instant::now();
    let done = capture(&mut lab.enter(&["nsctl", "-q", "apply", "--yes"])?)?;
    let seconds = milliseconds(begin.elapsed()) / 1000.0;
    let running = lab.sh("ls /run/systemd/machines | grep -c '^m' || true")?;
    let end = if done.ok() { "all answered".to_owned() } else { why(&lab, &done)? };
    sheet.told(
        &format!("{MACHINES} machines of 2 MB started by one `apply`"),
        &format!("{seconds:.0} s, {} running; {end}", running.trim()),
    );
    let gigabytes = (before - available()?) / 1e6;
    sheet.told("memory of the host with them", &format!("{gigabytes:.1} GB"));
    let list = cost(&lab, "nsctl list --json")?;
    sheet.told("`list --json` of them", &format!("{:.0} ms, {:.0} MB", list.elapsed, list.memory));
    // Their removal by hand takes longer than that of the whole host.
    Ok(())
}

/// What nsctl said, and the units that failed before it ended the others.
fn why(lab: &Lab, done: &Done) -> Result<String> {
    let said =
        done.all().lines().filter(|line| !line.contains("undoing")).take(4).collect::<Vec<_>>().join("; ");
    let text = lab.sh(
        "journalctl -b --no-pager -o cat | grep -vE 'Failed with result|result .exit-code' | grep -E 'ailed|annot|oo many|pace left|imit|out of|timed' | sort | uniq -c | sort -rn | head -n 6",
    )?;
    Ok(format!("{said}; {}", text.trim().replace('\n', "; ")).replace('|', "/"))
}

/// Kilobytes of memory that programs can have.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
