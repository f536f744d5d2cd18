//! The kernel's messages, read.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, LinkAttribute, LinkInfo, LinkMessage, Prop, State,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};

use crate::observed::{Address, DefaultRoute, Link, Route};
use crate::stats::Traffic;
use crate::sys::meter::Carried;

pub fn link(message: &LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) if *index != 0 => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::OperState(state) => link.up = *state == State::Up,
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| match info {
                LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::Bridge(settings)) => bridge(&mut link, settings),
                _ => {}
            }),
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

/// What a link has carried.
pub fn traffic(message: &LinkMessage) -> Option<Carried> {
    let Link { index, name, kind, .. } = link(message);
    let counted = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(counted) => Some(counted),
        _ => None,
    })?;
    let sent = Traffic { bytes: counted.tx_bytes, packets: counted.tx_packets, dropped: counted.tx_dropped };
    let received =
        Traffic { bytes: counted.rx_bytes, packets: counted.rx_packets, dropped: counted.rx_dropped };
    Some(Carried { index, name, is_bridge: kind.as_deref() == Some("bridge"), sent, received })
}

fn bridge(link: &mut Link, settings: &[InfoBridge]) {
    for setting in settings {
        match setting {
            InfoBridge::VlanFiltering(on) => link.vlan_filtering = *on,
            InfoBridge::VlanDefaultPvid(vlan) => link.default_pvid = *vlan,
            _ => {}
        }
    }
}

pub fn address(message: &AddressMessage) -> Option<Address> {
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
        duplicate: flags.contains(AddressFlags::Dadfailed),
        global: message.header.scope == AddressScope::Universe,
    })
}

/// A route of the main table; one over several interfaces comes as several.
pub fn main_route(route: &RouteMessage) -> Vec<Route> {
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
    match next_hops(route).as_slice() {
        [] => vec![over(None)],
        some => some.iter().map(|hop| over(Some(hop.interface))).collect(),
    }
}

/// RT_TABLE_MAIN (rtnetlink(7)).
const MAIN_TABLE: u32 = 254;

/// Where a route leads to: to several, where it has several next hops.
pub fn next_hops(route: &RouteMessage) -> Vec<DefaultRoute> {
    let over = |interface, attributes: &[_]| DefaultRoute { interface, gateway: gateway(attributes) };
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![over(*index, &route.attributes)],
        RouteAttribute::MultiPath(hops) => {
            hops.iter().map(|hop| over(hop.interface_index, &hop.attributes)).collect()
        }
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

/// Whether a route leads out of this interface, and of no other.
pub fn leads_out_of(route: &RouteMessage, interface: u32) -> bool {
    matches!(next_hops(route).as_slice(), [hop] if hop.interface == interface)
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    })
}

/// Who is answered for on an interface.
pub fn proxied(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let found = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    });
    Some((message.header.ifindex, found?))
}

pub fn destination(route: &RouteMessage) -> Option<Ipv6Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    })
}

pub fn is_multicast(route: &RouteMessage) -> bool {
    destination(route).is_some_and(|address| address.is_multicast())
}
