//! The firewall of routed machines: one nftables table, loaded whole in one
//! transaction (nft(8)), and the unit that loads it before a machine starts.

use std::fmt::Write;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::file::{FIREWALL_DIR, FIREWALL_FILE, FIREWALL_UNIT, ManagedFile};
use super::ini::Ini;
use super::{nat64, nftables_unit};
use crate::name::{IfName, MachineName, kernel_name};
use crate::nftables::TO_MACHINES;
use crate::nftables::counter::Reason::{Refused, Spoofed};
use crate::nftables::counter::counter;
use crate::pool::Prefix;
use crate::spec::{OpenPort, Spec};

/// It is never deleted to be made anew: between the two, packets slip through.
/// Its chains and sets are emptied and filled again in one transaction, and each
/// packet meets either the old or the new of each.
///
/// What must be there before it is emptied are commands: each block of a table costs nft(8)
/// half a megabyte and half a millisecond, so there is one.
const HEAD: &str = "\
add table inet nsctl
# The hosts' ends of the machines' veths.
add set inet nsctl machines { type ifname; }
# Which chain judges what is sent to a machine, and which what it sends.
add map inet nsctl inbound { type ifname : verdict; }
add map inet nsctl outbound { type ifname : verdict; }
# Where machines are by plan.
add set inet nsctl planned { type ipv6_addr; }
# What machines route on: nobody there is the host's neighbour.
add set inet nsctl behind { type ipv6_addr; flags interval; }
# What counts the packets that a machine sends with an address that is none of its own.
add map inet nsctl spoofed { type ifname : counter; }
# Whose packets to IPv4 are translated.
add set inet nsctl translated { type ifname . ipv6_addr; }
# Which addresses the host takes for neighbours, and who has got new ones of late.
add set inet nsctl near { type ifname . ipv6_addr; size 65536; flags dynamic,timeout; timeout 30s; }
add set inet nsctl newcomers { type ifname; size 65536; flags dynamic,timeout; timeout 1m; }

flush table inet nsctl
flush set inet nsctl machines
flush map inet nsctl inbound
flush map inet nsctl outbound
flush set inet nsctl planned
flush set inet nsctl behind
flush map inet nsctl spoofed
flush set inet nsctl translated

