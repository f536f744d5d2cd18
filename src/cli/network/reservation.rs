//! `nsctl reservation`: what gives a bridged machine a fixed address, to paste
//! into the LAN's DHCP server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::fault::unknown;
use crate::cli::machine::look::look;
use crate::cli::machine::view::{ModeView, Row};
use crate::cli::text::out;
use crate::cli::{Fault, Global};

/// Print what gives a bridged machine a fixed address from the LAN's DHCP server
#[derive(Debug, Clone, Args)]
pub struct Reservation {
    /// The machine's name
    #[arg(add = crate::cli::complete::machines())]
    name: String,
    /// Whose configuration it is for
    #[arg(long, value_enum)]
    format: Format,
    /// The address that the machine shall have, IPv4 or IPv6; may be given several times
    /// [default: the IPv4 address that it has now, of a machine that is on the LAN alone]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Dnsmasq,
    Kea,
    Isc,
}

/// One machine, as a DHCP server knows it.
struct Client {
    name: String,
    mac: String,
    duid: Option<String>,
}

pub async fn run(global: &Global, args: Reservation) -> Result<u8, Fault> {
    let rows = look(global, &[]).await?.rows;
    let Some(row) = rows.iter().find(|row| row.name == args.name) else {
        return Err(unknown(&args.name, rows.iter().map(|row| row.name.as_str())));
    };
    if row.network.mode == ModeView::Routed && row.network.bridge.is_none() {
        return Err(Fault::new(format!("'{}' is routed: it asks no DHCP server of the LAN", row.name))
            .hint("its address is fixed: `nsctl show` prints it"));
    }
    let Some(mac) = row.mac.clone() else {
        return Err(Fault::new("this host has no /etc/machine-id, on which MAC addresses hang")
            .hint("`systemd-machine-id-setup` makes one"));
    };
    let client = Client { name: row.name.clone(), mac, duid: row.duid.clone() };
    let (v4, v6) = addresses(row, &args.address)?;
    if v6.is_some() && client.duid.is_none() {
        return Err(Fault::new(format!("'{}' has no machine-id yet, on which its DUID hangs", row.name))
            .hint(format!("`nsctl start {}` once, then ask again", row.name)));
    }
    if global.json {
        let Client { name, mac, duid } = client;
        global.report.answer(&json!({ "name": name, "mac": mac, "duid": duid, "ipv4": v4, "ipv6": v6 }))?;
    } else {
        out!("{}", client.entry(args.format, v4, v6).trim_end());
    }
    Ok(0)
}

fn addresses(row: &Row, asked: &[IpAddr]) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Fault> {
    let mut found = (None, None);
    // Of a machine that is routed, too, nobody knows which of them the LAN has given it.
    let on_lan = row.network.mode != ModeView::Routed;
    let now = row.addresses.iter().filter(|address| address.is_ipv4() && on_lan);
    let taken: Vec<IpAddr> = if asked.is_empty() { now.copied().collect() } else { asked.to_vec() };
    for address in taken {
        match address {
            IpAddr::V4(address) => found.0 = Some(address),
            IpAddr::V6(address) => found.1 = Some(address),
        }
    }
    if found == (None, None) {
        let what = format!("'{}' has no IPv4 address of the LAN now that could be made to stay", row.name);
        let hint = "say which it shall have: --address 192.168.5.50 --address 2001:db8:5::50";
        return Err(Fault::new(what).hint(hint));
    }
    Ok(found)
}

impl Client {
    fn entry(&self, format: Format, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> String {
        let v6 = v6.zip(self.duid.as_deref());
        match format {
            Format::Dnsmasq => self.dnsmasq(v4, v6),
            Format::Kea => self.kea(v4, v6),
            Format::Isc => self.isc(v4, v6),
        }
    }

    /// Lines of dnsmasq.conf (dnsmasq(8), `--dhcp-host`).
    fn dnsmasq(&self, v4: Option<Ipv4Addr>, v6: Option<(Ipv6Addr, &str)>) -> String {
        let Client { name, mac, .. } = self;
        let v4 = v4.map(|address| format!("dhcp-host={mac},{name},{address}\n")).unwrap_or_default();
        let v6 = v6.map(|(address, duid)| format!("dhcp-host=id:{duid},{name},[{address}]\n"));
        v4 + &v6.unwrap_or_default()
    }

    /// Members of the "reservations" of a subnet4 and a subnet6 (Kea manual, "Host Reservations").
    fn kea(&self, v4: Option<Ipv4Addr>, v6: Option<(Ipv6Addr, &str)>) -> String {
        let Client { name, mac, .. } = self;
        let v4 = v4.map(|address| json!({ "hostname": name, "hw-address": mac, "ip-address": address }));
        let v6 =
            v6.map(|(address, duid)| json!({ "hostname": name, "duid": duid, "ip-addresses": [address] }));
        let lines = [v4, v6].into_iter().flatten().map(|entry| format!("{entry}\n"));
        lines.collect()
    }

    /// Host declarations (dhcpd.conf(5)).
    fn isc(&self, v4: Option<Ipv4Addr>, v6: Option<(Ipv6Addr, &str)>) -> String {
        let Client { name, mac, .. } = self;
        let host = |suffix: &str, client: String, address: String| {
            format!("host {name}{suffix} {{\n    {client};\n    {address};\n}}\n")
        };
        let v4 = v4
            .map(|address| host("", format!("hardware ethernet {mac}"), format!("fixed-address {address}")));
        let v6 = v6.map(|(address, duid)| {
            let client = format!("host-identifier option dhcp6.client-id {duid}");
            host("-v6", client, format!("fixed-address6 {address}"))
        });
        v4.unwrap_or_default() + &v6.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_servers() {
        let client = Client {
            name: "buildbot".into(),
            mac: "02:00:5e:00:53:01".into(),
            duid: Some("00:02:00:00:ab:11:01".into()),
        };
        let (v4, v6) = ("192.0.2.5".parse().ok(), "2001:db8::5".parse().ok());
        let formats = [Format::Dnsmasq, Format::Kea, Format::Isc];
        let sheet: Vec<String> = formats.map(|format| client.entry(format, v4, v6)).to_vec();
        insta::assert_snapshot!(sheet.join("\n"));
    }
}
