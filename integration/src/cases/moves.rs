//! A machine of ours goes from its subnet to a bridge and back; that takes a
//! restart, which is said before. Its subnet rests meanwhile.

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    lab.sh("sed -i '1i # my comment' /etc/nsctl/machines.d/web.toml")?;

    let done = lab.nsctl("attach web --bridge vbr0")?;
    must!(done.ok() && done.stderr.contains("will be restarted"), "{}", done.all());
    let lease = || Ok(lab.machine("web")?["addresses"].to_string().contains("192.168.5."));
    until(Duration::from_secs(20), "it has a lease of the LAN", lease)?;
    let gone = lab.router.run(&["ping", "-6", "-c1", "-W2", "2001:db8:a:1::2"])?;
    must!(!gone.ok(), "its old address still answers");
    must!(lab.nsctl_ok("pool")?.contains("2001:db8:a:1::/64  resting"), "{}", lab.nsctl_ok("pool")?);

    let done = lab.nsctl("attach web --routed")?;
    must!(done.ok() && done.stderr.contains("will be restarted"), "{}", done.all());
    // The subnet that it had rests, and is its own again.
    must!(done.stdout.contains("web answers at 2001:db8:a:1::2"), "{}", done.all());
    let addresses = lab.machine("web")?["addresses"].to_string();
    must!(addresses == "[\"2001:db8:a:1::2\"]", "it kept an address of the LAN: {addresses}");
    let definition = lab.sh("cat /etc/nsctl/machines.d/web.toml")?;
    must!(definition.starts_with("# my comment"), "the user's comment is lost:\n{definition}");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "something is left to do");
    Ok(())
}
