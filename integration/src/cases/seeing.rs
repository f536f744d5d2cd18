//! What machines use, and what is dropped on their account: `stats`, `top` and `metrics`.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::refused;
use crate::lab::{Lab, until};
use crate::must;

const UNITS: [(&str, &str); 2] = [
    ("nsctl-metrics.service", include_str!("../../../units/nsctl-metrics.service")),
    ("nsctl-metrics.timer", include_str!("../../../units/nsctl-metrics.timer")),
];

pub fn run(lab: &mut Lab) -> Result<()> {
    lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
    lab.nsctl_ok("bridge create vbr0 --uplink enp6s0 --yes")?;
    // One way out, not two.
    lab.sh("mkdir -p /etc/systemd/network/05-nsctl-bridge-vbr0.network.d
         printf '[IPv6AcceptRA]\\nUseGateway=no\\n' > /etc/systemd/network/05-nsctl-bridge-vbr0.network.d/50-no-default-route.conf
         networkctl reload")?;
    must!(lab.nsctl_ok("stats")? == "no machine runs\n", "{}", lab.nsctl_ok("stats")?);
    refused(lab, "stats web", 1, "no machine named 'web'")?;
    lab.nsctl_ok("create web --routed --image debian-13 --open tcp/7 --open udp/7")?;
    lab.nsctl_ok("create lan --bridge vbr0 --image debian-13")?;
    lab.nsctl_ok("create idle --routed --image debian-13 --no-start")?;
    lab.booted("web")?;
    used(lab)?;
    dropped(lab)?;
    piped(lab)?;
    on_a_screen(lab)?;
    told(lab)?;
    happened(lab)?;
    gone(lab)
}

fn stats(lab: &Lab, name: &str) -> Result<Value> {
    let all: Value = serde_json::from_str(&lab.nsctl_ok("stats --json")?)?;
    let found = all.as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    found.cloned().with_context(|| format!("no {name} in {all}"))
}

fn number(stats: &Value, pointer: &str) -> Result<u64> {
    stats.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("{pointer} of {stats}"))
}

/// What a machine does is counted as its own, in its own direction.
fn used(lab: &Lab) -> Result<()> {
    let before = stats(lab, "web")?;
    lab.sh("nsctl shell web sh -euc 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; head -c 20000000 /dev/urandom > /root/noise; sync'")?;
    // From upstream into the machine.
    lab.router.script("ping -6 -q -c 200 -i 0.002 -s 1000 2001:db8:a:1::2")?;
    let after = stats(lab, "web")?;
    let grew = |pointer: &str| Ok::<u64, anyhow::Error>(number(&after, pointer)? - number(&before, pointer)?);
    must!(grew("/cpu_usec")? > 100_000, "{before} {after}");
    for direction in ["/received", "/sent"] {
        must!(grew(&format!("{direction}/bytes"))? > 200_000, "{direction}: {before} {after}");
        must!(grew(&format!("{direction}/packets"))? >= 200, "{direction}: {before} {after}");
    }
    // What goes one way is not counted as if it went the other.
    let before = stats(lab, "web")?;
    lab.router.script("bash -c 'exec 3<>/dev/udp/2001:db8:a:1::2/7; for i in $(seq 300); do head -c 1000 /dev/zero >&3 || true; done'")?;
    let after = stats(lab, "web")?;
    let grew = |pointer: &str| Ok::<u64, anyhow::Error>(number(&after, pointer)? - number(&before, pointer)?);
    let (received, sent) = (grew("/received/bytes")?, grew("/sent/bytes")?);
    must!(received > 250_000 && sent < 150_000, "it received {received} bytes, and sent {sent}");
    let truth = lab.sh("cat /proc/$(machinectl show web -p Leader --value)/root/sys/class/net/host0/statistics/rx_bytes 2> /dev/null || true")?;
    if let Ok(truth) = truth.trim().parse::<u64>() {
        must!(truth >= number(&after, "/received/bytes")?, "the guest counts {truth}: {after}");
    }
    let unit = lab.sh("cat /sys/fs/cgroup$(systemctl show -P ControlGroup systemd-nspawn@web)/cpu.stat | awk '/^usage_usec/ { print $2 }'")?;
    let own = number(&stats(lab, "web")?, "/cpu_usec")?;
    must!(own >= unit.trim().parse::<u64>()?, "systemd counts {unit}, nsctl {own}");
    must!(stats(lab, "lan")?["refused"].is_null(), "{}", stats(lab, "lan")?);
    // Of two on a bridge each has its own.
    lab.nsctl_ok("create lan2 --bridge vbr0 --image debian-13")?;
    let sent = |name: &str| number(&stats(lab, name)?, "/sent/bytes");
    let (before, other) = (sent("lan")?, sent("lan2")?);
    lab.inside("lan", "ping -q -c 200 -i 0.002 -s 1000 192.168.5.1")?;
    let (mine, others) = (sent("lan")? - before, sent("lan2")? - other);
    must!(mine > 200_000 && others < 100_000, "it sent {mine} bytes, the other one {others}");
    lab.nsctl_ok("remove lan2 --yes")?;
    let table = lab.nsctl_ok("stats web")?;
    must!(table.contains("RECEIVED") && !table.contains("lan"), "{table}");
    Ok(())
}

