//! Files in and out of a machine, its journal, its clones, a new name, and a move to
//! another host in two commands.

use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Lab, tiny_guest, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7777")?;
    files(lab)?;
    journal(lab)?;
    cloned(lab)?;
    renamed(lab)?;
    moved(lab)
}

fn files(lab: &Lab) -> Result<()> {
    lab.sh("mkdir -p /root/some/deep; echo hello > /root/some/deep/file; touch here")?;
    lab.nsctl_ok("cp /root/some web:/srv/some")?;
    let owner = lab.nsctl_ok("shell web stat -c %u:%a /srv/some/deep/file")?;
    must!(owner.starts_with("0:"), "not root's inside: {owner}");
    lab.nsctl_ok("cp web:/srv/some/deep/file /root/back/")
        .or_else(|_| lab.sh("mkdir /root/back && nsctl cp web:/srv/some/deep/file /root/back/"))?;
    must!(
        lab.sh("cat /root/back/file; stat -c %u /root/back/file")? == "hello\n0\n",
        "{}",
        lab.sh("ls -la /root/back")?
    );
    refused(lab, "cp web:/srv/nothing /root/", 1, "does not exist")?;
    refused(lab, "cp web:/a web:/b", 2, "one of the two")?;
    refused(lab, "cp /root/none web:/a", 1, "does not exist")
}

fn journal(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("shell web sh -c 'logger from-the-guest; journalctl --sync'").or_else(|_| {
        lab.must(&["nsctl", "shell", "web", "sh", "-c", "logger from-the-guest; journalctl --sync"])
    })?;
    must!(lab.nsctl_ok("logs web")?.contains("from-the-guest"), "{}", lab.nsctl_ok("logs web")?);
    must!(lab.nsctl_ok("logs web --console")?.contains("Welcome to"), "no console");
    let follow = "timeout 5 nsctl logs web -f > follow & until grep -q from-the-guest follow; do :; done
                  nsctl shell web logger again; until grep -q again follow; do :; done; kill $!";
    lab.sh(follow)?;
    tiny_guest(lab, "tiny")?;
    must!(lab.nsctl("logs tiny")?.ok(), "a guest without a journal");
    refused(lab, "logs nobody", 1, "there is no machine")
}

