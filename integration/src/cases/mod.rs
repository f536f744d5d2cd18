//! One behaviour a file; each runs on a fresh host of every suite.

// Plainly, not by a macro, so that rustfmt finds the files.
mod adopted;
mod alone;
mod asks;
mod backups;
mod bad_disk;
mod bad_input;
mod bad_pool;
mod binds;
mod both;
mod bridged;
mod built;
mod busy_services;
mod by_hand;
mod carried;
mod checked_before;
mod checks;
mod copies;
mod counts;
mod crash;
mod default_route;
mod definitions;
mod delegated;
mod disk;
mod doctor;
mod documents;
mod drawn;
mod drift;
mod early;
mod edited_file;
mod exposed;
mod firewall;
mod fleet;
mod guides;
mod handmade;
mod hanging;
mod ifupdown;
mod images;
mod imports;
mod in_parallel;
mod interface;
mod ipv4;
mod killed;
mod lifecycle;
mod limits;
mod long_name;
mod lost_state;
mod many_at_once;
mod move_undone;
mod moves;
mod names;
mod nat64;
mod neighbours;
mod no_services;
mod offline;
mod on_link;
mod other_tools;
mod others;
mod package;
mod path_mtu;
mod power_backups;
mod power_cut;
mod power_upgrades;
mod private;
mod profiles;
mod public_ipv4;
mod published;
mod ra_guest;
mod reboot;
mod remote;
mod replaced;
mod reserved;
mod routed;
mod routing;
mod rules;
mod secrets;
mod seeing;
mod sent;
mod session;
mod shares;
mod shell;
mod single_routed;
mod sizes;
mod snapshots;
mod static_bridge;
mod swapped;
mod taken_back;
mod torture;
mod tunnel_files;
mod undo;
mod units;
mod upgrade_cut_short;
mod upgrades;
mod verbs;
mod wide;

use anyhow::Result;

use crate::lab::{Lab, Suite};

/// A behaviour that a host must show.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub run: fn(&mut Lab) -> Result<()>,
    pub on: On,
}

/// The suites that a case runs on.
#[derive(Clone, Copy)]
pub enum On {
    All,
    /// It takes long, or is about nsctl more than about a version of systemd: one of them, where time is short.
    Once,
    /// What it compares with was measured there, or it has hosts of all suites.
    Trixie,
}

impl Case {
    /// Whether it runs on a suite: where time is short, those of one suite each on another.
    pub fn is_due(&self, at: usize, suite: Suite, is_quick: bool) -> bool {
        match self.on {
            On::All => true,
            On::Once => !is_quick || Suite::ALL[at % Suite::ALL.len()] == suite,
            On::Trixie => suite == Suite::Trixie,
        }
    }
}

macro_rules! cases {
    ($($name:ident $($on:ident)?),* $(,)?) => {
        /// Every case, by the name of its file, in the order in which they run.
        pub const ALL: &[Case] =
            &[$(Case { name: stringify!($name), run: $name::run, on: cases!(@ $($on)?) }),*];
    };
    (@) => { On::All };
    (@ once) => { On::Once };
    (@ trixie) => { On::Trixie };
}

cases! {
    session,
    routed,
    bridged,
    both,
    static_bridge,
    guides once,
    handmade once,
    adopted once,
    moves once,
    reboot,
    default_route once,
    long_name once,
    firewall,
    ipv4,
    names,
    nat64 once,
    others once,
    other_tools once,
    tunnel_files once,
    exposed,
    shell once,
    reserved once,
    delegated,
    package,
    path_mtu once,
    replaced once,
    rules once,
    busy_services once,
    hanging once,
    many_at_once once,
    lifecycle,
    images,
    built once,
    imports once,
    copies once,
    carried once,
    private,
    doctor once,
    published once,
    ra_guest once,
    early once,
    bad_input once,
    bad_pool once,
    edited_file once,
    checked_before once,
    no_services once,
    undo once,
    killed once,
    bad_disk once,
    power_cut once,
    power_backups once,
    power_upgrades once,
    torture once,
    definitions once,
    profiles once,
    secrets,
    limits,
    binds,
    checks once,
    disk once,
    snapshots once,
    upgrades,
    backups once,
    sent once,
    upgrade_cut_short once,
    seeing,
    sizes once,
    lost_state once,
    units once,
    verbs once,
    documents once,
    drawn once,
    drift once,
    offline once,
    in_parallel once,
    interface once,
    by_hand once,
    alone once,
    crash once,
    asks once,
    swapped once,
    taken_back once,
    neighbours once,
    move_undone once,
    single_routed once,
    on_link once,
    public_ipv4 once,
    ifupdown once,
    wide once,
    counts trixie,
    shares trixie,
    remote trixie,
    routing trixie,
    fleet trixie,
}

/// Fails with the text unless the condition holds.
#[macro_export]
macro_rules! must {
    ($condition:expr, $($text:tt)*) => {
        anyhow::ensure!($condition, $($text)*)
    };
}

/// `nsctl LINE` must fail with this status, say this, hint at something, and change nothing.
pub fn refused(lab: &Lab, line: &str, status: i32, says: &str) -> Result<()> {
    let before = fingerprint(lab)?;
    let done = lab.nsctl(line)?;
    must!(done.status == status, "`nsctl {line}` ended with {}:\n{}", done.status, done.all());
    must!(done.stderr.contains(says), "`nsctl {line}` does not say '{says}':\n{}", done.all());
    let hinted = done.stderr.contains("hint:") || status == 2;
    must!(hinted, "`nsctl {line}` gives no hint:\n{}", done.all());
    let after = fingerprint(lab)?;
    must!(before == after, "`nsctl {line}` changed something:\n{before}\n---\n{after}");
    Ok(())
}

/// Everything that nsctl could have changed: files, trees, units, links.
pub fn fingerprint(lab: &Lab) -> Result<String> {
    lab.sh("cd /etc && find nsctl systemd sysctl.d hosts /var/lib/nsctl -type f ! -name '*lock' -exec sha256sum {} + 2>/dev/null | sort -k2 || true
            find systemd -type l -printf '%p %l\\n' | sort
            ls /var/lib/machines
            ip -br link | awk '{print $1}' | sort
            cat /proc/sys/net/ipv6/conf/*/forwarding | sort | uniq -c
            systemctl list-units --no-legend --plain 'systemd-nspawn@*' | awk '{print $1, $4}'")
}

/// Gives the uplink an address of a /64, and waits until the host has its router again.
pub fn uplink_has(lab: &Lab, address: &str) -> Result<()> {
    lab.sh(&format!(
        "mkdir -p /etc/systemd/network/20-wan0.network.d
         printf '[Network]\\nAddress={address}/64\\n' > /etc/systemd/network/20-wan0.network.d/10-provider.conf
         networkctl reload
         timeout 20 sh -c 'until ip -6 addr show dev wan0 -tentative to {address} | grep -q global &&
             ip -6 route show default | grep -q wan0; do sleep 0.1; done'"
    ))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_a_case() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases");
        let mut files: Vec<String> = fs_err::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name();
                name.to_string_lossy().strip_suffix(".rs").map(str::to_owned)
            })
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut cases: Vec<&str> = ALL.iter().map(|case| case.name).collect();
        cases.sort();
        assert_eq!(cases, files);
    }
}
