//! What is planned for a host that runs, and why: steps, notes and effects, of recorded hosts.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use model::Host;
use nsctl::apply::Executor;
use nsctl::emit::ManagedFile;
use nsctl::hint::Hint;
use nsctl::name::MachineName;
use nsctl::nftables::table::Difference;
use nsctl::observed::{Address, Chain, DefaultRoute, Link, Nftables, Observed, Sharing, Tool};
use nsctl::plan::{Change, NewImage, Plan, Refusal, Scope, Source, Whole, plan, spec_of, whole};
use nsctl::provision::FirstBoot;
use nsctl::spec::{HOST_FILE, MachineSpec, Network, Routed, definition_path};
use nsctl::state;

const POOL: &str = "pool = \"2001:db8:a::/48\"\n";
const HOUSE: &str = "pool = \"2001:db8:a::/48\"\n[dns]\nzone = \"machines.internal\"\nlisten = true\n\
                     [bridge.vbr0]\nuplink = \"enp6s0\"\n[bridge.vbr1]\nuplink = \"enp7s0\"\n";
const BRIDGE: &str = "[bridge.vbr0]\nuplink = \"enp6s0\"\n";
const DELEGATED: &str = "local = \"fd00:a:b::/48\"\n[uplink]\ninterface = \"enp6s0\"\ndelegated = 56\n\
                         network-file = \"20-enp6s0.network\"\n";
const TUNNEL: &str = "pool = \"2001:db8:a::/48\"\n[uplink]\ninterface = \"he0\"\nmtu = 1480\n\
                      [uplink.tunnel]\nserver = \"192.0.2.1\"\nclient-address = \"2001:db8:1f0a:c::2/64\"\n";
const SINGLE: &str = "pool = \"2001:db8:b::/64\"\n[uplink]\ninterface = \"wan0\"\n";
const ON_LINK: &str = "pool = \"2001:db8:b::/64\"\n[uplink]\ninterface = \"wan0\"\non-link = true\n";
const WEB: &str = "image = \"base\"\n[network]\nmode = \"routed\"\n";
const BOUND: &str = "image = \"base\"\nbind = [\"/srv/world\"]\n[network]\nmode = \"routed\"\n";
const DISK: &str = "image = \"base\"\n[network]\nmode = \"routed\"\n[limits]\ndisk = \"20G\"\n";
const BUILDBOT: &str = "image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n";

const TRUNK: &str = "[bridge.vbr0]\nuplink = \"enp6s0\"\nvlans = [20, 30]\n";
const IN_VLAN: &str = "image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\nvlan = 20\n";
const BOTH: &str = "image = \"base\"\n[network]\nmode = \"routed\"\nbridge = \"vbr0\"\n";

fn own(address: &str) -> Address {
    Address {
        interface: 2,
        address: address.parse().unwrap(),
        tentative: false,
        deprecated: false,
        duplicate: false,
        global: true,
    }
}

fn name(word: &str) -> MachineName {
    word.parse().unwrap()
}

/// A host before its first plan.
fn bare(host: &str, machines: &[(&str, &str)]) -> Host {
    let recorded = Host::new();
    recorded.write(HOST_FILE.into(), Some(host.to_owned()));
    machines.iter().for_each(|(name, text)| define(&recorded, name, Some(text)));
    let mut now = recorded.now.borrow_mut();
    now.systemd = 257;
    now.sharing = Sharing::Snapshot;
    now.machine_id = Some("0123456789abcdef0123456789abcdef".into());
    drop(now);
    recorded
}

/// A host that is as its files say.
fn settled(host: &str, machines: &[(&str, &str)]) -> Host {
    let recorded = bare(host, machines);
    carry_out(&recorded);
    recorded
}

fn define(host: &Host, machine: &str, text: Option<&str>) {
    host.write(definition_path(&name(machine)), text.map(str::to_owned));
}

fn see(host: &Host, edit: impl FnOnce(&mut Observed)) {
    edit(&mut host.now.borrow_mut());
}

