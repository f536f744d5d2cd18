//! A guest that does not read the file bound into it gets an address by RA.

use anyhow::Result;

use crate::lab::{Lab, snapshot};
use crate::must;

/// PID 1 of a guest without systemd; it ends when nspawn asks it to.
const INIT: &str = "#!/bin/sh\ntrap 'exit 0' RTMIN+3\n/bin/busybox ip link set host0 up\nwhile :; do /bin/busybox sleep 1 & wait $!; done\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let tree = lab.machines().join("tiny");
    crate::lab::subvolume(&tree)?;
    for folder in ["bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "usr", "var", "root"] {
        fs_err::create_dir_all(tree.join(folder))?;
    }
    fs_err::copy("/bin/busybox", tree.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh"))?;
    fs_err::write(tree.join("etc/os-release"), "ID=tiny\n")?;
    fs_err::write(tree.join("sbin/init"), INIT)?;
    lab.sh("chmod 755 /var/lib/machines/tiny/sbin/init")?;
    snapshot(&tree, &lab.machines().join("other"))?;

    let said = lab.nsctl_ok("create tiny --routed")?;
    must!(said.contains("which its guest chose by RA"), "{said}");
    let machine = lab.machine("tiny")?;
    let address = machine["addresses"][0].as_str().unwrap_or_default().to_owned();
    must!(address.starts_with("2001:db8:a:1:"), "{machine}");
    let ping = lab.router.run(&["ping", "-6", "-c1", "-W5", &address])?;
    must!(ping.ok(), "{}", ping.all());
    lab.nsctl_ok("stop tiny")?;
    Ok(())
}
