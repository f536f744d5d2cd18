//! What the guides say that one types, typed, and what they say that comes of it, seen.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use super::delegated::delegate;
use super::uplink_has;
use crate::demo::settled;
use crate::lab::{Done, Lab, Suite, until};
use crate::must;

const VPS: &str = include_str!("../../../docs/guides/vps-48.md");
const LAN: &str = include_str!("../../../docs/guides/lan-bridge.md");
const ONE: &str = include_str!("../../../docs/guides/one-64.md");
const ISP: &str = include_str!("../../../docs/guides/isp-prefix.md");
const NSPAWN: &str = include_str!("../../../docs/guides/from-nspawn.md");
const DOCKER: &str = include_str!("../../../docs/guides/from-docker.md");
const INCUS: &str = include_str!("../../../docs/guides/from-incus.md");

/// What only this laboratory has: an image at hand, so that no distribution is built anew.
const HOST: &str =
    "mkdir -p /etc/nsctl; printf '[defaults]\\nimage = \"debian-13\"\\n' > /etc/nsctl/nsctl.toml";
/// The prefix that the router announces on the uplink.
const UPLINK: &str = "2001:db8:ffff::/64";
/// A machine made by hand, as the guide has one.
const OLD: &str = "mkdir -p /etc/systemd/nspawn; for tree in old other; do machinectl clone debian-13 $tree; done
    printf '[Network]\nVirtualEthernet=yes\n' > /etc/systemd/nspawn/old.nspawn
    printf '[Match]\nName=ve-old\n\n[Network]\nAddress=2001:db8:a:7::1/64\nAddress=0.0.0.0/28\nDHCPServer=yes\nIPv6SendRA=yes\n\n[IPv6Prefix]\nPrefix=2001:db8:a:7::/64\n' \
        > /etc/systemd/network/20-old.network; networkctl reload";

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.sh(HOST)?;
    let routed = || Ok(lab.sh("ip -6 route show default")?.contains("dev wan0"));
    until(Duration::from_secs(20), "the host has a router", routed)?;
    // What `doctor --probe` waits for.
    let mut ping = lab.router.command(&["ping", "-6", "-i0.2", "2001:db8:a::1"]);
    let mut ping = ping.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let done = follow(lab, VPS, &[]);
    ping.kill()?;
    ping.wait()?;
    done?;
    lab.nsctl_ok("remove minecraft --yes")?;
    from_nspawn(lab)?;
    // The other way to a bridge, which is there by then; and what its owner must answer.
    follow(lab, LAN, &["--address 192.168.5.9/24"])?;
    lab.nsctl_ok("remove buildbot --yes")?;
    lab.sh("printf '[Match]\\nName=enp6s0\\n[Network]\\nDHCP=yes\\n[IPv6AcceptRA]\\nUseGateway=no\\n' > /etc/systemd/network/20-enp6s0.network; nsctl bridge remove vbr0 --yes")?;
    isp_prefix(lab)?;
    one_64(lab)?;
    // Docker's rules stay when it goes.
    from_docker(lab)?;
    // Debian has it from 13 on, and no newer one is laid in here.
    if lab.suite() == Suite::Trixie {
        from_incus(lab)?;
    }
    Ok(())
}

/// The host as it was before `init`.
fn anew(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("deinit --yes")?;
    // Which subnets rest.
    lab.sh("rm -r /var/lib/nsctl")?;
    lab.sh(HOST).map(drop)
}

/// As the guides for what one has already begin.
fn with_a_pool(lab: &Lab) -> Result<()> {
    anew(lab)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0").map(drop)
}

