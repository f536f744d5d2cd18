//! `nsctl dns`: the names of machines, for a name server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::session::{state, tell_of_journal};
use crate::cli::text::out;
use crate::cli::{Fault, Global};
use crate::emit::names::{Entry, entries, line, lines};
use crate::observe;
use crate::plan::spec_of;
use crate::pool::Prefix;
use crate::spec::{Dns as DnsSpec, Spec, zone_fault};
use crate::sys::Disk;

/// Print the names and planned addresses of routed machines
#[derive(Debug, Clone, Args)]
pub struct Dns {
    /// The domain of the names [default: that of nsctl.toml, else machines.internal]
    #[arg(long, value_name = "DOMAIN")]
    zone: Option<String>,
    /// Lines of /etc/hosts, AAAA and A records, or PTR records below ip6.arpa and in-addr.arpa
    #[arg(long, value_enum, default_value_t = Format::Zone)]
    format: Format,
    /// Put them into the zone of [dns.push] in nsctl.toml instead, and take out those that are gone;
    /// no record of anybody else's is touched
    #[arg(long, conflicts_with_all = ["zone", "format"])]
    push: bool,
    /// Only what has changed since
    #[arg(long, requires = "push")]
    pub if_changed: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Hosts,
    Zone,
    Reverse,
}

pub async fn run(global: &Global, args: Dns) -> Result<u8, Fault> {
    if args.push {
        return super::push::run(global, &args).await;
    }
    let disk = Disk::new(&global.root);
    tell_of_journal(&disk);
    let observed = observe::host(&disk, None).await?;
    let spec = spec_of(&observed)?;
    let Some(pool) = spec.host.fixed_pool() else {
        return Err(Fault::new("this host has no pool whose addresses stay")
            .hint("`nsctl init --pool PREFIX --uplink INTERFACE`, or `nsctl init --delegated INTERFACE`"));
    };
    let configured = spec.host.dns.as_ref().map(|dns| dns.zone.clone());
    let zone = args.zone.or(configured).unwrap_or_else(|| DnsSpec::ZONE.to_owned());
    let zone = zone.trim_end_matches('.').to_owned();
    if let Some(wrong) = zone_fault(&zone) {
        let what = format!("--zone: '{}' {wrong}", zone.escape_debug());
        return Err(Fault::wrong(what).hint("--zone example.org"));
    }
    let entries = entries(&spec, &state(&observed)?.leases, &observed.hostnames);
    let own = own_ipv4(&spec, &entries);
    let text = match args.format {
        Format::Hosts => lines(&entries, &zone, &|_| false),
        Format::Zone => forward(&entries, &zone),
        Format::Reverse => reverse(&entries, &zone, pool),
    };
    if global.json {
        global.report.answer(&records(&entries, &own, &zone))?;
        return Ok(0);
    }
    let own = own.iter().map(|(address, name)| args.format.of_ipv4(*address, name, &zone));
    out!("{}", (text + &own.collect::<String>()).trim_end());
    Ok(0)
}

/// A name and its planned address.
#[derive(Serialize)]
struct Record {
    name: String,
    address: IpAddr,
}

fn records(entries: &[Entry], own: &[(Ipv4Addr, &str)], zone: &str) -> Vec<Record> {
    let v6 = entries.iter().map(|entry| (&*entry.name, IpAddr::V6(entry.address)));
    let all = v6.chain(own.iter().map(|(address, name)| (*name, IpAddr::V4(*address))));
    all.map(|(name, address)| Record { name: format!("{name}.{zone}"), address }).collect()
}

/// The IPv4 addresses that machines have for themselves. Not in this host's own names: those lead
/// to what each machine reaches.
fn own_ipv4<'e>(spec: &Spec, entries: &'e [Entry]) -> Vec<(Ipv4Addr, &'e str)> {
    let of = |entry: &'e Entry| {
        let mut all =
            spec.machines.iter().filter(|(name, _)| name.as_str().eq_ignore_ascii_case(&entry.name));
        Some((all.find_map(|(_, machine)| machine.ipv4?.address())?, entry.name.as_str()))
    };
    entries.iter().filter_map(of).collect()
}

impl Format {
    fn of_ipv4(self, address: Ipv4Addr, name: &str, zone: &str) -> String {
        match self {
            Format::Hosts => line(address.into(), name, zone, &|_| false),
            Format::Zone => format!("{name} IN A {address}\n"),
            Format::Reverse => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa. IN PTR {name}.{zone}.\n")
            }
        }
    }
}

/// AAAA records (RFC 3596 2.2), for a zone file (RFC 1035 5).
fn forward(entries: &[Entry], zone: &str) -> String {
    let records = entries.iter().map(|Entry { address, name }| format!("{name} IN AAAA {address}\n"));
    std::iter::once(format!("$ORIGIN {zone}.\n")).chain(records).collect()
}

/// PTR records below ip6.arpa (RFC 3596 2.5), relative to the pool's own zone.
fn reverse(entries: &[Entry], zone: &str, pool: Prefix) -> String {
    // Zones are cut at nibbles: the longest that holds the whole pool.
    let cut = usize::from(pool.net().prefix_len() / 4);
    let nibbles = |address: Ipv6Addr| -> Vec<String> {
        (0..32).map(|k| format!("{:x}", u128::from(address) >> (124 - 4 * k) & 15)).collect()
    };
    let name = |nibbles: &[String]| nibbles.iter().rev().cloned().collect::<Vec<_>>().join(".");
    let origin = format!("$ORIGIN {}.ip6.arpa.\n", name(&nibbles(pool.net().network())[..cut]));
    let records = entries.iter().map(|Entry { address, name: machine }| {
        format!("{} IN PTR {machine}.{zone}.\n", name(&nibbles(*address)[cut..]))
    });
    std::iter::once(origin).chain(records).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let entries = [Entry { address: "2001:db8:a:1::2".parse().unwrap(), name: "web".into() }];
        assert_eq!(forward(&entries, "example.org"), "$ORIGIN example.org.\nweb IN AAAA 2001:db8:a:1::2\n");
        assert_eq!(
            reverse(&entries, "example.org", "2001:db8:a::/48".parse().unwrap()),
            "$ORIGIN a.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.\n2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0 IN PTR web.example.org.\n"
        );
    }
}
