//! Hosts that tell each other and their router where machines are: each prefix while its machine runs, by a real bird
//! on each, of three versions, and by nobody's hand.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fs_err as fs;

use crate::lab::{Daemon, Lab, Suite, until};
use crate::must;

pub fn run(lab: &mut Lab) -> Result<()> {
    let one = lab.beside(Suite::Bookworm, 1)?;
    let two = lab.beside(Suite::Forky, 2)?;
    lab.router.script("ip -6 route del 2001:db8:a::/48 via 2001:db8:ffff::2 dev up0; ip -6 route add unreachable 2001:db8:a::/48")?;
    let hosts = [&*lab, &one, &two];
    let by_ospf = router(lab, "ospf")?;
    for (number, host) in hosts.iter().enumerate() {
        host.nsctl_ok(&format!("init --pool 2001:db8:a::/48 --share {} --uplink wan0", share(number)))?;
    }
    faults(lab)?;
    silent(lab)?;
    for (number, host) in hosts.iter().enumerate() {
        speaks(host, number, "protocol = \"ospf\"")?;
        host.nsctl_ok("create web --routed --image debian-13")?;
        host.nsctl_ok("create idle --routed --image debian-13 --no-start")?;
        host.nsctl_ok("disable idle")?;
    }
    announced(&hosts)?;
    for host in hosts {
        well(host)?;
        must!(host.nsctl_ok("plan")? == "nothing to do\n", "{}", host.nsctl("plan")?.all());
    }
    while_it_runs(lab)?;
    undisturbed(lab)?;
    stays(lab)?;
    planted(lab)?;
    all_kinds(lab)?;
    networkd_again(lab)?;
    doctors(&hosts)?;
    drop(by_ospf);
    for protocol in ["babel", "bgp"] {
        let _router = router(lab, protocol)?;
        by(&hosts, protocol).context(protocol)?;
        if protocol == "bgp" {
            gone(lab)?;
        }
    }
    frr(lab)?;
    // As FRR's package does with all that is there, each time that it is configured.
    lab.sh("chown frr:frr /etc/frr/nsctl.conf; chmod o-rwx /etc/frr/nsctl.conf")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    lab.nsctl_ok("deinit --force --yes")?;
    for file in ["/etc/frr/nsctl.conf", "/etc/bird/nsctl.conf", "/etc/systemd/networkd.conf.d/50-nsctl.conf"]
    {
        lab.sh(&format!("test ! -e {file}"))?;
    }
    lab.sh("! grep routing /etc/nsctl/nsctl.toml").map(drop)
}

fn share(number: usize) -> String {
    format!("2001:db8:a:{}00::/56", number + 1)
}

fn address(number: usize) -> String {
    format!("2001:db8:a:{}01::2", number + 1)
}

/// A bird for the router: the program and the files are the host's, the network is the router's.
pub(super) fn router(lab: &Lab, protocol: &str) -> Result<Daemon> {
    let channel = "ipv6 { import all; export all; };";
    let speaker = match protocol {
        "ospf" => format!("protocol ospf v3 {{ {channel} area 0 {{ interface \"up0\" {{ hello 1; dead 4; }}; }}; }}"),
        "babel" => {
            format!("protocol babel {{ {channel} interface \"up0\" {{ type wired; hello interval 1 s; }}; }}")
        }
        _ => (2..=4)
            .map(|host| {
                format!("protocol bgp {{ local as 65000; neighbor 2001:db8:ffff::{host} as 6500{host}; {channel} }}\n")
            })
            .collect(),
    };
    let config = format!(
        "log stderr all; router id 192.0.2.1;
         protocol device {{ scan time 1; }}
         protocol kernel {{ ipv6 {{ export all; }}; scan time 2; }}
         {speaker}\n"
    );
    lab.install("bird2")?;
    let root = lab.root()?;
    fs::create_dir_all(root.join("root/router"))?;
    fs::write(root.join("root/router/bird.conf"), config)?;
    let _ = fs::remove_file(root.join("root/router/ctl"));
    let words = [
        "chroot",
        &root.to_string_lossy(),
        "bird",
        "-f",
        "-c",
        "/root/router/bird.conf",
        "-s",
        "/root/router/ctl",
    ];
    let mut command = lab.router.command(&words);
    let log = fs::File::create(lab.scratch("router.bird"))?.into_parts().0;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let daemon = Daemon::spawn(&mut command)?;
    until(Duration::from_secs(10), "the router's bird runs", || Ok(root.join("root/router/ctl").exists()))
        .with_context(|| fs::read_to_string(lab.scratch("router.bird")).unwrap_or_default())?;
    Ok(daemon)
}

