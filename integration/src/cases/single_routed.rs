//! A host whose provider routes it one /64: an address for each machine.

use anyhow::Result;

use crate::lab::{Lab, tiny_guest};
use crate::must;

use super::{refused, uplink_has};

pub fn run(lab: &mut Lab) -> Result<()> {
    // As with Hetzner: the uplink has an address of it, and the router sends all of it to the host's
    // link-local address.
    uplink_has(lab, "2001:db8:b::2")?;
    let own = lab.sh("ip -6 -o addr show dev wan0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'")?;
    lab.router.script(&format!("ip -6 route add 2001:db8:b::/64 via {} dev up0", own.trim()))?;
    let said = lab.nsctl_ok("init")?;
    must!(
        said.contains("2001:db8:b::/64: that is routed to this host")
            && said.contains("\n    nsctl init --pool 2001:db8:b::/64 --uplink wan0\n"),
        "{said}"
    );
    refused(lab, "init --pool 2001:db8:b::/64 --on-link", 1, "is routed to this host")?;
    refused(lab, "init --pool 2001:db8:b::/56 --on-link", 2, "cannot be on the link")?;
    refused(lab, "init --pool 2001:db8:b::/113", 2, "a /112 at the longest")?;
    let said = lab.nsctl_ok("init --pool 2001:db8:b::/64 --uplink wan0")?;
    must!(said.contains("machines get an address each of 2001:db8:b::/64"), "{said}");
    must!(lab.nsctl_ok("doctor --probe 1")?.contains("2001:db8:b::/64 is routed to this host"), "a probe");
    on_link_after_all(lab, own.trim())?;

    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/80")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    let web = lab.machine("web")?;
    must!(web["network"]["prefix"] == "2001:db8:b::100/128", "{web}");
    must!(web["addresses"][0] == "2001:db8:b::100" && web["drift"] == serde_json::json!([]), "{web}");
    answers(lab)?;
    from_inside(lab)?;
    strangers(lab)?;
    a_guest_that_reads_no_file(lab)?;
    pins(lab)?;

    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());
    lab.sh("rm /var/lib/nsctl/state.toml; nsctl state rebuild; nsctl plan | grep -qx 'nothing to do'")?;
    // Another name, the same address; a clone gets another one.
    lab.sh("nsctl stop db; nsctl rename db data; nsctl start data")?;
    must!(lab.machine("data")?["addresses"][0] == "2001:db8:b::101", "{}", lab.machine("data")?);
    lab.nsctl_ok("clone web other")?;
    must!(lab.machine("other")?["addresses"][0] == "2001:db8:b::103", "{}", lab.machine("other")?);
    lab.sh("nsctl remove -y other; nsctl stop data; nsctl rename data db; nsctl start db")?;
    lab.power_off()?;
    lab.power_on()?;
    lab.booted("web")?;
    lab.booted("db")?;
    answers(lab)?;
    adopted(lab)?;
    for name in ["web", "db", "tiny"] {
        lab.nsctl_ok(&format!("remove -y {name}"))?;
    }
    must!(!lab.sh("ip -6 route show")?.contains("2001:db8:b::100"), "a route is left");
    must!(lab.sh("ip -6 addr show dev wan0")?.contains("2001:db8:b::2/64"), "the host's own address went");
    Ok(())
}

