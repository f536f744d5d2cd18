//! Files in machines.d, carried out as a whole: limits, binds and variables
//! arrive; a second `apply` does nothing; what is gone from there is stopped,
//! its subnet rests and its tree stays.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

const WEB: &str = "image = \"debian-13\"\nbind-read-only = [\"/srv\"]\n[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\ntoken = \"::5\"\n[environment]\nMOTD = \"say \\\\\"hi\\\\\"\"\n[limits]\nmemory = \"512M\"\ntasks = 200\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.sh(&format!(
        "mkdir -p /etc/nsctl/machines.d
         printf '{WEB}' > /etc/nsctl/machines.d/web.toml
         printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/db.toml
         printf '[network]\\nmode = \"bridge\"\\nbridge = \"vbr0\"\\n' > /etc/nsctl/machines.d/bot.toml
         for name in db bot; do machinectl clone debian-13 $name; done"
    ))?;
    let plan = lab.nsctl("plan --exit-code")?;
    must!(plan.status == 3 && plan.stdout.contains("+Address=2001:db8:a:7::5/64"), "{}", plan.all());
    let json: serde_json::Value = serde_json::from_str(&lab.nsctl_ok("plan --json")?)?;
    let reloads =
        json["steps"].as_array().into_iter().flatten().filter(|s| s["step"] == "reload-networkd").count();
    must!(reloads == 1, "{reloads} reloads of networkd for three machines");
    let said = lab.nsctl_ok("apply --yes")?;
    must!(
        said.contains("web answers at 2001:db8:a:7::5") && said.contains("db answers at 2001:db8:a:1::2"),
        "{said}"
    );
    must!(lab.nsctl("plan --exit-code")?.status == 0, "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("apply --yes")? == "nothing to do\n", "a second apply does something");

    let unit = lab.sh("systemctl show systemd-nspawn@web -p MemoryMax -p TasksMax")?;
    must!(unit.contains("MemoryMax=536870912") && unit.contains("TasksMax=200"), "{unit}");
    let environment =
        lab.sh("tr '\\0' '\\n' < /proc/$(machinectl show web -p Leader | cut -d= -f2)/environ")?;
    must!(environment.contains("MOTD=say \"hi\"\n"), "{environment}");
    lab.sh(
        "touch /srv/seen; nsenter -t $(machinectl show web -p Leader | cut -d= -f2) -m test -e /srv/seen",
    )?;

    lab.nsctl_ok("attach web --routed")?;
    must!(lab.machine("web")?["network"]["address"] == "2001:db8:a:7::5", "attach forgot subnet and token");

    lab.sh("rm /etc/nsctl/machines.d/web.toml")?;
    lab.nsctl_ok("apply --yes")?;
    must!(lab.sh("machinectl list --no-legend")?.lines().count() == 2, "it still runs");
    must!(lab.nsctl_ok("pool")?.contains("2001:db8:a:7::/64  resting"), "{}", lab.nsctl_ok("pool")?);
    must!(lab.sh("ls /var/lib/machines")?.contains("web"), "its tree is gone");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);

    // A definition without tree or image cannot start, and that is said before.
    lab.sh("printf '[network]\\nmode = \"routed\"\\n' > /etc/nsctl/machines.d/bare.toml")?;
    super::refused(lab, "apply --yes", 1, "names no image")?;
    lab.sh("rm /etc/nsctl/machines.d/bare.toml")?;

    // A bridge that nobody makes is shown where it is named.
    lab.sh("printf '[network]\\nmode = \"bridge\"\\nbridge = \"nope\"\\n' > /etc/nsctl/machines.d/lost.toml; machinectl clone debian-13 lost")?;
    super::refused(lab, "apply --yes", 1, "lost.toml:3:10")?;
    lab.sh("rm /etc/nsctl/machines.d/lost.toml; machinectl remove lost")?;

    // A tree that was there before stays when its machine is removed.
    lab.nsctl_ok("remove -y bot")?;
    must!(lab.sh("ls /var/lib/machines")?.contains("bot"), "a tree that nsctl did not make is gone");

    // A machine whose settings change while it runs is restarted, and that is said before.
    lab.sh("printf '[limits]\\nmemory = \"1G\"\\n[nspawn.Exec]\\nHostname = \"other\"\\n' >> /etc/nsctl/machines.d/db.toml")?;
    must!(
        lab.nsctl_ok("plan")?.contains("'db' is running and will be restarted"),
        "{}",
        lab.nsctl_ok("plan")?
    );
    let said = lab.nsctl_ok("apply --yes")?;
    must!(said.contains("db answers at 2001:db8:a:1::2"), "{said}");
    Ok(())
}
