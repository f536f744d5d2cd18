//! What `init --tunnel he` and `init --wireguard` write is what networkd reads: no key unknown, no
//! value refused, and the MTU on both ends of a veth. The tunnels themselves are tried in an emulated
//! machine (`make emulated`).

use anyhow::Result;

use super::refused;
use crate::lab::Lab;
use crate::must;

const INIT: &str =
    "--tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48";

pub fn run(lab: &mut Lab) -> Result<()> {
    refused(lab, "init --tunnel he --server 192.0.2.1 --pool 2001:db8:a::/48", 2, "--client-address")?;
    refused(
        lab,
        "init --tunnel he --server 2001:db8::1 --client-address 2001:db8::2/64 --pool 2001:db8:a::/48",
        2,
        "--server",
    )?;
    lab.sh("mkdir -p /root/host/etc/systemd /root/host/var/lib/machines/web")?;
    lab.nsctl_ok(&format!("--root /root/host init {INIT} --local 192.0.2.2"))?;
    lab.nsctl_ok("--root /root/host create web --routed")?;
    let netdev = lab.sh("cat /root/host/etc/systemd/network/05-nsctl-tunnel-he0.netdev")?;
    for line in
        ["Kind=sit", "TTL=255", "Remote=192.0.2.1", "Local=192.0.2.2", "MTUBytes=1480", "Independent=yes"]
    {
        must!(netdev.contains(line), "no {line}:\n{netdev}");
    }
    let ends = lab.sh("cat /root/host/etc/systemd/network/05-nsctl-ve-web.network /root/host/var/lib/nsctl/guest/web.network")?;
    must!(ends.matches("MTUBytes=1480").count() == 2, "the veth's ends:\n{ends}");
    networkd_takes(lab, "he0")?;
    // This kernel has no 6in4: what was begun is undone.
    if !lab.run(&["sh", "-c", "ip link add sit9 type sit remote 192.0.2.1"])?.ok() {
        refused(lab, &format!("init {INIT}"), 1, "wait for the tunnel he0")?;
    }
    wireguard(lab)
}

/// networkd tells of each key that it does not know, and of each value that it does not take.
fn networkd_takes(lab: &mut Lab, link: &str) -> Result<()> {
    lab.sh("cp -a /root/host/etc/systemd/network/05-nsctl-tunnel-* /etc/systemd/network/; networkctl reload; journalctl --sync")?;
    let journal = lab.sh("journalctl -b -u systemd-networkd --no-pager | grep 05-nsctl-tunnel || true")?;
    must!(
        !journal.contains(".netdev:") && !journal.contains(".network:"),
        "networkd does not like a file:\n{journal}"
    );
    lab.sh(&format!(
        "rm /etc/systemd/network/05-nsctl-tunnel-*; networkctl reload; ip link del {link} 2>/dev/null || true"
    ))?;
    Ok(())
}

fn put(lab: &Lab, file: &str) -> Result<()> {
    Ok(fs_err::write(lab.root()?.join("root/wg0.conf"), file)?)
}

/// A file for wg-quick(8) with these lines in its [Interface] and its [Peer].
fn wg_quick(interface: &str, peer: &str) -> String {
    format!(
        "[Interface]\nPrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nAddress = 2001:db8:9::2/64, 10.9.0.2/32\n{interface}\n\
         [Peer]\nPublicKey = ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\nPresharedKey = QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=\n\
         Endpoint = 192.0.2.1:51820\n{peer}\n"
    )
}

fn wireguard(lab: &mut Lab) -> Result<()> {
    let init = "--root /root/host init --wireguard /root/wg0.conf --pool 2001:db8:a::/48";
    for (interface, peer) in [
        ("DNS = 2001:db8::53\nMTU = 1412\nListenPort = 51820", "AllowedIPs = 0.0.0.0/0, ::/0"),
        ("Table = off\nFwMark = 0xca6c", "AllowedIPs = ::/0, 10.9.0.0/24\nPersistentKeepalive = off"),
        ("Table = 1234", "AllowedIPs = ::/0"),
    ] {
        put(lab, &wg_quick(interface, peer))?;
        lab.nsctl_ok(init)?;
        let keys = lab.sh("stat -c '%a %U %G' /root/host/etc/systemd/network/05-nsctl-tunnel-wg0.key")?;
        must!(keys.trim() == "640 root root", "below --root there is no networkd: {keys}");
        networkd_takes(lab, "wg0")?;
    }
    let own = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    must!(
        !lab.run(&["grep", "-rqF", own, "/root/host/etc/nsctl", "/root/host/var/lib/nsctl"])?.ok(),
        "the key is in another file, too"
    );
    // What a file must not do is named, and not done; what it was before stays.
    let before = lab.sh("cat /root/host/etc/nsctl/nsctl.toml")?;
    put(lab, &wg_quick("PostUp = touch /root/evil", "AllowedIPs = ::/0"))?;
    refused(lab, init, 1, "PostUp is a command")?;
    put(lab, &wg_quick("Colour = red", "AllowedIPs = ::/0"))?;
    refused(lab, init, 1, "Colour is no setting")?;
    put(lab, &wg_quick("", "AllowedIPs = 2001:db8:a:7::/64"))?;
    refused(lab, init, 1, "would lead 2001:db8:a:7::/64 of the pool")?;
    must!(!lab.run(&["test", "-e", "/root/evil"])?.ok(), "a command of the file was run");
    must!(lab.sh("cat /root/host/etc/nsctl/nsctl.toml")? == before, "a refused file changed something");
    // On the host itself networkd reads the keys. This kernel has no WireGuard: what was begun is undone.
    put(lab, &wg_quick("", "AllowedIPs = ::/0"))?;
    if !lab.run(&["sh", "-c", "ip link add wg9 type wireguard"])?.ok() {
        refused(lab, &init.replace("--root /root/host ", ""), 1, "wait for the tunnel wg0")?;
        let left = lab.sh("ls /etc/systemd/network /etc/nsctl | grep -e wg0 -e nsctl.toml || true")?;
        must!(left.is_empty(), "what was begun is still there: {left}");
    }
    Ok(())
}
