//! Where the pool's packets come from: one kind of uplink has what another has not.

use std::net::Ipv4Addr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::WireGuard;
use crate::name::IfName;
use crate::pool::Pool;

/// The interface towards the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UplinkTable", into = "UplinkTable")]
pub struct Uplink {
    pub interface: IfName,
    /// Bytes; given to both ends of every veth where it is not the usual 1500.
    pub mtu: Option<u32>,
    pub kind: UplinkKind,
}

/// How the pool comes to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkKind {
    /// Somebody upstream routes it here; and who keeps the host's own default route once it forwards.
    Native(AcceptRa),
    /// Nobody routes it: the router asks for each address on the link, as for a neighbour, and
    /// this host answers for its machines (RFC 4861 7.2.8).
    OnLink(OnLink),
    /// The ISP delegates it by DHCPv6 (RFC 8415 6.3), which networkd asks for.
    Delegated(Delegated),
    /// It comes through a tunnel, which the interface is.
    Tunnel(Tunnel),
    /// The same, by WireGuard.
    WireGuard(WireGuard),
}

/// Forwarding makes a host ignore router advertisements, unless it is told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AcceptRa {
    /// Left as it is: the uplink is static, or its manager does not mind.
    #[default]
    Unchanged,
    /// The kernel takes them: `accept_ra=2` (kernel, ip-sysctl.rst).
    Kernel,
    /// networkd takes them: `IPv6AcceptRA=yes` in a drop-in of this .network file (systemd.network(5)).
    Networkd(String),
}

/// What is seen of an interface that is to be the uplink of a host that forwards.
#[derive(Debug, Clone, Copy)]
pub struct SeenUplink<'a> {
    /// The name of the .network file that networkd uses for it.
    pub file: Option<&'a str>,
    /// Whether that file, or a drop-in of it, decides about router advertisements itself.
    pub file_decides: bool,
    /// Whether the kernel takes them as long as the host does not forward (`accept_ra=1`).
    pub kernel_takes: bool,
    /// Whether somebody else made the host forward, and knows.
    pub is_set_up: bool,
}

impl AcceptRa {
    fn word(&self) -> Word {
        match self {
            AcceptRa::Unchanged => Word::Unchanged,
            AcceptRa::Kernel => Word::Kernel,
            AcceptRa::Networkd(_) => Word::Networkd,
        }
    }

    /// Who must be told to go on taking router advertisements. What an earlier `init` decided
    /// holds while the uplink is run by the same: the traces of it look like somebody else's.
    pub fn decide(was: Option<&AcceptRa>, seen: SeenUplink) -> AcceptRa {
        match (was, seen.file) {
            (Some(AcceptRa::Kernel), None) => AcceptRa::Kernel,
            (Some(AcceptRa::Networkd(name)), Some(file)) if name == file => AcceptRa::Networkd(name.clone()),
            _ if seen.is_set_up || seen.file_decides => AcceptRa::Unchanged,
            (_, Some(file)) => AcceptRa::Networkd(file.to_owned()),
            (_, None) if seen.kernel_takes => AcceptRa::Kernel,
            (_, None) => AcceptRa::Unchanged,
        }
    }
}

/// An uplink on which this host answers for its machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnLink {
    pub accept_ra: AcceptRa,
    /// The name of the .network file that networkd uses for it; none: networkd does not run it.
    pub network_file: Option<String>,
}

/// A prefix that the ISP delegates, and may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated {
    /// The length that it is asked for.
    pub length: u8,
    /// Whether networkd asks for an IPv4 address on the uplink, too.
    pub dhcp4: bool,
    /// The name of the .network file that networkd uses for the uplink.
    pub network_file: String,
}

/// IPv6 in IPv4 (RFC 4213 3), to a tunnel broker such as Hurricane Electric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tunnel {
    /// The broker's end.
    pub server: Ipv4Addr,
    /// This host's address in the tunnel, with its length.
    pub client_address: Ipv6Net,
    /// This host's IPv4 address; none: whichever it has, behind NAT too.
    pub local: Option<Ipv4Addr>,
}

impl Uplink {
    /// One that is left as it is.
    pub fn new(interface: IfName) -> Uplink {
        Uplink { interface, mtu: None, kind: UplinkKind::Native(AcceptRa::Unchanged) }
    }

    /// The .network file that gets a drop-in of ours.
    pub fn network_file(&self) -> Option<&str> {
        match &self.kind {
            UplinkKind::Native(AcceptRa::Networkd(file)) => Some(file),
            UplinkKind::OnLink(on_link) => on_link.network_file.as_deref(),
            UplinkKind::Delegated(Delegated { network_file, .. }) => Some(network_file),
            UplinkKind::Native(AcceptRa::Unchanged | AcceptRa::Kernel)
            | UplinkKind::Tunnel(_)
            | UplinkKind::WireGuard(_) => None,
        }
    }