table inet nsctl {
";

/// The chains that all hosts have alike. Everything is written as nft(8) lists it, so that
/// what is loaded can be compared without asking nft what it makes of this.
///
/// - `fib saddr . iif` asks whether answers to the sender would go back the way
///   it came (RFC 3704 2.2): a machine's own /64, and its IPv4 address, pass. An interface of
///   number 0 is none; the word for that is another since nft 1.1.4.
/// - Errors of ICMP and ICMPv6, and pings, pass even where connection tracking does not know
///   what they are about: without packet-too-big, large transfers hang (RFC 4890 4.3.1).
/// - To the host go neighbour discovery, DHCP, DNS and ping; no router
///   advertisements or redirects, which would change the host's own routes.
/// - The kernel's table of neighbours is one for all links, and full at some thousand entries
///   (RFC 6583): a machine's prefix has 2^64 addresses, and each that is sent to, or that asks for
///   the host, takes a place in it. So a machine gets 20 new ones a second, and 100 at once,
///   beside its planned one, by which it finds the host whatever else it sends.
/// - Every packet that passes the host meets the chain forward, and what it does there is most of what the
///   firewall costs. So who sends or receives is first looked at by the begin of its name, which all links of
///   nspawn's have (systemd-nspawn(1), `--network-veth`) and which is compared at once; only theirs are looked up.
/// - What is dropped on a machine's account is counted by that machine's own counters, which outlive a
///   reload; a machine that is in no map matches no rule that counts by it, and the next rule drops.
const CHAINS: [(&str, &[&str]); 7] = [
    ("spoofed", &["counter name iifname map @spoofed", "counter drop"]),
    ("own-address", &["fib saddr . iif oif 0 goto spoofed"]),
    (
        "always",
        &[
            "ct state established,related accept",
            "icmp type { destination-unreachable, echo-request, time-exceeded, parameter-problem } accept",
            "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request } accept",
        ],
    ),
    (
        "always-near",
        &[
            "ct state established,related goto near",
            "icmp type { destination-unreachable, echo-request, time-exceeded, parameter-problem } goto near",
            "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request } goto near",
        ],
    ),
    (
        "host-input",
        &[
            "icmpv6 type { nd-router-advert, nd-redirect } counter drop",
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit } goto near-senders",
            "icmpv6 type nd-neighbor-advert accept",
            "icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
            "udp dport 67 accept",
            "jump own-address",
            "jump always",
            "udp dport { 53, 547 } accept",
            "tcp dport 53 accept",
            "counter drop",
        ],
    ),
    (
        "near-senders",
        &[
            "ip6 saddr @planned fib saddr . iif oif != 0 accept",
            "iifname . ip6 saddr @near update @near { iifname . ip6 saddr } accept",
            "update @newcomers { iifname limit rate over 20/second burst 100 packets } counter drop",
            "add @near { iifname . ip6 saddr } accept",
            "counter drop",
        ],
    ),
    (
        "near",
        &[
            "meta nfproto ipv4 accept",
            "ip6 daddr @planned accept",
            "ip6 daddr @behind accept",
            "ip6 daddr ff00::/8 accept",
            "oifname . ip6 daddr @near update @near { oifname . ip6 daddr } accept",
            "update @newcomers { oifname limit rate over 20/second burst 100 packets } counter drop",
            "add @near { oifname . ip6 daddr } accept",
            "counter drop",
        ],
    ),
];
const INCLUDE: &str = "\ninclude \"/var/lib/nsctl/firewall/*.nft\"\n";

