//! The files that are rendered, for each kind of uplink and each kind of machine.

#![allow(clippy::unwrap_used)]

use nsctl::emit::{Owner, render};
use nsctl::plan::{Scope, settle};
use nsctl::spec::{Spec, definition_path};
use nsctl::state::State;

const NATIVE: &str = r#"
pool = "2001:db8:a::/48"
[uplink]
interface = "wan0"
accept-ra = "kernel"
[dns]
zone = "example.org"
servers = ["2001:db8:5::53", "192.0.2.53"]
[bridge.vbr1]
uplink = "enp7s0"
address = ["192.168.5.9/24", "2001:db8:5::9/64"]
gateway = ["192.168.5.1", "2001:db8:5::1"]
"#;

const DELEGATED: &str = r#"
local = "fd00:a:b::/48"
[uplink]
interface = "wan0"
delegated = 56
dhcp4 = true
network-file = "20-wan0.network"
[dns]
zone = "machines.internal"
listen = true
"#;

const TUNNEL: &str = r#"
pool = "2001:db8:a::/48"
[uplink]
interface = "he0"
mtu = 1472
[uplink.tunnel]
server = "192.0.2.1"
client-address = "2001:db8:1f0a:c::2/64"
local = "198.51.100.7"
"#;

/// Two keys that are none of anybody's.
macro_rules! wireguard {
    ($more:literal, $allowed:literal) => {
        concat!(
            "pool = \"2001:db8:a::/48\"\n[uplink]\ninterface = \"wg0\"\nmtu = 1420\n[uplink.wireguard]\n",
            "address = [\"2001:db8:9::2/64\", \"10.9.0.2/32\"]\ndns = [\"2001:db8::53\"]\n",
            $more,
            "[[uplink.wireguard.peer]]\npublic-key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\npreshared = true\n",
            "endpoint = \"vpn.example.org:51820\"\npersistent-keepalive = 25\nallowed-ips = ",
            $allowed,
        )
    };
}
const WIREGUARD: &str = wireguard!("", "[\"::/0\", \"10.9.0.0/24\"]\n");
const WIREGUARD_OFF: &str =
    wireguard!("table = \"off\"\nlisten-port = 51820\n", "[\"::/0\", \"10.9.0.0/24\"]\n");
const WIREGUARD_TABLE: &str = wireguard!("table = \"1234\"\nfwmark = 7\n", "[\"::/0\"]\n");

const NAT: &str = "ipv4 = \"nat\"\nopen = [\"tcp/443\", \"udp/5000-5010\", \"tcp/22 from 2001:db8:5::/48\"]\n[network]\nmode = \"routed\"\n";
const OWN_IPV4: &str = "ipv4 = \"192.0.2.9\"\n[network]\nmode = \"routed\"\n";
const NAT64: &str = "ipv4 = \"nat64\"\n[network]\nmode = \"routed\"\n";
const EXPOSED: &str = "[network]\nmode = \"routed\"\n[[expose]]\nport = \"tcp/8080\"\nto = \"127.0.0.1:80\"\n\
                       [[expose]]\nport = \"tcp/443\"\nhost = 8443\n";
const WIDE: &str = "[network]\nmode = \"routed\"\nmtu = 1400\nprefix = 60\nroutes = [\"2001:db8:c::/56\"]\n";
const PINNED: &str = "firewall = false\nautostart = false\n[network]\nmode = \"routed\"\nsubnet = \"2001:db8:a:7::/64\"\ntoken = \"::5\"\n";
const RICH: &str = r#"
description = "100 % fun"
bind = ["/srv/world:/world", "/srv/with space"]
bind-read-only = ["/usr/share/doc"]
device = ["/dev/dri/renderD128"]
secret = ["db-password", "acme.token"]
restart = "on-failure"
after = ["db", "web"]
[network]
mode = "bridge"
bridge = "vbr1"
[limits]
memory = "2G"
cpu = "150%"
tasks = 500
[environment]
MOTD = "say \"hi\""
PERCENT = "100 %"
[nspawn.Exec]
Hostname = "mc"
PrivateUsers = "no"
[nspawn.Files]
Bind = ["/srv/a", "/srv/b"]
[networkd.Network]
LLDP = true
[[networkd.Route]]
Gateway = "fe80::1"
[[networkd.Route]]
Gateway = "fe80::2"
Metric = 512
"#;
/// Two bridges' VLANs, one a machine's second interface; and a bridge of somebody else's.
const TRUNK: &str = "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"enp6s0\"\nvlans = [20, 30]\n";
const IN_VLAN: &str = "[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\nvlan = 20\n";
const UNTAGGED: &str = "[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n";
const BOTH: &str = "[network]\nmode = \"routed\"\nbridge = \"vbr0\"\nvlan = 30\n[nspawn.Network]\nVirtualEthernetExtra = \"ve9:x\"\n";
const BOTH_FOREIGN: &str = "ipv4 = \"nat\"\n[network]\nmode = \"routed\"\nbridge = \"br0\"\n";
const PLAIN: &str = "[network]\nmode = \"routed\"\n";

