//! A service that listens on 127.0.0.1 alone is reached over IPv6 through a
//! listener in its machine, and over IPv4 through one on the host.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.router.script("ip addr add 192.0.2.1/24 dev up0")?;
    lab.sh("printf 'Address=192.0.2.2/24\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload")?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("machinectl clone debian-13 web; cd /var/lib/machines/web/etc/systemd/system
         printf '[Socket]\\nListenStream=127.0.0.1:8080\\nAccept=yes\\n' > four.socket
         printf '[Service]\\nExecStart=/bin/echo four\\nStandardOutput=socket\\n' > four@.service
         ln -s ../four.socket sockets.target.wants/")?;
    lab.nsctl_ok("create web --routed --open tcp/8080")?;
    let by_ipv4 = "exec 3<>/dev/tcp/127.0.0.1/8080; head -c4 <&3";
    until(Duration::from_secs(30), "the service is there", || {
        Ok(lab.inside("web", by_ipv4)?.stdout == "four")
    })?;
    must!(!says_four(lab, "2001:db8:a:1::2/8080")?, "it has IPv6 by itself");
    let leader = lab.sh("machinectl show web -p Leader")?;
    lab.nsctl_ok("expose web tcp/8080 --to 127.0.0.1:1")?;
    must!(!says_four(lab, "2001:db8:a:1::2/8080")?, "nobody listens there");
    lab.nsctl_ok("expose web tcp/8080 --to 127.0.0.1:8080")?;
    seen(lab, "2001:db8:a:1::2/8080", "over IPv6")?;
    must!(
        lab.inside("web", "exec 3<>/dev/tcp/127.0.0.1/8080; head -c4 <&3")?.stdout == "four",
        "not as before over IPv4"
    );
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // On the host, while the machine runs.
    lab.nsctl_ok("expose web tcp/8080 --host 9090")?;
    seen(lab, "192.0.2.2/9090", "over the host's IPv4")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    // A port that is taken inside: nothing is left of it.
    refused(lab, "expose web tcp/7777", 1, "nsctl-expose-7777.socket")?;
    let shown = lab.nsctl_ok("show web")?;
    must!(shown.contains("tcp/8080, handed on to 127.0.0.1:8080 inside, also at port 9090"), "{shown}");
    lab.nsctl_ok("restart web")?;
    seen(lab, "192.0.2.2/9090", "over the host's IPv4 after a restart")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.nsctl_ok("create db --routed --image debian-13")?;
    refused(lab, "expose db tcp/1 --host 9090", 1, "both 'db' and 'web'")?;
    refused(lab, "expose db udp/53", 2, "only TCP")?;
    refused(lab, "unexpose db tcp/1", 1, "is not exposed")?;
    lab.sh("systemd-run -q systemd-socket-activate -l 0.0.0.0:9191 cat; until ss -ltn | grep -q :9191; do :; done")?;
    refused(lab, "expose db tcp/7777 --host 9191", 1, "nsctl-expose-db-9191.socket")?;

    // Each can be off by itself.
    lab.nsctl_ok("unexpose web tcp/8080 --host")?;
    must!(!lab.sh("ss -ltn")?.contains(":9090"), "the host still listens");
    seen(lab, "2001:db8:a:1::2/8080", "over IPv6 still")?;
    lab.nsctl_ok("expose web tcp/8080 --host 9090")?;
    lab.nsctl_ok("unexpose web tcp/8080 --inside")?;
    must!(!says_four(lab, "2001:db8:a:1::2/8080")?, "the machine still listens on IPv6");
    let leader = lab.sh("machinectl show web -p Leader")?;
    lab.nsctl_ok("expose web tcp/8080")?;
    lab.nsctl_ok("unexpose web tcp/8080 --inside")?;
    must!(lab.sh("machinectl show web -p Leader")? == leader, "it was restarted");
    lab.nsctl_ok("restart web")?;
    must!(!says_four(lab, "2001:db8:a:1::2/8080")?, "the machine listens on IPv6 again");
    lab.nsctl_ok("remove -y web")?;
    must!(
        !lab.sh("ss -ltn; ls /etc/systemd/system /var/lib/nsctl/expose 2>/dev/null || true")?
            .contains("expose-web"),
        "something is left"
    );
    Ok(())
}

fn says_four(lab: &Lab, to: &str) -> Result<bool> {
    let script = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{to} && head -c4 <&3' 2>/dev/null || true");
    Ok(lab.router.run(&["bash", "-c", &script])?.stdout == "four")
}

fn seen(lab: &Lab, to: &str, how: &str) -> Result<()> {
    until(Duration::from_secs(20), how, || says_four(lab, to))
}