fn cloned(lab: &Lab) -> Result<()> {
    let said = lab.nsctl_ok("clone web twin")?;
    must!(said.contains("twin answers at 2001:db8:a:2::2"), "{said}");
    let ids = lab.sh("for m in web twin; do nsctl shell $m cat /etc/machine-id; done | sort -u | wc -l")?;
    must!(ids.trim() == "2", "a clone has the same machine-id");
    must!(lab.nsctl_ok("shell twin cat /srv/some/deep/file")? == "hello\n", "not the same files");
    must!(lab.sh("cat /etc/nsctl/machines.d/twin.toml")?.contains("tcp/7777"), "not the same definition");
    refused(lab, "clone web twin", 1, "already a machine named 'twin'")?;
    refused(lab, "clone nobody other", 1, "there is no machine")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

fn renamed(lab: &Lab) -> Result<()> {
    refused(lab, "rename twin copy", 1, "is running")?;
    lab.nsctl_ok("stop twin")?;
    refused(lab, "rename twin web", 1, "already a machine named 'web'")?;
    lab.nsctl_ok("rename twin copy")?;
    must!(lab.nsctl_ok("start copy")?.contains("answers at 2001:db8:a:2::2"), "its subnet is another");
    let left = lab.sh("ls /var/lib/machines /etc/systemd/nspawn /etc/nsctl/machines.d; ls -R /etc/systemd /var/lib/nsctl; cat /var/lib/nsctl/state.toml")?;
    must!(!left.contains("twin"), "something of its old name is left:\n{left}");
    must!(
        lab.sh("systemctl is-enabled systemd-nspawn@copy")?.contains("enabled"),
        "it does not start with the host"
    );
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.nsctl_ok("remove -y copy")?;
    must!(!lab.sh("ls /var/lib/machines")?.contains("copy"), "its tree stays");
    Ok(())
}

/// To a host with another pool.
fn moved(lab: &mut Lab) -> Result<()> {
    lab.sh("sed -i 's/^mode = .*/&\\nsubnet = \"2001:db8:a:1::\\/64\"/' /etc/nsctl/machines.d/web.toml; nsctl apply --yes")?;
    let id = lab.nsctl_ok("shell web cat /etc/machine-id")?;
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok("export web /root/web.tar.gz")?;
    refused(lab, "export web /root/web.tar.gz", 1, "/root/web.tar.gz")?;
    for name in ["web", "tiny"] {
        lab.nsctl(&format!("remove -y {name}"))?;
    }
    lab.nsctl_ok("init --pool 2001:db8:a:f000::/52 --uplink wan0")?;
    refused(lab, "import /root/web.tar.gz", 1, "nobody can be asked")?;
    let said = lab.nsctl("import --yes /root/web.tar.gz")?;
    must!(said.ok() && said.stdout.contains("web answers at 2001:db8:a:f001::2"), "{}", said.all());
    must!(
        said.stderr.contains("open = [\"tcp/7777\"]") && said.stderr.contains("gets another"),
        "{}",
        said.all()
    );
    must!(lab.nsctl_ok("shell web cat /etc/machine-id")? == id, "it is another machine");
    must!(lab.nsctl_ok("shell web cat /srv/some/deep/file")? == "hello\n", "not the same files");
    let open = || {
        Ok(lab
            .router
            .run(&[
                "bash",
                "-c",
                "timeout 2 bash -c 'exec 3<>/dev/tcp/2001:db8:a:f001::2/7777 && head -c5 <&3'",
            ])?
            .stdout
            == "hello")
    };
    until(Duration::from_secs(20), "its port is open here, too", open)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.sh("tar -C /var/lib/machines/debian-13 -cf /root/plain.tar .")?;
    refused(lab, "import /root/plain.tar --name other", 1, "was not exported by nsctl")?;
    hostile(lab)
}

/// A definition that asks for the host, and hides it.
fn hostile(lab: &Lab) -> Result<()> {
    lab.install("python3")?;
    lab.sh(
        "cat > make.py <<'end'
import tarfile, io
text = ('description = \"nice \\u202e\\u200b\"\\nbind = [\"/:/host\"]\\nfirewall = false\\n[network]\\nmode = \"routed\"\\n'
        '[nspawn.Exec]\\nPrivateUsers = \"no\"\\nCapability = \"all\"\\n[networkd.Network]\\nIPMasquerade = \"both\"\\n'
        '[[expose]]\\nport = \"tcp/80\"\\nhost = 80\\n').encode()
with tarfile.open('/root/evil.tar', 'w', format=tarfile.USTAR_FORMAT) as tar:
    entry = tarfile.TarInfo('nsctl-definition.toml')
    entry.size = len(text)
    tar.addfile(entry, io.BytesIO(text))
    tar.add('/var/lib/machines/debian-13', '.')
end
         python3 make.py",
    )?;
    refused(lab, "import /root/evil.tar", 1, "nobody can be asked")?;
    let said = lab.nsctl("import /root/evil.tar")?.stderr;
    must!(said.contains("\\u{202e}\\u{200b}") && !said.contains('\u{202e}'), "{said}");
    let last = said.split("reaches beyond").nth(1).unwrap_or_default();
    for word in
        ["/:/host", "PrivateUsers = no", "Capability = all", "IPMasquerade", "firewall = false", "port 80"]
    {
        must!(last.contains(word), "{word} is not told apart:\n{said}");
    }
    let said = lab.nsctl("import --yes --no-privileges --no-start /root/evil.tar")?;
    must!(said.ok() && !said.stderr.contains("reaches beyond"), "{}", said.all());
    let kept = lab.sh("cat /etc/nsctl/machines.d/evil.toml /etc/systemd/nspawn/evil.nspawn")?;
    must!(
        !["/:/host", "PrivateUsers=no", "all", "Masquerade", "firewall", "host = 80"]
            .iter()
            .any(|word| kept.contains(word)),
        "{kept}"
    );
    lab.nsctl_ok("remove -y evil").map(drop)
}
