//! Where a machine's tree comes from: an image's name, a tar file, a tree of
//! its name, the default.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    // What the host's own distribution is built with is not there.
    refused(lab, "create web --routed", 1, "is built with mmdebstrap or debootstrap, and there is none")?;
    lab.sh("tar -C /var/lib/machines/debian-13 -cf /root/tree.tar .")?;
    lab.nsctl_ok("create from-tar --routed --image /root/tree.tar")?;
    must!(lab.machine("from-tar")?["addresses"][0] == "2001:db8:a:1::2", "{}", lab.machine("from-tar")?);
    lab.nsctl_ok("stop from-tar")?;
    lab.sh("machinectl clone debian-13 here")?;
    lab.nsctl_ok("create here --routed")?;
    refused(lab, "create here --routed", 1, "already a machine named 'here'")?;
    lab.sh("printf '\\n[defaults]\\nimage = \"debian-13\"\\n' >> /etc/nsctl/nsctl.toml")?;
    lab.nsctl_ok("create web --routed")?;
    must!(lab.sh("cat /etc/nsctl/machines.d/web.toml")?.contains("image = \"debian-13\""), "no image noted");
    // Clones must not share a machine-id: leases and addresses of the LAN depend on it.
    let ids = lab.sh(
        "for name in here web; do nsenter -t $(machinectl show $name -p Leader | cut -d= -f2) -m cat /etc/machine-id; done | sort -u | wc -l",
    )?;
    must!(ids.trim() == "2", "two machines share a machine-id");
    lab.sh("head -c 100000 /dev/urandom > /root/bad.tar")?;
    refused(lab, "create bad --routed --image /root/bad.tar", 1, "cannot import")
}
