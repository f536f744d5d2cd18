//! A machine has its address before its guest has set up anything, one that goes by RA is
//! spared waits, and a unit that is loaded hears of its first drop-in.

use anyhow::Result;

use crate::lab::{Lab, tiny_guest};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    before_networkd(lab)?;
    by_ra(lab)?;
    first_drop_in(lab)
}

/// The guest's networkd takes a minute to start.
fn before_networkd(lab: &Lab) -> Result<()> {
    lab.sh("machinectl clone debian-13 slow; cd /var/lib/machines/slow/etc/systemd/system; mkdir -p systemd-networkd.service.d
            printf '[Service]\\nExecStartPre=+/bin/sleep 60\\nTimeoutStartSec=90\\n' > systemd-networkd.service.d/slow.conf")?;
    let said = lab.nsctl_ok("create slow --routed")?;
    must!(said.contains("answers at 2001:db8:a:1::2 ("), "{said}");
    let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:a:1::2"])?;
    must!(ping.ok(), "the way out is not there yet: {}", ping.all());
    lab.nsctl_ok("remove -y slow").map(drop)
}

fn by_ra(lab: &Lab) -> Result<()> {
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok("create tiny --routed")?;
    let waits = "sysctl -n net.ipv6.conf.host0.accept_dad net.ipv6.conf.host0.router_solicitation_delay";
    let seen = lab.inside("tiny", waits)?.stdout;
    must!(seen == "0\n0\n", "it waits: {seen}");
    lab.nsctl_ok("remove -y tiny").map(drop)
}

/// systemd of 252 does not see by itself that there is one now.
fn first_drop_in(lab: &Lab) -> Result<()> {
    lab.sh("printf 'image = \"debian-13\"\\nfirewall = false\\n[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/bare.toml
            nsctl apply --yes; rm -r /etc/systemd/system/systemd-nspawn@bare.service.d; systemctl daemon-reload")?;
    lab.sh("printf '[limits]\\ntasks = 321\\n' >> /etc/nsctl/machines.d/bare.toml; nsctl apply --yes")?;
    let tasks = lab.sh("systemctl show -P TasksMax systemd-nspawn@bare")?;
    must!(tasks == "321\n", "systemd knows of another limit: {tasks}");
    lab.nsctl_ok("remove -y bare").map(drop)
}
