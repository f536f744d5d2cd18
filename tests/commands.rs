//! What each command says, and what it writes: a picture a command, below a folder of files.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What there is before the commands that are shown.
#[derive(Default)]
struct Host {
    steps: Vec<Before>,
}

enum Before {
    /// A file of this text.
    File(&'static str, String),
    /// What is added to a file that is there.
    Edit(&'static str, &'static str),
    Gone(&'static str),
    /// A command that succeeds.
    Done(&'static str),
    /// A tar file with these files in it.
    Archive(&'static str, &'static [(&'static str, &'static str)]),
}

const BARE: Host = Host { steps: Vec::new() };
const WEB: &str = "etc/nsctl/machines.d/web.toml";
const HOST: &str = "etc/nsctl/nsctl.toml";
const STATE: &str = "var/lib/nsctl/state.toml";
const JOURNAL: &str = "var/lib/nsctl/journal/00000000000000000001.json";
const ROUTED: &str = "[network]\nmode = \"routed\"\n";
const NETWORKD: &str = "pool = \"2001:db8:a::/48\"\n[uplink]\ninterface = \"wan0\"\naccept-ra = \"networkd\"\n\
                        network-file = \"20-wan0.network\"\n";
const DELEGATED: &str = "local = \"fd00:a:b::/48\"\n[uplink]\ninterface = \"wan0\"\ndelegated = 56\n\
                         network-file = \"20-wan0.network\"\n[dns]\nzone = \"machines.internal\"\nlisten = true\n";

const WG: &str = "[Interface]\nPrivateKey = AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\
                  Address = 2001:db8:9::2/64\n[Peer]\nPublicKey = ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n\
                  PresharedKey = QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=\nAllowedIPs = ::/0\n\
                  Endpoint = 203.0.113.1:51820\n";

/// A host that has a pool.
fn pool() -> Host {
    BARE.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        .done("init --pool 2001:db8:a::/48 --uplink wan0")
}

/// The same, with a bridge, a routed machine and a bridged one.
fn house() -> Host {
    pool()
        .done("bridge create vbr0 --uplink enp6s0")
        .done("create web --routed --open tcp/443")
        .done("create buildbot --bridge vbr0")
}

/// A host with a machine that was made by hand, and a file of it.
fn old(path: &'static str, text: &'static str) -> Host {
    pool().file("var/lib/machines/old/etc/os-release", "ID=debian\n").file(path, text)
}

/// What a killed `nsctl attach web --bridge vbr0` leaves, which has written this file, of that text.
fn cut_short(path: &str, old: &str, new: &str) -> String {
    let step = serde_json::json!({ "step": "write", "path": path, "old": old, "new": new });
    let journal = serde_json::json!({ "version": 2, "command": "attach web --bridge vbr0", "fate": "undo", "reached": 1, "steps": [step] });
    journal.to_string()
}

impl Host {
    fn with(mut self, step: Before) -> Host {
        self.steps.push(step);
        self
    }

    fn file(self, path: &'static str, text: impl Into<String>) -> Host {
        self.with(Before::File(path, text.into()))
    }

    fn edit(self, path: &'static str, more: &'static str) -> Host {
        self.with(Before::Edit(path, more))
    }

    fn gone(self, path: &'static str) -> Host {
        self.with(Before::Gone(path))
    }

    fn done(self, line: &'static str) -> Host {
        self.with(Before::Done(line))
    }

    fn archive(self, path: &'static str, files: &'static [(&'static str, &'static str)]) -> Host {
        self.with(Before::Archive(path, files))
    }

    /// Makes it in a folder.
    fn make(&self, root: &Path) {
        for step in &self.steps {
            match step {
                Before::File(path, text) => {
                    let path = root.join(path);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, text).unwrap();
                }
                Before::Edit(path, more) => {
                    let text = std::fs::read_to_string(root.join(path)).unwrap();
                    std::fs::write(root.join(path), text + more).unwrap();
                }
                Before::Gone(path) => std::fs::remove_file(root.join(path)).unwrap(),
                Before::Done(line) => {
                    let (status, said) = run(root, line);
                    assert_eq!(status, 0, "{line}: {said}");
                }
                Before::Archive(path, files) => {
                    let mut archive = tar::Builder::new(std::fs::File::create(root.join(path)).unwrap());
                    for (path, text) in *files {
                        let mut header = tar::Header::new_ustar();
                        header.set_size(text.len() as u64);
                        header.set_mode(0o600);
                        archive.append_data(&mut header, path, text.as_bytes()).unwrap();
                    }
                    archive.finish().unwrap();
                }
            }
        }
    }
}

/// In memory, where there is such a place: each command makes sure that what it wrote is on the disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The words of a line; some may be in quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// Runs a command below a folder: its status, and what it said.
fn run(root: &Path, line: &str) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nsctl"));
    command.env_clear().env("NO_COLOR", "1").current_dir(root).stdin(Stdio::null());
    if !line.contains("--root") {
        command.arg("--root").arg(root);
    }
    let output = command.args(words(line)).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(root.to_str().unwrap(), "ROOT");
    let mut said = String::new();
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            said += &format!("--- {name}\n{}\n", text(bytes).trim_end());
        }
    }
    (output.status.code().unwrap(), said)
}

