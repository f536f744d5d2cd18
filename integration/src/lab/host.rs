//! One throwaway host with its router and LAN.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup;
use super::disk::{Cut, Disk};
use super::net::{Daemon, Namespace};
use super::run::{Done, capture, check, words};
use super::trees::{Suite, Trees, remove_tree, snapshot, subvolume};

const BOOT: &str = include_str!("boot.sh");
const BOOT_TIME: Duration = Duration::from_secs(60);
/// Longest time that one command inside a host may take, in seconds.
const COMMAND_TIME: &str = "120";

/// Where a host finds the packages that it can install.
pub const REPOSITORY: &str = "/repository";

/// What the LAN's server serves.
pub const LAN: [&str; 5] = [
    "--interface=lan0",
    "--ra-param=lan0,10,1800",
    "--dhcp-range=192.168.5.100,192.168.5.200,255.255.255.0,1h",
    "--dhcp-range=2001:db8:5::1000,2001:db8:5::1fff,slaac,64,1h",
    "--dhcp-authoritative",
];

/// A booted host, `wan0` towards [`Lab::router`] and `enp6s0` in [`Lab::lan`].
#[derive(Debug)]
pub struct Lab {
    pub router: Arc<Namespace>,
    pub lan: Arc<Namespace>,
    trees: Trees,
    dir: PathBuf,
    suite: Suite,
    /// Which of the hosts on its router it is, from 0.
    number: u32,
    cgroup: PathBuf,
    servers: Vec<Daemon>,
    /// Its own disk, where it has one.
    disk: Option<Disk>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    unshare: Daemon,
    init: u32,
}

impl Lab {
    /// Boots a fresh host of this suite, with `nsctl` in /usr/local/bin and
    /// the image `debian-13` in /var/lib/machines.
    pub fn boot(trees: &Trees, suite: Suite) -> Result<Lab> {
        let mut lab = Lab::on(trees, suite, Arc::new(Namespace::new()?), Arc::new(Namespace::new()?), 0)?;
        lab.upstream()?;
        lab.power_on()?;
        Ok(lab)
    }

    /// Boots another host of this suite on the same router and LAN, the second or a further one (`number` 1 and up):
    /// host-1 has 2001:db8:ffff::3.
    pub fn beside(&self, suite: Suite, number: u32) -> Result<Lab> {
        let (router, lan) = (Arc::clone(&self.router), Arc::clone(&self.lan));
        let mut lab = Lab::on(&self.trees, suite, router, lan, number)?;
        let etc = lab.dir.join("upper/etc");
        fs::create_dir_all(etc.join("systemd/network"))?;
        fs::write(etc.join("hostname"), format!("host-{number}\n"))?;
        let uplink = format!("[Match]\nName=wan0\n\n[Network]\nAddress=2001:db8:ffff::{:x}/64\n", number + 2);
        fs::write(etc.join("systemd/network/20-wan0.network"), uplink)?;
        lab.power_on()?;
        Ok(lab)
    }