fn clone_of(image: &str, to: &MachineName) -> NewImage {
    NewImage { source: Source::Clone(image.into()), to: to.clone(), first_boot: Some(FirstBoot::default()) }
}

/// The whole host as its files say, as `nsctl plan` has it.
fn everything(observed: &Observed) -> Result<Whole, Vec<Refusal>> {
    let spec = spec_of(observed).unwrap();
    let state = state::parse(observed.file(state::path())).unwrap();
    let treeless = spec.machines.iter().filter(|(name, _)| !observed.images.contains(name.as_str()));
    let images: BTreeMap<_, _> = treeless
        .filter_map(|(name, machine)| Some((name.clone(), Ok(clone_of(machine.image.as_deref()?, name)))))
        .collect();
    whole(&spec, &state, observed, &images, BTreeSet::new(), Vec::new())
}

fn carry_out(host: &Host) {
    let plan = everything(&host.observed()).unwrap().plan;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(host.perform(&plan.steps, None)).unwrap();
}

fn list(title: &str, lines: impl Iterator<Item = String>) -> String {
    let lines: String = lines.map(|line| format!("    {}\n", line.replace('\n', "\n    "))).collect();
    if lines.is_empty() { lines } else { format!("{title}\n{lines}") }
}

fn refused(title: &str, refusals: &[Refusal]) -> String {
    let line =
        |refusal: &Refusal| format!("{refusal}\nhint: {}", refusal.hint().unwrap_or_else(|| "none".into()));
    list(title, refusals.iter().map(line))
}

fn sheet(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|step| step.describe());
    let all = list("notes", plan.notes.iter().cloned())
        + &list("effects", plan.effects.iter().map(|effect| effect.describe()))
        + &list("steps", steps);
    let all = if all.is_empty() { "nothing to do\n".to_owned() } else { all };
    all + if plan.takes_away() { "it takes something away\n" } else { "" }
}

fn shown(name: &str, sheet: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("plans");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, sheet));
}

fn picture(name: &str, host: &Host) {
    let said = match everything(&host.observed()) {
        Ok(Whole { plan, left_out, .. }) => sheet(&plan) + &refused("left out", &left_out),
        Err(refusals) => refused("refused", &refusals),
    };
    shown(name, &said);
}

/// A test a picture: a host, and what happened to it since.
macro_rules! pictures {
    ($($name:ident: $host:expr, $since:expr;)*) => {
        $(#[test]
        fn $name() {
            let host = $host;
            let since: fn(&Host) = $since;
            since(&host);
            picture(stringify!($name), &host);
        })*
    };
}