fn faults(lab: &Lab) -> Result<()> {
    for (text, why) in [
        ("[routing]\nprotocol = \"rip\"\n", "unknown variant `rip`"),
        ("[routing]\nprotocol = \"bgp\"\n", "BGP needs `as = 65001`"),
        ("[routing]\nprotocol = \"ospf\"\nas = 7\n", "are of BGP"),
        ("[routing]\nprotocol = \"ospf\"\ninterface = [\"wan0\\\" { }; \"]\n", "interface"),
    ] {
        lab.sh("cp /etc/nsctl/nsctl.toml /root/kept")?;
        lab.sh(&format!("cat >> /etc/nsctl/nsctl.toml <<'end'\n\n{text}end"))?;
        let said = lab.nsctl("apply --yes")?;
        must!(!said.ok() && said.all().contains(why), "{text}: {}", said.all());
        lab.sh("mv /root/kept /etc/nsctl/nsctl.toml")?;
    }
    Ok(())
}

/// Without a bird, and with one that does not read the file.
fn silent(lab: &Lab) -> Result<()> {
    lab.sh("cp /etc/nsctl/nsctl.toml /root/kept; printf '\\n[routing]\\nprotocol = \"ospf\"\\n' >> /etc/nsctl/nsctl.toml")?;
    lab.nsctl_ok("apply --yes")?;
    let doctor = lab.nsctl("doctor")?;
    must!(doctor.all().contains("bird does not run"), "{}", doctor.all());
    lab.sh("printf 'router id 192.0.2.77;\\nprotocol device { }\\n' > /etc/bird/bird.conf; systemctl start bird; until birdc show status > /dev/null 2>&1; do :; done")?;
    let doctor = lab.nsctl("doctor")?;
    must!(doctor.all().contains("does not read /etc/bird/nsctl.conf"), "{}", doctor.all());
    lab.sh("systemctl stop bird; mv /root/kept /etc/nsctl/nsctl.toml; nsctl apply --yes; test ! -e /etc/bird/nsctl.conf").map(drop)
}

/// As the guide says it.
pub(super) fn speaks(host: &Lab, number: usize, lines: &str) -> Result<()> {
    host.install("bird2")?;
    host.sh(&format!(
        "sed -i '/^\\[routing\\]/,$d' /etc/nsctl/nsctl.toml; printf '\\n[routing]\\n%s\\n' '{lines}' >> /etc/nsctl/nsctl.toml
         mkdir -p /etc/bird; echo 'hello 1; dead 4;' > /etc/bird/nsctl.interface
         grep -q ospf /etc/nsctl/nsctl.toml || echo 'hello interval 1 s;' > /etc/bird/nsctl.interface
         printf 'log syslog all;\\nrouter id 192.0.2.{};\\nprotocol device {{ }}\\nprotocol kernel {{ ipv6 {{ export all; }}; }}\\ninclude \"/etc/bird/nsctl*.conf\";\\n' > /etc/bird/bird.conf
         nsctl apply --yes; systemctl restart bird; until birdc show status > /dev/null 2>&1; do :; done",
        number + 10
    ))
    .map(drop)
}

fn routes(host: &Lab) -> Result<String> {
    host.sh("ip -6 route show proto bird")
}

/// What the router has in its kernel.
fn at_router(lab: &Lab) -> Result<String> {
    lab.router.script("ip -6 route show proto bird")
}

/// What has just been learned is in the kernel a moment later.
fn well(host: &Lab) -> Result<()> {
    until(seconds(30), "all is well", || Ok(!host.nsctl("doctor")?.all().contains("bird")))
}

fn seconds(limit: u64) -> Duration {
    Duration::from_secs(limit)
}

fn reaches(lab: &Lab, to: &str) -> Result<bool> {
    Ok(lab.router.run(&["ping", "-6", "-c1", "-W1", to])?.ok())
}

