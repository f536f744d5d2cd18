//! What people fall into: each finding is of one of these traps, and each trap has a page.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A trap, by the name that `doctor --explain` and scripts know it by: one that was published stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Trap {
    AcceptRa,
    AddressTaken,
    AnnouncedTwice,
    BackupOld,
    BackupUnproved,
    BridgeNetfilter,
    CheckFails,
    CutShort,
    DefinitionLeftOut,
    EditedFile,
    FirewallChanged,
    FirstBoot,
    FleetDiffers,
    FleetSilent,
    ForeignFirewall,
    ForwardingOff,
    GuestWithoutNetworkd,
    GuestWithoutSystemd,
    Icmpv6Dropped,
    Ipv6Disabled,
    Ipv6Translated,
    LinkNotConfigured,
    LoopbackDropped,
    MisspeltSetting,
    Mtu,
    NoDefaultRoute,
    NotAnsweredFor,
    OutOfStep,
    PoolAddressMissing,
    PoolLoops,
    PoolNotRouted,
    PortTakenOff,
    PortWithAddresses,
    RouteIntoPool,
    RoutingFiltered,
    RoutingNeighbor,
    RoutingSilent,
    SecretLost,
    ServiceDown,
    ServiceHangs,
    SettingOfAnotherVersion,
    SharedUserIds,
    TunnelKey,
    TunnelMissing,
    TwoDefaultRoutes,
    TwoManagers,
    UnheardService,
    VlanBesideBridge,
    VlansNotApart,
    WrongVlan,
}

macro_rules! page {
    ($id:literal) => {
        include_str!(concat!("../../docs/traps/", $id, ".md"))
    };
}

impl Trap {
    /// What one sees of it, why it is so, what fixes it, and how to see that it is fixed.
    pub fn page(self) -> &'static str {
        match self {
            Trap::AcceptRa => page!("accept-ra"),
            Trap::AddressTaken => page!("address-taken"),
            Trap::AnnouncedTwice => page!("announced-twice"),
            Trap::BackupOld => page!("backup-old"),
            Trap::BackupUnproved => page!("backup-unproved"),
            Trap::BridgeNetfilter => page!("bridge-netfilter"),
            Trap::CheckFails => page!("check-fails"),
            Trap::CutShort => page!("cut-short"),
            Trap::DefinitionLeftOut => page!("definition-left-out"),
            Trap::EditedFile => page!("edited-file"),
            Trap::FirewallChanged => page!("firewall-changed"),
            Trap::FirstBoot => page!("first-boot"),
            Trap::FleetDiffers => page!("fleet-differs"),
            Trap::FleetSilent => page!("fleet-silent"),
            Trap::ForeignFirewall => page!("foreign-firewall"),
            Trap::ForwardingOff => page!("forwarding-off"),
            Trap::GuestWithoutNetworkd => page!("guest-without-networkd"),
            Trap::GuestWithoutSystemd => page!("guest-without-systemd"),
            Trap::Icmpv6Dropped => page!("icmpv6-dropped"),
            Trap::Ipv6Disabled => page!("ipv6-disabled"),
            Trap::Ipv6Translated => page!("ipv6-translated"),
            Trap::LinkNotConfigured => page!("link-not-configured"),
            Trap::LoopbackDropped => page!("loopback-dropped"),
            Trap::MisspeltSetting => page!("misspelt-setting"),
            Trap::Mtu => page!("mtu"),
            Trap::NoDefaultRoute => page!("no-default-route"),
            Trap::NotAnsweredFor => page!("not-answered-for"),
            Trap::OutOfStep => page!("out-of-step"),
            Trap::PoolAddressMissing => page!("pool-address-missing"),
            Trap::PoolLoops => page!("pool-loops"),
            Trap::PoolNotRouted => page!("pool-not-routed"),
            Trap::PortTakenOff => page!("port-taken-off"),
            Trap::PortWithAddresses => page!("port-with-addresses"),
            Trap::RouteIntoPool => page!("route-into-pool"),
            Trap::RoutingFiltered => page!("routing-filtered"),
            Trap::RoutingNeighbor => page!("routing-neighbor"),
            Trap::RoutingSilent => page!("routing-silent"),
            Trap::SecretLost => page!("secret-lost"),
            Trap::ServiceDown => page!("service-down"),
            Trap::ServiceHangs => page!("service-hangs"),
            Trap::SettingOfAnotherVersion => page!("setting-of-another-version"),
            Trap::SharedUserIds => page!("shared-user-ids"),
            Trap::TunnelKey => page!("tunnel-key"),
            Trap::TunnelMissing => page!("tunnel-missing"),
            Trap::TwoDefaultRoutes => page!("two-default-routes"),
            Trap::TwoManagers => page!("two-managers"),
            Trap::UnheardService => page!("unheard-service"),
            Trap::VlanBesideBridge => page!("vlan-beside-bridge"),
            Trap::VlansNotApart => page!("vlans-not-apart"),
            Trap::WrongVlan => page!("wrong-vlan"),
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file that has findings.
    const CHECKS: [&str; 16] = [
        include_str!("backups.rs"),
        include_str!("bridges.rs"),
        include_str!("firewalls.rs"),
        include_str!("fleet.rs"),
        include_str!("forwarding.rs"),
        include_str!("guests.rs"),
        include_str!("keys.rs"),
        include_str!("mtu.rs"),
        include_str!("pool.rs"),
        include_str!("routing.rs"),
        include_str!("records.rs"),
        include_str!("routes.rs"),
        include_str!("secrets.rs"),
        include_str!("services.rs"),
        include_str!("translation.rs"),
        include_str!("tunnel.rs"),
    ];

    /// clap makes a value of each variant, so that the compiler misses none.
    #[test]
    fn every_trap_is_some_checks() {
        let words: Vec<&str> = CHECKS
            .iter()
            .filter_map(|text| text.split("#[cfg(test)]").next())
            .flat_map(|text| text.split(|c: char| !(c.is_alphanumeric() || c == ':')))
            .collect();
        for trap in Trap::value_variants() {
            let word = format!("Trap::{trap:?}");
            assert!(words.contains(&word.as_str()), "no check finds {word}");
        }
    }

    #[test]
    fn every_trap_has_a_page() {
        for trap in Trap::value_variants() {
            let name = trap.to_string();
            let spelt = trap.to_possible_value().unwrap();
            assert_eq!(spelt.get_name(), name, "--explain and --json spell it differently");
            let page = trap.page();
            let lines: Vec<&str> = page.lines().collect();
            assert!(lines[0].starts_with(&format!("# {name}: ")), "{name}: {}", lines[0]);
            assert!((15..=40).contains(&lines.len()), "{name} has {} lines", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= 100), "{name} has a long line");
            let sections: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(sections, SECTIONS, "{name}");
        }
    }

    const SECTIONS: [&str; 4] =
        ["What you see", "Why it is so", "What fixes it", "How to see that it is fixed"];
}