pictures! {
    first: bare(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]), |_| ();
    first_delegated: bare(DELEGATED, &[("web", WEB)]), |_| ();
    first_tunnel: bare(TUNNEL, &[("web", WEB)]), |_| ();
    at_rest: settled(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]), |_| ();

    restart_for_a_variable: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nenvironment = { A = \"b\" }\n[network]\nmode = \"routed\"\n"));
    };
    restart_for_a_token: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\n[network]\nmode = \"routed\"\ntoken = \"::5\"\n"));
    };
    limits_of_a_machine_that_runs: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nlimits = { memory = \"2G\" }\n[network]\nmode = \"routed\"\n"));
    };
    ports_of_a_machine_that_runs: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nopen = [\"tcp/443\"]\nexpose = [{ port = \"tcp/443\", to = \"127.0.0.1:8443\", host = 443 }]\n[network]\nmode = \"routed\"\n"));
    };
    moved_between_bridges: settled(HOUSE, &[("buildbot", BUILDBOT)]), |host| {
        define(host, "buildbot", Some("image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr1\"\n"));
    };
    vlan_first: settled(HOUSE, &[("buildbot", BUILDBOT)]), |host| {
        host.write(HOST_FILE.into(), Some(HOUSE.replace("enp6s0\"\n", "enp6s0\"\nvlans = [20, 30]\n")));
        define(host, "web", Some(IN_VLAN));
    };
    vlan_changed: settled(TRUNK, &[("web", IN_VLAN), ("buildbot", BUILDBOT)]), |host| {
        define(host, "web", Some(&IN_VLAN.replace("20", "30")));
    };
    vlan_not_carried: settled(TRUNK, &[("web", IN_VLAN)]), |host| host.write(HOST_FILE.into(), Some(BRIDGE.to_owned()));
    vlan_of_a_broken_one: settled(TRUNK, &[("web", IN_VLAN)]), |host| {
        define(host, "web", Some("[netw"));
        host.write(HOST_FILE.into(), Some(BRIDGE.to_owned()));
    };
    vlan_of_somebody_elses_bridge: settled(TRUNK, &[]), |host| define(host, "web", Some(&IN_VLAN.replace("vbr0", "br0")));
    vlans_no_longer_apart: settled(TRUNK, &[("web", IN_VLAN)]), |host| see(host, |now| {
        now.links.iter_mut().for_each(|link| link.vlan_filtering = false);
    });
    vlans_gone_beside_the_users_own: settled(BRIDGE, &[("buildbot", BUILDBOT)]), |host| see(host, |now| {
        now.links.iter_mut().filter(|link| link.name == "vbr0").for_each(|link| link.vlan_filtering = true);
    });
    vlans_half_apart: settled(TRUNK, &[("web", IN_VLAN), ("buildbot", BUILDBOT)]), |host| see(host, |now| {
        now.links.iter_mut().for_each(|link| link.default_pvid = 1);
        let index = now.link("vbr0").map(|link| link.index);
        now.links.iter_mut().filter(|link| link.name == "enp6s0").for_each(|link| link.master = index);
        now.links.push(Link { index: 77, name: "tap0".into(), master: index, ..Link::default() });
    });
    vlans_without_their_bridge: settled(TRUNK, &[]), |host| see(host, |now| now.links.retain(|link| link.name != "vbr0"));
    vlan_and_bridge_at_once: settled(HOUSE, &[("buildbot", &BUILDBOT.replace("vbr0", "vbr1"))]), |host| {
        host.write(HOST_FILE.into(), Some(HOUSE.replace("enp6s0\"\n", "enp6s0\"\nvlans = [20, 30]\n")));
        define(host, "buildbot", Some(IN_VLAN));
    };
    vlan_of_one_that_does_not_run: settled(TRUNK, &[("buildbot", BUILDBOT)]), |host| define(host, "web", Some(&IN_VLAN.replace("20", "200")));
    vlan_twice: settled(TRUNK, &[]), |host| define(host, "web", Some(&format!("{IN_VLAN}[networkd.BridgeVLAN]\nPVID = \"30\"\n")));
    vlans_gone: settled(TRUNK, &[("buildbot", BUILDBOT)]), |host| host.write(HOST_FILE.into(), Some(BRIDGE.to_owned()));
    second_interface: settled(HOUSE, &[("web", WEB)]), |host| define(host, "web", Some(BOTH));
    second_interface_elsewhere: settled(HOUSE, &[("web", BOTH)]), |host| define(host, "web", Some(&BOTH.replace("vbr0", "vbr1")));
    second_interface_gone: settled(HOUSE, &[("web", BOTH)]), |host| define(host, "web", Some(WEB));
    second_interface_to_bridged: settled(HOUSE, &[("web", BOTH)]), |host| define(host, "web", Some(BUILDBOT));
    second_interface_taken_off: settled(HOUSE, &[("web", BOTH)]), |host| see(host, |now| {
        now.links.iter_mut().filter(|link| link.name == "vb-web").for_each(|link| link.master = None);
    });
    routed_to_bridged: settled(HOUSE, &[("web", WEB)]), |host| define(host, "web", Some(BUILDBOT));
    bridged_to_routed: settled(HOUSE, &[("web", BUILDBOT)]), |host| define(host, "web", Some(WEB));
    taken_off_its_bridge: settled(HOUSE, &[("buildbot", BUILDBOT)]), |host| see(host, |now| {
        now.links.iter_mut().for_each(|link| link.master = None);
    });
    starts_with_the_host_no_longer: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nautostart = false\n[network]\nmode = \"routed\"\n"));
    };
    definition_gone: settled(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]), |host| define(host, "web", None);
    many_at_once: settled(POOL, &["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, WEB))), |host| {
        ["a", "b", "c", "d", "e", "f", "g"].iter().for_each(|machine| host.stop(&name(machine)));
    };

    pool_gone: settled(POOL, &[("web", WEB)]), |host| host.write(HOST_FILE.into(), None);
    pool_changed: settled(POOL, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(POOL.replace("db8:a", "db8:b")));
    };
    delegated_to_fixed: settled(DELEGATED, &[("web", WEB)]), |host| host.write(HOST_FILE.into(), Some(POOL.to_owned()));
    delegated_length_changed: settled(DELEGATED, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(DELEGATED.replace("56", "60")));
    };
    tunnel_changed: settled(TUNNEL, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(TUNNEL.replace("192.0.2.1", "192.0.2.9")));
    };
    single_becomes_on_link: settled(SINGLE, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(format!("{SINGLE}on-link = true\n")));
    };
    on_link: bare(ON_LINK, &[("web", WEB)]), |host| see(host, |now| now.addresses.push(own("2001:db8:b::100")));
    tunnel_mtu_changed: settled(TUNNEL, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(TUNNEL.replace("1480", "1280")));
    };
    tunnel_gone: settled(TUNNEL, &[("web", WEB)]), |host| host.write(HOST_FILE.into(), Some(POOL.to_owned()));
    dns_added: settled(POOL, &[("web", WEB)]), |host| {
        host.write(HOST_FILE.into(), Some(format!("{POOL}[dns]\nzone = \"example.org\"\nlisten = true\n")));
    };
    bridge_gone_with_a_machine_on_it: settled(HOUSE, &[("buildbot", BUILDBOT)]), |host| host.write(HOST_FILE.into(), Some(POOL.to_owned()));
    bridge_gone: settled(HOUSE, &[]), |host| host.write(HOST_FILE.into(), Some(POOL.to_owned()));
    bridge_gone_with_the_default_route: settled(BRIDGE, &[]), |host| {
        host.write(HOST_FILE.into(), Some(String::new()));
        see(host, |now| {
            let index = now.link("vbr0").unwrap().index;
            now.default_routes = vec![DefaultRoute { interface: index, gateway: None }];
        });
    };
    bridge_takes_the_default_route: bare(BRIDGE, &[]), |host| see(host, |now| now.default_routes.push(DefaultRoute { interface: 2, gateway: None }));
    bridge_without_its_port: bare(BRIDGE, &[]), |host| see(host, |now| now.links.clear());
    bridge_of_somebody_else: bare(BRIDGE, &[]), |host| see(host, |now| now.links[1].name = "vbr0".into());

    bridge_port_taken: bare(BRIDGE, &[]), |host| see(host, |now| {
        now.links[1] = Link { index: 9, name: "br9".into(), kind: Some("bridge".into()), ..now.links[0].clone() };
        now.links[0].master = Some(9);
    });
    bridge_port_is_a_bridge: bare(BRIDGE, &[]), |host| see(host, |now| now.links[0].kind = Some("bridge".into()));

    firewall_flushed: settled(HOUSE, &[("web", WEB)]), |host| see(host, |now| {
        let gone = Difference { object: "table inet nsctl".into(), what: "is not loaded".into(), about: None, added: false };
        now.nftables = Some(Nftables { drift: vec![gone], ..Nftables::default() });
    });
    firewall_changed: settled(HOUSE, &[("web", WEB)]), |host| see(host, |now| {
        let rule = |k: u32| Difference { object: "chain forward".into(), what: format!("has a rule too many: {k}"), about: None, added: true };
        now.nftables = Some(Nftables { ours: true, drift: (1..=6).map(rule).collect(), ..Nftables::default() });
    });
    firewall_of_docker: settled(POOL, &[]), |host| {
        define(host, "web", Some(WEB));
        see(host, |now| {
            let chain = Chain { family: "ip6".into(), table: "filter".into(), name: "FORWARD".into(), tool: Tool::Docker, passes: BTreeSet::new() };
            now.nftables = Some(Nftables { ours: true, dropping: vec![chain], ..Nftables::default() });
        });
    };
    no_nft: bare(POOL, &[("web", WEB)]), |host| see(host, |now| now.nftables = None);

    stopped_by_hand: settled(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]), |host| {
        host.stop(&name("web"));
        see(host, |now| _ = now.stopped.insert(name("web")));
    };
    died: settled(HOUSE, &[("web", WEB)]), |host| host.stop(&name("web"));
    edited: settled(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]), |host| {
        edit(host, &ManagedFile::Nspawn(name("web")).path());
        define(host, "buildbot", Some("image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr1\"\n"));
    };
    edited_of_the_host: settled(HOUSE, &[("web", WEB)]), |host| edit(host, &ManagedFile::Sysctl.path());
    written_by_hand: settled(POOL, &[]), |host| {
        define(host, "web", Some(WEB));
        host.write(ManagedFile::Nspawn(name("web")).path(), Some("[Exec]\nHostname=mc\n".into()));
    };
    tree_missing: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "other", Some("[network]\nmode = \"routed\"\n"));
        define(host, "third", Some("image = \"debian-14\"\n[network]\nmode = \"routed\"\n"));
    };
    bind_missing: settled(POOL, &[]), |host| {
        define(host, "web", Some("image = \"base\"\nbind = [\"/srv/world:/world\"]\n[network]\nmode = \"routed\"\n[nspawn.Exec]\nHostnam = \"mc\"\n"));
        see(host, |now| _ = now.missing.insert("/srv/world".into()));
    };
    binds_added: settled(POOL, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nbind = [\"/srv/world:/world\"]\ndevice = [\"/dev/kvm\"]\n[network]\nmode = \"routed\"\n"));
    };
    bind_read_only_added: settled(POOL, &[("web", WEB)]), |host| {
        define(host, "web", Some(&format!("bind-read-only = [\"/opt\"]\n{WEB}")));
    };
    bind_added_that_hides_another: settled(POOL, &[("web", BOUND)]), |host| {
        define(host, "web", Some(&BOUND.replace("[\"/srv/world\"", "[\"/srv/world\", \"/mnt:/srv\"")));
    };
    bind_with_options_added: settled(POOL, &[("web", BOUND)]), |host| {
        define(host, "web", Some(&BOUND.replace("[\"/srv/world\"", "[\"/srv/world\", \"/mnt:/mnt:idmap\"")));
    };
    bind_gone: settled(POOL, &[("web", BOUND)]), |host| {
        define(host, "web", Some(WEB));
    };
    disk_limited: settled(POOL, &[("web", WEB)]), |host| {
        define(host, "web", Some(&format!("{WEB}[limits]\ndisk = \"20G\"\n")));
        define(host, "new", Some(&format!("{WEB}[limits]\ndisk = \"1536M\"\n")));
    };
    limited_disk_goes: settled(POOL, &[("web", DISK), ("more", DISK), ("gone", DISK)]), |host| {
        define(host, "web", Some(WEB));
        define(host, "more", Some(&DISK.replace("20G", "infinity")));
        define(host, "gone", None);
    };
    checked_and_started_again: settled(POOL, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\nrestart = \"always\"\nafter = [\"db\", \"nobody\"]\n[network]\nmode = \"routed\"\n[check]\ntcp = 80\n"));
        define(host, "db", Some("image = \"base\"\n[network]\nmode = \"routed\"\n[check]\ncommand = \"true\"\n"));
    };
    moved_and_changed: settled(HOUSE, &[("buildbot", BUILDBOT)]), |host| {
        define(host, "buildbot", Some(&format!("{}[environment]\nA = \"b\"\n", BUILDBOT.replace("vbr0", "vbr1"))));
    };
    host_port_of_a_changing_prefix: settled(&DELEGATED.replace("local = \"fd00:a:b::/48\"\n", ""), &[]), |host| {
        define(host, "web", Some("image = \"base\"\nexpose = [{ port = \"tcp/80\", host = 80 }]\n[network]\nmode = \"routed\"\n"));
    };
    several_left_out: settled(HOUSE, &[("web", WEB)]), |host| {
        define(host, "web", Some("[netw"));
        define(host, "pin", Some("image = \"base\"\n[network]\nmode = \"routed\"\nsubnet = \"2001:db8:b::/64\"\n"));
        define(host, "nowhere", Some("image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr7\"\n"));
        define(host, "localhost", Some(WEB));
        define(host, "good", Some(WEB));
    };
    more_than_a_64: settled(POOL, &[("web", WEB)]), |host| {
        define(host, "web", Some("image = \"base\"\n[network]\nmode = \"routed\"\nprefix = 60\nroutes = [\"2001:db8:c::/56\"]\n"));
    };
    pool_full: settled("pool = \"2001:db8:a::/63\"\n", &[("web", WEB)]), |host| {
        define(host, "other", Some(WEB));
        define(host, "buildbot", Some("image = \"base\"\n[network]\nmode = \"bridge\"\nbridge = \"vbr0\"\n"));
    };
}

