//! One machine: its .nspawn, the host's end of its veth, the file bound into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::file::ManagedFile;
use super::ini::Ini;
use super::lan::{LAN, LAN_TARGET, guest_lan};
use super::{expose, firewall, nat64};
use crate::name::MachineName;
use crate::pool::{Lease, Planned, Subnet};
use crate::spec::{BridgePort, HostSpec, Ipv4, MachineSpec, Network, Routed, Sections, Values};
use crate::visible::joined;

/// The gateway of every routed machine: the host's end of its veth.
pub const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Where the guest finds its network file. Not below /run: nspawn of systemd 252
/// makes missing folders there as a user that the guest cannot be.
pub(super) const GUEST_TARGET: &str = "/etc/systemd/network/05-nsctl.network";

/// A guest's systemd stops mounting for a second once it has seen five changes of its mounts in
/// one, and each boot has more: its sockets would wait for that (systemd 255 and later,
/// docs/ENVIRONMENT.md; older ones pass over it). No reason to restart a machine.
pub const MOUNT_BURST: &str = "SYSTEMD_DEFAULT_MOUNT_RATE_LIMIT_BURST=200";

/// What a machine's files are made from.
#[derive(Debug)]
pub struct MachineFiles<'a> {
    pub(super) name: &'a MachineName,
    pub(super) machine: &'a MachineSpec,
    pub(super) host: &'a HostSpec,
    attachment: Option<Attachment<'a>>,
}

