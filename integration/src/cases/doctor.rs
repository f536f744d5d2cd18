//! Every trap, set up for real: doctor finds it, what it says fixes it, and then it
//! finds nothing more. On a healthy host it is silent.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{LAN, Lab, Suite, tiny_guest, until};
use crate::must;

/// A trap: what sets it up on the host, and what doctor says of it.
struct Trap {
    set_up: &'static str,
    says: &'static str,
}

const TRAPS: [Trap; 32] = [
    Trap { set_up: "printf '[Match]\\nName=no0\\n[Network]\\nbridge=vbr0\\n' > /etc/systemd/network/70-x.network", says: "Bridge= is" },
    Trap { set_up: "printf '[NetDev]\\nName=no1\\nkind=bridge\\n' > /etc/systemd/network/70-x.netdev; rm /etc/systemd/network/70-x.network", says: "Kind= is" },
    Trap { set_up: "rm /etc/systemd/network/70-x.netdev; printf '[Exce]\\nBoot=yes\\n' > /etc/systemd/nspawn/other.nspawn", says: "[Exec] is" },
    Trap { set_up: "rm /etc/systemd/nspawn/other.nspawn; printf '[Match]\\nName=no0\\n[Network]\\nIPv6AcceptRouterAdvertisements=no\\n' > /etc/systemd/network/70-x.network", says: "it is IPv6AcceptRA= now" },
    Trap { set_up: "printf '[Match]\\nName=no0\\n[Network]\\nBridge=vbr0\\nDHCP=yes\\n' > /etc/systemd/network/70-x.network", says: "DHCP= for the port of a bridge" },
    Trap { set_up: "rm /etc/systemd/network/70-x.network; sysctl -qw net.ipv6.conf.all.forwarding=0", says: "is off; some program turned it off" },
    Trap { set_up: "ip -6 route del default", says: "has no IPv6 default route" },
    Trap { set_up: "ip -6 route del unreachable 2001:db8:a::/48", says: "has no unreachable route" },
    Trap { set_up: "ip addr del 2001:db8:a::1/128 dev lo", says: "2001:db8:a::1 is missing" },
    Trap { set_up: "ip addr add 2001:db8:a:ff::9/47 dev wan0 nodad", says: "is on-link on wan0" },
    Trap { set_up: "sysctl -qw net.ipv6.conf.wan0.proxy_ndp=1", says: "proxies neighbour discovery" },
    Trap { set_up: "ip -6 route add 2001:db8:a:77::/64 dev vbr0", says: "which is no machine of nsctl's" },
    Trap { set_up: "ip addr add 2001:db8:5::77/64 dev enp6s0 nodad", says: "2001:db8:5::77 of its own" },
    Trap { set_up: "ip -6 route add 2001:db8:5::/64 dev enp6s0 metric 9", says: "has a route to 2001:db8:5::/64" },
    Trap { set_up: "printf '[Match]\\nName=enp6s0\\n[Network]\\nLinkLocalAddressing=no\\n' > /etc/systemd/network/01-x.network; networkctl reload", says: "enp6s0 is not its port any more" },
    Trap { set_up: "rm /etc/systemd/network/90-*; printf '[Match]\\nName=vb-*\\n[Network]\\nLinkLocalAddressing=no\\n' > /etc/systemd/network/01-x.network; networkctl reload", says: "is not a port of vbr0" },
    Trap { set_up: "rm /etc/systemd/network/90-*; nft flush ruleset", says: "somebody flushed all rules" },
    Trap { set_up: "for f in ip ip6; do sysctl -qw net.bridge.bridge-nf-call-${f}tables=1; done
        nft 'table inet theirs {\n chain forward {\n type filter hook forward priority 10\n policy drop\n ip6 saddr 2001:db8:a::/48 accept\n }\n }'", says: "as br_netfilter shows it to it" },
    Trap { set_up: "nft delete table inet theirs; for f in ip ip6; do sysctl -qw net.bridge.bridge-nf-call-${f}tables=0; done
        nft 'table inet theirs {\n chain forward {\n type filter hook forward priority 10\n policy drop\n }\n }'", says: "drops what goes to and from machines" },
    Trap { set_up: "nft delete table inet theirs; nft 'table inet filter {\n chain input {\n type filter hook input priority 0\n policy drop\n iifname lo accept\n ct state established accept\n }\n }'", says: "drops ICMPv6" },
    Trap { set_up: "nft delete table inet filter; nft 'table inet filter {\n chain input {\n type filter hook input priority 0\n iifname lo icmpv6 type echo-request drop\n }\n }'", says: "::1 does not answer" },
    Trap { set_up: "nft delete table inet filter; ip link set wan0 mtu 1400", says: "may send more bytes at once than wan0" },
    Trap { set_up: "ip link set wan0 mtu 1200", says: "takes packets of 1200 bytes only" },
    Trap { set_up: "printf 'image = \"debian-13\"\nautostart = false\n[network]\nmode = \"routed\"\n' > /etc/nsctl/machines.d/late.toml", says: "is defined and holds no subnet" },
    Trap { set_up: "nsctl remove -y late; NSCTL_KILL_AT=9 nsctl-faults create cut --routed --image debian-13 || ls /var/lib/nsctl/journal/*.json > /dev/null", says: "was cut short" },
    Trap { set_up: "systemctl disable -q systemd-networkd", says: "does not start with the host" },
    Trap { set_up: "systemctl stop systemd-resolved", says: "systemd-resolved does not run" },
    Trap { set_up: "systemctl stop 'systemd-networkd*.socket' systemd-networkd", says: "systemd-networkd does not run" },
    Trap { set_up: "systemctl mask -q --now systemd-machined 'systemd-machined*.socket'; systemctl unmask -q 'systemd-machined*.socket'", says: "systemd-machined is masked" },
    Trap { set_up: "sed -i 's/8080/8081/' /etc/nsctl/machines.d/db.toml", says: "is not as its files say" },
    Trap { set_up: "sed -i 's/^accept-ra = .*/accept-ra = \"unchanged\"/' /etc/nsctl/nsctl.toml; nsctl apply --yes", says: "IPv6AcceptRA= is not pinned" },
    Trap { set_up: "for m in web db; do printf '[nspawn.Exec]\\nPrivateUsers = \"1048576:65536\"\\n' >> /etc/nsctl/machines.d/$m.toml; done; nsctl apply --yes", says: "share user ids on this host" },
];

pub fn run(lab: &mut Lab) -> Result<()> {
    // The LAN gives no default route at first: two would fight, which is a trap of its own.
    let mut lan = LAN;
    lan[1] = "--ra-param=lan0,10,0";
    lab.lan_serves(&lan)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7777")?;
    lab.nsctl_ok("create db --routed --image debian-13 --open tcp/8080")?;
    lab.nsctl_ok("create bot --bridge vbr0 --image debian-13")?;
    silent(lab, "at first")?;
    let mut missed = String::new();
    for Trap { set_up, says } in TRAPS {
        let done = lab.sh(set_up).and_then(|_| fixed(lab, says));
        missed += &done.err().map_or(String::new(), |error| format!("{error:#}\n"));
    }
    must!(missed.is_empty(), "{missed}");
    two_routes(lab)?;
    inside(lab)?;
    translated(lab)?;
    online(lab)?;
    other_guests(lab)?;
    first_boot(lab)?;
    two_managers(lab)?;
    lab.sh("mv /etc/nsctl/machines.d/tiny.toml /root/")?;
    fixed(lab, "no definition of a routed machine has that name")?;
    fixed_by_itself(lab)
}

/// doctor has nothing to say, after a moment in which services settle.
fn silent(lab: &Lab, when: &str) -> Result<()> {
    let mut said = String::new();
    let quiet = until(Duration::from_secs(8), "doctor is silent", || {
        let done = lab.nsctl("doctor")?;
        said = done.all();
        Ok(done.ok() && done.stdout == "all is well\n")
    });
    let routes = || lab.sh("ip -6 route show default; nft list tables").unwrap_or_default();
    quiet.with_context(|| format!("{when}, doctor says:\n{said}{}", routes()))
}

/// doctor finds it; the command that it gives fixes it.
pub fn fixed(lab: &Lab, says: &str) -> Result<()> {
    let mut command = None;
    let mut all = String::new();
    let found = until(Duration::from_secs(15), "doctor finds the trap", || {
        let done = lab.nsctl("doctor --json")?;
        all = done.all();
        let findings: serde_json::Value = serde_json::from_str(&done.stdout)?;
        let texts = findings.as_array().into_iter().flatten();
        let one = texts.into_iter().find(|one| {
            format!(
                "{} {}",
                one["object"].as_str().unwrap_or_default(),
                one["what"].as_str().unwrap_or_default()
            )
            .contains(says)
        });
        if let Some(one) = one {
            let error = one["level"] == "error";
            must!(done.status == 1 || !error, "exit status {} for an error", done.status);
            command = one["fix"].as_str().map(str::to_owned);
            let trap = one["trap"].as_str().unwrap_or_default();
            let page = lab.nsctl_ok(&format!("doctor --explain {trap}"))?;
            must!(page.starts_with(&format!("# {trap}: ")), "the page of '{trap}': {page}");
        }
        Ok(command.is_some())
    });
    found.with_context(|| format!("doctor does not find '{says}':\n{all}"))?;
    let command = command.unwrap_or_default();
    lab.sh(&command).with_context(|| format!("'{says}' is not fixed by: {command}"))?;
    silent(lab, &format!("after '{says}' was fixed by: {command}"))
}

/// A second default route, as good as the first: the LAN's router announces itself, too.
fn two_routes(lab: &mut Lab) -> Result<()> {
    lab.lan_serves(&LAN)?;
    fixed(lab, "have IPv6 default routes of the same metric")
}

/// Traps inside machines.
fn inside(lab: &Lab) -> Result<()> {
    // A service that speaks IPv4 alone, on a port that is open.
    lab.nsctl_ok("open db tcp/8080")?;
    lab.sh("nsctl shell db systemd-run -q --unit four systemd-socket-activate -l 127.0.0.1:8080 --inetd -a echo hi")?;
    fixed(lab, "listens on 127.0.0.1 port 8080 alone")?;
    // networkd is off in the guest.
    lab.must(&["nsctl", "shell", "web", "sh", "-c", "systemctl disable -q --now systemd-networkd.service systemd-networkd.socket; ip addr flush dev host0; ip -6 route flush dev host0"])?;
    fixed(lab, "systemd-networkd does not run in it")?;
    // A duplicate address.
    lab.sh("leader=$(machinectl show web -p Leader --value)
            nsenter -t $leader -n ip link set host0 down; nsenter -t $leader -n sysctl -qw net.ipv6.conf.host0.accept_dad=1 net.ipv6.conf.host0.dad_transmits=1
            nsenter -t $leader -n ip link set host0 up; ip addr add 2001:db8:a:1::66/128 dev ve-web nodad; nsenter -t $leader -n ip addr add 2001:db8:a:1::66/64 dev host0
            until nsenter -t $leader -n ip addr show dev host0 | grep -q dadfailed; do :; done; ip addr del 2001:db8:a:1::66/128 dev ve-web")?;
    fixed(lab, "is a duplicate")
}

/// A hand-made file translates a machine's own prefix.
fn translated(lab: &Lab) -> Result<()> {
    lab.sh("printf '[Match]\\nName=ve-hand\\n[Network]\\nAddress=2001:db8:c::1/64\\nIPMasquerade=both\\n' > /etc/systemd/network/40-hand.network
            machinectl clone debian-13 hand; printf '[Network]\\nVirtualEthernet=yes\\n' > /etc/systemd/nspawn/hand.nspawn
            networkctl reload; systemctl start systemd-nspawn@hand")?;
    // networkd of 252, as Debian built it, translates IPv4 alone.
    if lab.suite() == Suite::Bookworm {
        silent(lab, "where networkd does not translate IPv6")?;
    } else {
        fixed(lab, "is translated by networkd")?;
    }
    lab.sh("systemctl stop systemd-nspawn@hand; machinectl remove hand; rm -r /etc/systemd/network/40-hand.network*; networkctl reload").map(drop)
}

/// The way from machines to the world, and from the world to the pool.
fn online(lab: &Lab) -> Result<()> {
    // One of the traps made the uplink narrow, and was fixed so that machines heed it.
    let said = lab.nsctl_ok("doctor web --online 2001:db8:ffff::1")?;
    must!(
        said == "web reaches 2001:db8:ffff::1 from 2001:db8:a:1::2, over 2001:db8:a:1::1 > 2001:db8:ffff::1; packets of up to 1400 bytes get through\n",
        "{said}"
    );
    let lost = lab.nsctl("doctor web --online 2001:db8:dead::1")?;
    must!(lost.status == 1 && lost.stdout.contains("does not reach"), "{}", lost.all());
    let json: serde_json::Value =
        serde_json::from_str(&lab.nsctl("doctor --json --online 2001:db8:ffff::1")?.stdout)?;
    must!(json.as_array().is_some_and(|all| all.len() == 3), "{json}");
    large_packets(lab)?;
    probes(lab)
}

/// The router is asked; where it does not let see what it does, somebody else must ping.
fn probes(lab: &Lab) -> Result<()> {
    must!(lab.nsctl_ok("doctor --probe 1")?.contains("2001:db8:a::/48 is routed to this host"), "a probe");
    lab.router.script("ip -6 route replace 2001:db8:a::/48 dev up0")?;
    super::refused(lab, "doctor --probe 1", 1, "looked for on the link")?;
    lab.router.script(
        "ip -6 route replace 2001:db8:a::/48 via 2001:db8:ffff::2 dev up0
         nft 'table ip6 silent {\n chain output {\n type filter hook output priority 0\n icmpv6 type echo-reply drop\n }\n }'",
    )?;
    super::refused(lab, "doctor --probe 1", 1, "no ping to 2001:db8:a::1")?;
    let probe = "nsctl doctor --probe 20 > probe & touch asked; wait $!; cat probe";
    let mut pings = crate::lab::Daemon::spawn(
        lab.router.command(&["ping", "-6", "-i0.2", "2001:db8:a::1"]).stdout(std::process::Stdio::null()),
    )?;
    let came = lab.sh(probe)?;
    pings.0.kill()?;
    must!(came.contains("2001:db8:ffff::1 has reached 2001:db8:a::1"), "{came}");
    Ok(())
}

/// Behind a narrow link packets must be smaller; where nobody says so, they are lost.
fn large_packets(lab: &Lab) -> Result<()> {
    let _far = lab.router.beyond("narrow0", 1300, "2001:db8:e:")?;
    let said = lab.nsctl_ok("doctor web --online 2001:db8:e::2")?;
    must!(said.contains("reaches 2001:db8:e::2") && said.contains("packets of up to 1300 bytes"), "{said}");
    lab.sh("leader=$(machinectl show web -p Leader --value); nsenter -t $leader -n ip -6 route flush cache")?;
    lab.router.script("nft 'table ip6 deaf {\n chain output {\n type filter hook output priority 0\n icmpv6 type packet-too-big drop\n }\n }'")?;
    let lost = lab.nsctl("doctor web --online 2001:db8:e::2")?;
    must!(
        lost.status == 1 && lost.stdout.contains("large packets are lost without a word"),
        "{}",
        lost.all()
    );
    lab.router.script("nft delete table ip6 deaf; ip link del narrow0").map(drop)
}

/// A guest without systemd refuses router advertisements; one has NetworkManager instead.
fn other_guests(lab: &Lab) -> Result<()> {
    tiny_guest(lab, "tiny")?;
    lab.nsctl_ok("create tiny --routed")?;
    lab.sh(
        "net=/proc/$(machinectl show tiny -p Leader --value)/ns/net
            nsenter --net=$net sysctl -qw net.ipv6.conf.host0.accept_ra=0 net.ipv6.conf.host0.disable_ipv6=1",
    )?;
    fixed(lab, "it takes no router advertisements")?;
    lab.must(&["nsctl", "shell", "web", "sh", "-c", "systemctl unmask -q NetworkManager; systemctl disable -q --now systemd-networkd.service systemd-networkd.socket
        printf '[device]\nmatch-device=*\nmanaged=0\n' > /etc/NetworkManager/conf.d/none.conf
        systemctl start NetworkManager; ip addr flush dev host0; ip -6 route flush dev host0"])?;
    fixed(lab, "NetworkManager runs in it")
}

/// NetworkManager takes the uplink that networkd has.
fn two_managers(lab: &Lab) -> Result<()> {
    lab.sh("place=/etc/NetworkManager/system-connections/wan0.nmconnection
            printf '[connection]\\nid=wan0\\ntype=ethernet\\ninterface-name=wan0\\n[ipv4]\\nmethod=disabled\\n[ipv6]\\nmethod=auto\\naddress1=2001:db8:ffff::2/64\\n' > $place
            chmod 600 $place; systemctl unmask -q NetworkManager; systemctl start NetworkManager")?;
    silent(lab, "beside a NetworkManager that leaves networkd's links alone")?;
    lab.sh("nmcli device set wan0 managed yes; nmcli connection up wan0")?;
    fixed(lab, "by NetworkManager and by networkd")?;
    lab.sh("systemctl stop NetworkManager; systemctl mask -q NetworkManager").map(drop)
}

/// A guest without a machine-id asks its owner for a locale and a password.
fn first_boot(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create fresh --routed --image debian-13 --no-start")?;
    lab.sh("rm -f /var/lib/machines/fresh/etc/machine-id
            printf '[nspawn.Exec]\\nParameters = \"systemd.firstboot=yes\"\\n' >> /etc/nsctl/machines.d/fresh.toml
            nsctl apply --yes")?;
    fixed(lab, "waits in its first boot")?;
    lab.nsctl_ok("remove -y fresh").map(drop)
}

/// `--fix` does what is safe, after showing it.
fn fixed_by_itself(lab: &Lab) -> Result<()> {
    lab.sh("sysctl -qw net.ipv6.conf.all.forwarding=0; nft flush ruleset")?;
    let done = lab.nsctl("doctor --fix --yes")?;
    must!(
        done.ok() && done.stderr.contains("is off") && done.stdout.matches("done: ").count() >= 2,
        "{}",
        done.all()
    );
    silent(lab, "after --fix")?;
    lab.sh("sysctl -qw net.ipv6.conf.all.forwarding=0")?;
    must!(
        lab.nsctl("doctor web")?.ok(),
        "the host's traps are told as a machine's: {}",
        lab.nsctl("doctor web")?.all()
    );
    lab.nsctl_ok("doctor --fix --yes")?;
    super::refused(lab, "doctor nobody", 1, "there is no machine")?;
    // Quick, and useful without root.
    lab.install("sudo").or_else(|_| lab.sh("true").map(drop))?;
    let seen =
        lab.run(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "nsctl", "doctor"])?;
    must!(!seen.stderr.contains("error:") || seen.stderr.contains("root"), "without root: {}", seen.all());
    Ok(())
}
