//! What would let a machine down is refused, with its line, before the machine is touched;
//! and doctor fixes settings where they are written, and tells a machine's own files.

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13")?;
    let leader = lab.sh("machinectl show web -p Leader --value")?;
    let keeps = |what: &str| -> Result<()> {
        must!(lab.sh("machinectl show web -p Leader --value")? == leader, "{what}: it was touched");
        lab.sh("cp /root/web.toml /etc/nsctl/machines.d/web.toml").map(drop)
    };
    lab.sh("cp /etc/nsctl/machines.d/web.toml /root/web.toml")?;
    for (line, says) in [
        ("[nspawn.Files]\\nBindReadOnly = \"/srv/gone:/x\"", "/srv/gone is not there"),
        ("[nspawn.Files]\\nBind = [\"/srv\", \"/srv/a\\\\\\\\:b:/x\"]", "/srv/a:b is not there"),
        ("[nspawn.Exec]\\nHostnam = \"x\"", "Hostnam is no setting of [Exec]"),
        ("[networkd.Network]\\nLLPD = true", "LLPD is no setting of [Network]"),
        ("[networkd.Netwrok]\\nLLDP = true", "[Netwrok] is no section"),
    ] {
        lab.sh(&format!("printf '{line}\\n' >> /etc/nsctl/machines.d/web.toml"))?;
        for verb in ["plan", "apply --yes"] {
            refused(lab, verb, 1, says)?;
        }
        let told = lab.nsctl("plan")?;
        must!(told.stderr.contains("machines.d/web.toml:") && told.stderr.contains('^'), "{}", told.all());
        keeps(line)?;
    }
    // What goes away later is seen before a restart.
    lab.sh("mkdir /srv/world; printf '[nspawn.Files]\\nBind = \"/srv/world:/world\"\\n' >> /etc/nsctl/machines.d/web.toml; nsctl apply --yes; umount -l /srv/world 2>/dev/null || true; mv /srv/world /srv/away")?;
    let before = lab.sh("machinectl show web -p Leader --value")?;
    refused(lab, "restart web", 1, "/srv/world is not there")?;
    must!(lab.sh("machinectl show web -p Leader --value")? == before, "it was stopped");
    lab.sh("mv /srv/away /srv/world; nsctl restart web; cp /root/web.toml /etc/nsctl/machines.d/web.toml; nsctl apply --yes")?;

    own_files(lab)
}

/// An older nsctl has written what is misspelt; somebody has added to a file.
fn own_files(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create db --routed --image debian-13 --no-start")?;
    lab.sh("mkdir /etc/systemd/network/05-nsctl-ve-web.network.d; printf '[Network]\\nLLPD=yes\\n' > /etc/systemd/network/05-nsctl-ve-web.network.d/mine.conf")?;
    let (web, db) = (lab.nsctl("doctor web")?, lab.nsctl("doctor db")?);
    must!(web.stdout.contains("mine.conf:2 LLPD= is no setting"), "{}", web.all());
    must!(!db.stdout.contains("LLPD"), "{}", db.all());
    lab.sh("rm -r /etc/systemd/network/05-nsctl-ve-web.network.d")?;
    // As it would be signed: the checksum is that of gzip (RFC 1952 2.3.1).
    lab.sh("printf '[networkd.Network]\\nLLPD = true\\n' >> /etc/nsctl/machines.d/web.toml
            f=/etc/systemd/network/05-nsctl-ve-web.network
            tail -n +2 $f > /root/body; printf '\\n[Network]\\nLLPD=yes\\n' >> /root/body
            sum=$(gzip -c /root/body | tail -c8 | od -An -tx4 -N4 | tr -d ' ')
            { head -n1 $f | sed \"s/([0-9a-f]*)/($sum)/\"; cat /root/body; } > /root/new; cp /root/new $f")?;
    let told = lab.nsctl("doctor web")?;
    must!(
        told.stdout.contains("/etc/nsctl/machines.d/web.toml:") && told.stdout.contains("LLPD"),
        "{}",
        told.all()
    );
    let fix = told
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("fix: sed"))
        .map(|rest| format!("sed{rest}"));
    lab.sh(&fix.unwrap_or_default())?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.sh("cat /etc/systemd/network/05-nsctl-ve-web.network")?.contains("LLDP=yes"), "{}", told.all());
    Ok(())
}
