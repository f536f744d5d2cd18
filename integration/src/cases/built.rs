//! From nothing to a machine in one command: an image is built of the
//! distribution's packages, kept, and made fit to boot unattended; what its owner
//! asked for is there at the first boot.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, Suite, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    refused(lab, "image build plan9:4", 2, "names no distribution")?;
    lab.install("mmdebstrap")?;
    let word = format!("debian:{}", lab.suite().name());
    let image = word.replace(':', "-");
    lab.sh(&format!(
        "printf '\\n[images]\\nmirror = \"%s\"\\n' '{}' >> /etc/nsctl/nsctl.toml",
        lab.mirror()
    ))?;
    // The stable release needs no word.
    if lab.suite() != Suite::Trixie {
        lab.sh(&format!("printf '[defaults]\\nimage = \"{word}\"\\n' >> /etc/nsctl/nsctl.toml"))?;
    }
    lab.sh("mkdir -p keys; echo 'ssh-ed25519 AAAAC3Nz me@there' > keys/me.pub; echo 'secret word' > keys/password
            printf '#!/bin/sh\\necho ran >> /root/first; id -u >> /root/first\\n' > keys/first.sh")?;
    refused(lab, "create web --routed --ssh-key keys/none", 1, "is not a file")?;
    refused(lab, "create web --routed --hostname a_b", 2, "is no name for a host")?;

    // Somebody else's file does not stand in the way.
    lab.sh("setpriv --reuid nobody --clear-groups touch /var/tmp/nsctl-build-0")?;
    let said = lab.nsctl("create web --routed --open tcp/22 --hostname web.example.org --ssh-key keys/me.pub --root-password-file keys/password --run keys/first.sh")?;
    must!(said.ok() && said.stdout.contains("answers at 2001:db8:a:1::2"), "{}", said.all());
    let listed = lab.nsctl_ok("image list")?;
    must!(listed.contains(&format!("{image} ")), "{listed}");
    must!(said.stderr.contains("clone the image") && said.stderr.contains("a snapshot"), "{}", said.all());
    let once = || Ok(lab.run(&["nsctl", "shell", "web", "cat", "/root/first"])?.stdout == "ran\n0\n");
    until(Duration::from_secs(60), "the script ran", once)?;
    let inside = |command: &str| {
        Ok::<String, anyhow::Error>(lab.run(&["nsctl", "shell", "web", "sh", "-c", command])?.stdout)
    };
    must!(inside("hostname")? == "web.example.org\n", "{}", inside("hostname")?);
    must!(
        inside("cat /root/.ssh/authorized_keys")?.contains("me@there"),
        "no key: {}",
        inside("ls -la /root/.ssh /etc/credstore; journalctl -b -u systemd-tmpfiles-setup")?
    );
    let hash = inside("grep ^root: /etc/shadow | cut -d: -f2")?;
    must!(hash.starts_with("$6$"), "no password: {hash}");
    must!(
        inside("getent hosts web.machines.internal")?.contains("2001:db8:a:1::2"),
        "no resolver: {}",
        inside("cat /etc/resolv.conf; resolvectl status")?
    );
    must!(inside("systemctl is-active systemd-networkd")? == "active\n", "networkd does not run");
    lab.nsctl_ok("restart web")?;
    must!(inside("cat /root/first")? == "ran\n0\n", "the script ran again");

    // The second is a clone of the image that was kept, and another machine.
    let second = lab.nsctl("create db --routed")?;
    must!(second.ok() && !second.stderr.contains("making the image"), "{}", second.all());
    let ids = lab.sh(
        "for m in web db; do nsctl shell $m cat /etc/machine-id; done | sort -u | grep -c '^[0-9a-f]*$'",
    )?;
    must!(ids.trim() == "2", "two machines share a machine-id");
    let again = lab.nsctl_ok(&format!("image build {word}"))?;
    must!(again.contains("was there already"), "{again}");
    refused(lab, &format!("create db2 --routed --image {image}x"), 1, "there is no image")?;
    refused(lab, "image remove -y web", 1, "is the tree of a machine")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // Two builds of one image at once make one.
    lab.nsctl_ok(&format!("image remove -y {image}"))?;
    let both = lab.sh(&format!("nsctl image build {word} 2>&1 & nsctl image build {word} 2>&1; wait"))?;
    must!(both.matches("was there already").count() == 1, "{both}");

    // Interrupted, it leaves nothing.
    lab.nsctl_ok(&format!("image remove -y {image}"))?;
    let cut = lab.sh(&format!(
        "nsctl image build {word} 2> log & pid=$!
         until grep -q 'installing' log; do :; done
         kill -INT $pid; wait $pid && exit 1
         while pgrep mmdebstrap > /dev/null; do :; done
         ls -A /tmp /var/tmp | grep -v nsctl-build-0; ls -A /var/lib/nsctl/build; stat -c %a /var/lib/nsctl/build; ls -A /var/lib/machines"
    ))?;
    let left =
        ["mmdebstrap.", "nsctl-", ".tmp"].iter().any(|word| cut.contains(word)) || !cut.contains("700\n");
    must!(!left, "something is left:\n{cut}");
    must!(!lab.nsctl_ok("image list")?.contains(&image), "half an image");
    Ok(())
}
