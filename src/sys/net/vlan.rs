//! VLANs of a bridge and its ports (bridge(8), `vlan`).

use std::collections::BTreeMap;

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
    /// or says nothing. Who is on the bridge is put where `places` says, by his name; others stay
    /// where they are: in what is untagged, unless somebody has said otherwise.
    ///
    /// # Errors
    /// When there is no such bridge, or the kernel refuses.
    pub async fn filter_vlans(
        &self,
        bridge: &str,
        on: bool,
        places: &BTreeMap<String, u16>,
    ) -> Result<bool, NetError> {
        let done = if on { self.keep_apart(bridge, places).await } else { self.ignore(bridge).await };
        match done {
            Err(NetError::Netlink(rtnetlink::Error::NetlinkError(error)))
                if error.raw_code().abs() == nix::libc::EOPNOTSUPP =>
            {
                Ok(false)
            }
            done => done,
        }
    }

    /// Each port keeps its VLANs, for the next time.
    async fn ignore(&self, bridge: &str) -> Result<bool, NetError> {
        self.find(bridge).await?;
        self.change(LinkBridge::new(bridge).vlan_filtering(false)).await?;
        Ok(false)
    }

    async fn keep_apart(&self, bridge: &str, places: &BTreeMap<String, u16>) -> Result<bool, NetError> {
        let index = self.find(bridge).await?.index;
        // That takes what is untagged away from all ports, which matters only once VLANs do.
        self.change(LinkBridge::new(bridge).vlan_default_pvid(0)).await?;
        let pvids = self.pvids().await?;
        for port in
            self.links().await?.iter().filter(|link| link.master == Some(index) || link.index == index)
        {
            let place = places.iter().find(|(name, _)| port.is_called(name)).map(|(_, vlan)| *vlan);
            match (place, pvids.get(&port.index)) {
                (None, Some(_)) => {}
                (place, _) => self.place(port.index, place.unwrap_or(UNTAGGED), port.index == index).await?,
            }
        }
        self.change(LinkBridge::new(bridge).vlan_filtering(true)).await?;
        Ok(self.find(bridge).await?.keeps_vlans_apart())
    }

    /// By its name alone: beside an index the kernel takes that for another name.
    async fn change(&self, settings: LinkMessageBuilder<LinkBridge>) -> Result<(), NetError> {
        Ok(self.handle.link().change(settings.build()).execute().await?)
    }

    /// Puts a port, or the bridge itself, into a VLAN, and takes it out of what is untagged otherwise.
    async fn place(&self, port: u32, vlan: u16, is_bridge: bool) -> Result<(), NetError> {
        let message = |vlan: u16, flags: BridgeVlanInfoFlags| {
            let message = LinkBridgeVlan::new(port).vlan(vlan, flags);
            if is_bridge { message.bridge_self().build() } else { message.build() }
        };
        let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        self.set(message(vlan, flags)).await?;
        if vlan != UNTAGGED {
            // It may not have been in it.
            let gone = message(UNTAGGED, BridgeVlanInfoFlags::empty());
            let _ = self.handle.link().del_with_message(gone).execute().await;
        }
        Ok(())
    }

    /// The VLANs of what bridges and their ports send without a tag, by their indexes.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn pvids(&self) -> Result<BTreeMap<u32, u16>, NetError> {
        let asked = self.handle.link().get();
        let all = asked.set_filter_mask(AddressFamily::Bridge, vec![LinkExtentMask::Brvlan]).execute();
        let messages: Vec<LinkMessage> = all.try_collect().await?;
        Ok(messages.iter().filter_map(|message| Some((message.header.index, pvid(message)?))).collect())
    }
}

fn pvid(message: &LinkMessage) -> Option<u16> {
    let settings = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(settings) => Some(settings),
        _ => None,
    });
    settings.flatten().find_map(|setting| match setting {
        AfSpecBridge::VlanInfo(vlan) if vlan.flags.contains(BridgeVlanInfoFlags::Pvid) => Some(vlan.vid),
        _ => None,
    })
}