#[derive(Debug)]
pub(super) enum Attachment<'a> {
    Routed { routed: &'a Routed, lease: Lease },
    Bridge(&'a BridgePort),
}

/// Where systemd keeps the links of machines that start with the host.
pub const WANTS_DIR: &str = "/etc/systemd/system/machines.target.wants";

/// What makes all of them start.
pub const TARGET_LINK: &str = "/etc/systemd/system/multi-user.target.wants/machines.target";

/// That of one machine.
pub fn wants_link(name: &MachineName) -> PathBuf {
    PathBuf::from(format!("{WANTS_DIR}/{}", name.unit()))
}

impl<'a> MachineFiles<'a> {
    pub fn new(
        name: &'a MachineName,
        machine: &'a MachineSpec,
        lease: Option<Lease>,
        host: &'a HostSpec,
    ) -> MachineFiles<'a> {
        let attachment = match &machine.network {
            Network::Bridge(port) => Some(Attachment::Bridge(port)),
            Network::Routed(routed) => lease.map(|lease| Attachment::Routed { routed, lease }),
        };
        MachineFiles { name, machine, host, attachment }
    }

    /// All files; none for a routed machine without a lease.
    pub fn render(&self) -> Vec<(ManagedFile, String)> {
        let Some(attachment) = &self.attachment else { return Vec::new() };
        let name = || self.name.clone();
        let mut files = vec![
            (ManagedFile::Nspawn(name()), self.nspawn(attachment)),
            (ManagedFile::HostEnd(name()), self.host_end(attachment)),
        ];
        if let Attachment::Routed { routed, lease } = attachment {
            files.push((ManagedFile::GuestEnd(name()), self.guest_end(routed, *lease)));
            if let Some(port) = &routed.lan {
                let lan_end = self.bridged_end(&self.name.lan_link(), port);
                files.push((ManagedFile::LanEnd(name()), lan_end.render()));
                files.push((ManagedFile::GuestLan(name()), guest_lan()));
            }
            if !routed.routes.is_empty() && self.host.fixed_pool().is_some() {
                let routes = routed.routes.iter().copied().fold(Ini::new(), unreachable).render();
                files.push((ManagedFile::RoutesDropIn(name()), routes));
            }
            if self.machine.has_firewall() {
                let part = firewall::Part {
                    name: self.name,
                    planned: self.host.fixed_address(routed, *lease),
                    behind: &routed.behind(*lease),
                    open: &self.machine.open,
                    is_translated: self.is_translated(),
                };
                let text = part.render();
                files.push((ManagedFile::MachineFirewall(name()), text));
            }
        }
        for expose in &self.machine.expose {
            files.extend(expose::inside(self.name, expose).into_iter().map(|bound| (bound.file, bound.text)));
            if let Attachment::Routed { routed, lease } = attachment
                && let Some(fixed) = self.host.fixed_address(routed, *lease)
            {
                files.extend(expose::on_host(self.name, expose, fixed));
            }
        }
        files.push((ManagedFile::UnitDropIn(name()), self.drop_in(attachment)));
        files
    }

    /// The bytes that a packet on the veth may have, where that is not the usual.
    pub(super) fn mtu(&self) -> Option<u32> {
        let own = self.machine.network.routed().and_then(|routed| routed.mtu);
        own.or_else(|| self.host.uplink.as_ref()?.mtu)
    }

    /// Whether the user's own settings give the host's end an IPv4 address.
    fn has_own_ipv4(&self) -> bool {
        let sections = ["Network", "Address"].into_iter().filter_map(|name| self.machine.networkd.get(name));
        let addresses =
            sections.flat_map(Sections::all).filter_map(|keys| keys.get("Address")).flat_map(Values::texts);
        addresses.into_iter().any(|address| address.parse::<ipnet::Ipv4Net>().is_ok())
    }

    /// The servers that the machine asks, in a row; none where nobody said.
    fn dns_servers(&self, takes: impl Fn(&IpAddr) -> bool) -> Option<String> {
        words(self.host.dns_servers_of(self.machine).iter().filter(|server| takes(server)))
    }

    /// The domain in which machines have their names.
    fn zone(&self) -> Option<&str> {
        self.host.dns.as_ref().map(|dns| dns.zone.as_str())
    }

    /// Whether the machine has a private IPv4 address.
    fn nat(&self) -> bool {
        self.host.gives_ipv4(self.machine)
    }

    /// Whether it reaches IPv4 by translation.
    pub(super) fn is_translated(&self) -> bool {
        self.host.prefix().is_some() && self.host.is_translated(self.machine)
    }

    /// The machine's own IPv4 address.
    pub(super) fn own_ipv4(&self) -> Option<Ipv4Addr> {
        self.machine.ipv4.and_then(Ipv4::address)
    }

    /// An IPv4 address needs no gateway of its own kind (RFC 8950).
    fn with_own_ipv4(&self, ini: Ini) -> Ini {
        let Some(address) = self.own_ipv4() else { return ini };
        ini.section("Address")
            .set("Address", format_args!("{address}/32"))
            .section("Route")
            .set("Destination", "0.0.0.0/0")
            .set("Gateway", GATEWAY)
    }

    /// systemd.nspawn(5); the stock unit's options say the same, but a file that
    /// says all is one that can be read.
    fn nspawn(&self, attachment: &Attachment) -> String {
        let MachineSpec { environment, bind, bind_read_only, device, expose, .. } = self.machine;
        let mut exec = vec![("Boot", "yes".to_owned()), ("PrivateUsers", "pick".to_owned())];
        // A guest without a machine-id would ask questions on a console that nobody reads.
        exec.push(("Parameters", "systemd.firstboot=no".to_owned()));
        exec.push(("Environment", MOUNT_BURST.to_owned()));
        exec.extend(environment.iter().map(|(key, value)| ("Environment", quoted(key, value))));
        let mut files = vec![("PrivateUsersOwnership", "auto".to_owned())];
        let read_only =
            |from: &ManagedFile, to: &str| ("BindReadOnly", format!("{}:{to}", from.path().display()));
        let mut network = Vec::new();
        match attachment {
            Attachment::Routed { routed, .. } => {
                files.push(read_only(&ManagedFile::GuestEnd(self.name.clone()), GUEST_TARGET));
                network.push(("VirtualEthernet", "yes".to_owned()));
                if routed.lan.is_some() {
                    files.push(read_only(&ManagedFile::GuestLan(self.name.clone()), LAN_TARGET));
                    network.push(("VirtualEthernetExtra", format!("{}:{LAN}", self.name.lan_link())));
                }
            }
            Attachment::Bridge(port) => network.push(("Bridge", port.bridge.to_string())),
        }
        let bound = expose.iter().flat_map(|expose| expose::inside(self.name, expose));
        files.extend(bound.map(|bound| read_only(&bound.file, &bound.target)));
        files.extend(bind.iter().map(|bind| ("Bind", bind.clone())));
        files.extend(device.iter().map(|device| ("Bind", device.clone())));
        files.extend(bind_read_only.iter().map(|bind| ("BindReadOnly", bind.clone())));
        let sections = [("Exec", exec), ("Files", files), ("Network", network)];
        let ini = sections.iter().fold(Ini::new(), |ini, (section, defaults)| {
            self.with_user_settings(ini.section(section), section, defaults)
        });
        ini.render()
    }

    /// Our settings of a section, then the user's, which win: systemd takes the
    /// last value of a key, and adds up those that are lists.
    fn with_user_settings(&self, mut ini: Ini, section: &str, defaults: &[(&str, String)]) -> Ini {
        let user = self.machine.nspawn.get(section);
        for (key, value) in defaults {
            let lists =
                ["Bind", "BindReadOnly", "Environment", "Parameters", "VirtualEthernetExtra"].contains(key);
            let said = user.and_then(|keys| keys.get(*key)).map_or_else(Vec::new, Values::texts);
            if said.is_empty() || (lists && !said.contains(value)) {
                ini = ini.set(key, value);
            }
        }
        user.into_iter().flatten().fold(ini, |ini, (key, values)| ini.set_some(key, values.texts()))
    }

    fn host_end(&self, attachment: &Attachment) -> String {
        let (routed, bridged) = (self.name.routed_link(), self.name.bridged_link());
        let ini = match attachment {
            Attachment::Routed { lease, routed: asked } => self.routed_end(&routed, asked, *lease),
            // The old name too: a machine that moves while it runs keeps its ve- until it restarts.
            Attachment::Bridge(port) => self.bridged_end(&format!("{bridged} {routed}"), port),
        };
        self.with_networkd_settings(ini).render()
    }

    /// The user's settings come last, and win: networkd takes the last value of a key.
    fn with_networkd_settings(&self, mut ini: Ini) -> Ini {
        for (section, all) in &self.machine.networkd {
            for keys in all.all() {
                ini = ini.section(section);
                ini = keys.iter().fold(ini, |ini, (key, values)| ini.set_some(key, values.texts()));
            }
        }
        ini
    }

    /// Nobody else is on this link, so there is nothing to detect duplicates of.
    /// RA is for guests that do not read the file bound into them. Never
    /// `IPMasquerade=both`, which the stock file has: it translates IPv6, too.
    fn routed_end(&self, link: &str, routed: &Routed, lease: Lease) -> Ini {
        let mut ini = Ini::new().section("Match").set("Name", link);
        if let Some(servers) = self.dns_servers(IpAddr::is_ipv6) {
            ini = ini.section("IPv6SendRA").set("DNS", servers).set_some("Domains", self.zone());
        }
        let ini = ini
            .section("Link")
            .set("RequiredForOnline", "no")
            .set_some("MTUBytes", self.mtu())
            .section("Network")
            .set("ConfigureWithoutCarrier", "yes")
            .set("LinkLocalAddressing", "ipv6")
            .set("IPv6AcceptRA", "no")
            .set("IPv6SendRA", "yes")
            // networkd chooses a range that the host does not use (systemd.network(5)).
            .set_some("Address", (self.nat() && !self.has_own_ipv4()).then_some("0.0.0.0/28"))
            .set_some("DHCPServer", self.nat().then_some("yes"))
            .set_some("IPMasquerade", self.nat().then_some("ipv4"));
        let ini = match lease {
            Lease::Number(number) => self.delegated_prefix(ini, number),
            Lease::Subnet(subnet) if subnet.is_wide() => {
                route_to(own_gateway(ini), Ipv6Net::from(routed.address(subnet)))
                    .section("IPv6Prefix")
                    .set("Prefix", subnet.link())
            }
            Lease::Subnet(subnet) => fixed_prefix(ini, subnet),
            Lease::Address(address) => route_to(own_gateway(ini), Ipv6Net::from(address)),
        };
        // RFC 8781; systemd 255 and later, older ones pass over it.
        let pref64 = self.is_translated().then_some(nat64::PREFIX).into_iter();
        let ini = pref64.fold(ini, |ini, net| ini.section("IPv6PREF64Prefix").set("Prefix", net));
        let ini = self.own_ipv4().map(Ipv4Net::from).into_iter().fold(ini, route_to);
        let Some(gateway) = routed.planned(lease).address() else { return ini };
        // Without GatewayOnLink=: networkd would not wait until the gateway is on this link.
        let behind = routed.behind(lease).into_iter();
        behind.fold(ini, |ini, net| ini.section("Route").set("Destination", net).set("Gateway", gateway))
    }

    /// networkd cuts the /64 of this number out of what the ISP delegates; the same
    /// number of the local prefix stays beside it.
    fn delegated_prefix(&self, ini: Ini, number: u32) -> Ini {
        let uplink = self.host.uplink.as_ref().map(|uplink| &uplink.interface);
        let ini = ini.set("DHCPPrefixDelegation", "yes");
        let ini = match self.host.local.and_then(|local| local.subnet(number.into())) {
            Some(local) => fixed_prefix(ini, local),
            None => own_gateway(ini),
        };
        ini.section("DHCPPrefixDelegation")
            .set_some("UplinkInterface", uplink)
            .set("SubnetId", format_args!("0x{number:x}"))
            .set("Announce", "yes")
            .set("Token", "static:::1")
    }

    /// The prefix changes, the host part stays; the gateway does not go when
    /// networkd on the host restarts.
    fn delegated_guest_end(&self, ini: Ini, routed: &Routed) -> Ini {
        let token = Ipv6Addr::from(u128::from(routed.host_part()));
        ini.section("Network")
            .set("LinkLocalAddressing", "ipv6")
            .set("IPv6AcceptRA", "yes")
            .set("IPv6DuplicateAddressDetection", 0)
            .set_some("DHCP", self.nat().then_some("ipv4"))
            .set_some("DNS", self.dns_servers(|_| true))
            .set_some("Domains", self.zone())
            .section("IPv6AcceptRA")
            .set("Token", format_args!("static:{token}"))
            .set("UseGateway", "no")
            .set("DHCPv6Client", "no")
            .section("Route")
            .set("Gateway", GATEWAY)
    }

    /// No RA: the address and the route are known, and a router lifetime of 0,
    /// which networkd sends when it restarts, must not take the route away.
    fn guest_end(&self, routed: &Routed, lease: Lease) -> String {
        let mut ini = Ini::new().section("Match").set("Name", "host0");
        if let Some(mtu) = self.mtu() {
            ini = ini.section("Link").set("MTUBytes", mtu);
        }
        let address = match routed.planned(lease) {
            Planned::Token(_) => return self.with_own_ipv4(self.delegated_guest_end(ini, routed)).render(),
            Planned::Address(address) => Ipv6Net::new_assert(address, 64),
            Planned::Single(address) => Ipv6Net::new_assert(address, 128),
        };
        let ini = ini
            .section("Network")
            .set("LinkLocalAddressing", "ipv6")
            .set("IPv6AcceptRA", "no")
            .set_some("DHCP", self.nat().then_some("ipv4"))
            .set_some("DNS", self.dns_servers(|_| true))
            .set_some("Domains", self.zone())
            .section("Address")
            .set("Address", address)
            .set("DuplicateAddressDetection", "none")
            .section("Route")
            .set("Gateway", GATEWAY);
        let ini = routed.behind(lease).into_iter().fold(ini, unreachable);
        self.with_own_ipv4(ini).render()
    }
}

