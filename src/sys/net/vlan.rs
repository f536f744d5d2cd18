//! VLANs of a bridge and its ports (bridge(8), `vlan`).

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgeVlan, LinkMessageBuilder};

use super::{Net, NetError};
use crate::emit::UNTAGGED;

impl Net {
    /// Makes a bridge keep VLANs apart, or not; gives whether it does. A kernel without VLANs refuses,
    /// or says nothing. Who is on the bridge stays where he is: in what is untagged, unless
    /// somebody has said otherwise.
    ///
    /// # Errors
    /// When there is no such bridge, or the kernel refuses.
    pub async fn filter_vlans(&self, bridge: &str, on: bool) -> Result<bool, NetError> {
        match self.set_vlans(bridge, on).await {
            Err(NetError::Netlink(rtnetlink::Error::NetlinkError(error)))
                if error.raw_code().abs() == nix::libc::EOPNOTSUPP =>
            {
                Ok(false)
            }
            done => done,
        }
    }

    async fn set_vlans(&self, bridge: &str, on: bool) -> Result<bool, NetError> {
        let index = self.find(bridge).await?.index;
        // By its name alone: beside an index the kernel takes that for another name.
        let change = async |settings: LinkMessageBuilder<LinkBridge>| {
            self.handle.link().change(settings.build()).execute().await
        };
        if !on {
            change(LinkBridge::new(bridge).vlan_filtering(false)).await?;
            change(LinkBridge::new(bridge).vlan_default_pvid(UNTAGGED)).await?;
            return Ok(false);
        }
        // That takes what is untagged away from all ports, which matters only once VLANs do.
        change(LinkBridge::new(bridge).vlan_default_pvid(0)).await?;
        let placed = self.placed().await?;
        let ports = self.links().await?.into_iter().filter(|link| link.master == Some(index));
        for port in ports.map(|port| port.index).chain([index]).filter(|port| !placed.contains(port)) {
            let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
            let place = LinkBridgeVlan::new(port).vlan(UNTAGGED, flags);
            let place = if port == index { place.bridge_self() } else { place };
            self.handle.link().set(place.build()).execute().await?;
        }
        change(LinkBridge::new(bridge).vlan_filtering(true)).await?;
        Ok(self.find(bridge).await?.filters_vlans)
    }

    /// The bridges and ports that have a VLAN for what they send without a tag.
    async fn placed(&self) -> Result<BTreeSet<u32>, NetError> {
        let asked = self.handle.link().get();
        let all = asked.set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::Brvlan]).execute();
        let messages: Vec<LinkMessage> = all.try_collect().await?;
        let has_pvid = |message: &&LinkMessage| message.attributes.iter().any(is_pvid);
        Ok(messages.iter().filter(has_pvid).map(|message| message.header.index).collect())
    }
}

fn is_pvid(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::AfSpecBridge(settings) = attribute else { return false };
    settings.iter().any(
        |one| matches!(one, AfSpecBridge::VlanInfo(vlan) if vlan.flags.contains(BridgeVlanInfoFlags::Pvid)),
    )
}
