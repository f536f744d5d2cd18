//! `nsctl init`: the pool, forwarding, the unreachable route.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::{IpNet, Ipv6Net};

use super::wireguard::{self, Asked};
use super::{proposal, upstream};
use crate::cli::fault::{argument, live_only};
use crate::cli::planned::brief;
use crate::cli::remote::Named;
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global, text};
use crate::emit::Origin;
use crate::emit::ini::Ini;
use crate::identity;
use crate::name::IfName;
use crate::observed::{FORWARDING, Link};
use crate::plan::{Scope, holds_router};
use crate::pool::{Pool, Prefix};
use crate::spec::{
    AcceptRa, Delegated, Dns, HOST_FILE, HostSpec, OnLink, SeenUplink, Tunnel, Uplink, UplinkKind,
};
use crate::sys::router::Delivery;
use crate::sys::{self, Disk, Net};
use crate::visible::joined;

/// Tell which prefix this host has for its machines; without options, see what there is
#[derive(Debug, Clone, Args)]
#[command(after_help = WAYS)]
pub struct Init {
    /// The prefix that the provider gives this host: machines get a /64 each of it, or, of a /64
    /// or a part of one, an address each
    #[arg(long, value_name = "PREFIX")]
    pool: Option<String>,
    /// Of a pool that several hosts have, the part that is routed to this one: its machines get
    /// theirs of that alone [default: what nsctl.toml says of the same pool]
    #[arg(long, value_name = "PREFIX", requires = "pool")]
    share: Option<String>,
    /// The provider does not route the pool here, but looks for each address on the link: this
    /// host answers for its machines
    #[arg(long, requires = "pool", conflicts_with_all = ["delegated", "tunnel"])]
    on_link: bool,
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
    /// Make the tunnel that this file for wg-quick(8) describes, INTERFACE.conf, and through which
    /// the pool comes; its commands are not run
    #[arg(long, value_name = "FILE", requires = "pool", conflicts_with_all = ["uplink", "tunnel", "delegated", "on_link"])]
    wireguard: Option<PathBuf>,
    /// Take what the ISP delegates on this interface by DHCPv6, and may change
    #[arg(long, value_name = "IFACE", conflicts_with_all = ["pool", "uplink", "tunnel"])]
    delegated: Option<String>,
    /// The length of the prefix to ask the ISP for
    #[arg(long, value_name = "BITS", default_value_t = 56, requires = "delegated")]
    length: u8,
    /// Give machines that hold subnets of another pool new ones of this; those that run restart
    #[arg(long)]
    renumber: bool,
    /// Do not ask before that
    #[arg(long, short, requires = "renumber")]
    yes: bool,
}

const WAYS: &str = "\
What has your provider given you?
  a prefix of /48 to /63, routed here   nsctl init --pool 2001:db8:a::/48
  one /64, routed here                  nsctl init --pool 2001:db8:b::/64
  one /64 on the link                   nsctl init --pool 2001:db8:b::/64 --on-link
  a part of a /64, down to a /112       nsctl init --pool 2001:db8:b:0:1::/80 [--on-link]
  one for several hosts                 nsctl init --pool 2001:db8:a::/48 --share PREFIX
  a prefix by DHCPv6, which may change  nsctl init --delegated IFACE
  no IPv6: a tunnel broker routes it    nsctl init --tunnel he …
  a file for WireGuard, and a prefix    nsctl init --wireguard wg0.conf --pool 2001:db8:a::/48

`nsctl init` alone tells what this host has, and which line it would use.
For one machine: a further prefix that is routed here (`nsctl create --route PREFIX`), a public
IPv4 address (`--ipv4 ADDRESS`), or the IPv4 internet without one (`--ipv4 nat`, `--ipv4 nat64`).";

/// Who ends the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Broker {
    He,
}

