//! A tree is nsctl's by what it is, not by its name: what somebody put in its place stays, and
//! a machine that somebody stopped stays stopped.

use anyhow::Result;

use crate::lab::Lab;
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    another_tree_of_its_name(lab)?;
    what_attach_and_adopt_find(lab)?;
    an_older_state(lab)?;
    stopped(lab)
}

fn another_tree_of_its_name(lab: &Lab) -> Result<()> {
    // The definition goes, then the tree, and a new one is made by hand.
    lab.nsctl_ok("create h5 --routed --image debian-13 --no-start")?;
    lab.sh("rm /etc/nsctl/machines.d/h5.toml; nsctl apply --yes; machinectl remove h5; machinectl clone debian-13 h5; touch /var/lib/machines/h5/mine")?;
    lab.nsctl_ok("attach h5 --routed")?;
    let said = lab.nsctl_ok("remove -y h5")?;
    must!(said.contains("its tree stays"), "{said}");
    lab.sh("test -e /var/lib/machines/h5/mine; machinectl remove h5")?;
    // The same while the machine is defined all the time; a clone of a tree of nsctl's is none of its.
    lab.nsctl_ok("create h6 --routed --image debian-13 --no-start")?;
    lab.nsctl_ok("create web --routed --image debian-13 --no-start")?;
    lab.sh("machinectl remove h6; machinectl clone web h6; touch /var/lib/machines/h6/mine")?;
    let said = lab.nsctl_ok("remove -y h6")?;
    must!(said.contains("its tree stays"), "{said}");
    lab.sh("test -e /var/lib/machines/h6/mine; machinectl remove h6")?;
    // Its own goes, also under another name.
    lab.nsctl_ok("rename web other")?;
    lab.nsctl_ok("remove -y other")?;
    lab.sh("! ls /var/lib/machines | grep -E 'web|other|h5|h6'; test -z \"$(ls /var/lib/nsctl/trees)\"")
        .map(drop)
}

fn what_attach_and_adopt_find(lab: &Lab) -> Result<()> {
    lab.sh("machinectl clone debian-13 mine")?;
    lab.nsctl_ok("attach mine --routed")?;
    lab.nsctl_ok("apply --yes")?;
    lab.nsctl_ok("remove -y mine")?;
    lab.sh("test -e /var/lib/machines/mine/etc/os-release; machinectl remove mine").map(drop)
}

/// The nsctl before this one wrote down names alone: those whose definition and tree are there are taken over.
fn an_older_state(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create old --routed --image debian-13 --no-start")?;
    lab.sh(
        "rm -r /var/lib/nsctl/trees; cd /var/lib/nsctl
         sed -i 's/^version = .*/version = 1\\ntrees = [\"old\", \"gone\"]/; s/{ subnet = \\(\"[^\"]*\"\\).*}/\\1/' state.toml
         nsctl apply --yes; grep -q 'version = 2' state.toml; test \"$(ls trees)\" = old; nsctl remove -y old; ! test -e /var/lib/machines/old",
    )
    .map(drop)
}

fn stopped(lab: &mut Lab) -> Result<()> {
    for name in ["web", "db"] {
        lab.nsctl_ok(&format!("create {name} --routed --image debian-13"))?;
    }
    lab.sh("mv /var/lib/nsctl/state.toml /root; nsctl stop web; mv /root/state.toml /var/lib/nsctl/; sed -i '1i description = \"x\"' /etc/nsctl/machines.d/db.toml")?;
    let done = lab.nsctl("apply --yes")?;
    must!(done.ok(), "{}", done.all());
    must!(lab.nsctl("plan")?.stdout.contains("nothing to do"), "{}", lab.nsctl("plan")?.all());
    must!(lab.machine("web")?["state"] == "stopped", "apply starts what was stopped by hand");
    // Under another name, too, and none of the old one's.
    lab.sh("nsctl rename web shop; nsctl apply --yes")?;
    must!(lab.machine("shop")?["state"] == "stopped", "apply starts what was stopped under another name");
    lab.sh("nsctl start shop; nsctl create web --routed --image debian-13 --no-start; nsctl apply --yes")?;
    must!(lab.machine("web")?["state"] == "running", "a new machine is taken for stopped by hand");
    lab.sh("nsctl remove -y web; nsctl stop shop; nsctl rename shop web")?;
    // Until it is started, or the host is.
    lab.sh("sync")?;
    lab.power_off()?;
    lab.power_on()?;
    lab.sh("until machinectl show web > /dev/null 2>&1; do :; done")?;
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok("start web")?;
    lab.booted("web")?;
    lab.sh("systemctl stop systemd-nspawn@web")?;
    lab.nsctl_ok("apply --yes")?;
    must!(lab.machine("web")?["state"] == "running", "apply does not start what ended by itself");
    // The machine that was exported gets its own subnet again.
    let prefix = lab.machine("web")?["network"]["prefix"].clone();
    lab.sh("nsctl stop web; nsctl export web /root/web.tar; nsctl remove -y web; nsctl create new --routed --image debian-13 --no-start; nsctl import --yes /root/web.tar")?;
    must!(lab.machine("web")?["network"]["prefix"] == prefix, "another subnet: {}", lab.machine("web")?);
    Ok(())
}
