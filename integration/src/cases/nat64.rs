//! A machine without IPv4 downloads from a server without IPv6, by name and by its translated
//! address; nobody else is translated, and nobody comes in that way.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;

use super::refused;
use crate::lab::{Daemon, Lab, Suite, until};
use crate::must;

/// 192.31.196.80 and 192.31.196.2, translated: private addresses, and those for documents, are not
/// (RFC 6052 3.1), and these are nobody's but a namespace's here (RFC 7535 6.5).
const SERVER: &str = "64:ff9b::c01f:c450";
const HOST: &str = "64:ff9b::c01f:c402";
/// Asks a router (RFC 4861 4.1), and tells of its advertisement in hexadecimal digits.
const ASK: &str = r#"
    use Socket qw(:all);
    socket(S, PF_INET6, SOCK_RAW, 58) or die $!;
    setsockopt(S, 41, 16, pack("i", 255)); setsockopt(S, 41, 18, pack("i", 255));
    $to = inet_pton(AF_INET6, "ff02::2"); $index = $ARGV[0];
    send(S, pack("CCnN", 133, 0, 0, 0), 0, pack_sockaddr_in6(0, $to, $index)) or die $!;
    alarm 5;
    while (1) { recv(S, $said, 2048, 0); if (ord($said) == 134) { print unpack("H*", $said), "\n"; exit } }
"#;