type Files = BTreeMap<PathBuf, String>;

/// All files below a folder.
fn files(root: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                let target = std::fs::read_link(&path).unwrap();
                files.insert(path.strip_prefix(root).unwrap().into(), format!("-> {}\n", target.display()));
            } else if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("nsctl/lock") {
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                files.insert(path.strip_prefix(root).unwrap().into(), text);
            }
        }
    }
    files
}

/// Which files are new, others or gone; of those that people write or look into, their text.
fn changes(before: &Files, after: &Files) -> String {
    let paths: std::collections::BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let mut sheet = String::new();
    for path in paths {
        let (old, new) = (before.get(path), after.get(path));
        if old == new {
            continue;
        }
        let verb = match (old, new) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "changed",
        };
        sheet += &format!("{verb} {}\n", path.display());
        let told = ["etc/nsctl", STATE, "etc/hosts", "etc/sysctl.d", "etc/systemd/resolved.conf.d"];
        if told.iter().any(|place| path.starts_with(place)) || path.to_string_lossy().contains(".network.d/")
        {
            let lines = new.into_iter().flat_map(|text| text.lines());
            sheet.extend(lines.map(|line| format!("    {line}").trim_end().to_owned() + "\n"));
        }
    }
    if sheet.is_empty() { sheet } else { format!("--- files\n{sheet}") }
}

/// Commands one after another: what they said, and what they wrote.
fn picture(name: &str, host: &Host, lines: &[&str]) {
    let folder = folder();
    let root = folder.path().canonicalize().unwrap();
    host.make(&root);
    let mut sheet = Vec::new();
    for line in lines {
        let before = files(&root);
        let (status, said) = run(&root, line);
        let wrote = changes(&before, &files(&root));
        sheet.push(format!("$ nsctl {line}\nstatus {status}\n{said}{wrote}"));
    }
    shown(name, &sheet.join("\n"));
}

fn shown(name: &str, sheet: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("commands");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, sheet));
}

/// A test a picture.
macro_rules! pictures {
    ($($name:ident: $host:expr, $($line:literal),+;)*) => {
        $(#[test]
        fn $name() {
            picture(stringify!($name), &$host, &[$($line),+]);
        })*
    };
}