/// Each machine has counters of its own, which outlive a reload of the rules.
fn dropped(lab: &Lab) -> Result<()> {
    let refused = || number(&stats(lab, "web")?, "/refused/packets");
    let spoofed = || number(&stats(lab, "web")?, "/spoofed/packets");
    must!(refused()? == 0 && spoofed()? == 0, "{}", stats(lab, "web")?);
    let knock = "for port in 9 10 11; do timeout 0.3 bash -c \"echo > /dev/tcp/2001:db8:a:1::2/$port\" 2> /dev/null || true; done";
    lab.router.script(knock)?;
    must!(refused()? >= 3, "{}", stats(lab, "web")?);
    lab.inside(
        "web",
        "ip -6 address add 2001:db8:bad::1/128 dev host0 nodad; ping -6 -c 3 -i 0.2 -W 1 -I 2001:db8:bad::1 2001:db8:ffff::1 || true",
    )?;
    must!(spoofed()? >= 3, "{}", stats(lab, "web")?);
    let (before, others) = ((refused()?, spoofed()?), lab.nsctl_ok("stats lan --json")?);
    lab.nsctl_ok("open web tcp/12")?;
    lab.sh("systemctl reload nsctl-firewall")?;
    lab.nsctl_ok("start idle")?;
    must!((refused()?, spoofed()?) == before, "a reload has them counted anew: {}", stats(lab, "web")?);
    must!(number(&stats(lab, "idle")?, "/refused/packets")? == 0, "{others}");
    must!(lab.nsctl("doctor")?.ok(), "{}", lab.nsctl("doctor")?.all());
    must!(lab.nsctl_ok("plan")? == "nothing to do\n", "{}", lab.nsctl("plan")?.all());
    Ok(())
}

/// One table or document follows the other, and who reads no more ends it.
fn piped(lab: &Lab) -> Result<()> {
    let text = lab.nsctl_ok("top -n 2 -d 0.2 --sort name")?;
    must!(text.matches("CPU %").count() == 2 && text.contains("idle"), "{text}");
    lab.sh("(nsctl shell web sh -c 'while :; do :; done' & echo $! > /run/busy) > /dev/null 2>&1")?;
    let busy = || -> Result<bool> {
        let line = lab.nsctl_ok("top --json -n 1 -d 0.5")?;
        let sheet: Value = serde_json::from_str(&line)?;
        Ok(sheet["machines"][0]["name"] == "web" && sheet["machines"][0]["cpu"].as_f64().unwrap_or(0.0) > 0.2)
    };
    until(Duration::from_secs(20), "the busiest is first", busy)?;
    lab.sh("kill $(cat /run/busy)")?;
    lab.sh("timeout 20 sh -c 'nsctl top -d 0.1 | head -n 3 > /dev/null'")?;
    refused(lab, "top -d 0", 2, "0.1")?;
    refused(lab, "top -n 0", 2, "1..")?;
    refused(lab, "top nobody", 1, "no machine named").map(drop)
}

