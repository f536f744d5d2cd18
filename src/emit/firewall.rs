//! The firewall of routed machines: one nftables table, loaded whole in one
//! transaction (nft(8)), and the unit that loads it before a machine starts.

use std::fmt::Write;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::file::{FIREWALL_DIR, FIREWALL_FILE, FIREWALL_UNIT, ManagedFile};
use super::ini::Ini;
use super::{nat64, nftables_unit};
use crate::name::{IfName, MachineName, kernel_name};
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
# Which chain judges what is sent to a machine.
add map inet nsctl inbound { type ifname : verdict; }
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
/// - What is dropped on a machine's account is counted by that machine's own counters, which outlive a
///   reload; a machine that is in no map matches no rule that counts by it, and the next rule drops.
const CHAINS: [(&str, &[&str]); 6] = [
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
    let forward =
        [hook("forward"), "iifname @machines jump own-address".into()].into_iter().chain(translated);
    let input =
        [hook("input"), "iifname @machines jump host-input".into()].into_iter().chain(from_translator);
    let listeners = dns.map(Prefix::host_address).into_iter().chain(dns64);
    let postrouting = vec![hook("postrouting"), "meta nfproto ipv6 oifname @machines goto near".into()];
    let mut chains = Vec::from(alike);
    let guests = fixed.filter(|_| dns.is_some() || dns64.is_some());
    chains.extend(guests.map(|pool| ("dns-guests", guests_of_dns(pool, host.answers_on()))));
    chains.push(("forward", forward.chain(rules_of_pool(fixed)).collect()));
    chains.push(("postrouting", postrouting));
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

/// All of a pool is routed by this host: who sends from an address of it and
/// comes in where no route leads back is not who he says, and `open … from` of
/// a machine must not let him in.
fn rules_of_pool(pool: Option<Prefix>) -> Vec<String> {
    let spoofed = pool.map(|pool| format!("ip6 saddr {pool} oifname @machines jump own-address"));
    spoofed.into_iter().chain(["oifname vmap @inbound".to_owned()]).collect()
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
s/^add chain inet nsctl \(.*\)$/table inet nsctl {\n	chain \1 {/p
s/^add rule inet nsctl [^ ]* /		/p
s/^add element inet nsctl machines \(.*\)$/	}\n}\ntable inet nsctl {\n	set machines {\n		type ifname\n		elements = \1\n	}\n}/p
s/^add element inet nsctl inbound \(.*\)$/table inet nsctl {\n	map inbound {\n		type ifname : verdict\n		elements = \1\n	}\n}/p
"#;

/// From so many machines on it takes nft(8) longer to list a few chains (it reads all rules for
/// that) than to load them anew; with fewer, loading would wait for the kernel's readers.
const MANY: u32 = 100;

/// It looks at what all machines share, and at what concerns one of them. A table that
/// somebody has put to sleep is awake when it is added again.
fn guard_script(chains: &[&str]) -> String {
    let each = |say: &dyn Fn(&str) -> String| chains.iter().map(|chain| say(chain)).collect::<String>();
    let list = each(&|chain| format!("list chain inet nsctl {chain}; "));
    let empty = |chain: &str| format!("add chain inet nsctl {chain}\nflush chain inet nsctl {chain}\n");
    let (empty, own_empty) = (each(&|chain| empty(chain)), empty("to-$1"));
    let guard = ManagedFile::FirewallGuard.path();
    let guard = guard.display();
    format!(
        r#"# usage: sh {guard} MACHINE LINK
own={FIREWALL_DIR}/$1.nft
if ! test -r "$own" || ! test -r {FIREWALL_FILE}; then
	echo "the firewall of $1 is missing; hint: nsctl apply" >&2
	exit 1
fi
if test "$(set -- {FIREWALL_DIR}/*.nft; echo $#)" -lt {MANY}; then
	loaded=$(nft -s "add table inet nsctl; {list}list chain inet nsctl to-$1
		get element inet nsctl machines {{ \"$2\" }}; get element inet nsctl inbound {{ \"$2\" }}" 2> /dev/null)
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

/// What comes in to one machine. One command a line: a block of its own for each
/// machine costs nft(8) half a megabyte and a third of a millisecond.
///
/// What a machine routes on, and does not know, must not come back to it (RFC 7084 L-14): each
/// packet would go to and fro until its hop limit is used up.
pub fn machine(
    name: &MachineName,
    planned: Option<Ipv6Addr>,
    behind: &[Ipv6Net],
    open: &[OpenPort],
    is_translated: bool,
) -> String {
    // No shared chain begins like it, whatever machines are called.
    let (chain, link) = (format!("to-{name}"), kernel_name(&name.routed_link()));
    let mut open = open.to_vec();
    open.sort();
    open.dedup();
    let rules = open.iter().map(rule);
    let back = (!behind.is_empty()).then(|| format!("iifname \"{link}\" counter drop"));
    let rules = back.into_iter().chain(["jump always".to_owned()]).chain(rules);
    let (refused, spoofed) = (counter(Refused, name), counter(Spoofed, name));
    let rules = rules.chain([format!("counter name \"{refused}\" drop")]);
    let mut text = format!("add counter inet nsctl {refused}\nadd counter inet nsctl {spoofed}\n");
    let _ = writeln!(text, "add chain inet nsctl {chain}");
    for rule in rules {
        let _ = writeln!(text, "add rule inet nsctl {chain} {rule}");
    }
    if let Some(address) = planned {
        let _ = writeln!(text, "add element inet nsctl planned {{ {address} }}");
        if is_translated {
            let _ = writeln!(text, "add element inet nsctl translated {{ \"{link}\" . {address} }}");
        }
    }
    for net in behind {
        // A single address is listed without a length.
        let net = if net.prefix_len() == 128 { net.addr().to_string() } else { net.to_string() };
        let _ = writeln!(text, "add element inet nsctl behind {{ {net} }}");
    }
    let _ = writeln!(text, "add element inet nsctl spoofed {{ \"{link}\" : \"{spoofed}\" }}");
    let _ = writeln!(text, "add element inet nsctl machines {{ \"{link}\" }}");
    let _ = writeln!(text, "add element inet nsctl inbound {{ \"{link}\" : goto {chain} }}");
    text
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
    format!("{from}{} dport {range} {way}accept", protocol.word())
}