/// What a router has not given to anybody does not go back where it came from (RFC 7084 L-14). Who
/// routes it inside the machine does so for parts of it, or has a route of the usual metric.
fn unreachable(ini: Ini, net: Ipv6Net) -> Ini {
    ini.section("Route").set("Destination", net).set("Type", "unreachable").set("Metric", LAST_RESORT)
}

/// Behind every other route to the same.
pub const LAST_RESORT: u32 = 4_294_967_294;

fn fixed_prefix(ini: Ini, subnet: Subnet) -> Ini {
    own_gateway(ini)
        .section("Address")
        .set("Address", format_args!("{}/64", subnet.host_end()))
        .set("DuplicateAddressDetection", "none")
        .section("IPv6Prefix")
        .set("Prefix", subnet)
}

/// A single address on this link; without the scope networkd would take an IPv4 route for one of the
/// whole world.
fn route_to(ini: Ini, address: impl Into<IpNet>) -> Ini {
    let address = address.into();
    let scope = address.network().is_ipv4().then_some("link");
    ini.section("Route").set("Destination", address).set_some("Scope", scope)
}

fn own_gateway(ini: Ini) -> Ini {
    ini.section("Address")
        .set("Address", format_args!("{GATEWAY}/64"))
        .set("DuplicateAddressDetection", "none")
}

/// The value of a setting that has several, if there are any.
pub(super) fn words(all: impl IntoIterator<Item: ToString>) -> Option<String> {
    Some(joined(all, " ")).filter(|words| !words.is_empty())
}

/// A variable in quotes of the kind that does not stand in it: nspawn knows no
/// escapes here (the spec refuses a value that holds both kinds).
pub(super) fn quoted(key: &str, value: &str) -> String {
    let quote = if value.contains('"') { '\'' } else { '"' };
    format!("{quote}{key}={value}{quote}")
}