    /// Who keeps the host's own default route, where that is up to us.
    pub fn accept_ra(&self) -> Option<&AcceptRa> {
        match &self.kind {
            UplinkKind::Native(accept_ra) | UplinkKind::OnLink(OnLink { accept_ra, .. }) => Some(accept_ra),
            UplinkKind::Delegated(_) | UplinkKind::Tunnel(_) | UplinkKind::WireGuard(_) => None,
        }
    }

    /// The same, but that nobody routes the pool here; or that somebody does.
    #[must_use]
    pub fn with_on_link(self, on_link: bool) -> Uplink {
        let network_file = self.network_file().map(str::to_owned);
        let kind = match self.kind {
            UplinkKind::Native(accept_ra) if on_link => {
                UplinkKind::OnLink(OnLink { accept_ra, network_file })
            }
            UplinkKind::OnLink(OnLink { accept_ra, .. }) if !on_link => UplinkKind::Native(accept_ra),
            kind => kind,
        };
        Uplink { kind, ..self }
    }

    /// Whether this host answers there for its machines.
    pub fn is_on_link(&self) -> bool {
        matches!(self.kind, UplinkKind::OnLink(_))
    }

    pub fn delegated(&self) -> Option<&Delegated> {
        let UplinkKind::Delegated(delegated) = &self.kind else { return None };
        Some(delegated)
    }

    pub fn wireguard(&self) -> Option<&WireGuard> {
        let UplinkKind::WireGuard(wireguard) = &self.kind else { return None };
        Some(wireguard)
    }

    /// Whether nsctl makes the interface itself.
    pub fn is_tunnel(&self) -> bool {
        match self.kind {
            UplinkKind::Tunnel(_) | UplinkKind::WireGuard(_) => true,
            UplinkKind::Native(_) | UplinkKind::OnLink(_) | UplinkKind::Delegated(_) => false,
        }
    }
}

/// The table `[uplink]` as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct UplinkTable {
    interface: IfName,
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "super::is_default")]
    accept_ra: Word,
    #[serde(default, skip_serializing_if = "super::is_default")]
    on_link: bool,
    delegated: Option<u8>,
    #[serde(default, skip_serializing_if = "super::is_default")]
    dhcp4: bool,
    network_file: Option<String>,
    tunnel: Option<Tunnel>,
    wireguard: Option<WireGuard>,
}

/// The word for [`AcceptRa`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    Unchanged,
    Kernel,
    Networkd,
}

impl TryFrom<UplinkTable> for Uplink {
    type Error = String;

    fn try_from(table: UplinkTable) -> Result<Uplink, String> {
        let UplinkTable { interface, mtu, network_file, .. } = table;
        let UplinkTable { accept_ra, on_link, delegated, dhcp4, tunnel, wireguard, .. } = table;
        let is_tunnel = tunnel.is_some() || wireguard.is_some();
        if mtu.is_some_and(|mtu| !(1280..=65535).contains(&mtu)) {
            return Err(
                "uplink.mtu: IPv6 needs 1280 bytes at least (RFC 8200 5), and 65535 is the most".into()
            );
        }
        if network_file.as_deref().is_some_and(|file| !is_network_file(file)) {
            return Err("uplink.network-file is the name of a .network file, without its folder".into());
        }
        if on_link && (is_tunnel || delegated.is_some()) {
            return Err(
                "uplink.on-link: a prefix that is delegated or tunnelled is routed to this host".into()
            );
        }
        if is_tunnel && (delegated.is_some() || accept_ra != Word::Unchanged) {
            return Err("uplink.tunnel: a tunnel's addresses are fixed; no delegation, no accept-ra".into());
        }
        let kind = match (tunnel, wireguard, delegated) {
            (Some(_), Some(_), _) => return Err("uplink: a prefix comes through one tunnel".into()),
            (Some(tunnel), None, _) => UplinkKind::Tunnel(tunnel),
            (None, Some(wireguard), _) => match wireguard.fault() {
                Some(fault) => return Err(format!("uplink.wireguard: {fault}")),
                None => UplinkKind::WireGuard(wireguard),
            },
            (None, None, Some(length)) => {
                Pool::delegated(length).map_err(|fault| format!("uplink.delegated: {fault}"))?;
                let missing = "uplink.delegated needs uplink.network-file: networkd asks for the prefix";
                let network_file = network_file.ok_or(missing)?;
                UplinkKind::Delegated(Delegated { length, dhcp4, network_file })
            }
            (None, None, None) => {
                let accept_ra = match (accept_ra, network_file.clone()) {
                    (Word::Unchanged, _) => AcceptRa::Unchanged,
                    (Word::Kernel, _) => AcceptRa::Kernel,
                    (Word::Networkd, Some(file)) => AcceptRa::Networkd(file),
                    (Word::Networkd, None) => {
                        return Err("uplink.accept-ra = \"networkd\" needs uplink.network-file".into());
                    }
                };
                if on_link {
                    UplinkKind::OnLink(OnLink { accept_ra, network_file })
                } else {
                    UplinkKind::Native(accept_ra)
                }
            }
        };
        Ok(Uplink { interface, mtu, kind })
    }
}

