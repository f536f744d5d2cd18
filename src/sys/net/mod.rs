//! rtnetlink(7): links, addresses and routes, of the host or of a machine.

pub mod message;
mod vlan;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::Ipv6Net;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, MulticastGroup as Group, RouteMessageBuilder};
use tokio::time::Instant;

use super::meter::Carried;
use super::trace::Tracer;
use crate::emit::wireguard::PRIORITIES;
use crate::hint::Hint;
use crate::observed::{Address, DefaultRoute, Link, Route};
use crate::sys;
use message::{address, destination, is_multicast, leads_out_of, link, main_route, next_hops, proxied};

/// What netlink answered.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("netlink: {0}")]
    Netlink(#[from] rtnetlink::Error),
    #[error("cannot open a netlink socket")]
    Socket(#[from] std::io::Error),
    #[error("there is no interface '{0}'")]
    NoLink(String),
}

impl Hint for NetError {}

/// What changes in a namespace: a link that is new or another now, or something else.
type Events = futures_util::stream::BoxStream<'static, Option<Link>>;

/// Addresses that come (true) and go.
pub type AddressChanges = futures_util::stream::BoxStream<'static, (bool, Address)>;

fn changed_address(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<(bool, Address)> {
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
            Some((true, address(&message)?))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => {
            Some((false, address(&message)?))
        }
        _ => None,
    }
}

/// A netlink socket in one network namespace. The socket stays in the namespace
/// that it was opened in, so we enter that only for a moment.
pub struct Net {
    handle: Handle,
    events: Events,
    pump: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Net {
    /// The host's own namespace.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn host() -> Result<Net, NetError> {
        Ok(Net::open(&[])?)
    }

    /// The host's own namespace, with its changes as events.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn watch_host() -> Result<Net, NetError> {
        Ok(Net::open(&CHANGES)?)
    }

    /// The namespace of a machine's PID 1.
    ///
    /// # Errors
    /// When the machine has ended, or we are not root.
    pub fn machine(leader: u32) -> Result<Net, NetError> {
        Ok(within(leader, || Net::open(&[]))??)
    }

    /// A network namespace that is open already.
    ///
    /// # Errors
    /// When we are not root.
    pub fn at(place: &File) -> Result<Net, NetError> {
        Ok(inside(place, || Net::open(&[]))??)
    }

    /// The namespace of a machine's PID 1, with its changes as events.
    ///
    /// # Errors
    /// When the machine has ended, or we are not root.
    pub fn watch_machine(leader: u32) -> Result<Net, NetError> {
        Ok(within(leader, || Net::open(&CHANGES))??)
    }

    /// The namespace of a machine's PID 1, or the host's own, and the addresses that come and go there.
    ///
    /// # Errors
    /// When the machine has ended, or we are not root.
    pub fn watch_addresses(leader: Option<u32>) -> Result<(Net, AddressChanges), NetError> {
        let open = || -> std::io::Result<(Net, AddressChanges)> {
            let (connection, handle, events) =
                rtnetlink::new_multicast_connection(&[Group::Ipv6Ifaddr, Group::Ipv4Ifaddr])?;
            let pump = tokio::spawn(connection);
            let changes = events.filter_map(async |(message, _)| changed_address(message)).boxed();
            Ok((Net { handle, events: futures_util::stream::empty().boxed(), pump }, changes))
        };
        match leader {
            Some(leader) => Ok(within(leader, open)??),
            None => Ok(open()?),
        }
    }

    fn open(groups: &[Group]) -> std::io::Result<Net> {
        let (connection, handle, events) = rtnetlink::new_multicast_connection(groups)?;
        let pump = tokio::spawn(connection);
        let told = |(message, _): (NetlinkMessage<RouteNetlinkMessage>, _)| match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => Some(link(&message)),
            _ => None,
        };
        Ok(Net { handle, events: events.map(told).boxed(), pump })
    }

    /// All links.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        tracing::debug!(call = "links", "netlink");
        let links = self.handle.link().get().execute();
        Ok(links.try_filter_map(async |message| Ok(Some(link(&message)))).try_collect().await?)
    }

    /// What all links have carried.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn traffic(&self) -> Result<Vec<Carried>, NetError> {
        tracing::debug!(call = "traffic", "netlink");
        let links = self.handle.link().get().execute();
        Ok(links.try_filter_map(async |message| Ok(message::traffic(&message))).try_collect().await?)
    }

    /// All addresses but loopback's, global ones first.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        tracing::debug!(call = "addresses", "netlink");
        let messages = self.handle.address().get().execute();
        let mut all: Vec<Address> =
            messages.try_filter_map(async |message| Ok(address(&message))).try_collect().await?;
        all.retain(|a| !a.address.is_loopback());
        all.sort_by_key(|a| (!a.global, a.address.is_ipv4(), a.address));
        Ok(all)
    }

    async fn routes(&self, v6: bool) -> Result<Vec<RouteMessage>, NetError> {
        tracing::debug!(call = "routes", "netlink");
        let filter = if v6 {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        } else {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()
        };
        Ok(self.handle.route().get(filter).execute().try_collect().await?)
    }

    /// The default routes, of one over several next hops each.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn default_routes(&self) -> Result<Vec<DefaultRoute>, NetError> {
        let mut found = Vec::new();
        for v6 in [true, false] {
            let routes = self.routes(v6).await?;
            let defaults = routes
                .iter()
                .filter(|r| r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast);
            found.extend(defaults.flat_map(next_hops));
        }
        Ok(found)
    }

    /// Whether packets for a prefix are answered with 'unreachable'.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn is_unreachable(&self, net: Ipv6Net) -> Result<bool, NetError> {
        let routes = self.routes(true).await?;
        Ok(routes.iter().any(|route| {
            route.header.kind == RouteType::Unreachable
                && route.header.destination_prefix_length == net.prefix_len()
                && destination(route) == Some(net.network())
        }))
    }

    /// Takes away unreachable routes, each with its metric, that a file had asked for.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn drop_unreachable(&self, routes: &[(Ipv6Net, u32)]) -> Result<(), NetError> {
        tracing::debug!(call = "the end of unreachable routes", "netlink");
        let ours = |message: &RouteMessage| {
            let is_static = message.header.protocol == RouteProtocol::Static;
            let is_meant = |seen: &Route| {
                routes.iter().any(|(net, metric)| seen.destination == (*net).into() && seen.metric == *metric)
            };
            is_static && main_route(message).iter().any(|seen| seen.unreachable && is_meant(seen))
        };
        for message in self.routes(true).await?.into_iter().filter(ours) {
            // It may have gone by itself.
            let _ = self.handle.route().del(message).execute().await;
        }
        Ok(())
    }

    /// The prefixes that DHCP servers delegate: networkd makes an unreachable
    /// route of each.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn delegated(&self) -> Result<Vec<Ipv6Net>, NetError> {
        let routes = self.routes(true).await?;
        let unreachable = routes
            .iter()
            .filter(|r| r.header.kind == RouteType::Unreachable && r.header.protocol == RouteProtocol::Dhcp);
        let nets = unreachable
            .filter_map(|r| Ipv6Net::new(destination(r)?, r.header.destination_prefix_length).ok());
        Ok(nets.filter(|net| net.prefix_len() <= 64).collect())
    }

    /// The routes of the main table, but for multicast and link-local ones.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn main_routes(&self) -> Result<Vec<Route>, NetError> {
        let routes = self.routes(true).await?;
        Ok(routes.iter().flat_map(main_route).collect())
    }

    /// Whom this host answers for as a neighbour, and on which interface.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn proxies(&self) -> Result<BTreeSet<(u32, IpAddr)>, NetError> {
        tracing::debug!(call = "proxies", "netlink");
        let asked = self.handle.neighbours().get().proxies();
        Ok(asked.execute().try_filter_map(async |message| Ok(proxied(&message))).try_collect().await?)
    }

    /// Waits until `seen` says so, looking again at each change of the
    /// namespace; `None` when it did not come in time.
    ///
    /// # Errors
    /// Those of `seen`.
    pub async fn wait<T>(
        &mut self,
        limit: Duration,
        mut seen: impl AsyncFnMut(&Net) -> Result<Option<T>, sys::Error>,
    ) -> Result<Option<T>, sys::Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = seen(self).await? {
                return Ok(Some(found));
            }
            if !matches!(tokio::time::timeout_at(end, self.events.next()).await, Ok(Some(_))) {
                return Ok(None);
            }
        }
    }

    /// The next link that is made or changes; none when no more can come.
    pub async fn next_link(&mut self) -> Option<Link> {
        loop {
            if let Some(link) = self.events.next().await? {
                return Some(link);
            }
        }
    }

    /// The end in this namespace of a veth whose near end, in another, has this index.
    ///
    /// # Errors
    /// When it is not here.
    pub async fn far_end(&self, near: u32) -> Result<Link, NetError> {
        let far = self.links().await?.into_iter().find(|link| link.peer == Some(near));
        far.ok_or_else(|| NetError::NoLink(format!("the far end of {near}")))
    }

    /// Gives the far end of a veth an address that nobody else has, and a default route.
    /// What is there already stays.
    ///
    /// # Errors
    /// When that end is not in this namespace, or the kernel refuses.
    pub async fn plug(&self, near: u32, address: Ipv6Addr, gateway: Ipv6Addr) -> Result<(), NetError> {
        tracing::debug!(call = "an address and a route", "netlink");
        let far = self.far_end(near).await?.index;
        let mut add = self.handle.address().add(far, address.into(), 64).replace();
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        add.execute().await?;
        self.set(LinkUnspec::new_with_index(far).up().build()).await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(far).gateway(gateway).build();
        Ok(self.handle.route().add(route).replace().execute().await?)
    }

    /// The index of a link.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn index(&self, name: &str) -> Result<u32, NetError> {
        Ok(self.find(name).await?.index)
    }

    async fn set(&self, message: LinkMessage) -> Result<(), NetError> {
        tracing::debug!(call = "a change of a link", "netlink");
        Ok(self.handle.link().set(message).execute().await?)
    }

    async fn find(&self, name: &str) -> Result<Link, NetError> {
        let found = self.links().await?.into_iter().find(|link| link.is_called(name));
        found.ok_or_else(|| NetError::NoLink(name.to_owned()))
    }

    /// Takes one end of a veth down and up again, so that the other end asks for
    /// addresses anew. In between it must have been told, or it never notices:
    /// the kernel announces a carrier a moment later, and only as it then is.
    ///
    /// # Errors
    /// When there is no such link.
    pub async fn flap(&self, name: &str, other_end: &mut Net) -> Result<(), sys::Error> {
        let index = self.find(name).await?.index;
        self.set(LinkUnspec::new_with_index(index).down().build()).await?;
        let told = async |net: &Net| {
            let other = net.links().await?.into_iter().find(|link| link.peer == Some(index));
            Ok(other.is_none_or(|link| !link.up).then_some(()))
        };
        let told = other_end.wait(Duration::from_secs(2), told).await;
        self.set(LinkUnspec::new_with_index(index).up().build()).await?;
        told.map(drop)
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// When there is no such link or bridge.
    pub async fn join(&self, name: &str, bridge: &str) -> Result<(), NetError> {
        let (port, bridge) = (self.find(name).await?, self.find(bridge).await?);
        if port.master == Some(bridge.index) {
            return Ok(());
        }
        self.set(LinkUnspec::new_with_index(port.index).controller(bridge.index).build()).await
    }

    /// Deletes a link, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub async fn delete(&self, name: &str) -> Result<(), NetError> {
        tracing::debug!(call = "the end of a link", "netlink");
        match self.find(name).await {
            Ok(link) => {
                self.handle.link().del(link.index).execute().await?;
                if link.kind.as_deref() == Some("wireguard") { self.drop_rules().await } else { Ok(()) }
            }
            Err(NetError::NoLink(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes away the rules that lead into a tunnel which has gone.
    /// networkd does so itself, but for that of systemd 252; nobody says when.
    async fn drop_rules(&self) -> Result<(), NetError> {
        tracing::debug!(call = "the end of rules", "netlink");
        let end = Instant::now() + OWN_RULES;
        while !self.rules_into_tunnel().await?.is_empty() && Instant::now() < end {
            tokio::time::sleep(OWN_RULES / 20).await;
        }
        for rule in self.rules_into_tunnel().await? {
            // It may have gone by itself.
            let _ = self.handle.rule().del(rule).execute().await;
        }
        Ok(())
    }

    async fn rules_into_tunnel(&self) -> Result<Vec<RuleMessage>, NetError> {
        tracing::debug!(call = "rules", "netlink");
        let mut found = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let rules: Vec<RuleMessage> = self.handle.rule().get(family).execute().try_collect().await?;
            found.extend(rules.into_iter().filter(leads_into_tunnel));
        }
        Ok(found)
    }

    /// Takes every address and IPv6 route off a bridge's port: networkd leaves
    /// the route of an address that the kernel made, and it would beat the bridge's.
    ///
    /// # Errors
    /// When there is no such link.
    pub async fn flush(&self, name: &str) -> Result<(), NetError> {
        let index = self.find(name).await?.index;
        let addresses: Vec<AddressMessage> =
            self.handle.address().get().set_link_index_filter(index).execute().try_collect().await?;
        for message in addresses {
            // It may have gone by itself.
            let _ = self.handle.address().del(message).execute().await;
        }
        let left = self.routes(true).await?;
        for route in left.into_iter().filter(|r| leads_out_of(r, index) && !is_multicast(r)) {
            let _ = self.handle.route().del(route).execute().await;
        }
        Ok(())
    }
}

const CHANGES: [Group; 5] =
    [Group::Link, Group::Ipv4Ifaddr, Group::Ipv6Ifaddr, Group::Ipv4Route, Group::Ipv6Route];

/// Opens what asks for the way to an address, in a machine's own network.
///
/// # Errors
/// When the machine has ended, or we are not root.
pub fn tracer(leader: u32, to: Ipv6Addr) -> std::io::Result<Tracer> {
    within(leader, || Tracer::open(to))?
}

/// The network namespace of the first of some processes that has one of its own.
pub fn secluded(processes: &[u32]) -> Option<File> {
    let own = identity(&File::open("/proc/self/ns/net").ok()?)?;
    let places = processes.iter().filter_map(|process| File::open(format!("/proc/{process}/ns/net")).ok());
    places.into_iter().find(|place| identity(place).is_some_and(|other| other != own))
}

/// What tells a namespace from others (namespaces(7)).
fn identity(place: &File) -> Option<(u64, u64)> {
    place.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Runs `action` in the network namespace of a process.
///
/// # Errors
/// When the process has ended, or we are not root.
pub(super) fn within<T>(pid: u32, action: impl FnOnce() -> T) -> std::io::Result<T> {
    inside(&File::open(format!("/proc/{pid}/ns/net"))?, action)
}

/// Runs `action` in a network namespace, where this thread alone goes; `action` does not wait.
///
/// # Errors
/// When we are not root.
pub fn inside<T>(place: &File, action: impl FnOnce() -> T) -> std::io::Result<T> {
    let home = File::open("/proc/thread-self/ns/net")?;
    setns(place, CloneFlags::CLONE_NEWNET)?;
    let result = action();
    if setns(home, CloneFlags::CLONE_NEWNET).is_err() {
        // Whatever came next would be done to a guest's network instead of the host's.
        std::process::abort();
    }
    Ok(result)
}

/// How long networkd may take to take its rules away.
const OWN_RULES: Duration = Duration::from_secs(1);

/// A rule of networkd's that our own files have asked for.
fn leads_into_tunnel(rule: &RuleMessage) -> bool {
    let has = |takes: &dyn Fn(&RuleAttribute) -> bool| rule.attributes.iter().any(takes);
    has(&|attribute| matches!(attribute, RuleAttribute::Priority(number) if PRIORITIES.contains(number)))
        && has(&|attribute| matches!(attribute, RuleAttribute::Protocol(RouteProtocol::Static)))
}