fn from_nspawn(lab: &Lab) -> Result<()> {
    with_a_pool(lab)?;
    lab.sh(OLD)?;
    follow(lab, NSPAWN, &[])?;
    lab.sh("nsctl remove other --yes; systemctl kill -s KILL systemd-nspawn@old; systemctl stop systemd-nspawn@old; systemctl reset-failed systemd-nspawn@old
            for tree in old other; do machinectl remove $tree; done; rm /etc/systemd/network/20-old.network; networkctl reload")
    .map(drop)
}

fn from_docker(lab: &Lab) -> Result<()> {
    anew(lab)?;
    // Docker drops what is forwarded where it was the one to turn forwarding on; of IPv6 only where it is
    // told to have a hand in that.
    lab.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0; mkdir -p /etc/docker
            echo '{\"ipv6\": true, \"fixed-cidr-v6\": \"fd00:d::/64\", \"experimental\": true, \"ip6tables\": true}' > /etc/docker/daemon.json")?;
    let client = if lab.suite() == Suite::Bookworm { "" } else { "docker-cli" };
    lab.install(&format!("docker.io iptables {client}"))?;
    lab.sh("until docker info; do sleep 0.1; done > /dev/null 2>&1
            mkdir -p /root/wiki/var/lib/wiki; echo page > /root/wiki/var/lib/wiki/page
            tar -C /root/wiki -c . | docker import - wiki; docker create --name wiki wiki /init
            nsctl init --pool 2001:db8:a::/48 --uplink wan0")?;
    // No repository of packages is to be had here.
    follow(lab, DOCKER, &["apt install"])?;
    let there = lab.nsctl_ok("shell wiki cat /var/lib/wiki/page")?;
    must!(there.trim() == "page", "the data is not there: {there}");
    lab.sh("nsctl remove wiki --yes; docker rm wiki; systemctl disable -q --now docker.socket docker.service")
        .map(drop)
}

fn from_incus(lab: &Lab) -> Result<()> {
    with_a_pool(lab)?;
    lab.install("incus-base btrfs-progs")?;
    // A container of the same tree, without a network of its own.
    lab.sh("exec < /dev/null; mkdir -p /root/meta; cd /root/meta
            printf 'architecture: x86_64\\ncreation_date: 1700000000\\n' > metadata.yaml; tar -cf meta.tar metadata.yaml
            tar -C /var/lib/machines/debian-13 --numeric-owner --xattrs --acls -cf rootfs.tar .
            incus storage create pool dir; incus profile device add default root disk path=/ pool=pool
            incus profile set default raw.lxc 'lxc.init.cmd = /sbin/init systemd.firstboot=no'
            incus image import -q meta.tar rootfs.tar --alias debian-13; incus launch -q debian-13 web
            incus exec web -- sh -c 'mkdir -p /srv/data; echo page > /srv/data/page'; rm -r /root/meta")?;
    follow(lab, INCUS, &["stop nginx"])?;
    must!(lab.sh("incus exec web -- cat /srv/data/page")? == "page\n", "the data is not there");
    lab.sh("incus delete --force web; systemctl stop incus.service incus.socket").map(drop)
}

fn isp_prefix(lab: &Lab) -> Result<()> {
    anew(lab)?;
    lab.router.script("ip -6 route add 2001:db8:100::/40 via 2001:db8:ffff::2 dev up0")?;
    let _isp = delegate(lab, "2001:db8:100::")?;
    follow(lab, ISP, &[])?;
    lab.nsctl_ok("remove web --yes").map(drop)
}

/// A provider that routes the /64, and one that looks for its addresses on the link.
fn one_64(lab: &Lab) -> Result<()> {
    anew(lab)?;
    uplink_has(lab, "2001:db8:b::2")?;
    let own = lab.sh("ip -6 -o addr show dev wan0 scope link | sed 's/.*inet6 \\([^/]*\\).*/\\1/'")?;
    let route =
        |verb| lab.router.script(&format!("ip -6 route {verb} 2001:db8:b::/64 via {} dev up0", own.trim()));
    route("add")?;
    for heading in ["Which kind it is", "Routed", "See that it works"] {
        follow(lab, section(ONE, heading)?, &[])?;
    }
    lab.nsctl_ok("remove web --yes")?;
    anew(lab)?;
    route("del")?;
    lab.router.script("ip addr add 2001:db8:b::1/64 dev up0 nodad")?;
    // networkd takes the uplink up again after its file has gone.
    let seen = || Ok(lab.nsctl_ok("init")?.contains("for the addresses of 2001:db8:b::/64 on the link"));
    until(Duration::from_secs(20), "the router is heard to look for addresses", seen)?;
    // The page tells which lines are others here.
    for line in lab.nsctl_ok("init")?.lines().filter(|line| line.contains("2001:db8:b:")) {
        must!(ONE.contains(line.trim()), "`nsctl init` says what the guide does not: {line}");
    }
    follow(lab, section(ONE, "On the link")?, &[])?;
    let said = lab.nsctl_ok("doctor --probe 1")?;
    must!(ONE.contains(said.trim()), "a probe says what the guide does not: {said}");
    Ok(())
}

/// What stands below a heading of a page.
fn section<'a>(page: &'a str, heading: &str) -> Result<&'a str> {
    let rest = page.split_once(&format!("\n## {heading}\n")).with_context(|| heading.to_owned())?.1;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// Types each command of a page's sessions. All that it prints must be there, and what else is
/// there be told beside it.
fn follow(lab: &Lab, page: &str, but: &[&str]) -> Result<()> {
    let mut typed = 0;
    for (command, wanted) in sessions(page) {
        if but.iter().any(|word| command.contains(word)) {
            continue;
        }
        typed += 1;
        let done = typed_in(lab, &command)?;
        // The LAN of this uplink is told of, too, where the guide's host is on none.
        let is_told = |line: &&str| page.contains(UPLINK) || !line.contains(UPLINK);
        let said = lines(done.stdout.lines().filter(is_told));
        let told = lines(done.stderr.lines());
        let mut wanted = lines(wanted.iter().map(String::as_str));
        wanted.retain(|line| line != "…" && !told.contains(line) && !line.ends_with("[y/N] y"));
        let fails = told.iter().any(|line| line.starts_with("error:"))
            || !told.is_empty() && told.iter().all(|line| page.contains(line.trim_start_matches("tar: ")));
        must!(
            done.ok() || (fails && wanted.is_empty()),
            "`{command}` ends with {}:\n{}",
            done.status,
            done.all()
        );
        must!(said == wanted, "`{command}` says:\n{}\nand the guide:\n{}", done.all(), wanted.join("\n"));
    }
    must!(typed > 0, "no session in\n{page}");
    Ok(())
}

/// By who says yes.
fn typed_in(lab: &Lab, command: &str) -> Result<Done> {
    let asks = ["bridge create", "nsctl adopt", "nsctl remove"].iter().any(|verb| command.contains(verb));
    let yes = if asks { " --yes" } else { "" };
    lab.run(&["sh", "-c", &format!("cd /root; {command}{yes}")])
}

fn lines<'a>(all: impl Iterator<Item = &'a str>) -> Vec<String> {
    all.map(settled).filter(|line| !line.is_empty()).collect()
}

/// The commands of a page, and what stands below each.
fn sessions(page: &str) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("# ") {
            Some(command) => all.push((command.to_owned(), Vec::new())),
            None => all.last_mut().into_iter().for_each(|(_, said)| said.push(line.to_owned())),
        }
    }
    all
}