impl Init {
    /// The file of the tunnel.
    pub fn named(&self) -> Option<Named> {
        self.wireguard.as_deref().map(|file| Named::by("--wireguard", file))
    }

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
    let whole: Option<Prefix> = args.pool.as_deref().map(argument).transpose()?;
    let share = share(global, &args, whole)?;
    let pool = match (share.or(whole), &args.delegated) {
        (Some(prefix), _) => Pool::Fixed(prefix),
        (None, Some(_)) => Pool::delegated(args.length).map_err(|error| Fault::from(error).usage())?,
        (None, None) => return proposal::run(global, args.uplink).await,
    };
    if args.on_link && !pool.is_single() {
        let what = format!("{pool} cannot be on the link: each of its /64 is routed to a machine");
        return Err(Fault::wrong(what).hint("leave --on-link away, or name the /64 that is on the link"));
    }
    let tunnel = args.tunnel()?;
    let wireguard = args.wireguard.as_deref().map(wireguard::read).transpose()?;
    let uplink = args.uplink.or(args.delegated).map(|word| argument(&word)).transpose()?;
    let uplink: Option<IfName> = uplink;
    let about = if args.renumber { About::Everybody } else { About::Nobody };
    let session = Session::begin(global, about).await?;
    if session.spec.host.fleet.is_some() && session.spec.host.pool() != Some(pool) {
        return Err(Fault::new(format!(
            "this host shares {} with a fleet",
            session.spec.host.pool().map(String::from).unwrap_or_default()
        ))
        .hint("`nsctl deinit` has it leave, once it has no machines in that pool"));
    }
    let mut held = session.state.leases.held().iter();
    if let Some((name, lease)) = held.find(|(_, lease)| !pool.contains(**lease)).filter(|_| !args.renumber) {
        return Err(Fault::new(format!("'{name}' holds {lease}, which is not in {pool}")).hint(
            "--renumber gives the machines of the old pool subnets of the new one; `nsctl pool` lists them",
        ));
    }
    let uplink = match (tunnel, &wireguard, pool) {
        (Some(tunnel), _, _) => Some(tunnel),
        (None, Some(asked), Pool::Fixed(prefix)) => Some(asked.uplink(&session, prefix).await?),
        _ => native(&session, uplink, args.on_link).await?,
    };
    if args.on_link && uplink.is_none() {
        return Err(Fault::wrong("nobody can be answered on a link that is not known").hint("--uplink IFACE"));
    }
    if let (Pool::Fixed(prefix), Some(uplink)) = (pool, &uplink) {
        must_come_so(&session, prefix, uplink).await?;
    }
    let uplink =
        if pool.is_delegated() { Some(delegation(&session, uplink, args.length).await?) } else { uplink };
    let mut host = session.spec.host.clone();
    if host.pool().is_none() && host.dns.is_none() {
        host.dns = dns(&session).await?;
    }
    let before = of_machines(&host);
    (host.whole, host.share) = (whole, share);
    (host.local, host.uplink) = (local(&session, pool)?, uplink);
    let changes = before != of_machines(&host);
    let scope = if args.renumber { Scope::All } else { Scope::Host };
    let mut change = session.change(scope).host(&host)?;
    if args.renumber {
        change = change.renumber(session.spec.host.pool(), pool);
    }
    let stays = host.uplink.as_ref().and_then(Uplink::wireguard).is_some();
    let keys = wireguard.as_ref().map(Asked::keys).or((!stays).then(BTreeMap::new));
    let wanted = keys.iter().fold(change, |change, keys| change.keys(keys)).settle()?;
    let plan = session.plan(&wanted)?;
    if args.renumber {
        tell_rules(&session, pool);
        session.progress.end();
        text::err!("{}", brief(&plan));
        text::agree(args.yes, "Machines get other addresses, and those that run restart. Go on?")?;
    } else {
        plan.notes.iter().for_each(|note| session.note(note));
    }
    session.perform(&plan).await?;
    for path in keys.iter().flat_map(BTreeMap::keys) {
        session.disk.narrow(path, 0o640).map_err(sys::Error::from)?;
    }
    session.say(match pool {
        Pool::Delegated(_) => {
            let today = joined(Net::host()?.delegated().await?, ", ");
            format!("machines get a /64 each of what is delegated; today that is {today}")
        }
        Pool::Fixed(prefix) => {
            let of = share.and(whole).map(|whole| format!(", its share of {whole}")).unwrap_or_default();
            format!(
                "machines get {} each of {prefix}{of}; this host has {}",
                pool.share(),
                host.own_address().unwrap_or(prefix.host_address())
            )
        }
    });
    if changes && !args.renumber && !session.state.leases.held().is_empty() {
        session.say("`nsctl apply` brings that to the machines that there are; those that run restart");
    }
    if args.on_link {
        session.say(
            "the router asks this host for each address before it sends anything there: a machine is reached as soon as \
             it has been asked for; a provider that knows just one MAC or a few addresses lets no more in",
        );
    }
    Ok(0)
}

