//! `nsctl init`: the pool, forwarding, the unreachable route.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use clap::Args;
use ipnet::Ipv6Net;

use crate::cli::fault::{argument, live_only};
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::emit::ini::Ini;
use crate::identity;
use crate::name::IfName;
use crate::observed::{FORWARDING, Link};
use crate::plan::Scope;
use crate::pool::{Pool, Prefix};
use crate::spec::{AcceptRa, Delegated, Dns, SeenUplink, Tunnel, Uplink, UplinkKind};
use crate::sys::Net;

/// Tell which prefix is routed to this host
#[derive(Debug, Args)]
pub struct Init {
    /// The prefix that is routed to this host, a /63 at the longest
    #[arg(long, value_name = "PREFIX", required_unless_present = "delegated")]
    pool: Option<String>,
    /// The interface that the pool's packets come in on [default: the one with the default route]
    #[arg(long, value_name = "IFACE")]
    uplink: Option<String>,
    /// Make a tunnel to a broker, which routes the pool through it: he (Hurricane Electric)
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "BROKER",
        requires_all = ["server", "client_address", "pool"],
        conflicts_with = "uplink"
    )]
    tunnel: Option<Broker>,
    /// The broker's IPv4 address
    #[arg(long, value_name = "ADDRESS", requires = "tunnel")]
    server: Option<Ipv4Addr>,
    /// This host's address in the tunnel, such as 2001:db8:1f0a:c::2/64
    #[arg(long, value_name = "ADDRESS/LENGTH", requires = "tunnel")]
    client_address: Option<Ipv6Net>,
    /// This host's IPv4 address [default: whichever it has, behind NAT too]
    #[arg(long, value_name = "ADDRESS", requires = "tunnel")]
    local: Option<Ipv4Addr>,
    /// Bytes that a packet in the tunnel may have
    #[arg(long, value_name = "BYTES", default_value_t = 1480, requires = "tunnel",
          value_parser = clap::value_parser!(u32).range(1280..=1480))]
    mtu: u32,
    /// Take what the ISP delegates on this interface by DHCPv6, and may change
    #[arg(long, value_name = "IFACE", conflicts_with_all = ["pool", "uplink", "tunnel"])]
    delegated: Option<String>,
    /// The length of the prefix to ask the ISP for
    #[arg(long, value_name = "BITS", default_value_t = 56, requires = "delegated")]
    length: u8,
}

/// Who ends the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Broker {
    He,
}

impl Init {
    /// The tunnel that was asked for.
    fn tunnel(&self) -> Result<Option<Uplink>, Fault> {
        let (Some(Broker::He), Some(server), Some(client_address)) =
            (self.tunnel, self.server, self.client_address)
        else {
            return Ok(None);
        };
        let tunnel = Tunnel { server, client_address, local: self.local };
        let kind = UplinkKind::Tunnel(tunnel);
        Ok(Some(Uplink { interface: "he0".parse()?, mtu: Some(self.mtu), kind }))
    }
}

pub async fn run(global: &Global, args: Init) -> Result<u8, Fault> {
    let pool = match &args.pool {
        Some(word) => Pool::Fixed(argument(word)?),
        None => Pool::delegated(args.length).map_err(|error| Fault::from(error).usage())?,
    };
    let tunnel = args.tunnel()?;
    let uplink = args.uplink.or(args.delegated).map(|word| argument(&word)).transpose()?;
    let uplink: Option<IfName> = uplink;
    let session = Session::begin(global, About::Nobody).await?;
    if let Some((name, lease)) = session.state.leases.held().iter().find(|(_, lease)| !pool.contains(**lease))
    {
        return Err(Fault::new(format!("'{name}' holds {lease}, which is not in {pool}"))
            .hint("remove the machines of the old pool first; `nsctl pool` lists them"));
    }
    let uplink = match uplink {
        Some(name) => Some(name),
        None if tunnel.is_some() => None,
        None => default_uplink(&session)?,
    };
    let uplink = match uplink {
        Some(name) if session.observed.live => Some(look(&session, name).await?),
        // Nobody can be looked at: what is known of it stays.
        name => {
            let known = session.spec.host.uplink.clone();
            let same = known.filter(|known| name.as_ref().is_none_or(|name| known.interface == *name));
            same.or_else(|| name.map(Uplink::new))
        }
    };
    let uplink = tunnel.or(uplink);
    let uplink =
        if pool.is_delegated() { Some(delegation(&session, uplink, args.length).await?) } else { uplink };
    let mut host = session.spec.host.clone();
    if host.pool().is_none() && host.dns.is_none() {
        host.dns = dns(&session).await?;
    }
    (host.prefix, host.local, host.uplink) = (pool.fixed(), local(&session, pool)?, uplink);
    session.make(session.change(Scope::Host).host(&host)?).await?;
    session.say(match pool {
        Pool::Delegated(_) => {
            format!("machines get a /64 each of what is delegated; today that is {}", today().await?)
        }
        Pool::Fixed(prefix) => {
            format!("machines get a /64 each of {prefix}; this host has {}", prefix.host_address())
        }
    });
    Ok(0)
}