pictures! {
    usage_nothing: BARE, "";
    usage_help: BARE, "--help";
    usage_unknown_verb: BARE, "frobnicate";
    usage_missing_words: BARE, "create web", "open web", "clone web", "init";
    usage_contradiction: BARE, "init --pool 2001:db8:a::/48 --uplink wan0 --delegated wan0";
    usage_no_number: BARE, "list --wait soon";
    usage_no_folder: BARE,
        "--root /nowhere/at/all init --pool 2001:db8:a::/48",
        "--root /nowhere/at/all list";
    usage_no_shell: BARE, "completions tcsh";

    init_native: BARE, "init --pool 2001:db8:a::/48 --uplink wan0";
    init_without_uplink: BARE, "init --pool 2001:db8:a::/48";
    init_again: pool(), "init --pool 2001:db8:a::/48 --uplink wan0";
    init_quiet: BARE, "--quiet init --pool 2001:db8:a::/48";
    init_keeps_comments:
        BARE.file(HOST, "# ours since 2024\npool = \"2001:db8:b::/48\" # the old one\n\n[dns]\nzone = \"example.org\"\n\
                         servers = [\"2001:db8:5::53\"]\n"),
        "--quiet init --pool 2001:db8:a::/48 --uplink wan0";
    init_keeps_what_was_known:
        BARE.file(HOST, format!("{NETWORKD}mtu = 1480\n")).done("apply --yes"),
        "init --pool 2001:db8:a::/48 --uplink wan0";
    init_bad_pools: BARE,
        "init --pool 2001:db8:a::/113",
        "init --pool 2001:db8:a::1/48",
        "init --pool 192.0.2.0/24",
        "init --pool a-word",
        "init --pool fe80::/10",
        "init --pool ::/0";
    init_bad_uplink: BARE, "init --pool 2001:db8:a::/48 --uplink much-too-long-a-name";
    init_overlapping_pools: house(),
        "init --pool 2001:db8:a::/56 --uplink wan0",
        "init --pool 2001:db8::/32 --uplink wan0",
        "init --tunnel he --server 192.0.2.1 --client-address 2001:db8:a:9::2/64 --pool 2001:db8:a::/48";
    init_another_pool: house(), "init --pool 2001:db8:b::/48 --uplink wan0";
    init_tunnel: BARE,
        "init --tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48 --local 198.51.100.7 --mtu 1472",
        "init --tunnel he --server 192.0.2.9 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48 --local 198.51.100.7 --mtu 1472";
    init_tunnel_usage: BARE,
        "init --tunnel he --pool 2001:db8:a::/48",
        "init --pool 2001:db8:a::/48 --mtu 9000",
        "init --tunnel he --server 192.0.2.1 --client-address 2001:db8:1f0a:c::2/64 --pool 2001:db8:a::/48 --uplink wan0";
    init_wireguard: BARE.file("wg0.conf", WG),
        "init --wireguard wg0.conf --pool 2001:db8:a::/48",
        "create web --routed",
        "init --pool 2001:db8:a::/48 --uplink wan0";
    init_wireguard_by_hand: BARE
            .file("wg0.conf", WG)
            .done("init --wireguard wg0.conf --pool 2001:db8:a::/48")
            .file(HOST, "pool = \"2001:db8:a::/48\"\n"),
        "apply --yes";
    init_wireguard_bad: BARE
            .file("postup.conf", WG.replace("[Peer]", "PreUp = touch /evil\nPostUp = touch /evil\nPreDown = touch /evil\nPostDown = touch /evil\n[Peer]") + "PostUp = touch /evil\n")
            .file("astray.conf", WG.replace("::/0", "2001:db8:a:1::/64"))
            .file("much-too-long-a-name.conf", WG)
            .file("text", "hello\n"),
        "init --wireguard postup.conf --pool 2001:db8:a::/48",
        "init --wireguard astray.conf --pool 2001:db8:a::/48",
        "init --wireguard much-too-long-a-name.conf --pool 2001:db8:a::/48",
        "init --wireguard text --pool 2001:db8:a::/48",
        "init --wireguard nowhere.conf --pool 2001:db8:a::/48",
        "init --wireguard wg0.conf";
    dns_push_bad: pool()
            .edit(HOST, "[dns.push]\nzone = \"example.org\"\nserver = \"192.0.2.53\"\nkey = \"tsig.key\"\n"),
        "dns --push",
        "dns --if-changed",
        "dns --push --zone example.net";
    dns_push_nothing: pool(), "dns --push";
    init_single: BARE,
        "init --pool 2001:db8:b::/64 --uplink wan0",
        "create web --routed --image base",
        "list",
        "pool",
        "dns --format zone",
        "init --pool 2001:db8:b::/64 --uplink wan0 --on-link",
        "plan",
        "apply --yes";
    init_on_link_usage: BARE,
        "init --on-link",
        "init --pool 2001:db8:a::/48 --on-link --uplink wan0",
        "init --pool 2001:db8:b::/64 --on-link",
        "init --delegated wan0 --on-link";
    init_delegated: BARE,
        "init --delegated wan0",
        "init --delegated wan0 --length 64",
        "init --delegated wan0 --pool 2001:db8:a::/48";

    fleet_none: pool(), "fleet status", "fleet list", "fleet check", "fleet join --etcd https://192.0.2.1:2379,http://x";
    fleet_bad: pool().edit(HOST, "[fleet]\netcd = []\nown = \"2001:db8:b::/64\"\n"),
        "fleet status",
        "fleet join",
        "fleet join --etcd https://etcd:2379 --user nsctl",
        "fleet join --etcd unix:///run/a:0,unix:///run/b:0";

    bridge_dhcp: pool(), "bridge create vbr0 --uplink enp6s0";
    bridge_static: pool(),
        "bridge create vbr0 --uplink enp6s0 --address 192.168.5.9/24 --address 2001:db8:5::9/64 --gateway 192.168.5.1";
    bridge_again: house(), "bridge create vbr0 --uplink enp6s0";
    bridge_trunk: pool().done("bridge create vbr0 --uplink enp6s0 --vlan 20 --vlan 30"),
        "create web --routed --bridge vbr0 --vlan 20",
        "show web --json",
        "attach web --bridge vbr0 --vlan 30",
        "attach web --routed --bridge vbr0",
        "attach web --routed",
        "create other --bridge vbr0 --vlan 40",
        "create other --routed --vlan 20",
        "create other --bridge vbr0 --vlan 4095",
        "bridge create vbr1 --uplink enp7s0 --vlan 1";
    bridge_second: house(), "bridge create vbr1 --uplink enp7s0";
    bridge_its_own_port: pool(), "bridge create vbr1 --uplink vbr1";
    bridge_taken: house(),
        "bridge create vbr0 --uplink enp7s0",
        "bridge create vbr1 --uplink enp6s0",
        "bridge create ve-web --uplink enp7s0";
    bridge_bad_words: pool(),
        "bridge create a-bridge-with-a-long-name --uplink enp7s0",
        "bridge create vbr1 --uplink enp7s0 --address 192.168.5.9",
        "bridge create vbr1 --uplink enp7s0 --gateway 192.168.5.1",
        "bridge create vbr1 --uplink enp7s0 --address 192.168.5.9/24 --gateway gate";

    create_routed: pool(), "create web --routed";
    create_bridged: pool().done("bridge create vbr0 --uplink enp6s0"), "create buildbot --bridge vbr0";
    create_open: pool(),
        "create web --routed --ipv4 nat --open tcp/443 --open udp/5000-5010 --open \"tcp/22 from 2001:db8:5::/48\" --image debian-13 --no-start";
    create_open_from_an_address: pool(), "--quiet create web --routed --open \"tcp/22 from 2001:db8::1/48\"";
    create_of_a_tree: pool().file("var/lib/machines/web/etc/os-release", "ID=debian\n"), "create web --routed";
    create_handwritten:
        pool().file("etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=mc\n[Network]\nZone=lan\n[Files]\nBind=/srv/world\n"),
        "create web --routed";
    create_no_pool: BARE, "create web --routed";
    create_no_bridge: pool(), "create web --bridge vbr7";
    create_taken: house(), "create web --routed", "create WEB --routed";
    create_bad_names: pool(),
        "create --routed -- -web",
        "create --routed wéb",
        "create --routed \"\"",
        "create --routed localhost",
        "create --routed wpad";
    create_bad_ports: pool(),
        "create web --routed --open 443",
        "create web --routed --open tcp/70000",
        "create web --routed --open tcp/9-3",
        "create web --routed --open \"tcp/22 from everybody\"",
        "create web --routed --ipv4 maybe";
    create_bridged_with_ports: house(), "create other --bridge vbr0 --open tcp/443";
    create_bad_first_boot: pool(),
        "create web --routed --image debian-13 --hostname=-web",
        "create web --routed --image debian-13 --ssh-key nowhere.pub",
        "create web --routed --hostname web.example.org",
        "create web --routed --image ./nowhere.tar",
        "create web --routed --max-size huge";
    create_ipv4_of_its_own: pool(),
        "create web --routed --image base --ipv4 192.0.2.9",
        "create db --routed --image base --ipv4 192.0.2.9",
        "create db --bridge vbr0 --ipv4 192.0.2.9",
        "create db --routed --ipv4 224.0.0.1",
        "clone web other",
        "attach web --bridge vbr0";
    create_more_than_a_64: pool(),
        "create router --routed --image base --prefix 60 --route 2001:db8:c::/56",
        "create web --routed --image base",
        "create other --routed --image base --route 2001:db8:c:1::/64",
        "create other --routed --image base --route 2001:db8:d::/56 --route 2001:db8:d:1::/64",
        "create other --routed --image base --route 2001:db8:a:77::/64",
        "create other --routed --image base --route 2001:db8:d::1/56",
        "create other --routed --image base --route fe80::/64",
        "create other --routed --image base --route 192.0.2.0/24",
        "create other --routed --image base --prefix 48",
        "create other --routed --image base --prefix 8",
        "create other --bridge vbr0 --prefix 60",
        "pool",
        "show router --json",
        "clone router other",
        "attach router --bridge vbr0";
    create_more_than_a_64_of_what_changes: BARE.file(HOST, DELEGATED),
        "create web --routed --image base --prefix 60",
        "create web --routed --image base --route 2001:db8:c::/56";
    create_more_than_a_64_of_one: BARE.done("init --pool 2001:db8:b::/64"),
        "create web --routed --image base --prefix 60",
        "--quiet create web --routed --image base --route 2001:db8:c::/56";
    create_no_room: BARE.done("init --pool 2001:db8:a::/60").done("create one --routed --prefix 61"),
        "create two --routed --prefix 61",
        "create two --routed --prefix 62",
        "create three --routed";
    create_pool_full: BARE.done("init --pool 2001:db8:a::/63").done("create one --routed"), "create two --routed";
    create_bad_host_file: pool().edit(HOST, "uplnk = 3\n"), "create web --routed";
    create_beside_a_broken_one:
        pool().file("etc/nsctl/machines.d/bad.toml", "[network]\nmode = \"rooted\"\n"),
        "--quiet create web --routed";
    create_bad_state: pool().file(STATE, "versi"), "create web --routed";
    create_in_the_way:
        pool().file("etc/systemd/network/05-nsctl-ve-web.network", "[Match]\nName=ve-web\n"),
        "create web --routed";

    attach_routed: house(), "attach buildbot --routed";
    attach_bridge: house().done("expose web tcp/8080 --host 80"), "attach web --bridge vbr0";
    attach_bridge_with_more_to_lose:
        house().file(WEB, format!("ipv4 = \"nat\"\nfirewall = false\n{ROUTED}")).done("apply --yes"),
        "attach web --bridge vbr0";
    attach_same: house(), "attach web --routed", "attach buildbot --bridge vbr0";
    attach_handmade:
        old("etc/systemd/nspawn/old.nspawn", "[Network]\nBridge=br0\n[Exec]\nPrivateUsers=no\n"),
        "attach old --routed";
    attach_refused: house(), "attach nobody --routed", "attach web";
    attach_no_bridge: house(), "attach web --bridge vbr7";

    adopt_routed:
        old("etc/systemd/network/20-old.network",
            "[Match]\nName=ve-old\n[Network]\nAddress=2001:db8:a:7::1/64\nIPv6SendRA=yes\nDHCPServer=yes\n"),
        "adopt old",
        "--quiet adopt old --yes";
    adopt_bridged: old("etc/systemd/nspawn/old.nspawn", "[Network]\nBridge=br0\n"), "adopt old --yes";
    adopt_refused: house().file("var/lib/machines/old/etc/os-release", "ID=debian\n"),
        "adopt web",
        "adopt nobody",
        "adopt old";
    adopt_first_file:
        old("etc/systemd/network/01-old.network", "[Match]\nName=ve-*\n[Network]\nAddress=2001:db8:a:7::1/64\n"),
        "adopt old --yes";

    open_ports: house(), "open web tcp/80 udp/5000-5010 --from 2001:db8:5::/48";
    open_twice: house(), "open web tcp/443";
    open_refused: house(),
        "open nobody tcp/80",
        "open buildbot tcp/80",
        "open web 80",
        "open web tcp/80 --from everybody";
    open_no_firewall: house().file(WEB, format!("firewall = false\n{ROUTED}")), "open web tcp/80";
    open_keeps_comments:
        house().file(WEB, format!("# the shop\nopen = [\n    \"tcp/443\", # https\n]\n\n{ROUTED}")),
        "open web tcp/80";
    open_edited: house().edit("var/lib/nsctl/firewall/web.nft", "# mine\n"), "open web tcp/80";
    close_ports: house(), "close web tcp/443";
    close_refused: house(), "close web tcp/80", "close web tcp/443 --from 2001:db8:5::/48";

    expose_inside: house(), "expose web tcp/8080";
    expose_both: house(), "expose web tcp/8080 --to 127.0.0.1:80 --host 80";
    expose_host_alone: house(), "expose web tcp/443 --host 443";
    expose_taken:
        house().done("create other --routed").done("expose other tcp/80 --host 80"),
        "expose web tcp/80 --host 80";
    expose_refused: house(),
        "expose web udp/53",
        "expose web tcp/80-90",
        "expose web tcp/80 --host 0",
        "expose web tcp/80 --to here",
        "expose buildbot tcp/80 --host 81",
        "expose nobody tcp/80";
    unexpose_one_by_one: house().done("expose web tcp/8080 --host 80 --to 127.0.0.1:8080"),
        "unexpose web tcp/8080 --host",
        "unexpose web tcp/8080 --host",
        "unexpose web tcp/8080",
        "unexpose web tcp/8080";

    unexpose_what_is_not: house().done("expose web tcp/443 --host 443"), "unexpose web tcp/443 --inside";

    rename_routed: house(), "rename web shop";
    rename_bridged: house(), "rename buildbot builder";
    rename_refused: house(),
        "rename web buildbot",
        "rename nobody somebody",
        "rename web web",
        "rename web localhost";
    rename_edited: house().edit("etc/systemd/nspawn/web.nspawn", "# mine\n"), "rename web shop";
    clone_routed: house().done("expose web tcp/8080 --host 80"), "clone web shop";
    clone_bridged: house(), "clone buildbot builder";
    clone_refused: house(), "clone web buildbot", "clone nobody somebody";
    remove_machine: house(), "remove web", "remove web --yes";
    remove_with_edits: house().edit("etc/systemd/nspawn/web.nspawn", "# mine\n"), "remove web --yes";
    remove_with_a_tree: house().file("var/lib/machines/web/etc/os-release", "ID=debian\n"), "--quiet remove web --yes", "list";
    remove_refused: house(), "remove nobody --yes";
    remove_broken: house().file(WEB, "[netw"), "remove web --yes";
    remove_handwritten:
        pool().file("etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=mc\n").done("create web --routed"),
        "remove web --yes";
    broken_definition: house().file(WEB, "[netw"),
        "attach web --routed",
        "adopt web",
        "open web tcp/80",
        "expose web tcp/80",
        "rename web shop",
        "clone web shop",
        "export web web.tar",
        "show web";

    plan_nothing: house(), "plan", "plan --json", "plan --exit-code";
    plan_a_machine: pool().file(WEB, ROUTED), "plan --exit-code";
    plan_a_change: house().edit(WEB, "token = \"::5\"\n"), "plan";
    plan_json: house().edit(WEB, "token = \"::5\"\n"), "plan --json";
    plan_edited: house().edit("etc/systemd/nspawn/web.nspawn", "# mine\n"), "plan", "plan --json";
    plan_foreign: pool().file(WEB, ROUTED).file("etc/systemd/nspawn/web.nspawn", "[Exec]\nHostname=mc\n"), "plan";
    plan_left_out:
        house()
            .file(WEB, "[netw")
            .file("etc/nsctl/machines.d/-x.toml", ROUTED)
            .file("etc/nsctl/machines.d/pin.toml", format!("{ROUTED}subnet = \"2001:db8:b::/64\"\n")),
        "plan";
    plan_pins_that_overlap:
        pool()
            .file(WEB, format!("{ROUTED}subnet = \"2001:db8:a:10::/60\"\n"))
            .file("etc/nsctl/machines.d/db.toml", format!("{ROUTED}subnet = \"2001:db8:a:17::/64\"\n"))
            .file("etc/nsctl/machines.d/own.toml", format!("{ROUTED}subnet = \"2001:db8:a::/56\"\n"))
            .file("etc/nsctl/machines.d/two.toml", format!("{ROUTED}subnet = \"2001:db8:a:7::/64\"\nprefix = 60\n")),
        "plan";
    plan_no_pool: BARE.file(WEB, ROUTED), "plan";
    plan_bad_host_file: pool().edit(HOST, "uplnk = 3\n"), "plan";
    apply_nothing: house(), "apply";
    apply_a_machine: pool().file(WEB, ROUTED), "apply --yes";
    apply_a_change: house().edit(WEB, "token = \"::5\"\n"), "apply", "apply --yes";
    apply_left_out: pool().file(WEB, "[netw").file("etc/nsctl/machines.d/good.toml", ROUTED), "apply --yes";
    apply_gone: house().gone(WEB), "apply --yes";
    apply_kernel_ra: BARE.file(HOST, NETWORKD.replace("networkd", "kernel")), "--quiet apply --yes";
    apply_networkd_ra: BARE.file(HOST, NETWORKD), "--quiet apply --yes";
    apply_delegated: BARE.file(HOST, DELEGATED).file(WEB, ROUTED), "--quiet apply --yes";
    apply_dns:
        BARE.file(HOST, "pool = \"2001:db8:a::/48\"\n[dns]\nzone = \"example.org\"\nlisten = true\n")
            .file("etc/hosts", "127.0.0.1 localhost\n")
            .file("etc/hostname", "house\n")
            .file(WEB, ROUTED),
        "--quiet apply --yes";
    apply_bad_dns: BARE.file(HOST, "pool = \"2001:db8:a::/48\"\n[dns]\nzone = \"-example.org\"\n"), "apply";
    apply_own_name: pool().file("etc/hostname", "web\n").file(WEB, ROUTED), "apply --yes";
    apply_host_port_of_a_changing_prefix:
        BARE.file(HOST, DELEGATED.replace("local = \"fd00:a:b::/48\"\n", ""))
            .file(WEB, format!("expose = [{{ port = \"tcp/80\", host = 80 }}]\n{ROUTED}")),
        "--quiet apply --yes";

    journal_undone: house().file(JOURNAL, cut_short("/etc/hosts.conf", "old\n", "new\n")).file("etc/hosts.conf", "new\n"),
        "list web",
        "apply";
    journal_not_undone:
        house().file(JOURNAL, cut_short("/etc/systemd/network/05-nsctl-ve-web.network", "old\n", "new\n")),
        "open web tcp/80",
        "list web",
        "plan",
        "--quiet create other --routed";
    journal_damaged: house().file(JOURNAL, "{"), "list web", "plan", "open web tcp/80";

    pool_empty: pool(), "pool", "pool --json";
    pool_used: house().done("create old --routed").done("remove old --yes"), "pool", "pool --json";
    pool_none: BARE, "pool";
    pool_gone: house().gone(HOST), "list", "pool";
    list_none: BARE, "list", "list --json";
    list_all: house(), "list", "list web";
    list_json: house(), "list web --json";
    list_nobody: house(), "list nobody";
    list_drift:
        house()
            .edit("etc/systemd/nspawn/web.nspawn", "# mine\n")
            .gone("etc/systemd/nspawn/buildbot.nspawn")
            .file("etc/systemd/nspawn/other.nspawn", "[Exec]\n"),
        "list";
    list_broken: house().file(WEB, "[netw").edit(HOST, "uplnk = 3\n"), "list";
    show_routed: house().done("expose web tcp/8080 --host 80"), "show web", "show web --json";
    show_bridged: house(), "show buildbot";
    show_edited: house().edit(WEB, "token = \"::5\"\n"), "show web";
    show_nobody: house(), "show nobody";
    delegated_prefix: BARE.file(HOST, DELEGATED).file(WEB, ROUTED).done("apply --yes"),
        "list",
        "show web",
        "pool",
        "dns",
        "init --pool 2001:db8:a::/48";

    dns_formats: house().done("create Shop --routed").done("create a.b --routed --ipv4 192.0.2.9"),
        "dns",
        "dns --format hosts",
        "dns --format reverse --zone example.org.";
    dns_refused: house(), "dns --zone=-example.org", "dns --format bind";
    dns_none: BARE, "dns";
    reservation_formats: house(),
        "reservation buildbot --format dnsmasq --address 192.168.5.50",
        "reservation buildbot --format kea --address 192.168.5.50",
        "reservation buildbot --format isc --address 192.168.5.50";
    reservation_refused: house(),
        "reservation web --format dnsmasq",
        "reservation nobody --format dnsmasq",
        "reservation buildbot --format dnsmasq",
        "reservation buildbot --format isc --address 2001:db8:5::50",
        "reservation buildbot";
    state_rebuild: house().gone(STATE), "state rebuild";
    state_rebuild_damaged: house().file(STATE, "versi"), "list", "state rebuild";
    state_rebuild_refused: house(), "state rebuild";
    state_newer: house().file(STATE, "version = 4\n"), "plan", "state rebuild";

    export_below_root: house(), "export web web.tar", "export nobody web.tar", "export web web.zip";
    import_machine:
        pool().archive("web.tar", &[
            ("nsctl-definition.toml", "bind = [\"/srv/world\"]\nfirewall = false\n[network]\nmode = \"routed\"\nsubnet = \"2001:db8:b:7::/64\"\n"),
            ("etc/os-release", "ID=debian\n"),
        ]),
        "import web.tar",
        "import web.tar --no-privileges --yes";
    import_of_what_reaches_far:
        pool().archive("web.tar", &[("nsctl-definition.toml", "[network]\nmode = \"routed\"\n[nspawn.Exec]\nHostname = \"mc\"\nCapability = \"all\"\n\
            [nspawn.Files]\nBind = \"/srv\"\n[networkd.Network]\nIPForward = true\n[[expose]]\nport = \"tcp/80\"\nhost = 80\n")]),
        "import web.tar",
        "--quiet import web.tar --no-privileges --yes";
    import_refused:
        house()
            .archive("plain.tar", &[("etc/os-release", "ID=debian\n")])
            .archive("bad.tar", &[("nsctl-definition.toml", "[netw")])
            .archive("web.tar", &[("nsctl-definition.toml", ROUTED)]),
        "import nowhere.tar",
        "import plain.tar",
        "import bad.tar",
        "import web.tar --yes",
        "import web.tar --name=-x --yes";

    live_only_run: house(), "start web", "stop web", "restart web", "start";
    live_only_look: house(),
        "doctor",
        "doctor web --json",
        "doctor --fix --yes",
        "doctor --online 2001:db8::1",
        "doctor --yes";
    live_only_inside: house(), "shell web", "logs web", "cp a web:/b", "cp a b";
    live_only_images: house(),
        "image list",
        "image build debian:trixie",
        "image build trixie",
        "image import nowhere.tar",
        "image pull ftp://example.org/tree.tar",
        "image remove nothing";
    doctor_probe_no_pool: BARE, "doctor --probe 1";

    set_one_key: house(),
        "set web limits.memory=2G",
        "set web limits.memory=2G",
        "set web limits.memory=",
        "set web environment.PORT=8080 description=2026",
        "set web autostart=no",
        "set web network.mode=bridge network.bridge=vbr0",
        "set web description=mine \"open=['tcp/22']\"";
    set_refused: house(),
        "set web memory",
        "set web memory=2G",
        "set web limits.memory=much",
        "set web image.x=1",
        "set web network.mode=bridge",
        "set nobody limits.memory=2G";
    set_what_restarts: house(), "set web network.token=::9";
    autostart: house(), "disable web buildbot", "disable web", "enable web", "enable nobody";
    deinit: house().done("remove web --yes"), "deinit", "deinit --yes", "deinit --yes";
    deinit_of_a_tunnel: BARE.done("init --tunnel he --server 203.0.113.1 --client-address 2001:db8:9::2/64 --pool 2001:db8:a::/48"),
        "deinit --yes";
    deinit_with_machines: house(),
        "deinit",
        "deinit --force --yes",
        "plan",
        "init --pool 2001:db8:a::/48 --uplink wan0",
        "apply --yes";
    init_renumbered: house(),
        "init --pool 2001:db8:b::/56 --uplink wan0",
        "init --pool 2001:db8:b::/56 --uplink wan0 --renumber",
        "init --pool 2001:db8:b::/56 --uplink wan0 --renumber --yes",
        "init --delegated wan0 --yes";
    init_renumbered_pinned: pool().file(WEB, "[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\n").done("apply --yes"),
        "init --pool 2001:db8:b::/56 --uplink wan0 --renumber --yes";
    bridge_listed: house().done("bridge create vbr1 --uplink enp7s0 --vlan 20"), "bridge list", "bridge list --json";
    bridge_none: BARE, "bridge list", "bridge remove vbr0";
    bridge_removed_from_the_only_file: house().done("attach buildbot --routed"), "bridge remove vbr0 --yes";
    bridge_removed: house().file("etc/systemd/network/20-lan.network", "[Match]\nName=enp*\n[Network]\nDHCP=yes\n"),
        "bridge remove vbr0 --yes",
        "attach buildbot --routed",
        "bridge remove vbr0",
        "bridge remove vbr0 --yes",
        "plan";
    list_columns: house(),
        "list -o name,image,autostart,memory",
        "list --sort network",
        "list --running",
        "list --bridge vbr0 -o name,network",
        "list -o name,nothing";
    remove_several: house(), "remove web nobody --yes", "remove web buildbot", "rm web buildbot --yes", "rm --all";
    export_ending: house(), "export web web.zip";
    json_of_a_change: house(), "open web tcp/80 --json", "attach web --bridge nowhere --json";
    json_of_errors: BARE,
        "list nobody --json",
        "create a_b --routed --json",
        "create web --json",
        "frobnicate --json",
        "pool --json";
    json_of_what_is_left_out: pool().file(WEB, "mode = 1\n"), "apply --yes --json", "list --json";
    json_of_names: house(), "dns --json", "reservation buildbot --format kea --address 192.0.2.5 --json";
    verbose_steps: pool(), "create web --routed --verbose";
    explain_keys: BARE, "explain limits.memory", "explain bridge.vbr0.vlans", "explain memory", "explain nothing", "explain uplink.mtu --json";
    usage_tips: BARE, "top", "lst", "shel";
    doctor_explain: BARE,
        "doctor --explain accept-ra",
        "doctor --explain nothing",
        "doctor web --explain mtu --json";
}