/// Of all, from everywhere; and of those that do not run nothing.
fn announced(hosts: &[&Lab]) -> Result<()> {
    for number in 0..hosts.len() {
        let to = address(number);
        until(seconds(60), "the router knows the way", || reaches(hosts[0], &to))
            .with_context(|| at_router(hosts[0]).unwrap_or_default())?;
        // And to the host itself.
        let own = format!("2001:db8:a:{}00::1", number + 1);
        until(seconds(20), "the host itself is reached", || reaches(hosts[0], &own))?;
    }
    for (number, host) in hosts.iter().enumerate() {
        for other in (0..hosts.len()).filter(|other| *other != number) {
            let ping = format!("ping -6 -c1 -W2 {}", address(other));
            until(seconds(30), "machines of others are reached", || Ok(host.inside("web", &ping)?.ok()))?;
        }
        let own = format!("2001:db8:a:{}0", number + 1);
        must!(!routes(host)?.contains(&own), "what is here was learned:\n{}", routes(host)?);
    }
    let known = at_router(hosts[0])?;
    must!(
        known.matches("01::/64").count() == 3 && !known.contains("02::/64"),
        "idle ones are announced:\n{known}"
    );
    Ok(())
}

/// A prefix goes with its machine, and comes with it.
fn while_it_runs(lab: &Lab) -> Result<()> {
    let knows = || -> Result<bool> { Ok(at_router(lab)?.contains("2001:db8:a:101::/64")) };
    for (verb, there) in [("stop web", false), ("start web", true), ("kill web", false), ("start web", true)]
    {
        lab.nsctl_ok(verb)?;
        let began = Instant::now();
        until(seconds(20), verb, || Ok(knows()? == there))?;
        eprintln!("{verb}: the router knew after {} ms", began.elapsed().as_millis());
    }
    lab.sh("machinectl poweroff web; until ! machinectl show web > /dev/null 2>&1; do sleep 0.1; done")?;
    until(seconds(20), "a machine that ended by itself is withdrawn", || Ok(!knows()?))?;
    lab.nsctl_ok("start web")?;
    let to = address(0);
    until(seconds(20), "it is reached again", || reaches(lab, &to))
}

/// Other machines come and go, and neither bird nor what it says of this one changes.
fn undisturbed(lab: &Lab) -> Result<()> {
    let id = || lab.sh("systemctl show bird -p MainPID --value; birdc show protocols nsctl_ospf | tail -1");
    let before = id()?;
    let mut ping = lab.router.command(&["ping", "-6", "-i", "0.02", "-c", "400", "-W", "1", &address(0)]);
    let ping = ping.stdout(Stdio::piped()).spawn()?;
    for round in 0..3 {
        lab.nsctl_ok("create more --routed --image debian-13")?;
        lab.nsctl_ok("open more tcp/80")?;
        lab.nsctl_ok("remove -y more")?;
        must!(id()? == before, "round {round}: {before}{}", id()?);
    }
    let output = ping.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    must!(said.contains(" 0% packet loss"), "{said}");
    // What bird does not take is not done, and is undone.
    lab.sh("echo 'nonsense' >> /etc/bird/bird.conf")?;
    let said = lab.nsctl("create more --routed --image debian-13")?;
    must!(said.status == 1 && said.all().contains("bird does not take its configuration"), "{}", said.all());
    must!(
        said.all().contains("bird.conf:") && said.all().contains("hint: `birdc configure check`"),
        "{}",
        said.all()
    );
    must!(!lab.nsctl_ok("list")?.contains("more"), "it is there all the same");
    lab.sh("sed -i '/nonsense/d' /etc/bird/bird.conf; birdc configure")?;
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}

/// Whose definition cannot be read goes on as it is, for others, too.
fn stays(lab: &Lab) -> Result<()> {
    lab.sh(
        "cp /etc/nsctl/machines.d/web.toml /root/web.toml; echo nonsense >> /etc/nsctl/machines.d/web.toml",
    )?;
    lab.nsctl_ok("create more --routed --image debian-13 --no-start")?;
    lab.nsctl_ok("remove -y more")?;
    must!(lab.sh("cat /etc/bird/nsctl.conf")?.contains("2001:db8:a:101::/64 via"), "it is withdrawn");
    must!(at_router(lab)?.contains("2001:db8:a:101::/64"), "{}", at_router(lab)?);
    lab.sh("mv /root/web.toml /etc/nsctl/machines.d/web.toml")?;
    // Who may not look into bird's folder sees the machines all the same.
    let said = lab.sh("runuser -u nobody -- nsctl list")?;
    must!(said.contains("web"), "{said}");
    Ok(())
}

