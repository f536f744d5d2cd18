//! What deletes or replaces asks at a terminal, whatever standard error is, and is not done
//! where nobody can be asked; what only adds does not ask.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.install("bsdutils")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create shop --routed --image debian-13 --no-start")?;
    lab.sh("machinectl clone debian-13 spare; machinectl clone debian-13 mine; ip link set enp6s0 up; ip -6 route add default via fe80::1 dev enp6s0 metric 9999")?;
    for line in ["remove shop", "image remove spare", "bridge create vbr0 --uplink enp6s0"] {
        refused(lab, line, 1, "nobody can be asked")?;
    }
    lab.sh("ip -6 route del default via fe80::1 dev enp6s0")?;
    // A person's terminal, with standard error in a file.
    let typed = |answer: &str, line: &str| {
        lab.sh(&format!(
            "printf 'exec {line} 2> /root/log\\n' > typed; echo {answer} | script -qec 'sh typed' /dev/null || echo status $?"
        ))
    };
    let said = typed("n", "nsctl remove shop")?;
    must!(said.contains("deletes the configuration of shop") && said.contains("status 1"), "{said}");
    must!(lab.machine("shop")?["state"] == "stopped", "it is removed all the same");
    // Additions go without a question, and the rest does not.
    lab.sh("cp /etc/nsctl/machines.d/shop.toml /etc/nsctl/machines.d/new.toml; nsctl apply < /dev/null")?;
    lab.sh("rm /etc/nsctl/machines.d/new.toml")?;
    refused(lab, "apply", 1, "nobody can be asked")?;
    lab.nsctl_ok("apply --yes")?;
    let said = typed("y", "nsctl remove shop")?;
    must!(!said.contains("status"), "{said}");
    must!(!lab.sh("ls /var/lib/machines")?.contains("shop"), "it stays");
    Ok(())
}
