//! rtnetlink(7): links, addresses and routes, of the host or of a machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::Ipv6Net;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, Prop, State};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::time::Instant;

use super::trace::Tracer;
use crate::observed::{Address, Link, Route};

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

/// What changes in a namespace: a link that is new or another now, or something else.
type Events = futures_util::stream::BoxStream<'static, Option<Link>>;

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

    /// The namespace of a machine's PID 1, with its changes as events.
    ///
    /// # Errors
    /// When the machine has ended, or we are not root.
    pub fn watch_machine(leader: u32) -> Result<Net, NetError> {
        Ok(within(leader, || Net::open(&CHANGES))??)
    }

    fn open(groups: &[MulticastGroup]) -> std::io::Result<Net> {
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
        let links = self.handle.link().get().execute();
        Ok(links.try_filter_map(async |message| Ok(Some(link(&message)))).try_collect().await?)
    }

    /// All addresses but loopback's, global ones first.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let messages = self.handle.address().get().execute();
        let mut all: Vec<Address> =
            messages.try_filter_map(async |message| Ok(address(&message))).try_collect().await?;
        all.retain(|a| !a.address.is_loopback());
        all.sort_by_key(|a| (!a.global, a.address.is_ipv4(), a.address));
        Ok(all)
    }

    async fn routes(&self, v6: bool) -> Result<Vec<RouteMessage>, NetError> {
        let filter = if v6 {
            RouteMessageBuilder::<Ipv6Addr>::new().build()
        } else {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()
        };
        Ok(self.handle.route().get(filter).execute().try_collect().await?)
    }

    /// The interfaces that default routes lead out of.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn default_routes(&self) -> Result<Vec<u32>, NetError> {
        let mut found = Vec::new();
        for v6 in [true, false] {
            let routes = self.routes(v6).await?;
            let defaults = routes
                .iter()
                .filter(|r| r.header.destination_prefix_length == 0 && r.header.kind == RouteType::Unicast);
            found.extend(defaults.flat_map(out_interfaces));
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

    /// Addresses that failed the check for duplicates.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn duplicates(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let messages: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await?;
        let failed = messages.iter().filter(|message| {
            message.attributes.iter().any(
                |attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Dadfailed)),
            )
        });
        Ok(failed.filter_map(address).map(|a| a.address).collect())
    }

    /// Waits until `seen` says so, looking again at each change of the
    /// namespace; `None` when it did not come in time.
    ///
    /// # Errors
    /// Those of `seen`.
    pub async fn wait<T>(
        &mut self,
        limit: Duration,
        mut seen: impl AsyncFnMut(&Net) -> Result<Option<T>, NetError>,
    ) -> Result<Option<T>, NetError> {
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

    /// Gives the far end of a veth an address that nobody else has, and a default route.
    /// What is there already stays.
    ///
    /// # Errors
    /// When that end is not in this namespace, or the kernel refuses.
    pub async fn plug(&self, near: u32, address: Ipv6Addr, gateway: Ipv6Addr) -> Result<(), NetError> {
        let far = self.links().await?.into_iter().find(|link| link.peer == Some(near));
        let far = far.ok_or_else(|| NetError::NoLink(format!("the far end of {near}")))?.index;
        let mut add = self.handle.address().add(far, address.into(), 64).replace();
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        add.execute().await?;
        self.handle.link().set(LinkUnspec::new_with_index(far).up().build()).execute().await?;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(far).gateway(gateway).build();
        Ok(self.handle.route().add(route).replace().execute().await?)
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
    pub async fn flap(&self, name: &str, other_end: &mut Net) -> Result<(), NetError> {
        let index = self.find(name).await?.index;
        self.handle.link().set(LinkUnspec::new_with_index(index).down().build()).execute().await?;
        let told = async |net: &Net| {
            let other = net.links().await?.into_iter().find(|link| link.peer == Some(index));
            Ok(other.is_none_or(|link| !link.up).then_some(()))
        };
        let told = other_end.wait(Duration::from_secs(2), told).await;
        self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
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
        let message = LinkUnspec::new_with_index(port.index).controller(bridge.index).build();
        Ok(self.handle.link().set(message).execute().await?)
    }

    /// Deletes a link, if it is there.
    ///
    /// # Errors
    /// When it stays.
    pub async fn delete(&self, name: &str) -> Result<(), NetError> {
        match self.find(name).await {
            Ok(link) => Ok(self.handle.link().del(link.index).execute().await?),
            Err(NetError::NoLink(_)) => Ok(()),
            Err(error) => Err(error),
        }
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
        for route in left.into_iter().filter(|r| out_interfaces(r) == [index] && !is_multicast(r)) {
            let _ = self.handle.route().del(route).execute().await;
        }
        Ok(())
    }
}

const CHANGES: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Opens what asks for the way to an address, in a machine's own network.
///
/// # Errors
/// When the machine has ended, or we are not root.
pub async fn tracer(leader: u32, to: Ipv6Addr) -> Result<Tracer, NetError> {
    let links = Net::machine(leader)?.links().await?;
    let mtu = links.iter().filter(|link| link.kind.is_some() && link.up).map(|link| link.mtu).min();
    Ok(within(leader, || Tracer::open(to, mtu.unwrap_or(LEAST_MTU)))??)
}

/// The bytes that each link must take (RFC 8200 5).
pub const LEAST_MTU: u32 = 1280;

/// The first of some processes that has a network of its own, and not the host's.
pub fn secluded(processes: &[u32]) -> Option<u32> {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let own = network("self")?;
    processes.iter().copied().find(|process| network(&process.to_string()).is_some_and(|other| other != own))
}

/// Runs `deed` in the network namespace of a process. This thread is the only
/// one of ours, and `deed` does not wait.
pub fn within<T>(pid: u32, deed: impl FnOnce() -> T) -> std::io::Result<T> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let there = File::open(format!("/proc/{pid}/ns/net"))?;
    setns(there, CloneFlags::CLONE_NEWNET)?;
    let result = deed();
    setns(home, CloneFlags::CLONE_NEWNET)?;
    Ok(result)
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alternative_names: Vec::new(),
        mtu: 0,
        kind: None,
        master: None,
        peer: None,
        up: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) if *index != 0 => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::OperState(state) => link.up = *state == State::Up,
            LinkAttribute::LinkInfo(infos) => link.kind = link_kind(infos),
            LinkAttribute::PropList(props) => {
                link.alternative_names.extend(props.iter().filter_map(|prop| match prop {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    link
}

fn link_kind(infos: &[LinkInfo]) -> Option<String> {
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut found = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            AddressAttribute::Flags(bits) => flags = *bits,
            _ => {}
        }
    }
    Some(Address {
        interface: message.header.index,
        address: found?,
        tentative: flags.contains(AddressFlags::Tentative),
        deprecated: flags.contains(AddressFlags::Deprecated),
        global: message.header.scope == AddressScope::Universe,
    })
}

/// A route of the main table; one over several interfaces comes as several.
fn main_route(route: &RouteMessage) -> Vec<Route> {
    let unreachable = route.header.kind == RouteType::Unreachable;
    let known = unreachable || route.header.kind == RouteType::Unicast;
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let address = destination(route).unwrap_or(Ipv6Addr::UNSPECIFIED);
    let local = address.is_unicast_link_local() || address.is_multicast();
    if !known || local || table.unwrap_or_else(|| u32::from(route.header.table)) != MAIN_TABLE {
        return Vec::new();
    }
    let Ok(net) = Ipv6Net::new(address, route.header.destination_prefix_length) else { return Vec::new() };
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let over = |interface| Route {
        destination: net.into(),
        interface,
        unreachable,
        by_kernel: route.header.protocol == RouteProtocol::Kernel,
        by_ra: route.header.protocol == RouteProtocol::Ra,
        metric: metric.unwrap_or(0),
    };
    match out_interfaces(route).as_slice() {
        [] => vec![over(None)],
        some => some.iter().map(|index| over(Some(*index))).collect(),
    }
}

/// RT_TABLE_MAIN (rtnetlink(7)).
const MAIN_TABLE: u32 = 254;

/// Where a route leads out of: several interfaces, where it has several next hops.
fn out_interfaces(route: &RouteMessage) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

fn destination(route: &RouteMessage) -> Option<Ipv6Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    })
}

fn is_multicast(route: &RouteMessage) -> bool {
    destination(route).is_some_and(|address| address.is_multicast())
}