/// The prefix that stays beside a delegated one.
fn local(session: &Session, pool: Pool) -> Result<Option<Prefix>, Fault> {
    if !pool.is_delegated() {
        return Ok(None);
    }
    if let Some(local) = session.spec.host.local {
        return Ok(Some(local));
    }
    let id = session.disk.read(Path::new("/etc/machine-id"))?.and_then(|text| text.parse().ok());
    Ok(id.map(identity::local_prefix).map(|net| net.to_string().parse()).transpose()?)
}

/// Machines ask this host's systemd-resolved, which knows them by name; where it
/// does not run, the servers that this host asks.
async fn dns(session: &Session) -> Result<Option<Dns>, Fault> {
    let Some(bus) = &session.bus else { return Ok(None) };
    let listen = bus.resolved_runs().await?;
    let text = session.disk.read(Path::new("/etc/resolv.conf"))?.unwrap_or_default();
    let words =
        text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    let servers = words.filter(|server| !server.is_loopback() && !listen).collect();
    Ok(Some(Dns { zone: Dns::ZONE.to_owned(), listen, servers }))
}

/// The interface with the default route, if there is just one.
fn default_uplink(session: &Session) -> Result<Option<IfName>, Fault> {
    let routes = &session.observed.default_routes;
    let names: Vec<&Link> =
        session.observed.links.iter().filter(|link| routes.contains(&link.index)).collect();
    match names.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.name.parse()?)),
        several => {
            let names: Vec<&str> = several.iter().map(|link| link.name.as_str()).collect();
            Err(Fault::new(format!("several interfaces have a default route: {}", names.join(", ")))
                .hint("say which one the pool's packets come in on: --uplink IFACE"))
        }
    }
}

/// What must be known of the uplink: its MTU, and who takes its router advertisements.
async fn look(session: &Session, interface: IfName) -> Result<Uplink, Fault> {
    let Some(link) = session.observed.link(interface.as_str()) else {
        let names: Vec<&str> = session.observed.links.iter().map(|link| link.name.as_str()).collect();
        return Err(Fault::new(format!("there is no interface '{interface}' to be the uplink"))
            .hint(format!("there are: {}", names.join(", "))));
    };
    // What is not the usual is kept; under 1280 there is no IPv6 to speak of.
    let mtu = (link.mtu != 1500 && link.mtu >= 1280).then_some(link.mtu);
    let file = match &session.bus {
        Some(bus) => bus.network_file(link).await?,
        None => None,
    };
    let switch = |key: &str| session.observed.sysctls.get(key).map(String::as_str);
    let host = &session.spec.host;
    let seen = SeenUplink {
        file: file.as_deref().map(file_name),
        file_decides: file.as_deref().map_or(Ok(false), |file| says_accept_ra(session, file))?,
        kernel_takes: switch(&crate::observed::accept_ra(interface.as_str())) == Some("1"),
        is_set_up: switch(FORWARDING) == Some("1") && host.pool().is_none(),
    };
    let was = host.uplink.as_ref().filter(|uplink| uplink.interface == interface);
    let was = was.and_then(|uplink| match &uplink.kind {
        UplinkKind::Native(accept_ra) => Some(accept_ra),
        UplinkKind::Delegated(_) | UplinkKind::Tunnel(_) => None,
    });
    let kind = UplinkKind::Native(AcceptRa::decide(was, seen));
    Ok(Uplink { interface, mtu, kind })
}

fn file_name(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// networkd asks for the prefix, so it must run the uplink.
async fn delegation(session: &Session, uplink: Option<Uplink>, length: u8) -> Result<Uplink, Fault> {
    let (Some(bus), Some(uplink)) = (&session.bus, uplink) else {
        return Err(live_only("a delegated prefix is asked for"));
    };
    let link = session.observed.link(uplink.interface.as_str());
    let file = match link {
        Some(link) => bus.network_file(link).await?,
        None => None,
    };
    let Some(file) = file else {
        return Err(Fault::new(format!(
            "systemd-networkd does not run {}, so it cannot ask for a prefix",
            uplink.interface
        ))
        .hint(format!(
            "give it a file /etc/systemd/network/20-{0}.network: [Match] Name={0} [Network] DHCP=yes",
            uplink.interface
        )));
    };
    let path = Path::new(&file);
    let text = session.disk.read(path)?.unwrap_or_default();
    let dhcp = Ini::parse(&text).get("Network", "DHCP").unwrap_or_default().to_ascii_lowercase();
    let dhcp4 = ["yes", "true", "1", "on", "ipv4"].contains(&dhcp.as_str());
    let kind = UplinkKind::Delegated(Delegated { length, dhcp4, network_file: file_name(&file).to_owned() });
    Ok(Uplink { kind, ..uplink })
}

/// What is delegated now, for people.
async fn today() -> Result<String, Fault> {
    let nets = Net::host()?.delegated().await?;
    Ok(nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// Whether a .network file or one of its drop-ins decides about RA itself.
fn says_accept_ra(session: &Session, file: &str) -> Result<bool, Fault> {
    let name = file_name(file);
    let mut texts: Vec<String> = session.disk.read(Path::new(file))?.into_iter().collect();
    for folder in ["/usr/lib/systemd/network", "/run/systemd/network", "/etc/systemd/network"] {
        let drop_ins = Path::new(folder).join(format!("{name}.d"));
        texts.extend(session.disk.folder(&drop_ins, |name| name.ends_with(".conf"))?.into_values());
    }
    Ok(texts.iter().any(|text| Ini::parse(text).get("Network", "IPv6AcceptRA").is_some()))
}
