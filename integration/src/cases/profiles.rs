//! What several machines share is written once, and all of them have it; who cannot use it stays as he is.

use anyhow::{Context, Result};
use serde_json::Value;

use super::refused;
use crate::lab::Lab;
use crate::must;

const WEB: &str = "open = [\"tcp/80\"]\n[limits]\ntasks = 300\n[network]\nmode = \"routed\"\n";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    write(lab, "web", WEB)?;
    refused(lab, "create shop --image debian-13 --profile nobody", 1, "there is no profile")?;
    refused(lab, "create shop --image debian-13", 2, "required")?;
    lab.nsctl_ok("create shop --image debian-13 --profile web --open tcp/22")?;
    lab.nsctl_ok("create blog --image debian-13 --routed")?;
    let written = lab.sh("cat /etc/nsctl/machines.d/shop.toml")?;
    must!(
        written.contains("profile = [\"web\"]") && !written.contains("tcp/80") && !written.contains("mode"),
        "{written}"
    );
    lab.must(&["nsctl", "set", "blog", "profile=[\"web\"]"])?;
    for name in ["shop", "blog"] {
        has(lab, name, "tcp/80")?;
        must!(lab.machine(name)?["limits"]["tasks"] == 300, "{}", lab.machine(name)?);
        tasks(lab, name, "300")?;
    }
    all_change(lab)?;
    stays_what_it_was(lab)?;
    origin(lab)?;
    broken(lab)?;
    private(lab)
}

fn write(lab: &Lab, name: &str, text: &str) -> Result<()> {
    lab.must(&[
        "sh",
        "-euc",
        "mkdir -p /etc/nsctl/profiles.d; printf %s \"$2\" > /etc/nsctl/profiles.d/$1.toml",
        "sh",
        name,
        text,
    ])
    .map(drop)
}

fn has(lab: &Lab, name: &str, port: &str) -> Result<()> {
    let open = lab.machine(name)?["open"].clone();
    must!(open.as_array().is_some_and(|ports| ports.iter().any(|one| one == port)), "{name}: {open}");
    let file = lab.sh(&format!("cat /var/lib/nsctl/firewall/{name}.nft"))?;
    must!(file.contains(port.trim_start_matches("tcp/")), "{file}");
    Ok(())
}

fn tasks(lab: &Lab, name: &str, wanted: &str) -> Result<()> {
    let has = lab.sh(&format!("systemctl show -P TasksMax systemd-nspawn@{name}"))?;
    must!(has.trim() == wanted, "{name} has {has}");
    Ok(())
}

/// A change of the profile is one of all who have it, while they run.
fn all_change(lab: &Lab) -> Result<()> {
    let leaders = || lab.sh("machinectl show shop blog -p Leader");
    let before = leaders()?;
    write(lab, "web", &WEB.replace("300", "400").replace("\"tcp/80\"", "\"tcp/80\", \"tcp/443\""))?;
    must!(lab.nsctl("plan")?.all().contains("limits"), "{}", lab.nsctl("plan")?.all());
    lab.nsctl_ok("apply --yes")?;
    for name in ["shop", "blog"] {
        has(lab, name, "tcp/443")?;
        tasks(lab, name, "400")?;
    }
    must!(leaders()? == before, "they were restarted");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}

/// Commands change definitions, and never a profile.
fn stays_what_it_was(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("open shop tcp/25")?;
    let written = lab.sh("cat /etc/nsctl/machines.d/shop.toml")?;
    must!(written.contains("tcp/25") && !written.contains("tcp/443"), "{written}");
    refused(lab, "close shop tcp/443", 1, "comes from its profile 'web'")?;
    lab.nsctl_ok("close shop tcp/25")?;
    lab.nsctl_ok("set shop limits.tasks=500")?;
    tasks(lab, "shop", "500")?;
    tasks(lab, "blog", "400")?;
    lab.nsctl_ok("set shop limits.tasks=")?;
    tasks(lab, "shop", "400")?;
    lab.nsctl_ok("clone shop twin --no-start").or_else(|_| lab.nsctl_ok("clone shop twin"))?;
    has(lab, "twin", "tcp/443")?;
    lab.nsctl_ok("remove twin --yes").map(drop)
}

fn origin(lab: &Lab) -> Result<()> {
    lab.sh("printf '[defaults.limits]\\nmemory = \"50%%\"\\n' >> /etc/nsctl/nsctl.toml; nsctl apply --yes")?;
    let all: Value = serde_json::from_str(&lab.nsctl_ok("show shop --origin --json")?)?;
    let all = all.as_array().context("no list")?;
    let from = |key: &str| -> Vec<&str> {
        all.iter().filter(|one| one["key"] == key).filter_map(|one| one["from"].as_str()).collect()
    };
    must!(from("limits.tasks") == ["/etc/nsctl/profiles.d/web.toml"], "{all:?}");
    must!(from("limits.memory") == ["/etc/nsctl/nsctl.toml, [defaults]"], "{all:?}");
    must!(from("autostart") == ["nsctl"], "{all:?}");
    let open = from("open");
    must!(
        open.len() == 2 && open[0].ends_with("machines.d/shop.toml") && open[1].ends_with("web.toml"),
        "{open:?}"
    );
    let table = lab.nsctl_ok("show shop --origin")?;
    must!(table.contains("KEY") && table.contains("\"tcp/443\""), "{table}");
    refused(lab, "show nobody --origin", 1, "no machine named")
}

/// Who has no part in it goes on.
fn broken(lab: &Lab) -> Result<()> {
    lab.must(&["nsctl", "set", "blog", "profile=", "network.mode=routed"])?;
    write(lab, "web", "opne = [\"tcp/80\"]\n")?;
    let plan = lab.nsctl("plan")?;
    must!(plan.status == 1 && plan.all().contains("profiles.d/web.toml:1:1"), "{}", plan.all());
    lab.nsctl_ok("open blog tcp/8443")?;
    lab.sh("machinectl show shop -p Leader")?;
    let said = lab.nsctl("open shop tcp/1")?;
    must!(!said.ok() && said.all().contains("opne"), "{}", said.all());
    let doctor = lab.nsctl("doctor")?;
    must!(doctor.status == 1 && doctor.all().contains("opne"), "{}", doctor.all());
    write(lab, "web", WEB)?;
    lab.nsctl("apply --yes").map(drop)
}

/// What only root may read in a profile is shown to nobody by what is rendered of it.
fn private(lab: &Lab) -> Result<()> {
    write(lab, "keys", "[environment]\nTOKEN = \"topsecret\"\n")?;
    lab.sh("chmod 600 /etc/nsctl/profiles.d/keys.toml")?;
    lab.must(&["nsctl", "set", "shop", "profile=[\"web\", \"keys\"]", "--yes"])?;
    let read = "setpriv --reuid nobody --clear-groups grep -rls topsecret /etc /var/lib/nsctl || true";
    must!(lab.sh("grep -c topsecret /etc/systemd/nspawn/shop.nspawn")?.trim() == "1", "it is not there");
    must!(lab.sh(read)?.is_empty(), "{}", lab.sh(read)?);
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}