/// This host's part of the pool: what was said, or what it is already.
fn share(global: &Global, args: &Init, whole: Option<Prefix>) -> Result<Option<Prefix>, Fault> {
    let Some(word) = &args.share else {
        let text = Disk::new(&global.root).read(Path::new(HOST_FILE))?;
        let known = text.and_then(|text| HostSpec::parse(Path::new(HOST_FILE), &text).ok());
        return Ok(known.filter(|known| known.whole == whole).and_then(|known| known.share));
    };
    let share = argument(word)?;
    let host = HostSpec { whole, share: Some(share), ..HostSpec::default() };
    match host.share_fault() {
        Some(fault) => {
            Err(Fault::wrong(fault).hint("such as --pool 2001:db8:a::/48 --share 2001:db8:a:100::/56"))
        }
        None => Ok(Some(share)),
    }
}

/// Rules that let in who had addresses of the pool that goes: they are its owner's to change.
fn tell_rules(session: &Session, pool: Pool) {
    let Some(old) = session.spec.host.prefix().filter(|old| Pool::Fixed(*old) != pool) else { return };
    for (name, machine) in &session.spec.machines {
        let inside = |from: &IpNet| matches!(from, IpNet::V6(from) if old.net().contains(from));
        for port in machine.open.iter().filter(|port| port.from.as_ref().is_some_and(inside)) {
            session.note(format!(
                "'{name}' still lets in {port}, which is of the old pool: `nsctl close {name} …`"
            ));
        }
    }
}

/// What of the host stands in machines' files.
fn of_machines(host: &HostSpec) -> impl PartialEq + use<> {
    let mtu = host.uplink.as_ref().and_then(|uplink| uplink.mtu);
    (
        host.answers_on().cloned(),
        host.may_answer_on().cloned(),
        mtu,
        host.dns_listener(),
        host.dns64_listener(),
    )
}

/// The uplink that somebody upstream leads to: the one that is named, or else the one with the default route.
async fn native(session: &Session, name: Option<IfName>, on_link: bool) -> Result<Option<Uplink>, Fault> {
    let known = session.spec.host.uplink.as_ref().filter(|known| known.is_tunnel());
    if let Some(known) = known.filter(|known| name.as_ref().is_some_and(|name| known.interface == *name)) {
        return Ok(Some(known.clone()));
    }
    let name = match name {
        Some(name) => Some(name),
        None => default_uplink(session)?,
    };
    if let Some(name) = name.as_ref().filter(|_| session.observed.live) {
        return Ok(Some(look(session, name.clone(), on_link).await?));
    }
    // Nobody can be looked at: what is known of it stays.
    let known = session.spec.host.uplink.clone();
    let same = known.filter(|known| name.as_ref().is_none_or(|name| known.interface == *name));
    Ok(same.or_else(|| name.map(Uplink::new)).map(|uplink| uplink.with_on_link(on_link)))
}