#[test]
fn help_of_every_verb() {
    let verbs = [
        "init",
        "deinit",
        "create",
        "attach",
        "adopt",
        "open",
        "close",
        "expose",
        "unexpose",
        "bridge create",
        "bridge list",
        "bridge remove",
        "image",
        "image list",
        "image build",
        "image import",
        "image pull",
        "image remove",
        "list",
        "show",
        "top",
        "stats",
        "metrics",
        "events",
        "start",
        "stop",
        "restart",
        "kill",
        "enable",
        "disable",
        "set",
        "edit",
        "secret",
        "secret set",
        "secret list",
        "secret remove",
        "shell",
        "logs",
        "cp",
        "clone",
        "rename",
        "snapshot",
        "snapshot list",
        "snapshot show",
        "snapshot remove",
        "rollback",
        "backup",
        "backup list",
        "backup verify",
        "restore",
        "upgrade",
        "export",
        "import",
        "remove",
        "plan",
        "apply",
        "doctor",
        "explain",
        "prune",
        "pool",
        "dns",
        "reservation",
        "state rebuild",
        "completions",
    ];
    let root = folder();
    for verb in verbs {
        let (status, said) = run(root.path(), &format!("{verb} --help"));
        assert_eq!(status, 0, "{verb}");
        shown(&format!("help_{}", verb.replace(' ', "_")), &format!("$ nsctl {verb} --help\n{said}"));
    }
}