/// bird's own user, who speaks to the network, owns the folder: what he puts there is neither read nor shown.
fn planted(lab: &Lab) -> Result<()> {
    lab.sh("echo 'secret of the host' > /root/hidden; chmod 600 /root/hidden; chown bird:bird /etc/bird")?;
    for lines in [
        "ln -sf /root/hidden /etc/bird/nsctl.conf",
        "rm /etc/bird/nsctl.conf; mkfifo /etc/bird/nsctl.conf",
        "rm /etc/bird/nsctl.conf; echo mine > /etc/bird/nsctl.conf",
    ] {
        lab.sh(&format!("runuser -u bird -- sh -euc '{lines}'"))?;
        let said = lab.nsctl("plan")?;
        must!(
            said.ok() && !said.all().contains("secret") && !said.all().contains("mine"),
            "{lines}: {}",
            said.all()
        );
        lab.nsctl_ok("apply --yes")?;
        must!(lab.sh("stat -c '%U %F' /etc/bird/nsctl.conf")?.trim() == "root regular file", "{lines}");
        must!(lab.sh("cat /root/hidden")? == "secret of the host\n", "{lines}: it was written through");
        must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    }
    Ok(())
}

/// More than a /64, a further prefix, another name.
fn all_kinds(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("create wide --routed --prefix 60 --route 2001:db8:c::/56 --image debian-13")?;
    lab.nsctl_ok("stop idle")?;
    lab.nsctl_ok("rename idle lazy")?;
    lab.nsctl_ok("start lazy")?;
    for net in ["2001:db8:a:110::/60", "2001:db8:c::/56", "2001:db8:a:102::/64"] {
        until(seconds(20), net, || Ok(at_router(lab)?.contains(net)))
            .with_context(|| at_router(lab).unwrap_or_default())?;
    }
    // What networkd has put into the kernel stays the way: behind the machine, not on its link.
    must!(
        !lab.sh("ip -6 route")?.contains("2001:db8:a:110::/60 dev ve-wide proto bird"),
        "{}",
        lab.sh("ip -6 route")?
    );
    lab.nsctl_ok("stop lazy")?;
    lab.nsctl_ok("remove -y wide")?;
    until(seconds(20), "it goes", || Ok(!at_router(lab)?.contains("2001:db8:a:110::/60")))
}

/// networkd leaves alone what bird has learned.
fn networkd_again(lab: &Lab) -> Result<()> {
    let before = routes(lab)?;
    must!(before.contains("2001:db8:a:201::/64"), "{before}");
    lab.sh("systemctl restart systemd-networkd; networkctl reload; networkctl reconfigure wan0")?;
    lab.sh("until networkctl status wan0 | grep -q configured; do sleep 0.1; done")?;
    let after = routes(lab)?;
    must!(
        after.contains("2001:db8:a:201::/64") && after.contains("2001:db8:a:301::/64"),
        "{before}\n---\n{after}"
    );
    Ok(())
}