/// A chain and its rules.
type Chain = (&'static str, Vec<String>);

/// The chains that all machines share, in the order of the file.
fn chains(spec: &Spec) -> Vec<Chain> {
    let host = &spec.host;
    let fixed = host.fixed_pool();
    let dns = fixed.filter(|_| host.dns_listener().is_some());
    let alike = CHAINS.map(|(name, rules)| (name, rules.iter().map(|&rule| rule.to_owned()).collect()));
    let hook = |hook: &str| format!("type filter hook {hook} priority filter; policy accept;");
    let used = nat64::is_used(spec);
    let (translated, from_translator) = if used { nat64::rules() } else { Default::default() };
    let dns64 = host.dns64_listener().filter(|_| used);
    let forward = [hook("forward"), "iifname \"ve-*\" jump machines-out".into()]
        .into_iter()
        .chain(translated)
        .chain([format!("oifname \"ve-*\" goto {TO_MACHINES}")]);
    let input =
        [hook("input"), "iifname @machines jump host-input".into()].into_iter().chain(from_translator);
    let listeners = dns.map(Prefix::host_address).into_iter().chain(dns64);
    let output = vec![hook("output"), "meta nfproto ipv6 oifname @machines goto near".into()];
    let [machines_out, machines_in] = machines_chains(fixed);
    let mut chains = Vec::from(alike);
    let guests = fixed.filter(|_| dns.is_some() || dns64.is_some());
    chains.extend(guests.map(|pool| ("dns-guests", guests_of_dns(pool, host.answers_on()))));
    chains.extend([("machines-out", machines_out), (TO_MACHINES, machines_in)]);
    chains.push(("forward", forward.collect()));
    chains.push(("output", output));
    chains.push(("input", input.chain(listeners.flat_map(asks_of_dns)).collect()));
    chains
}

/// The files that all machines share.
pub fn shared(spec: &Spec) -> Vec<(ManagedFile, String)> {
    let chains = chains(spec);
    let blocks: Vec<String> = chains.iter().map(|(name, rules)| block(name, rules)).collect();
    let names: Vec<&str> = chains.iter().map(|(name, _)| *name).collect();
    let mut files = vec![
        (ManagedFile::Firewall, format!("{HEAD}{}}}\n{INCLUDE}", blocks.join("\n"))),
        (ManagedFile::FirewallGuard, guard_script(&names)),
        (ManagedFile::FirewallUnit, unit()),
        // Also where no machine starts that would load it: the name server would answer the world meanwhile.
        (ManagedFile::BootDropIn, Ini::new().section("Unit").set("Wants", FIREWALL_UNIT).render()),
    ];
    files.extend(nftables_unit::files(spec.debian_nftables, &again(&chains)));
    files
}

/// The base chains once more, behind themselves.
fn again(chains: &[Chain]) -> [(&'static str, String); 2] {
    [("forward", "forward-again"), ("input", "input-again")].map(|(name, again)| {
        let mut rules: Vec<String> =
            chains.iter().filter(|(other, _)| *other == name).flat_map(|(_, rules)| rules).cloned().collect();
        if let Some(hook) = rules.first_mut() {
            *hook = hook.replace("priority filter", "priority filter + 1");
        }
        (again, block(again, &rules))
    })
}

/// What machines send, and what is sent to them.
///
/// All of a pool is routed by this host: who sends from an address of it and comes in where no route
/// leads back is not who he says, and `open … from` of a machine must not let him in.
fn machines_chains(pool: Option<Prefix>) -> [Vec<String>; 2] {
    let spoofed = |from: &str, verdict: &str| {
        pool.map(|pool| format!("ip6 saddr {pool} {from} {verdict} own-address")).into_iter()
    };
    // A machine that is in no map is asked for its way back all the same.
    let out = ["iifname vmap @outbound", "iifname @machines goto own-address"].map(str::to_owned).into_iter();
    let into = std::iter::once("oifname vmap @inbound".to_owned());
    // Of the machines' own the sender is known by then.
    [
        out.chain(spoofed("oifname @machines", "goto")).collect(),
        spoofed("iifname != \"ve-*\" oifname @machines", "jump").chain(into).collect(),
    ]
}

/// The name server that machines ask is theirs alone: it would answer, and
/// amplify, for the whole world.
fn guests_of_dns(pool: Prefix, neighbours: Option<&IfName>) -> Vec<String> {
    // On a link whose addresses are of the pool, too, strangers have them.
    let strangers = neighbours.map(|link| format!("iifname \"{link}\" counter drop"));
    let foreign = format!("ip6 saddr != {pool} ip6 saddr != @behind counter drop");
    strangers.into_iter().chain([foreign, "jump own-address".into()]).collect()
}

fn asks_of_dns(listener: Ipv6Addr) -> [String; 2] {
    ["udp", "tcp"]
        .map(|protocol| format!("iifname != \"lo\" ip6 daddr {listener} {protocol} dport 53 jump dns-guests"))
}

/// A chain in the table's block.
fn block(name: &str, rules: &[String]) -> String {
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    format!("\tchain {name} {{\n{rules}\t}}\n")
}

/// Loaded before there is any network (systemd.special(7), network-pre.target); and again where
/// nftables.service flushes all rules, ours too, when it is reloaded or restarted.
fn unit() -> String {
    Ini::new()
        .section("Unit")
        .set("Description", "Firewall of nsctl's machines")
        .set("After", "nftables.service")
        .set("PartOf", "nftables.service")
        .set("ReloadPropagatedFrom", "nftables.service")
        .set("DefaultDependencies", "no")
        .set("RequiresMountsFor", "/var/lib/nsctl")
        .set("Wants", "network-pre.target")
        .set("Before", "network-pre.target machines.target shutdown.target")
        .set("Conflicts", "shutdown.target")
        .section("Service")
        .set("Type", "oneshot")
        .set("RemainAfterExit", "yes")
        .set("ExecStart", format_args!("nft -f {FIREWALL_FILE}"))
        .set("ExecReload", format_args!("nft -f {FIREWALL_FILE}"))
        .render()
}

/// What must hold before a machine starts: what all share and its own part of the table is
/// loaded, rule for rule. Where it is not it is loaded again; a machine whose part is missing
/// does not start.
pub fn guard(name: &MachineName) -> String {
    format!(
        "/bin/sh {} {name} {}",
        ManagedFile::FirewallGuard.path().display(),
        kernel_name(&name.routed_link())
    )
}

/// The guard's own words, each beginning at the line's begin. What it makes of the files is
/// what nft(8) lists; were it to list something otherwise, the table would be loaded once more
/// than it needs to be.
const SAID: &str = r#"
/^	chain /s/^/table inet nsctl {\n/p
/^		/p
s/^	}$/&\n}/p
s/^add chain inet nsctl \(to-.*\)$/table inet nsctl {\n	chain \1 {/p
s/^add chain inet nsctl \(from-.*\)$/	}\n}\ntable inet nsctl {\n	chain \1 {/p
s/^add rule inet nsctl [^ ]* /		/p
s/^add element inet nsctl machines \(.*\)$/	}\n}\ntable inet nsctl {\n	set machines {\n		type ifname\n		elements = \1\n	}\n}/p
s/^add element inet nsctl \(inbound\|outbound\) \(.*\)$/table inet nsctl {\n	map \1 {\n		type ifname : verdict\n		elements = \2\n	}\n}/p
"#;

/// From so many machines on it takes nft(8) longer to list a few chains (it reads all rules for
/// that) than to load them anew; with fewer, loading would wait for the kernel's readers. From then on,
/// too, a part that changes is loaded by itself.
pub const MANY_PARTS: usize = 100;

/// It looks at what all machines share, and at what concerns one of them. A table that
/// somebody has put to sleep is awake when it is added again.
fn guard_script(chains: &[&str]) -> String {
    let each = |say: &dyn Fn(&str) -> String| chains.iter().map(|chain| say(chain)).collect::<String>();
    let list = each(&|chain| format!("list chain inet nsctl {chain}; "));
    let empty = |chain: &str| format!("add chain inet nsctl {chain}\nflush chain inet nsctl {chain}\n");
    let (empty, own_empty) = (each(&|chain| empty(chain)), empty("to-$1") + &empty("from-$1"));
    let guard = ManagedFile::FirewallGuard.path();
    let guard = guard.display();
    format!(
        r#"# usage: sh {guard} MACHINE LINK
own={FIREWALL_DIR}/$1.nft
if ! test -r "$own" || ! test -r {FIREWALL_FILE}; then
	echo "the firewall of $1 is missing; hint: nsctl apply" >&2
	exit 1
fi
if test "$(set -- {FIREWALL_DIR}/*.nft; echo $#)" -lt {MANY_PARTS}; then
	loaded=$(nft -s "add table inet nsctl; {list}list chain inet nsctl to-$1; list chain inet nsctl from-$1
		get element inet nsctl machines {{ \"$2\" }}
		get element inet nsctl outbound {{ \"$2\" }}; get element inet nsctl inbound {{ \"$2\" }}" 2> /dev/null)
	said=$(sed -n '{SAID}' {FIREWALL_FILE} "$own")
	test "$loaded" = "$said" && exit 0
else
	{{
		echo "add table inet nsctl
{empty}{own_empty}"
		sed -e '/^flush /d' -e '/^include /d' {FIREWALL_FILE}
		cat "$own"
	}} | nft -f - 2> /dev/null && exit 0
fi
exec nft -f {FIREWALL_FILE}
"#
    )
}

/// One machine's part of the table.
#[derive(Debug)]
pub struct Part<'a> {
    pub name: &'a MachineName,
    /// Where it is by plan: of nobody else, the host's own end of the link neither.
    pub planned: Option<Ipv6Addr>,
    /// What it routes on.
    pub behind: &'a [Ipv6Net],
    pub open: &'a [OpenPort],
    pub is_translated: bool,
}

impl Part<'_> {
    /// One command a line: a block of its own for each machine costs nft(8) half a megabyte and a third
    /// of a millisecond.
    ///
    /// No shared chain begins like a machine's own, whatever machines are called.
    pub fn render(&self) -> String {
        let name = self.name;
        let link = kernel_name(&name.routed_link());
        let (refused, spoofed) = (counter(Refused, name), counter(Spoofed, name));
        let mut text = format!("add counter inet nsctl {refused}\nadd counter inet nsctl {spoofed}\n");
        for (chain, rules) in
            [(format!("to-{name}"), self.to(&link, &refused)), (format!("from-{name}"), self.from())]
        {
            let _ = writeln!(text, "add chain inet nsctl {chain}");
            for rule in rules {
                let _ = writeln!(text, "add rule inet nsctl {chain} {rule}");
            }
        }
        for (set, element) in self.elements(&link, &spoofed) {
            let _ = writeln!(text, "add element inet nsctl {set} {{ {element} }}");
        }
        text
    }

    /// What comes in. Packets of what is known, to where the machine is by plan, are most of all, and first.
    ///
    /// What a machine routes on, and does not know, must not come back to it (RFC 7084 L-14): each
    /// packet would go to and fro until its hop limit is used up.
    fn to(&self, link: &str, refused: &str) -> Vec<String> {
        let mut open = self.open.to_vec();
        open.sort();
        open.dedup();
        let back = (!self.behind.is_empty()).then(|| format!("iifname \"{link}\" counter drop"));
        let known =
            self.planned.map(|planned| format!("ip6 daddr {planned} ct state established,related accept"));
        let rules = back.into_iter().chain(known).chain(["jump always-near".to_owned()]);
        rules.chain(open.iter().map(rule)).chain([format!("counter name \"{refused}\" drop")]).collect()
    }

    /// What it sends: from where it is by plan no route is asked for, from all else the way back. Of its /64 the host
    /// has an address, too, and who feigns that would have the kernel know a connection of the host's.
    fn from(&self) -> Vec<String> {
        let own = self.planned.map(|planned| format!("ip6 saddr {planned} return"));
        own.into_iter().chain(["goto own-address".to_owned()]).collect()
    }

    fn elements(&self, link: &str, spoofed: &str) -> Vec<(&'static str, String)> {
        let name = self.name;
        let translated = self.planned.filter(|_| self.is_translated);
        let mut elements: Vec<(&str, String)> =
            self.planned.iter().map(|address| ("planned", address.to_string())).collect();
        elements.extend(translated.map(|address| ("translated", format!("\"{link}\" . {address}"))));
        elements.extend(self.behind.iter().map(|net| ("behind", listed(*net))));
        elements.extend([
            ("spoofed", format!("\"{link}\" : \"{spoofed}\"")),
            ("machines", format!("\"{link}\"")),
            ("outbound", format!("\"{link}\" : goto from-{name}")),
            ("inbound", format!("\"{link}\" : goto to-{name}")),
        ]);
        elements
    }
}

/// As nft(8) lists it: a single address without a length.
fn listed(net: Ipv6Net) -> String {
    if net.prefix_len() == 128 { net.addr().to_string() } else { net.to_string() }
}

/// Who is let in by his address must come from where answers to it would go: on another
/// interface he feigns it. Those who may come from anywhere may come by any way.
/// A single address is listed without a length.
fn rule(port: &OpenPort) -> String {
    let OpenPort { protocol, first, last, from } = port;
    let (from, way) = from.map_or(Default::default(), |from| {
        let family = if from.addr().is_ipv6() { "ip6" } else { "ip" };
        let single = from.prefix_len() == from.max_prefix_len();
        let from = if single { from.addr().to_string() } else { from.to_string() };
        (format!("{family} saddr {from} "), "fib saddr . iif oif != 0 ")
    });
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!("{from}{} dport {range} {way}goto near", protocol.word())
}