/// One that somebody has routed an address to by hand keeps it.
fn adopted(lab: &Lab) -> Result<()> {
    lab.sh("printf '[Match]\\nName=ve-hand\\n[Network]\\nAddress=fe80::1/64\\nIPv6AcceptRA=no\\n[Route]\\nDestination=2001:db8:b::77\\n' > /etc/systemd/network/20-hand.network
            networkctl reload; machinectl clone debian-13 hand; mkdir -p /etc/systemd/nspawn
            printf '[Exec]\\nBoot=yes\\nPrivateUsers=pick\\nParameters=systemd.firstboot=no\\n[Network]\\nVirtualEthernet=yes\\n' > /etc/systemd/nspawn/hand.nspawn
            systemctl start systemd-nspawn@hand
            timeout 20 sh -c 'until ip -6 route show dev ve-hand | grep -q b::77; do sleep 0.1; done'")?;
    let said = lab.nsctl("adopt hand --yes")?;
    must!(said.ok() && said.stderr.contains("+subnet = \"2001:db8:b::77/128\""), "{}", said.all());
    let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", "2001:db8:b::77"])?;
    must!(ping.ok(), "{}", ping.all());
    let file = lab.sh("cat /etc/systemd/network/05-nsctl-ve-hand.network")?;
    must!(file.matches("b::77").count() == 1 && file.matches("fe80::1/64").count() == 1, "{file}");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    lab.nsctl_ok("remove -y hand")?;
    lab.sh("rm /etc/systemd/network/20-hand.network; networkctl reload").map(drop)
}

/// A provider who has ceased to route it here is found out.
fn on_link_after_all(lab: &Lab, own: &str) -> Result<()> {
    lab.router.script("ip -6 route replace 2001:db8:b::/64 dev up0")?;
    refused(lab, "doctor --probe 1", 1, "2001:db8:b::/64 is not routed to this host")?;
    must!(
        lab.nsctl("doctor --probe 1")?.stderr.contains("--on-link`"),
        "{}",
        lab.nsctl("doctor --probe 1")?.all()
    );
    lab.router.script(&format!(
        "ip -6 route del 2001:db8:b::/64 dev up0; ip -6 route replace 2001:db8:b::/64 via {own} dev up0"
    ))?;
    Ok(())
}

/// Machines and the host's own addresses.
fn answers(lab: &Lab) -> Result<()> {
    for address in ["2001:db8:b::100", "2001:db8:b::101", "2001:db8:b::2", "2001:db8:b::53"] {
        let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", address])?;
        must!(ping.ok(), "{address} does not answer:\n{}", ping.all());
    }
    Ok(())
}

fn from_inside(lab: &Lab) -> Result<()> {
    let seen =
        lab.inside("web", "ip -6 addr show dev host0 scope global; ip -6 route get 2001:db8:ffff::1")?;
    must!(
        seen.stdout.contains("2001:db8:b::100/128") && seen.stdout.contains("via fe80::1"),
        "{}",
        seen.all()
    );
    must!(seen.stdout.matches("inet6").count() == 1, "{}", seen.all());
    for (from, to) in [("web", "2001:db8:b::101"), ("db", "2001:db8:b::100"), ("web", "2001:db8:ffff::1")] {
        let ping = lab.inside(from, &format!("ping -6 -c2 -i0.2 -W5 {to}"))?;
        must!(ping.ok(), "{from} does not reach {to}:\n{}", ping.all());
    }
    Ok(())
}

/// What nobody has is answered as unreachable, and nobody looked for; what others have no machine takes.
fn strangers(lab: &Lab) -> Result<()> {
    let nobody = lab.router.run(&["ping", "-6", "-c1", "-W5", "2001:db8:b::9:9"])?;
    must!(!nobody.ok() && nobody.stdout.contains("Destination unreachable"), "{}", nobody.all());
    must!(
        !lab.sh("ip -6 neigh show dev wan0")?.contains("2001:db8:b::9:9"),
        "a stranger's choice takes a place"
    );
    lab.router.watch(
        "ip6",
        "ip6 saddr { 2001:db8:b::2, 2001:db8:b::101, 2001:db8:b::9:9 } icmpv6 type echo-request",
    )?;
    for feigned in ["2001:db8:b::2", "2001:db8:b::101", "2001:db8:b::9:9"] {
        lab.inside(
            "web",
            &format!(
                "ip -6 addr add {feigned}/128 dev host0 nodad; ping -6 -c1 -W1 -I {feigned} 2001:db8:ffff::1
                 ip -6 addr del {feigned}/128 dev host0"
            ),
        )?;
    }
    must!(lab.router.watched("ip6")? == 0, "a machine feigns another's address");
    Ok(())
}

/// No RA tells of one address.
fn a_guest_that_reads_no_file(lab: &Lab) -> Result<()> {
    tiny_guest(lab, "tiny")?;
    let said = lab.nsctl_ok("create tiny --routed")?;
    must!(said.contains("tiny answers at 2001:db8:b::102 ("), "{said}");
    lab.sh("nsctl stop tiny; systemctl start systemd-nspawn@tiny")?;
    let ping = lab.router.run(&["ping", "-6", "-c3", "-i0.2", "-W5", "2001:db8:b::102"])?;
    must!(ping.ok(), "it has no address where systemd starts it:\n{}", ping.all());
    Ok(())
}

fn pins(lab: &Lab) -> Result<()> {
    let file = "/etc/nsctl/machines.d/db.toml";
    for (line, says) in [
        ("subnet = \"2001:db8:b::2/128\"", "the host's own"),
        ("subnet = \"2001:db8:b::53/128\"", "the host's own"),
        (
            "subnet = \"2001:db8:b::/64\"",
            "a machine gets an address of 2001:db8:b::/64, and no /64; `subnet = \"ADDRESS/128\"` chooses one",
        ),
        (
            "prefix = 60",
            "of 2001:db8:b::/64 a machine gets an address, and no /64; `subnet = \"ADDRESS/128\"`",
        ),
        ("subnet = \"2001:db8:c::7/128\"", "is not in the pool"),
        ("subnet = \"2001:db8:b::100/128\"", "is leased to 'web'"),
        ("token = \"::7\"", "chooses one"),
    ] {
        lab.sh(&format!("cp {file} /root/db.toml; echo '{line}' >> {file}"))?;
        let plan = lab.nsctl("plan")?;
        must!(plan.all().contains(says), "{line}: {}", plan.all());
        lab.sh(&format!("cp /root/db.toml {file}"))?;
    }
    Ok(())
}