fn doctors(hosts: &[&Lab]) -> Result<()> {
    let [lab, one, ..] = hosts else { return Ok(()) };
    // A filter that swallows the pool.
    lab.sh("sed -i 's/export all/export none/' /etc/bird/bird.conf; birdc configure")?;
    let doctor = || Ok::<_, anyhow::Error>(lab.nsctl("doctor")?.all());
    until(seconds(20), "it is told", || Ok(doctor()?.contains("which the kernel does not have")))?;
    lab.sh("sed -i 's/export none/export all/' /etc/bird/bird.conf; birdc configure")?;
    until(seconds(20), "it is well again", || Ok(!doctor()?.contains("bird")))?;
    // Somebody else says that he has what is here: it is told, and changes nothing here.
    one.sh("printf 'protocol static thief { ipv6 { table nsctl; }; route 2001:db8:a:101::/64 unreachable; route 2001:db8:a:101::2/128 unreachable; }\\n' >> /etc/bird/bird.conf
            sed -i 's/export where proto = \"nsctl_machines\"/export all/' /etc/bird/nsctl.conf; birdc configure")?;
    until(seconds(20), "it is told", || Ok(doctor()?.contains("another host announces it, too")))?;
    must!(!routes(lab)?.contains("2001:db8:a:101:"), "{}", routes(lab)?);
    let done = lab.sh(&format!("ping -6 -c1 -W2 {}", address(0)));
    must!(done.is_ok(), "{done:?}");
    one.sh("sed -i '/thief/d' /etc/bird/bird.conf; sed -i 's/export all;$/export where proto = \"nsctl_machines\";/' /etc/bird/nsctl.conf; birdc configure")?;
    until(seconds(20), "it is well again", || Ok(!doctor()?.contains("announces")))?;
    // Nobody hears.
    lab.router.script("ip link set port0 down")?;
    until(seconds(30), "it is told", || Ok(doctor()?.contains("bird has no neighbor")))?;
    lab.router.script("ip link set port0 up")?;
    until(seconds(60), "it is well again", || Ok(!doctor()?.contains("bird")))
}

/// The same by another protocol.
fn by(hosts: &[&Lab], protocol: &str) -> Result<()> {
    for (number, host) in hosts.iter().enumerate() {
        let neighbor = "neighbor = [{ address = \"2001:db8:ffff::1\", as = 65000 }]";
        let bgp = format!("protocol = \"bgp\"\nas = 6500{}\n{neighbor}", number + 2);
        speaks(host, number, if protocol == "bgp" { &bgp } else { "protocol = \"babel\"" })?;
    }
    announced(hosts)?;
    hosts.iter().try_for_each(|host| well(host))
}

/// What was written goes, and bird runs on without it.
fn gone(lab: &Lab) -> Result<()> {
    lab.sh("sed -i '/^\\[routing\\]/,$d' /etc/nsctl/nsctl.toml; nsctl apply --yes
            test ! -e /etc/bird/nsctl.conf; test ! -e /etc/systemd/networkd.conf.d/50-nsctl.conf
            systemctl is-active bird; ! birdc show protocols | grep nsctl_")?;
    until(seconds(30), "nobody is told of it any more", || Ok(!at_router(lab)?.contains("2001:db8:a:1")))
}

/// FRR takes what is written for it, and announces what is here and runs.
fn frr(lab: &Lab) -> Result<()> {
    lab.sh("systemctl stop bird")?;
    lab.install("frr")?;
    lab.sh("sed -i 's/^\\(ospf6d\\|babeld\\|bgpd\\)=no/\\1=yes/' /etc/frr/daemons; systemctl restart frr")?;
    let neighbor = "neighbor = [{ address = \\\"2001:db8:ffff::1\\\", as = 65000 }]";
    let shown = [
        ("ospf", "", "show ipv6 ospf6 database as-external' | grep -v '3600 8"),
        ("bgp", &*format!("as = 65002\\n{neighbor}\\n"), "show bgp ipv6 unicast"),
        ("babel", "", "show babel route"),
    ];
    for (protocol, more, show) in shown {
        lab.sh(&format!(
            "sed -i '/^\\[routing\\]/,$d' /etc/nsctl/nsctl.toml
             printf \"\\n[routing]\\nprotocol = \\\"{protocol}\\\"\\ndaemon = \\\"frr\\\"\\n{more}\" >> /etc/nsctl/nsctl.toml
             nsctl apply --yes; vtysh -C -f /etc/frr/nsctl.conf; vtysh -f /etc/frr/nsctl.conf"
        ))?;
        let tells = || lab.sh(&format!("vtysh -c '{show}'"));
        until(seconds(20), "what runs is announced", || Ok(tells()?.contains("2001:db8:a:101::/64")))
            .with_context(|| tells().unwrap_or_default())?;
        must!(!tells()?.contains("2001:db8:a:102::/64"), "{}", tells()?);
        // Babel shows what it has, before it is filtered.
        must!(protocol == "babel" || !tells()?.contains("a:100::/56"), "{}", tells()?);
        if protocol == "babel" {
            let running = lab.sh("vtysh -c 'show running-config'")?;
            must!(running.contains("ipv6 distribute-list prefix nsctl-machines out wan0"), "{running}");
            must!(running.contains("ipv6 distribute-list prefix nsctl-learned in wan0"), "{running}");
        }
        lab.nsctl_ok("stop web")?;
        until(seconds(20), "what stops is withdrawn", || Ok(!tells()?.contains("2001:db8:a:101::/64")))
            .with_context(|| tells().unwrap_or_default())?;
        lab.nsctl_ok("start web")?;
    }
    Ok(())
}