/// The files of a host, or of some of its owners, as one text.
fn picture(name: &str, host: &str, machines: &[(&str, &str)], whose: impl Fn(&Owner) -> bool) {
    let texts =
        machines.iter().map(|(name, text)| (definition_path(&name.parse().unwrap()), Ok((*text).to_owned())));
    let spec = Spec::parse(Some(host), &texts.collect()).unwrap();
    let leases = settle(&spec, State::default().leases, &Scope::All).unwrap();
    let files = render(&spec, &leases);
    let sheet: String = files
        .iter()
        .filter(|(_, rendered)| whose(&rendered.file.owner()))
        .map(|(path, rendered)| format!("==> {}\n{}\n", path.display(), rendered.text))
        .collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("render");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, sheet));
}

fn of_the_host(owner: &Owner) -> bool {
    !matches!(owner, Owner::Machine(_) | Owner::Firewall)
}

fn of_a_machine(owner: &Owner) -> bool {
    matches!(owner, Owner::Machine(_))
}

/// A test a picture.
macro_rules! pictures {
    ($($name:ident: $host:expr, $machines:expr, $whose:expr;)*) => {
        $(#[test]
        fn $name() {
            picture(stringify!($name), $host, &$machines, $whose);
        })*
    };
}

pictures! {
    host_native: NATIVE, [], of_the_host;
    host_delegated: DELEGATED, [], of_the_host;
    host_tunnel: TUNNEL, [], of_the_host;
    host_wireguard: WIREGUARD, [], of_the_host;
    host_wireguard_off: WIREGUARD_OFF, [], of_the_host;
    host_wireguard_table: WIREGUARD_TABLE, [], of_the_host;
    machine_own_ipv4: NATIVE, [("web", OWN_IPV4)], of_a_machine;
    shared_nat64: NATIVE, [("web", NAT64)], |owner| *owner == Owner::Firewall;
    machine_nat64: NATIVE, [("web", NAT64)], of_a_machine;
    firewall_shared: NATIVE, [("web", NAT)], |owner| *owner == Owner::Firewall;
    firewall_shared_delegated: DELEGATED, [("web", NAT)], |owner| *owner == Owner::Firewall;
    machine_plain: NATIVE, [("web", PLAIN)], of_a_machine;
    machine_nat: NATIVE, [("web", NAT)], of_a_machine;
    machine_exposed: NATIVE, [("web", EXPOSED)], of_a_machine;
    machine_wide: NATIVE, [("web", WIDE)], of_a_machine;
    machine_pinned: NATIVE, [("web", PINNED)], of_a_machine;
    machine_rich: NATIVE, [("web", RICH)], of_a_machine;
    machine_delegated: DELEGATED, [("web", NAT)], of_a_machine;
    machine_delegated_exposed: DELEGATED, [("web", EXPOSED)], of_a_machine;
    host_trunk: TRUNK, [], of_the_host;
    machine_in_vlan: TRUNK, [("web", IN_VLAN), ("db", UNTAGGED)], of_a_machine;
    machine_both: TRUNK, [("web", BOTH)], of_a_machine;
    machine_both_long_name: TRUNK, [("a-machine-with-a-long-name", BOTH_FOREIGN)], of_a_machine;
    machine_tunnel: TUNNEL, [("web", PLAIN)], of_a_machine;
    machine_long_name: NATIVE, [("a-machine-with-a-long-name", EXPOSED)], of_a_machine;
}
