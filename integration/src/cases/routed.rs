//! The upstream router reaches a machine through the host; the machine reaches
//! out with its own address; nobody's subnet is answered as unreachable.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create minecraft --routed --image debian-13")?;
    let ping = lab.router.run(&["ping", "-6", "-c2", "-i0.2", "-W5", "2001:db8:a:1::2"])?;
    must!(ping.ok(), "the router does not reach the machine:\n{}", ping.all());

    let nobody = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:a:99::1"])?;
    let unreachable = nobody.stdout.contains("Destination unreachable");
    must!(!nobody.ok() && unreachable, "an unleased /64 is not answered:\n{}", nobody.all());
    must!(!nobody.stdout.contains("Time exceeded"), "packets loop:\n{}", nobody.all());

    let host = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:a::1"])?;
    must!(host.ok(), "the host's own address does not answer:\n{}", host.all());
    let out = lab.sh("leader=$(machinectl show minecraft -p Leader | cut -d= -f2)
         nsenter -t $leader -n ping -6 -c1 -W5 2001:db8:ffff::1
         nsenter -t $leader -n ip -6 route get 2001:db8:ffff::1")?;
    must!(out.contains("src 2001:db8:a:1::2"), "it goes out with another address:\n{out}");
    must!(out.contains("via fe80::1"), "its gateway is another:\n{out}");
    Ok(())
}