/// They ask nsctl itself. How that goes in a shell, the laboratory tries.
#[test]
fn completions_of_every_shell() {
    let root = folder();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, said) = run(root.path(), &format!("completions {shell}"));
        assert_eq!(status, 0, "{shell}");
        assert!(said.contains("nsctl") && said.contains("COMPLETE"), "{shell}");
    }
}

/// Documents for programs are as docs/schema.json says, and have nothing that it does not.
#[test]
fn json_is_as_its_schema_says() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../docs/schema.json")).unwrap();
    let folder = folder();
    let root = folder.path().canonicalize().unwrap();
    let record = "taken = 1795953854\nhow = \"frozen\"\nlease = \"2001:db8:a:1::/64\"\ndefinition = \"x\"\n";
    house().make(&root);
    let snapshots = root.join("var/lib/nsctl/snapshots");
    std::fs::create_dir_all(&snapshots).unwrap();
    std::fs::write(snapshots.join("web@first.toml"), record).unwrap();
    for (line, name) in [
        ("list", "list"),
        ("show web", "machine"),
        ("show buildbot", "machine"),
        ("plan", "plan"),
        ("open web tcp/80", "change"),
        ("expose web tcp/8080 --host 80", "change"),
        ("list", "list"),
        ("pool", "pool"),
        ("dns", "dns"),
        ("bridge list", "bridges"),
        ("snapshot list", "snapshots"),
        ("snapshot show web first", "snapshot"),
        ("reservation buildbot --format kea --address 192.0.2.5", "reservation"),
        ("explain limits.memory", "explain"),
        ("attach web --bridge vbr0", "change"),
        ("remove web --yes", "change"),
        ("apply --yes", "change"),
        ("list nobody", "failure"),
        ("create web", "failure"),
        ("frobnicate", "failure"),
    ] {
        let (_, said) = run(&root, &format!("{line} --json"));
        let text = said.strip_prefix("--- stdout\n").unwrap_or_else(|| panic!("{line}: {said}"));
        let text = text.split("--- stderr").next().unwrap();
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        let wanted = serde_json::json!({ "$ref": format!("#/$defs/{name}"), "$defs": schema["$defs"] });
        let validator = jsonschema::validator_for(&wanted).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&document).map(|error| format!("{error}")).collect();
        assert!(wrong.is_empty(), "{line}: {wrong:?}\n{text}");
    }
}
