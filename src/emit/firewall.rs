//! The firewall of routed machines: one nftables table, loaded whole in one
//! transaction (nft(8)), and the unit that loads it before a machine starts.

use std::fmt::Write;
use std::path::PathBuf;

use super::ini::Ini;
use crate::name::{MachineName, kernel_name};
use crate::pool::Pool;
use crate::spec::{HostSpec, OpenPort};

/// The table as a whole; it includes what each machine has open.
pub const FIREWALL_FILE: &str = "/var/lib/nsctl/firewall.nft";
/// A file a machine.
pub const FIREWALL_DIR: &str = "/var/lib/nsctl/firewall";
/// Loads the table at boot, and again when others flush all rules.
pub const FIREWALL_UNIT: &str = "nsctl-firewall.service";

/// It is never deleted to be made anew: between the two, packets slip through.
/// Its chains and sets are emptied and filled again in one transaction, and each
/// packet meets either the old or the new of each.
///
/// - `fib saddr . iif` asks whether answers to the sender would go back the way
///   it came (RFC 3704 2.2): a machine's own /64, and its IPv4 address, pass.
/// - Errors of ICMPv6 pass even where connection tracking does not know what
///   they are about: without packet-too-big, large transfers hang (RFC 4890 4.3.1).
/// - To the host go neighbour discovery, DHCP, DNS and ping; no router
///   advertisements or redirects, which would change the host's own routes.
///
/// What must be there before it is emptied are commands: each block of a table costs nft(8)
/// half a megabyte and half a millisecond, so there is one.
const HEAD: &str = "\
add table inet nsctl
# The hosts' ends of the machines' veths.
add set inet nsctl machines { type ifname; }
# Which chain judges what is sent to a machine.
add map inet nsctl inbound { type ifname : verdict; }
add chain inet nsctl forward { type filter hook forward priority filter; policy accept; }
add chain inet nsctl input { type filter hook input priority filter; policy accept; }

flush table inet nsctl
flush set inet nsctl machines
flush map inet nsctl inbound

table inet nsctl {
	chain own-address {
		fib saddr . iif oif missing counter drop
	}

	chain always {
		ct state established,related accept
		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request } accept
	}

	chain host-input {
		icmpv6 type { nd-router-advert, nd-redirect } counter drop
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
		icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept
		udp dport 67 accept
		jump own-address
		jump always
		udp dport { 53, 547 } accept
		tcp dport 53 accept
		counter drop
	}
";
const INCLUDE: &str = "\ninclude \"/var/lib/nsctl/firewall/*.nft\"\n";

/// The files that all machines share.
pub fn shared(host: &HostSpec) -> Vec<(PathBuf, String)> {
    let fixed = host.fixed_pool();
    let dns = fixed.filter(|_| host.dns_listener().is_some()).map(rules_of_dns);
    let (guests, asks) = dns.unwrap_or_default();
    let forward =
        chain("forward", &[vec!["iifname @machines jump own-address".into()], rules_of_pool(fixed)].concat());
    let input = chain("input", &[vec!["iifname @machines jump host-input".into()], asks].concat());
    vec![
        (FIREWALL_FILE.into(), format!("{HEAD}{guests}{forward}{input}}}\n{INCLUDE}")),
        (unit_file(), unit()),
        (companion_file(), Ini::new().section("Unit").set("Wants", FIREWALL_UNIT).render()),
    ]
}

/// What makes nftables.service bring ours back when it is started after a stop.
pub fn companion_file() -> PathBuf {
    PathBuf::from(format!("{}/nftables.service.d/50-nsctl.conf", super::DROPIN_DIR))
}

/// All of a pool is routed by this host: who sends from an address of it and
/// comes in where no route leads back is not who he says, and `open … from` of
/// a machine must not let him in.
fn rules_of_pool(pool: Option<Pool>) -> Vec<String> {
    let spoofed = pool.map(|pool| format!("ip6 saddr {pool} oifname @machines jump own-address"));
    spoofed.into_iter().chain(["oifname vmap @inbound".to_owned()]).collect()
}

/// The name server that machines ask is theirs alone: it would answer, and
/// amplify, for the whole world.
fn rules_of_dns(pool: Pool) -> (String, Vec<String>) {
    let guests = [format!("ip6 saddr != {pool} counter drop"), "jump own-address".into()];
    let listener = pool.host_address();
    let asks = format!(
        "iifname != \"lo\" ip6 daddr {listener} meta l4proto {{ tcp, udp }} th dport 53 jump dns-guests"
    );
    (chain("dns-guests", &guests), vec![asks])
}

/// A chain in the table's block.
fn chain(name: &str, rules: &[String]) -> String {
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    format!("\n\tchain {name} {{\n{rules}\t}}\n")
}

pub fn unit_file() -> PathBuf {
    PathBuf::from(format!("{}/{FIREWALL_UNIT}", super::DROPIN_DIR))
}

/// Debian's nftables.service flushes all rules, ours too, when it is reloaded or
/// restarted: then ours are loaded again.
fn unit() -> String {
    Ini::new()
        .section("Unit")
        .set("Description", "Firewall of nsctl's machines")
        .set("After", "nftables.service")
        .set("PartOf", "nftables.service")
        .set("ReloadPropagatedFrom", "nftables.service")
        .set("Before", "machines.target")
        .section("Service")
        .set("Type", "oneshot")
        .set("RemainAfterExit", "yes")
        .set("ExecStart", format_args!("nft -f {FIREWALL_FILE}"))
        .set("ExecReload", format_args!("nft -f {FIREWALL_FILE}"))
        .render()
}

/// The name of the chain that judges what is sent to a machine. No shared chain
/// begins like it, whatever machines are called.
fn chain_of(name: &MachineName) -> String {
    format!("to-{name}")
}

/// What must hold before a machine starts: its part of the table is loaded. Where
/// somebody flushed all rules it is loaded again; a machine whose part is missing does not start.
pub fn guard(name: &MachineName) -> String {
    let list = format!("nft list chain inet nsctl {} > /dev/null", chain_of(name));
    format!("/bin/sh -c '{list} 2>&1 || {{ nft -f {FIREWALL_FILE} && {list}; }}'")
}

/// Where a machine's part of the table is.
pub fn machine_file(name: &MachineName) -> PathBuf {
    PathBuf::from(format!("{FIREWALL_DIR}/{name}.nft"))
}

/// What comes in to one machine. One command a line: a block of its own for each
/// machine costs nft(8) half a megabyte and a third of a millisecond.
pub fn machine(name: &MachineName, open: &[OpenPort]) -> String {
    let (chain, link) = (chain_of(name), kernel_name(&name.routed_link()));
    let mut open = open.to_vec();
    open.sort();
    open.dedup();
    let rules = open.iter().map(rule);
    let rules = std::iter::once("jump always".to_owned()).chain(rules).chain(["counter drop".to_owned()]);
    let mut text = format!("add chain inet nsctl {chain}\n");
    for rule in rules {
        let _ = writeln!(text, "add rule inet nsctl {chain} {rule}");
    }
    let _ = writeln!(text, "add element inet nsctl machines {{ \"{link}\" }}");
    let _ = writeln!(text, "add element inet nsctl inbound {{ \"{link}\" : goto {chain} }}");
    text
}

fn rule(port: &OpenPort) -> String {
    let OpenPort { protocol, first, last, from } = port;
    let from = from.map_or(String::new(), |from| {
        format!("{} saddr {from} ", if from.addr().is_ipv6() { "ip6" } else { "ip" })
    });
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    format!("{from}{} dport {range} accept", protocol.word())
}