/// Is the prefix as the user says?
async fn must_come_so(session: &Session, prefix: Prefix, uplink: &Uplink) -> Result<(), Fault> {
    let Some(link) = session.observed.link(uplink.interface.as_str()) else { return Ok(()) };
    if let Some(refusal) = holds_router(prefix, &session.observed) {
        return Err(refusal.into());
    }
    if !prefix.is_single() {
        return Ok(());
    }
    let pool = session.spec.host.prefix();
    match upstream::delivery(link, &session.observed, prefix).await? {
        Some(Delivery::OnLink) if !uplink.is_on_link() => Err(Fault::new(format!(
            "{prefix} is not routed to this host: the router on {} looks for its addresses there, as for neighbours",
            link.name
        ))
        .hint("add --on-link: this host then answers for its machines; or ask your provider for a route to this host")),
        Some(Delivery::Routed) if uplink.is_on_link() => {
            Err(Fault::new(format!("{prefix} is routed to this host: nobody looks for its addresses on {}", link.name))
                .hint("leave --on-link away"))
        }
        None if pool != Some(prefix) => {
            session.say(format!(
                "the router on {} does not let see whether it routes {prefix} here; `nsctl doctor --probe 60` waits for a \
                 ping from elsewhere",
                link.name
            ));
            Ok(())
        }
        _ => Ok(()),
    }
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
    Ok(Some(Dns { zone: Dns::ZONE.to_owned(), listen, dns64: None, push: None, servers }))
}

/// The interface with the default route, if there is just one.
fn default_uplink(session: &Session) -> Result<Option<IfName>, Fault> {
    let observed = &session.observed;
    let names: Vec<&Link> = observed.links.iter().filter(|link| observed.has_default_route(link)).collect();
    match names.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.name.parse()?)),
        several => {
            let names = joined(several.iter().map(|link| &link.name), ", ");
            Err(Fault::new(format!("several interfaces have a default route: {names}"))
                .hint("say which one the pool's packets come in on: --uplink IFACE"))
        }
    }
}

/// What must be known of the uplink: its MTU, and who takes its router advertisements.
async fn look(session: &Session, interface: IfName, on_link: bool) -> Result<Uplink, Fault> {
    let Some(link) = session.observed.link(interface.as_str()) else {
        let names = joined(session.observed.links.iter().map(|link| &link.name), ", ");
        return Err(Fault::new(format!("there is no interface '{interface}' to be the uplink"))
            .hint(format!("there are: {names}")));
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
    let was = was.and_then(Uplink::accept_ra);
    let accept_ra = AcceptRa::decide(was, seen);
    let kind = if on_link {
        UplinkKind::OnLink(OnLink { accept_ra, network_file: seen.file.map(str::to_owned) })
    } else {
        UplinkKind::Native(accept_ra)
    };
    // Files and switches know it by its own name alone (ip-link(8), altname).
    Ok(Uplink { interface: link.name.parse()?, mtu, kind })
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
        let link = &uplink.interface;
        let what = format!("systemd-networkd does not run {link}, so it cannot ask for a prefix");
        let file = format!("/etc/systemd/network/20-{link}.network");
        return Err(
            Fault::new(what).hint(format!("give it a file {file}: [Match] Name={link} [Network] DHCP=yes"))
        );
    };
    let path = Path::new(&file);
    let text = session.disk.read(path)?.unwrap_or_default();
    let dhcp = Ini::parse(&text).get("Network", "DHCP").unwrap_or_default().to_ascii_lowercase();
    let dhcp4 = ["yes", "true", "1", "on", "ipv4"].contains(&dhcp.as_str());
    let kind = UplinkKind::Delegated(Delegated { length, dhcp4, network_file: file_name(&file).to_owned() });
    Ok(Uplink { kind, ..uplink })
}

/// Whether a .network file or one of its drop-ins decides about RA itself.
fn says_accept_ra(session: &Session, file: &str) -> Result<bool, Fault> {
    let name = file_name(file);
    let mut texts: Vec<String> = session.disk.read(Path::new(file))?.into_iter().collect();
    for folder in ["/usr/lib/systemd/network", "/run/systemd/network", "/etc/systemd/network"] {
        let drop_ins = Path::new(folder).join(format!("{name}.d"));
        texts.extend(session.disk.folder(&drop_ins, |name| name.ends_with(".conf"))?.into_values());
    }
    // What an earlier `init` wrote is no decision of the user's.
    let mut theirs = texts.iter().filter(|text| Origin::of(text) == Origin::Foreign);
    Ok(theirs.any(|text| Ini::parse(text).get("Network", "IPv6AcceptRA").is_some()))
}
