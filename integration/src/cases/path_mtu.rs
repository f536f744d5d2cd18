//! A large transfer gets through a hop of 1280 bytes: packet-too-big reaches the
//! machine, whose ports are closed but for the one asked.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7000")?;
    // Behind the router there is a narrow link, and behind that a client that knows nothing of it.
    let middle = lab.router.beyond("narrow0", 1280, "2001:db8:e:")?;
    let client = middle.beyond("wide0", 1500, "2001:db8:f:")?;
    lab.router.script("ip -6 route add 2001:db8:f::/64 via 2001:db8:e::2")?;
    lab.sh(
        "leader=$(machinectl show web -p Leader --value)
         head -c 3000000 /dev/urandom > /var/lib/machines/web/root/big
         systemd-run -q --unit=serve nsenter -t $leader -n systemd-socket-activate -l 7000 --inetd -a cat /var/lib/machines/web/root/big
         until nsenter -t $leader -n ss -ltn | grep -q ':7000'; do :; done",
    )?;
    let sum = lab.sh("sha256sum < /var/lib/machines/web/root/big")?;
    let got = client.run(&[
        "bash",
        "-c",
        "exec 3<>/dev/tcp/2001:db8:a:1::2/7000; timeout 20 cat <&3 | sha256sum",
    ])?;
    must!(got.stdout == sum, "the transfer hangs or is torn:\n{}", got.all());
    let learned = lab.inside("web", "ip -6 route get 2001:db8:f::2")?;
    must!(learned.stdout.contains("mtu 1280"), "nobody told the machine: {}", learned.all());
    Ok(())
}
