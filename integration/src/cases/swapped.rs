//! A guest swaps folders for links to the host's own while its tree is read or deleted: nothing
//! of the host's gets into an export or a clone, and nothing of it goes.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

/// Swaps a folder of a tree for a link to one of the host's, as quickly as it can.
const SWAP: &str = "cd /var/lib/machines/$1/srv; test -d b && rm -f a && mv b a; while :; do mv a b; ln -s /root/host a; rm a; mv b a; done 2> /dev/null";

pub fn run(lab: &mut Lab) -> Result<()> {
    // On a file system that shares no blocks: each file is copied by its path.
    lab.move_to_ext4()?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("mkdir -p /root/host; for k in $(seq 200); do echo of-the-host > /root/host/file$k; done")?;
    lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    lab.sh("mkdir -p /var/lib/machines/web/srv/a; for k in $(seq 200); do echo of-the-guest > /var/lib/machines/web/srv/a/file$k; done")?;
    let mut whole = 0;
    for round in 1..=6 {
        swapping(
            lab,
            "web",
            &format!("nsctl export web /root/web{round}.tar; nsctl clone web twin{round} --no-start"),
        )?;
        // What changes while it is read may well fail: then there is nothing. A link that was
        // copied as a link is the guest's own affair, and not followed here.
        let read = lab.sh(&format!(
            "tar -xOf /root/web{round}.tar --wildcards '*srv/*' 2> /dev/null | sort -u
             find /var/lib/machines/twin{round}/srv -type f -exec cat {{}} + 2> /dev/null | sort -u; rm -f /root/web{round}.tar"
        ))?;
        must!(!read.contains("of-the-host"), "what is the host's came along: {read}");
        whole += read.matches("of-the-guest").count();
        if lab.run(&["test", "-d", &format!("/var/lib/machines/twin{round}/srv")])?.ok() {
            swapping(lab, &format!("twin{round}"), &format!("nsctl remove -y twin{round}"))?;
        }
        must!(lab.sh("cat /root/host/* | wc -l")?.trim() == "200", "files of the host are gone");
    }
    must!(whole > 0, "nothing was ever exported or cloned");
    Ok(())
}

/// Runs lines while a tree is being swapped about; whether they succeed is the tools' affair.
fn swapping(lab: &Lab, machine: &str, lines: &str) -> Result<()> {
    lab.sh(&format!(
        "systemd-run -q --unit=swap sh -c '{SWAP}' sh {machine}; ({lines}) > /tmp/said 2>&1 || true; systemctl stop swap"
    ))
    .map(drop)
}