impl From<Uplink> for UplinkTable {
    fn from(uplink: Uplink) -> UplinkTable {
        let network_file = uplink.network_file().map(str::to_owned);
        let (accept_ra, on_link) =
            (uplink.accept_ra().map_or(Word::Unchanged, AcceptRa::word), uplink.is_on_link());
        let Uplink { interface, mtu, kind } = uplink;
        let (mut delegated, mut dhcp4, mut tunnel, mut wireguard) = (None, false, None, None);
        match kind {
            UplinkKind::Native(_) | UplinkKind::OnLink(_) => {}
            UplinkKind::Delegated(asked) => (delegated, dhcp4) = (Some(asked.length), asked.dhcp4),
            UplinkKind::Tunnel(one) => tunnel = Some(one),
            UplinkKind::WireGuard(one) => wireguard = Some(one),
        }
        UplinkTable { interface, mtu, accept_ra, on_link, delegated, dhcp4, network_file, tunnel, wireguard }
    }
}

/// The name becomes part of a path: one component, of the right kind.
fn is_network_file(file: &str) -> bool {
    file.len() > ".network".len()
        && file.ends_with(".network")
        && !file.starts_with('.')
        && !file.contains(['/', '\0', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_router_advertisements() {
        use AcceptRa::{Kernel, Networkd, Unchanged};
        let mine = || Networkd("20-wan0.network".to_owned());
        let by_kernel = SeenUplink { file: None, file_decides: false, kernel_takes: true, is_set_up: false };
        let by_networkd = SeenUplink { file: Some("20-wan0.network"), kernel_takes: false, ..by_kernel };
        for (was, seen, then) in [
            (None, by_kernel, Kernel),
            (None, by_networkd, mine()),
            (None, SeenUplink { kernel_takes: false, ..by_kernel }, Unchanged),
            (None, SeenUplink { file_decides: true, ..by_networkd }, Unchanged),
            (None, SeenUplink { is_set_up: true, ..by_networkd }, Unchanged),
            // Its own drop-in decides, its own switch says 2.
            (Some(mine()), SeenUplink { file_decides: true, ..by_networkd }, mine()),
            (Some(Kernel), SeenUplink { kernel_takes: false, ..by_kernel }, Kernel),
            // It has changed hands.
            (Some(Kernel), by_networkd, mine()),
            (Some(mine()), by_kernel, Kernel),
            (Some(Networkd("old.network".to_owned())), by_networkd, mine()),
        ] {
            assert_eq!(AcceptRa::decide(was.as_ref(), seen), then, "{was:?} {seen:?}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let tunnel = Tunnel {
            server: Ipv4Addr::new(192, 0, 2, 1),
            client_address: "2001:db8:c::2/64".parse().unwrap(),
            local: None,
        };
        let peer = crate::spec::wireguard::Peer {
            public_key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse().unwrap(),
            preshared: true,
            endpoint: None,
            allowed_ips: vec!["::/0".parse().unwrap()],
            persistent_keepalive: Some(25),
        };
        let file = || Some("a.network".to_owned());
        let delegated = Delegated { length: 56, dhcp4: true, network_file: "20-wan0.network".into() };
        for kind in [
            UplinkKind::Native(AcceptRa::Unchanged),
            UplinkKind::Native(AcceptRa::Kernel),
            UplinkKind::Native(AcceptRa::Networkd("a.network".into())),
            UplinkKind::OnLink(OnLink { accept_ra: AcceptRa::Kernel, network_file: None }),
            UplinkKind::OnLink(OnLink { accept_ra: AcceptRa::Unchanged, network_file: file() }),
            UplinkKind::OnLink(OnLink {
                accept_ra: AcceptRa::Networkd("a.network".into()),
                network_file: file(),
            }),
            UplinkKind::Delegated(delegated),
            UplinkKind::Tunnel(tunnel),
            UplinkKind::WireGuard(WireGuard {
                address: vec!["2001:db8:9::2/64".parse().unwrap()],
                peer: vec![peer],
                ..WireGuard::default()
            }),
        ] {
            let uplink = Uplink { interface: "wan0".parse().unwrap(), mtu: Some(1480), kind };
            let text = toml::to_string(&uplink).unwrap();
            assert_eq!(toml::from_str::<Uplink>(&text).unwrap(), uplink, "{text}");
        }
    }

    #[test]
    fn what_one_kind_has_another_has_not() {
        for (text, says) in [
            ("mtu = 1000", "1280"),
            ("accept-ra = \"networkd\"", "needs uplink.network-file"),
            ("on-link = true\ndelegated = 56\nnetwork-file = \"a.network\"", "uplink.on-link"),
            ("network-file = \"../x.network\"", "without its folder"),
            ("delegated = 56", "needs uplink.network-file"),
            ("delegated = 64\nnetwork-file = \"a.network\"", "uplink.delegated"),
            ("[wireguard]\naddress = []\npeer = []", "address in the tunnel"),
            (
                "accept-ra = \"kernel\"\n[tunnel]\nserver = \"192.0.2.1\"\nclient-address = \"2001:db8:c::2/64\"",
                "fixed",
            ),
        ] {
            let error = toml::from_str::<Uplink>(&format!("interface = \"wan0\"\n{text}")).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
