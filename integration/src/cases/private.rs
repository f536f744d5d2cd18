//! A definition that only root may read makes nothing that others may.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

/// What another user of the host reads of the secret.
const READ: &str =
    "setpriv --reuid nobody --clear-groups grep -rls topsecret /etc /var/lib/nsctl /root /srv || true";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.sh("mkdir -p /srv/out /etc/nsctl/machines.d; printf '[network]\\nmode = \"routed\"\\n[environment]\\nTOKEN = \"topsecret\"\\n[networkd.Network]\\nLLDP = true\\n' > /root/def
            install -m 600 /root/def /etc/nsctl/machines.d/web.toml; rm /root/def
            cp -a /var/lib/machines/debian-13 /var/lib/machines/web; nsctl apply --yes")?;
    closed(lab, "web")?;
    must!(lab.machine("web")?["state"] == "running", "{}", lab.machine("web")?);
    must!(
        lab.sh("networkctl status ve-web")?.contains("05-nsctl-ve-web.network"),
        "networkd cannot read its file"
    );
    must!(
        lab.sh("stat -c '%a %U:%G' /etc/systemd/network/05-nsctl-ve-web.network")?
            == "640 root:systemd-network\n",
        "not networkd's"
    );
    lab.nsctl_ok("open web tcp/80")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    closed(lab, "web")?;

    // A snapshot's record, too, and what it brings back where the definition is no longer private.
    lab.nsctl_ok("snapshot web secret")?;
    closed(lab, "web")?;
    lab.sh("nsctl set web environment.TOKEN= --yes; chmod 644 /etc/nsctl/machines.d/web.toml; nsctl rollback web secret --yes")?;
    must!(lab.sh("grep -c topsecret /etc/nsctl/machines.d/web.toml")?.trim() == "1", "it is not back");
    closed(lab, "web")?;
    lab.sh("nsctl snapshot remove web $(cd /var/lib/machines; ls -d .web@* | sed s/.*@//) --yes")?;

    lab.nsctl_ok("clone web twin")?;
    closed(lab, "twin")?;
    lab.nsctl_ok("stop twin")?;
    lab.nsctl_ok("rename twin copy")?;
    closed(lab, "copy")?;
    lab.nsctl_ok("export copy /srv/out/copy.tar")?;
    must!(lab.sh("stat -c %a /srv/out/copy.tar")? == "600\n", "everybody reads the archive");
    // Killed in the middle of its removal, it comes back as private as it was.
    for point in [3, 5, 7] {
        lab.sh(&format!("NSCTL_KILL_AT={point} nsctl-faults remove -y copy || true; nsctl stop web"))?;
        if lab.sh("ls /etc/nsctl/machines.d")?.contains("copy") {
            closed(lab, "copy")?;
        }
    }
    lab.nsctl("remove -y copy")?;
    lab.nsctl_ok("import -y /srv/out/copy.tar --no-start")?;
    closed(lab, "copy")?;

    // Made private later on, and the other way round: what was narrow stays so.
    lab.sh("chmod 644 /etc/nsctl/machines.d/copy.toml; nsctl apply --yes; chmod 600 /etc/nsctl/machines.d/copy.toml; chmod 644 /etc/systemd/nspawn/copy.nspawn /etc/systemd/network/05-nsctl-ve-copy.network; nsctl apply --yes")?;
    closed(lab, "copy")?;

    // A hand-written .nspawn of a private kind.
    lab.sh("cp -a /var/lib/machines/debian-13 /var/lib/machines/hand; (umask 077; printf '[Exec]\\nEnvironment=TOKEN=topsecret\\n' > /etc/systemd/nspawn/hand.nspawn); nsctl attach hand --routed")?;
    closed(lab, "hand")?;
    must!(
        lab.sh("stat -c %a /etc/systemd/nspawn/hand.nspawn.before-nsctl")? == "600\n",
        "what was kept is open to all"
    );
    lab.nsctl_ok("remove -y hand")?;
    must!(lab.sh("stat -c %a /etc/systemd/nspawn/hand.nspawn")? == "600\n", "what came back is open to all");
    // What nobody made private is as it always was.
    lab.sh("nsctl create open --routed --image debian-13 --no-start; setpriv --reuid nobody --clear-groups cat /etc/systemd/nspawn/open.nspawn > /dev/null").map(drop)
}

fn closed(lab: &Lab, name: &str) -> Result<()> {
    let modes = lab.sh(&format!(
        "stat -c '%a %n' /etc/nsctl/machines.d/{name}.toml /etc/systemd/nspawn/{name}.nspawn"
    ))?;
    must!(modes.lines().all(|line| line.starts_with("600 ")), "{modes}");
    let wide = lab.sh(&format!("find /etc/systemd -path '*{name}*' -type f -perm /7 -printf '%m %p\\n'"))?;
    must!(wide.is_empty(), "others may read\n{wide}");
    let read = lab.sh(READ)?;
    must!(read.is_empty(), "others read the secret in\n{read}");
    Ok(())
}