    fn on(
        trees: &Trees,
        suite: Suite,
        router: Arc<Namespace>,
        lan: Arc<Namespace>,
        number: u32,
    ) -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = trees.runs().join(&id);
        let lab = Lab {
            router,
            lan,
            trees: trees.clone(),
            number,
            cgroup: cgroup::root()?.join(format!("{}{id}", cgroup::PREFIX)),
            suite,
            dir,
            servers: Vec::new(),
            disk: None,
            running: None,
        };
        lab.lay_out()?;
        Ok(lab)
    }

    /// The name of its end of a wire on the router and in the LAN.
    fn port(&self) -> String {
        format!("port{}", self.number)
    }

    fn lay_out(&self) -> Result<()> {
        subvolume(&self.dir)?;
        for name in ["upper/usr/local/bin", "work", "root", "door"] {
            fs::create_dir_all(self.dir.join(name))?;
        }
        subvolume(&self.dir.join("machines"))?;
        snapshot(&self.image(), &self.dir.join("machines/debian-13"))?;
        let bin = self.dir.join("upper/usr/local/bin");
        fs::copy(binary("NSCTL_BIN", "../release/nsctl")?, bin.join("nsctl"))?;
        // Only tests need it; those that do fail without it.
        if let Ok(faults) = binary("NSCTL_FAULTS_BIN", "../debug/nsctl") {
            fs::copy(faults, bin.join("nsctl-faults"))?;
        }
        Ok(())
    }

    /// The router announces itself on `wan0` and routes the pool to the host;
    /// the LAN has a DHCPv4, DHCPv6 and RA server.
    ///
    /// Both have one link-local address, at once: a bridge takes the MAC address of its first port, and what is
    /// announced meanwhile comes from a global address, which nobody believes (RFC 4861 6.1.2).
    fn upstream(&mut self) -> Result<()> {
        self.router.script(
            "ip link add up0 address 02:00:00:00:00:01 type bridge
             sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.up0.accept_dad=0
             ip link set up0 up
             ip addr add 2001:db8:ffff::1/64 dev up0 nodad
             ip -6 route add 2001:db8:a::/48 via 2001:db8:ffff::2 dev up0",
        )?;
        self.lan.script(
            "ip link add lan0 address 02:00:00:00:00:02 type bridge
             sysctl -qw net.ipv6.conf.lan0.accept_dad=0
             ip link set lan0 up
             ip addr add 192.168.5.1/24 dev lan0
             ip addr add 2001:db8:5::1/64 dev lan0 nodad",
        )?;
        self.serve(
            true,
            &["--dhcp-range=2001:db8:ffff::,ra-only,64", "--ra-param=up0,10,1800", "--interface=up0"],
        )?;
        self.serve(false, &LAN)
    }

    fn serve(&mut self, router: bool, options: &[&str]) -> Result<()> {
        let place = if router { &self.router } else { &self.lan };
        let leases = self.dir.join(if router { "router.leases" } else { "lan.leases" });
        // In a PID namespace of its own: dnsmasq changes its credentials, which
        // makes the kernel forget that it should die with us (prctl(2)).
        let mut command = place.command(&[
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "\"$@\" & wait",
            "sh",
            "dnsmasq",
            "-k",
            "--conf-file=/dev/null",
            "--user=root",
            "--port=0",
            "--bind-dynamic",
            "--enable-ra",
            "--pid-file=",
            &format!("--dhcp-leasefile={}", leases.display()),
        ]);
        let log = fs::File::create(self.dir.join(if router { "router.log" } else { "lan.log" }))?;
        command.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.into_parts().0);
        self.servers.push(Daemon::spawn(&mut command)?);
        Ok(())
    }

    /// Another server for the LAN, with these options of dnsmasq; none: no server at all.
    pub fn lan_serves(&mut self, options: &[&str]) -> Result<()> {
        self.servers.truncate(1);
        if options.is_empty() { Ok(()) } else { self.serve(false, options) }
    }

    /// Boots the host, again after [`Lab::power_off`]; its disk persists.
    pub fn power_on(&mut self) -> Result<()> {
        let (place, port) = (Namespace::new()?, self.port());
        for (net, bridge, name) in [(&self.router, "up0", "wan0"), (&self.lan, "lan0", "enp6s0")] {
            net.script(&format!(
                "ip link add {port} type veth peer name {name} netns {}
                 ip link set {port} master {bridge} && ip link set {port} up",
                place.pid()
            ))?;
            // A host that has been up for a while: its own addresses are long
            // settled, which would take 2 s after each boot (RFC 4862, 5.4).
            place.script(&format!("sysctl -qw net.ipv6.conf.{name}.accept_dad=0"))?;
        }
        fs::create_dir_all(&self.cgroup)?;
        let door = self.dir.join("door/notify");
        let _ = fs::remove_file(&door);
        let ready = UnixDatagram::bind(&door).with_context(|| door.display().to_string())?;
        let unshare = self.spawn_init(&place)?;
        self.running = Some(Running { init: 0, unshare });
        wait_ready(&ready, BOOT_TIME)
            .with_context(|| format!("the host does not boot:\n{}", self.console()))?;
        let running = self.running.as_mut().context("not running")?;
        running.init = only_child(running.unshare.pid())?;
        Ok(())
    }

    fn spawn_init(&self, place: &Namespace) -> Result<Daemon> {
        let console = fs::File::create(self.dir.join("console"))?.into_parts().0;
        let script = format!("echo $$ > {}/cgroup.procs\nexec \"$@\"", self.cgroup.display());
        let mut command = words(&["sh", "-c", &script, "sh"]);
        command.args(["nsenter", &format!("--net=/proc/{}/ns/net", place.pid())]);
        command.args(["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--cgroup"]);
        command.args(["sh", "-c", BOOT]);
        command
            .env("TREE", self.trees.host(self.suite))
            .env("RUN", &self.dir)
            .env("STORE", self.store())
            .env("REPO", self.trees.repository(self.suite));
        command.stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
        Daemon::spawn(&mut command)
    }

    /// Pulls the plug.
    pub fn power_off(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        if running.init != 0 {
            kill(Pid::from_raw(i32::try_from(running.init)?), Signal::SIGKILL)?;
            running.unshare.0.wait()?;
        }
        drop(running);
        for (net, bridge) in [(&self.router, "up0"), (&self.lan, "lan0")] {
            // The far ends died with the host's namespace, a moment later.
            let gone =
                || Ok(!net.run(&["ip", "link", "show", "master", bridge])?.stdout.contains(&self.port()));
            until(Duration::from_secs(10), "the wires are gone", gone)?;
        }
        cgroup::remove(&self.cgroup)
    }

    /// The same host, rebooted, on an ext4 disk of its own, whose power can be cut.
    pub fn move_to_ext4(&mut self) -> Result<()> {
        self.power_off()?;
        let disk = Disk::make(&self.dir)?;
        for name in ["upper", "work", "machines"] {
            let (from, to) = (self.dir.join(name), disk.place().join(name));
            check(&mut words(&["cp", "-a", &from.to_string_lossy(), &to.to_string_lossy()]))?;
        }
        self.disk = Some(disk);
        check(&mut words(&["sync", "--file-system", &self.store().to_string_lossy()]))?;
        self.power_on()
    }

    /// What is on the disk at this instant.
    pub fn cut(&mut self) -> Result<Cut> {
        self.disk.as_mut().context("the host has no disk of its own")?.cut()
    }

    /// The power went at that cut: the host is off, and has what its disk had by then.
    pub fn lose_power(&mut self, cut: Cut) -> Result<()> {
        self.power_off()?;
        self.disk.as_mut().context("the host has no disk of its own")?.fall_back(cut)
    }

    /// Whether it is on such a disk.
    pub fn has_ext4(&self) -> bool {
        self.disk.is_some()
    }

    fn store(&self) -> &Path {
        self.disk.as_ref().map_or(&self.dir, Disk::place)
    }

    /// What the host's PID 1 printed.
    pub fn console(&self) -> String {
        fs::read(self.dir.join("console"))
            .map_or_else(|e| e.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A folder for what a case needs outside the host; it goes with it.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The host's /var/lib/machines, seen from outside.
    pub fn machines(&self) -> PathBuf {
        self.store().join("machines")
    }

    /// The tree that its image `debian-13` was made from.
    pub fn image(&self) -> PathBuf {
        self.trees.guest(self.suite)
    }

    /// What the host has changed of its root tree, seen from outside, also while it is off.
    pub fn upper(&self) -> PathBuf {
        self.store().join("upper")
    }

    /// The host's root, seen from outside.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.init()?)))
    }

    /// The control group of everything in the host.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The process that is the host's PID 1.
    pub fn init(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("the host is off")?.init)
    }

    /// A command inside the host, with a clean environment.
    pub fn enter(&self, all: &[&str]) -> Result<Command> {
        let pid = self.init()?.to_string();
        let mut command = words(&["nsenter", "-t", &pid, "-a", "env", "-i", "HOME=/root", "LANG=C.UTF-8"]);
        command.arg(format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".into())));
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").args(all);
        Ok(command)
    }

    fn command(&self, all: &[&str]) -> Result<Command> {
        let mut command = self.enter(&["timeout", "-k5", COMMAND_TIME])?;
        command.args(all);
        Ok(command)
    }

    /// Runs a command inside the host that may fail.
    pub fn run(&self, all: &[&str]) -> Result<Done> {
        capture(&mut self.command(all)?)
    }

    /// Runs a command inside the host that must succeed; gives its output.
    pub fn must(&self, all: &[&str]) -> Result<String> {
        check(&mut self.command(all)?)
    }

    /// Runs `nsctl` with the words of one line.
    pub fn nsctl(&self, line: &str) -> Result<Done> {
        let mut all = vec!["nsctl"];
        all.extend(line.split_whitespace());
        self.run(&all)
    }

    /// Runs `nsctl`, which must succeed; gives its standard output.
    pub fn nsctl_ok(&self, line: &str) -> Result<String> {
        let done = self.nsctl(line)?;
        if !done.ok() {
            bail!("nsctl {line} ended with {}:\n{}", done.status, done.all());
        }
        Ok(done.stdout)
    }

    /// Runs lines of shell inside the host that must all succeed.
    pub fn sh(&self, lines: &str) -> Result<String> {
        self.must(&["sh", "-euc", lines])
    }

    /// Installs Debian packages from the small repository, which a host sees at [`REPOSITORY`].
    pub fn install(&self, packages: &str) -> Result<()> {
        let options = "-qq -o Dir::Etc::SourceList=/run/lab.list -o Dir::Etc::SourceParts=/dev/null";
        self.sh(&format!(
            "echo '{}' > /run/lab.list; apt-get {options} update
             DEBIAN_FRONTEND=noninteractive apt-get {options} --yes --no-install-recommends install {packages}",
            self.mirror()
        ))
        .map(drop)
    }

    /// That repository, in the words of sources.list(5).
    pub fn mirror(&self) -> String {
        format!("deb [trusted=yes] copy://{REPOSITORY} {} main", self.suite.name())
    }

    /// The suite that the host runs.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// A command in the network namespace of a machine, with the tools of the
    /// machine that we run on.
    pub fn within(&self, machine: &str, all: &[&str]) -> Result<Command> {
        let leader = self.must(&["machinectl", "show", machine, "-p", "Leader", "--value"])?;
        let net = format!("--net=/proc/{}/root/proc/{}/ns/net", self.init()?, leader.trim());
        let mut command = words(&["nsenter", &net]);
        command.args(all);
        Ok(command)
    }

    /// Runs lines of shell there that may fail.
    pub fn inside(&self, machine: &str, lines: &str) -> Result<Done> {
        capture(&mut self.within(machine, &["bash", "-euc", lines])?)
    }

    /// Waits until a guest has booted: nsctl does not, and a guest's own start of
    /// nftables.service, say, takes away what was loaded before.
    pub fn booted(&self, machine: &str) -> Result<()> {
        // It has no bus at first, and says nothing. To ask is work for it: not too often.
        self.sh(&format!(
            "until systemctl --machine {machine} is-system-running 2> /dev/null | grep -qE 'running|degraded'; do sleep 0.5; done"
        ))
        .map(drop)
    }

    /// `list --json`, parsed.
    pub fn list(&self) -> Result<serde_json::Value> {
        let text = self.nsctl_ok("list --json")?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// One machine's object of `list --json`.
    pub fn machine(&self, name: &str) -> Result<serde_json::Value> {
        let all = self.list()?;
        let found = all.as_array().and_then(|a| a.iter().find(|m| m["name"] == name));
        found.cloned().with_context(|| format!("no {name} in {all}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            eprintln!("cannot end a host: {error:#}");
        }
        self.servers.clear();
        self.disk = None;
        if let Err(error) = remove_tree(&self.dir) {
            eprintln!("cannot remove {}: {error:#}", self.dir.display());
        }
    }
}

/// Waits for something that no event tells of; for what is remote or in a guest.
pub fn until(limit: Duration, what: &str, mut seen: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !seen()? {
        if start.elapsed() > limit {
            bail!("not seen within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    Ok(())
}

fn wait_ready(socket: &UnixDatagram, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        let left =
            limit.checked_sub(start.elapsed()).filter(|d| !d.is_zero()).context("no READY=1 in time")?;
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            received => received.context("no READY=1 in time")?,
        };
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}

fn only_child(pid: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    text.trim().parse().with_context(|| format!("process {pid} has children '{text}'"))
}

/// The nsctl under test: what the variable names, or the one built beside this harness.
pub fn binary(variable: &str, place: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()?.with_file_name(place);
    if !beside.exists() {
        bail!("{} is not there; `make build` makes it", beside.display());
    }
    Ok(beside)
}