/// A terminal in which these lines run on the host, and what it shows so far.
struct Screen {
    script: Child,
    file: NamedTempFile,
}

impl Screen {
    fn open(lab: &Lab, lines: &str) -> Result<Screen> {
        let file = NamedTempFile::new()?;
        let enter = lab.enter(&["sh", "-euc", lines])?;
        let words = std::iter::once(enter.get_program()).chain(enter.get_args());
        let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")));
        let line = quoted.collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["-qefc", &line]).arg(file.path()).env("TERM", "xterm");
        script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Screen { script: script.spawn()?, file })
    }

    fn shows(&self, text: &str) -> Result<bool> {
        Ok(String::from_utf8_lossy(&fs_err::read(self.file.path())?).contains(text))
    }

    fn wait_for(&self, text: &str) -> Result<()> {
        until(Duration::from_secs(20), text, || self.shows(text))
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.script.stdin.as_mut().context("no keyboard")?.write_all(keys.as_bytes())?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

/// A real terminal, 60 columns wide: it is drawn there, and left as it was, by a key and by a signal.
fn on_a_screen(lab: &Lab) -> Result<()> {
    let size = "stty cols 60 rows 12";
    let mut screen = Screen::open(lab, &format!("{size}; nsctl top -d 0.3; echo ended with $?"))?;
    screen.wait_for("TASKS")?;
    screen.wait_for("web")?;
    must!(!screen.shows("DROPS")?, "it is wider than the screen");
    screen.press("nmq")?;
    screen.wait_for("ended with 0")?;
    // It came on a screen of its own, and went from it.
    must!(screen.shows("\u{1b}[?1049h")? && screen.shows("\u{1b}[?1049l")?, "the screen is not what it was");
    let run = "sh -c 'echo $$ > /run/top.pid; exec nsctl top -d 0.3'";
    let other = Screen::open(lab, &format!("stty cols 100 rows 12; {run}; stty -a; echo ended with $?"))?;
    other.wait_for("WRITE")?;
    lab.sh("kill $(cat /run/top.pid)")?;
    other.wait_for("ended with 0")?;
    must!(other.shows("icanon")? && !other.shows("-icanon")?, "the terminal is left raw");
    Ok(())
}

fn promtool(text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool, of the package prometheus")?;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let done = child.wait_with_output()?;
    let said = [done.stdout, done.stderr].concat();
    ensure!(done.status.success(), "promtool: {}\n{text}", String::from_utf8_lossy(&said));
    Ok(())
}

fn told(lab: &Lab) -> Result<()> {
    let open = lab.nsctl_ok("metrics")?;
    for line in [
        "nsctl_machine_info{machine=\"lan\",mode=\"bridge\",bridge=\"vbr0\"} 1",
        "nsctl_machine_prefix_info{machine=\"web\",prefix=\"2001:db8:a:1::/64\",address=\"2001:db8:a:1::2\"} 1",
        "nsctl_machine_running{machine=\"web\"} 1",
        "nsctl_machine_answering{machine=\"web\"} 1",
        "nsctl_machine_firewall_spoofed_packets_total{machine=\"web\"} 3",
        "# UNIT nsctl_machine_cpu_seconds seconds",
    ] {
        must!(open.contains(line), "no {line}:\n{open}");
    }
    must!(open.ends_with("# EOF\n") && !open.contains("nsctl_machine_answering{machine=\"lan\""), "{open}");
    for (name, text) in UNITS {
        fs_err::write(lab.root()?.join("etc/systemd/system").join(name), text)?;
    }
    let said = lab.run(&["systemd-analyze", "verify", "nsctl-metrics.service", "nsctl-metrics.timer"])?;
    must!(said.ok() && said.all().is_empty(), "{}", said.all());
    // Without node_exporter nobody writes anything.
    lab.sh("systemctl daemon-reload; systemctl start nsctl-metrics.service; test ! -e /var/lib/prometheus")?;
    lab.sh("mkdir -p /var/lib/prometheus/node-exporter; systemctl enable --now -q nsctl-metrics.timer")?;
    const FILE: &str = "/var/lib/prometheus/node-exporter/nsctl.prom";
    until(Duration::from_secs(20), "the timer has it written", || Ok(lab.run(&["test", "-s", FILE])?.ok()))?;
    let file = lab.sh(&format!("cat {FILE}"))?;
    promtool(&file)?;
    must!(
        lab.sh(&format!("stat -c %a {FILE}; ls -A /var/lib/prometheus/node-exporter"))?
            == "644\nnsctl.prom\n",
        "{file}"
    );
    // The same is told in both.
    let names = |text: &str| -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    must!(names(&open) == names(&file), "{open}\n---\n{file}");
    lab.sh("systemctl disable --now -q nsctl-metrics.timer").map(drop)
}

fn events(lab: &Lab, line: &str) -> Result<Vec<(String, String, String)>> {
    let lines = lab.nsctl_ok(&format!("--json events {line}"))?;
    let of = |line: &str| -> Result<(String, String, String)> {
        let event: Value = serde_json::from_str(line)?;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let machines: Vec<&str> =
            event["machines"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        Ok((text("event"), machines.join(" "), text("text")))
    };
    lines.lines().map(of).collect()
}

/// Starts, stops, deaths, changes and reloads, also of before anybody looked; and addresses while somebody does.
fn happened(lab: &Lab) -> Result<()> {
    let count = |all: &[(String, String, String)], kind: &str, name: &str| {
        all.iter().filter(|(event, machines, _)| event == kind && machines == name).count()
    };
    let before = events(lab, "")?;
    must!(count(&before, "started", "web") == 1 && count(&before, "firewall", "") >= 1, "{before:?}");
    must!(
        before
            .iter()
            .any(|(kind, who, text)| kind == "changed" && who == "web" && text.starts_with("nsctl open: ")),
        "{before:?}"
    );
    let watched =
        Screen::open(lab, "sh -c 'echo $$ > /run/events.pid; exec nsctl events -f web'; echo ended with $?")?;
    let json = Screen::open(lab, "nsctl --json events -f")?;
    // It follows once it says something: of what happens again until then.
    let again = || {
        lab.sh("nsctl restart web")?;
        watched.shows("  started ")
    };
    until(Duration::from_secs(60), "events are followed", again)?;
    lab.booted("web")?;
    lab.inside("web", "ip -6 address add 2001:db8:a:1::77/64 dev host0 nodad; ip -6 address del 2001:db8:a:1::77/64 dev host0")?;
    watched.wait_for("web  has 2001:db8:a:1::77")?;
    watched.wait_for("web  has no longer 2001:db8:a:1::77")?;
    must!(!watched.shows("  lan  ")?, "others are told of, too");
    // Its first process is killed.
    lab.sh("kill -9 $(machinectl show web -p Leader --value); timeout 20 sh -c 'until systemctl is-failed -q systemd-nspawn@web; do sleep 0.1; done'")?;
    watched.wait_for("  failed    web  ended with an error")?;
    json.wait_for("\"event\":\"failed\",\"machines\":[\"web\"]")?;
    lab.sh("kill -INT $(cat /run/events.pid)")?;
    watched.wait_for("ended with 0")?;
    // What one who is not root writes, or of another machine, is not told.
    lab.sh("setpriv --reuid 65534 --clear-groups logger --journald << 'E'
MESSAGE_ID=58432bd3bace477cb514b56381b8a758
NAME=ghost
MESSAGE=Machine ghost terminated.
E")?;
    let after = events(lab, "web --since=-1h")?;
    must!(after.iter().all(|(_, machines, _)| machines.split(' ').any(|one| one == "web")), "{after:?}");
    must!(count(&events(lab, "")?, "stopped", "ghost") == 0, "it was believed");
    lab.nsctl_ok("start web")?;
    must!(lab.nsctl("events --since never")?.status == 1, "it takes any word for a time");
    signalled(lab)
}

/// The services tell themselves what the journal does not, and nothing is told twice.
fn signalled(lab: &Lab) -> Result<()> {
    let follow = "systemd-run -q --unit=events -p StandardOutput=file:/root/events nsctl --json events -f";
    let told = |kind: &str| lab.sh(&format!("grep -c '\"event\":\"{kind}\"' /root/events || true"));
    let is_told = |kind: &str, count: &str| {
        until(Duration::from_secs(20), &format!("{kind} is told {count} times"), || {
            Ok(told(kind)?.trim() == count)
        })
        .map_err(|error| error.context(lab.sh("cat /root/events").unwrap_or_default()))
    };
    lab.sh(follow)?;
    let follows = || {
        lab.sh("ip link set wan0 down; ip link set wan0 up")?;
        is_told_any(lab, "wan0: ")
    };
    until(Duration::from_secs(20), "events are followed", follows)?;
    lab.sh("ip link set wan0 down")?;
    until(Duration::from_secs(20), "no carrier", || is_told_any(lab, "wan0: off"))?;
    lab.sh("ip link set wan0 up")?;
    until(Duration::from_secs(20), "a carrier", || is_told_any(lab, "wan0: routable"))?;
    lab.nsctl_ok("stop web")?;
    lab.nsctl_ok("start web")?;
    lab.sh("systemctl reload nsctl-firewall")?;
    is_told("stopped", "1")?;
    is_told("started", "1")?;
    // The journal tells of each as well, a moment later: what comes after it is what it had to say.
    lab.nsctl_ok("open web tcp/99")?;
    until(Duration::from_secs(20), "what nsctl did", || is_told_any(lab, "nsctl open: "))?;
    is_told("stopped", "1")?;
    is_told("started", "1")?;
    let loaded: u32 = told("firewall")?.trim().parse()?;
    must!((1..=3).contains(&loaded), "the firewall was loaded {loaded} times");
    // Anybody may send a signal to anybody; only the service's own is heard.
    let ours =
        lab.sh("busctl list --no-legend | awk -v pid=$(systemctl show -P MainPID events) '$2 == pid { print $1; exit }'")?;
    let forged = format!(
        "setpriv --reuid 65534 --clear-groups busctl --system emit --destination={} /org/freedesktop/machine1 org.freedesktop.machine1.Manager MachineRemoved so web /org/freedesktop/machine1/machine/web",
        ours.trim()
    );
    must!(lab.run(&["sh", "-c", &forged])?.ok(), "{}", lab.run(&["sh", "-c", &forged])?.all());
    // A journal that keeps nothing.
    lab.sh("mkdir -p /run/systemd/journald.conf.d; printf '[Journal]\\nStorage=none\\n' > /run/systemd/journald.conf.d/none.conf
         systemctl restart systemd-journald")?;
    lab.sh("kill -9 $(machinectl show web -p Leader --value); timeout 20 sh -c 'until systemctl is-failed -q systemd-nspawn@web; do sleep 0.1; done'")?;
    is_told("failed", "1")?;
    is_told("stopped", "2")?;
    // It fails before machined knows it.
    lab.sh("mkdir -p /run/systemd/system/systemd-nspawn@web.service.d
         printf '[Service]\\nExecStartPre=/bin/false\\n' > /run/systemd/system/systemd-nspawn@web.service.d/x.conf
         systemctl daemon-reload; ! systemctl start systemd-nspawn@web || exit 1
         rm -r /run/systemd/system/systemd-nspawn@web.service.d; systemctl daemon-reload")?;
    is_told("failed", "2")?;
    lab.nsctl_ok("start web")?;
    is_told("started", "2")?;
    lab.sh("rm /run/systemd/journald.conf.d/none.conf; systemctl restart systemd-journald; systemctl stop events").map(drop)
}

fn is_told_any(lab: &Lab, text: &str) -> Result<bool> {
    Ok(lab.run(&["grep", "-q", text, "/root/events"])?.ok())
}

/// A machine takes its counters along.
fn gone(lab: &Lab) -> Result<()> {
    lab.nsctl_ok("remove idle --yes")?;
    let counters = lab.sh("nft list counters table inet nsctl")?;
    must!(counters.contains("refused-web") && !counters.contains("idle"), "{counters}");
    must!(lab.nsctl("doctor")?.ok(), "{}", lab.nsctl("doctor")?.all());
    Ok(())
}