pub fn run(lab: &mut Lab) -> Result<()> {
    let _servers = world(lab)?;
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    let said = "has no tayga and no unbound";
    refused(lab, "create web --routed --image debian-13 --ipv4 nat64", 1, said)?;
    lab.install("tayga unbound")?;
    // Debian's own would serve this host; nobody needs them.
    lab.sh("systemctl disable --now tayga unbound 2> /dev/null || true")?;
    lab.nsctl_ok("create web --routed --image debian-13 --ipv4 nat64")?;
    lab.nsctl_ok("create db --routed --image debian-13")?;
    until(Duration::from_secs(20), "a download by name", || downloads(lab, "v4only.example"))
        .map_err(|error| error.context(state(lab)))?;
    must!(downloads(lab, SERVER)?, "no download by literal: {}", state(lab));
    let web = lab.machine("web")?;
    let v4 = web["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| !one.to_string().contains(':'))
        .count();
    must!(v4 == 0, "it has IPv4: {web}");
    names(lab)?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    must!(lab.nsctl_ok("doctor")?.contains("all is well"), "{}", lab.nsctl("doctor")?.all());
    for unit in ["nsctl-dns64", "nsctl-nat64"] {
        lab.sh(&format!("systemctl stop {unit}"))?;
        let found = lab.nsctl("doctor")?;
        must!(!found.ok() && found.stdout.contains(&format!("{unit} does not run")), "{}", found.all());
        lab.nsctl_ok("doctor --fix --yes")?;
    }
    one_for_all(lab)?;
    names_of_somebody_else(lab)?;
    advertised(lab)?;
    nobody_else(lab)?;
    stays_for_others(lab)?;
    lab.power_off()?;
    lab.power_on()?;
    lab.booted("web")?;
    until(Duration::from_secs(20), "a download after the host's boot", || downloads(lab, "v4only.example"))
        .map_err(|error| error.context(state(lab)))?;
    goes_with_the_last(lab)
}

/// IPv4 alone: the uplink, a server behind it, and a name server that knows that.
fn world(lab: &mut Lab) -> Result<[Daemon; 2]> {
    lab.router.script("ip addr add 192.0.2.1/24 dev up0; ip addr add 192.31.196.80/32 dev lo")?;
    let folder = lab.scratch("v4only");
    fs_err::create_dir_all(&folder)?;
    fs_err::write(folder.join("file"), "from the old world\n")?;
    let serve = |words: &[&str]| {
        let mut command = lab.router.command(words);
        Daemon::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let web = serve(&["busybox", "httpd", "-f", "-p", "192.31.196.80:80", "-h", &folder.to_string_lossy()])?;
    let names = serve(&[
        "dnsmasq",
        "-k",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=192.0.2.1",
        "--address=/v4only.example/192.31.196.80",
        "--address=/v4only.example/",
    ])?;
    lab.sh("printf 'Address=192.0.2.2/24\\nGateway=192.0.2.1\\nDNS=192.0.2.1\\n' >> /etc/systemd/network/20-wan0.network; networkctl reload")?;
    let there = || Ok(lab.run(&["ping", "-c1", "-W1", "192.31.196.80"])?.ok());
    until(Duration::from_secs(10), "the host has IPv4", there)?;
    Ok([web, names])
}

/// What web gets of a host; names as its own guest resolves them.
fn downloads(lab: &Lab, host: &str) -> Result<bool> {
    downloads_of(lab, "web", host)
}

fn downloads_of(lab: &Lab, name: &str, host: &str) -> Result<bool> {
    let script =
        format!("exec 3<>/dev/tcp/{host}/80; printf 'GET /file HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 cat <&3");
    let leader = lab.sh(&format!("machinectl show {name} -p Leader --value"))?;
    let got =
        lab.run(&["timeout", "10", "nsenter", "-t", leader.trim(), "-n", "-m", "bash", "-c", &script])?;
    Ok(got.stdout.contains("from the old world"))
}

/// Several machines have one translation, and it is none of the others' business when one goes.
fn one_for_all(lab: &Lab) -> Result<()> {
    let pids = || lab.sh("systemctl show -P MainPID nsctl-nat64 nsctl-dns64");
    let before = pids()?;
    lab.nsctl_ok("create second --routed --image debian-13 --ipv4 nat64")?;
    until(Duration::from_secs(20), "a second machine downloads", || {
        downloads_of(lab, "second", "v4only.example")
    })?;
    must!(pids()? == before, "it is translated by others: {before} {}", pids()?);
    lab.nsctl_ok("remove -y second")?;
    must!(pids()? == before, "the translation went with one of two");
    must!(downloads(lab, "v4only.example")?, "the other is translated no more: {}", state(lab));
    Ok(())
}

/// The user's own DNS64: the router's unbound. It knows our prefix.
fn names_of_somebody_else(lab: &Lab) -> Result<()> {
    let conf = "server:\n interface: 2001:db8:ffff::1\n access-control: ::0/0 allow\n module-config: \"dns64 iterator\"\n dns64-prefix: 64:ff9b::/96\n\
                username: \"\"\n chroot: \"\"\n pidfile: \"\"\n directory: \"\"\n use-syslog: no\n logfile: \"\"\n do-not-query-localhost: no\n\
                forward-zone:\n name: \".\"\n forward-addr: 192.0.2.1\nremote-control:\n control-enable: no\n";
    fs_err::write(lab.root()?.join("root/dns64.conf"), conf)?;
    // The host's unbound, in the router's network.
    let router = lab.router.pid().to_string();
    let mut command = crate::lab::run::words(&["nsenter", "-t", &router, "-n", "chroot"]);
    command.arg(lab.root()?).args(["/usr/sbin/unbound", "-d", "-c", "/root/dns64.conf"]);
    let _theirs = Daemon::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    lab.sh("sed -i '/^\\[dns\\]/a dns64 = \"2001:db8:ffff::1\"' /etc/nsctl/nsctl.toml; nsctl apply --yes")?;
    must!(
        lab.sh("ls /etc/systemd/system")?.contains("nsctl-dns64").eq(&false),
        "there is a name server of ours, too"
    );
    until(Duration::from_secs(30), "a download by somebody else's names", || {
        downloads(lab, "v4only.example")
    })
    .map_err(|error| error.context(state(lab)))?;
    lab.sh("sed -i '/^dns64/d' /etc/nsctl/nsctl.toml; nsctl apply --yes")?;
    until(Duration::from_secs(30), "a download by our own again", || downloads(lab, "v4only.example"))
        .map_err(|error| error.context(state(lab)))
}

/// Machines find each other as before.
fn names(lab: &Lab) -> Result<()> {
    let leader = lab.sh("machinectl show web -p Leader --value")?;
    let asked =
        |name: &str| lab.run(&["nsenter", "-t", leader.trim(), "-n", "-m", "getent", "ahostsv6", name]);
    let db = asked("db.machines.internal")?;
    must!(db.stdout.starts_with("2001:db8:a:2::2"), "another machine: {}", db.all());
    let server = asked("v4only.example")?;
    must!(server.stdout.starts_with(SERVER), "a server without IPv6: {}", server.all());
    Ok(())
}

/// The prefix, in the router's advertisement (RFC 8781 4), where systemd can.
fn advertised(lab: &Lab) -> Result<()> {
    let index = lab.inside("web", "ip -o link show host0 | cut -d: -f1")?;
    let mut heard = String::new();
    // A router that has just begun leaves some time between two (RFC 4861 6.2.6).
    until(Duration::from_secs(30), "a router's advertisement", || {
        heard = capture_ra(lab, index.stdout.trim())?;
        Ok(heard.starts_with("86"))
    })?;
    let tells = heard.contains("0064ff9b0000000000000000");
    must!(tells == (lab.suite() != Suite::Bookworm), "PREF64: {heard}");
    Ok(())
}

fn capture_ra(lab: &Lab, index: &str) -> Result<String> {
    let mut asks = lab.within("web", &["perl", "-e", ASK, index])?;
    Ok(crate::lab::run::capture(&mut asks)?.all())
}

fn nobody_else(lab: &Lab) -> Result<()> {
    let ping =
        |machine: &str, more: &str| lab.inside(machine, &format!("ping -6 -c2 -i0.2 -W1 {more} {SERVER}"));
    must!(ping("web", "")?.ok(), "web is not translated: {}", ping("web", "")?.all());
    must!(!ping("db", "")?.ok(), "db is translated, and never asked for it");
    lab.inside("web", "ip addr add 2001:db8:a:1::bad/64 dev host0 nodad")?;
    must!(!ping("web", "-I 2001:db8:a:1::bad")?.ok(), "one machine takes two places");
    lab.inside("web", "ip addr del 2001:db8:a:1::bad/64 dev host0")?;
    // What listens on this host's IPv4 addresses is no more to be had than by IPv6.
    lab.sh("ip addr add 192.31.196.2/32 dev lo; systemd-run -q --unit=v4 --property=Restart=always systemd-socket-activate -a -l 192.31.196.2:7777 --inetd -- /bin/echo hello")?;
    let knock = "timeout 3 bash -c 'exec 3<>/dev/tcp/HOST/7777'";
    let there = || Ok(lab.run(&["bash", "-c", &knock.replace("HOST", "192.31.196.2")])?.ok());
    until(Duration::from_secs(5), "somebody listens", there)?;
    must!(!lab.inside("web", &knock.replace("HOST", HOST))?.ok(), "a machine comes in to the host by IPv4");
    // Nor is what is private behind it, whatever the translator knows of that: 100.64.0.7 is the router here.
    lab.router.script("ip addr add 100.64.0.7/32 dev lo")?;
    must!(lab.run(&["ping", "-c1", "-W2", "100.64.0.7"])?.ok(), "the host does not reach it itself");
    let private = lab.inside("web", "ping -6 -c2 -i0.2 -W1 64:ff9b::6440:7")?;
    must!(!private.ok(), "a private address is reached: {}", private.all());
    // Nor is the host a relay for the world.
    lab.router.script(
        "ip -6 route add 64:ff9b::/96 via 2001:db8:ffff::2; ip route add 198.19.224.0/19 via 192.0.2.2",
    )?;
    let relay = lab.router.run(&["ping", "-6", "-c2", "-i0.2", "-W1", SERVER])?;
    must!(!relay.ok(), "strangers are translated: {}", relay.all());
    lab.router.watch("ip6", "ip6 saddr 64:ff9b::/96")?;
    let scan = lab
        .router
        .script("for last in $(seq 1 40); do ping -c1 -W1 -i0.2 198.19.240.$last & done; wait; true")?;
    must!(!scan.contains("1 received"), "somebody answers behind the translation: {scan}");
    must!(lab.router.watched("ip6")? == 0, "what is translated leaves by IPv6");
    must!(lab.run(&["ping", "-c1", "-W2", "198.19.224.2"])?.ok(), "the translator itself is silent");
    Ok(())
}

/// Who runs keeps what he has, whatever happens to his definition, and others come and go.
fn stays_for_others(lab: &Lab) -> Result<()> {
    lab.sh("cp /etc/nsctl/machines.d/web.toml /root/; echo typo >> /etc/nsctl/machines.d/web.toml")?;
    lab.nsctl_ok("create other --routed --image debian-13 --no-start")?;
    lab.nsctl_ok("remove -y other")?;
    must!(
        downloads(lab, SERVER)?,
        "a definition that cannot be read costs a machine its IPv4: {}",
        state(lab)
    );
    lab.sh("cp /root/web.toml /etc/nsctl/machines.d/web.toml")?;
    // What they ask is asked of others from now on.
    lab.sh("sed -i 's/^listen = true/listen = false\\nservers = [\"2001:db8:ffff::53\"]/' /etc/nsctl/nsctl.toml; nsctl apply --yes")?;
    let pid = "systemctl show -P MainPID nsctl-dns64";
    let before = lab.sh(pid)?;
    lab.sh(
        "sed -i 's/^listen = false/listen = true/; /^servers/d' /etc/nsctl/nsctl.toml; nsctl apply --yes",
    )?;
    must!(lab.sh(pid)? != before, "the name server goes on with what it was told before");
    until(Duration::from_secs(20), "names again", || downloads(lab, "v4only.example"))
}

/// Nothing runs, and nothing is left, where nobody needs it.
fn goes_with_the_last(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("stop web")?;
    let active = || lab.sh("systemctl is-active nsctl-nat64 nsctl-dns64 || true");
    until(Duration::from_secs(10), "the translation ends", || {
        Ok(!active()?.contains("\nactive") && !active()?.starts_with("active"))
    })?;
    lab.nsctl_ok("start web")?;
    until(Duration::from_secs(20), "a download after a start", || downloads(lab, "v4only.example"))?;
    lab.nsctl_ok("remove -y web")?;
    let left = lab.sh("ls /etc/systemd/network /etc/systemd/system /var/lib/nsctl /etc/unbound | grep -e nat64 -e dns64 || true; ip -o link show nsctl-nat64 2> /dev/null || true")?;
    must!(left.is_empty(), "what nobody needs is still there: {left}");
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl_ok("plan")?);
    Ok(())
}

fn state(lab: &Lab) -> String {
    let lines = "systemctl status nsctl-nat64 nsctl-dns64 --no-pager -l; ip addr show nsctl-nat64; ip -6 route; ip route; nft list chain inet nsctl forward; \
                 nft list set inet nsctl translated; journalctl -b -n 30 -u nsctl-nat64 -u nsctl-dns64 --no-pager; cat /etc/unbound/nsctl-dns64.conf; true";
    lab.run(&["sh", "-c", lines]).map_or_else(|error| error.to_string(), |done| done.all())
}