fn edit(host: &Host, path: &Path) {
    let text = host.now.borrow().file(path).unwrap().to_owned();
    host.write(path.to_owned(), Some(text + "# mine\n"));
}

/// A verb's own plan.
fn verb(name: &str, host: &Host, scope: Scope, change: impl FnOnce(Change<'_>) -> Change<'_>) {
    let observed = host.observed();
    let spec = spec_of(&observed).unwrap();
    let state = state::parse(observed.file(state::path())).unwrap();
    let wanted = change(Change::of(&spec, &state, &observed, scope)).settle().unwrap();
    let said =
        plan(&wanted, &observed).map_or_else(|refusals| refused("refused", &refusals), |plan| sheet(&plan));
    shown(name, &said);
}

#[test]
fn verb_create() {
    let web = name("web");
    let machine = MachineSpec::new(Network::Routed(Routed::default()));
    verb("verb_create", &settled(HOUSE, &[]), Scope::Machine(web.clone()), |change| {
        change.define(&web, &machine).unwrap().image(Some(clone_of("base", &web))).start(&web, true)
    });
    verb("verb_create_no_image", &settled(HOUSE, &[]), Scope::Machine(web.clone()), |change| {
        change.define(&web, &machine).unwrap().image(Some(clone_of("debian-14", &web))).start(&web, true)
    });
}

/// A machine's verb does not change its bridge: the machine waits.
#[test]
fn verb_create_in_a_vlan() {
    let (host, web) = (settled(BRIDGE, &[]), name("web"));
    host.write(HOST_FILE.into(), Some(TRUNK.to_owned()));
    let machine = MachineSpec::parse(Path::new("web.toml"), IN_VLAN).unwrap();
    verb("verb_create_in_a_vlan", &host, Scope::Machine(web.clone()), |change| {
        change.define(&web, &machine).unwrap().image(Some(clone_of("base", &web))).start(&web, true)
    });
}

#[test]
fn verb_rename() {
    let host = settled(HOUSE, &[("web", WEB)]);
    host.stop(&name("web"));
    verb("verb_rename", &host, Scope::Renamed(name("web"), name("shop")), |change| {
        change.rename(&name("web"), &name("shop"))
    });
}

#[test]
fn verb_remove() {
    let host = settled(HOUSE, &[("web", WEB), ("buildbot", BUILDBOT)]);
    verb("verb_remove", &host, Scope::Machine(name("web")), |change| {
        change.forget(&name("web")).drop_tree(&name("web"))
    });
}
