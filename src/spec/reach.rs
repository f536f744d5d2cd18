//! What of a definition reaches beyond its machine: settings that somebody else's file
//! should not bring along unseen.

use super::{BridgePort, Ipv4, MachineSpec};

/// Settings of [nspawn.Exec] that concern the machine alone.
const HARMLESS: [&str; 2] = ["Hostname", "KillSignal"];

/// Each such setting, as it is written.
pub fn reach(machine: &MachineSpec) -> Vec<String> {
    let mut all: Vec<String> = machine.bind.iter().map(|bind| format!("bind: {bind}")).collect();
    all.extend(machine.bind_read_only.iter().map(|bind| format!("bind-read-only: {bind}")));
    all.extend(machine.device.iter().map(|device| format!("device: {device}")));
    for (section, keys) in &machine.nspawn {
        let harmless = |key: &str| section == "Exec" && HARMLESS.contains(&key);
        for (key, values) in keys.iter().filter(|(key, _)| !harmless(key)) {
            all.push(format!("[nspawn.{section}] {key} = {}", values.texts().join(" ")));
        }
    }
    for (section, sections) in &machine.networkd {
        for (key, values) in sections.all().iter().flatten() {
            all.push(format!("[networkd.{section}] {key} = {}", values.texts().join(" ")));
        }
    }
    all.extend((!machine.has_firewall()).then(|| "firewall = false".to_owned()));
    let ports = machine.expose.iter().filter_map(|expose| expose.host);
    all.extend(ports.map(|port| format!("expose: port {port} of this host")));
    let own = machine.ipv4.and_then(Ipv4::address);
    all.extend(own.map(|address| format!("ipv4: the address {address}, which this host answers for")));
    for route in machine.network.routed().into_iter().flat_map(|routed| &routed.routes) {
        all.push(format!(
            "network: what this host has for {route} goes to it, and it may send as anybody of that"
        ));
    }
    if let Some(BridgePort { bridge, vlan }) = machine.network.port() {
        let vlan = vlan.map_or(String::new(), |vlan| format!(" in VLAN {vlan}"));
        all.push(format!("network: a host of the LAN of {bridge}{vlan}, without a firewall"));
    }
    all
}

/// The machine without them. The bridge of a bridged one stays: without it there would be no network.
pub fn contain(machine: &mut MachineSpec) {
    machine.forget_host_ports();
    machine.forget_own_ipv4();
    machine.network.forget_routes();
    if let Some(routed) = machine.network.routed_mut() {
        routed.lan = None;
    }
    // Each field is looked at: a new one must be told apart here, too.
    let MachineSpec {
        // What they say has been taken in.
        profile: _,
        image: _,
        description: _,
        autostart: _,
        restart: _,
        after,
        open: _,
        ipv4: _,
        firewall,
        bind,
        bind_read_only,
        device,
        // They are called so, and nothing more is said of them.
        secret: _,
        network: _,
        limits: _,
        check: _,
        snapshots: _,
        backup: _,
        environment: _,
        expose: _,
        nspawn,
        networkd,
    } = machine;
    *firewall = None;
    // They are of another host.
    after.clear();
    bind.clear();
    bind_read_only.clear();
    device.clear();
    networkd.clear();
    nspawn.retain(|section, _| section == "Exec");
    nspawn.values_mut().for_each(|keys| keys.retain(|key, _| HARMLESS.contains(&key.as_str())));
    nspawn.retain(|_, keys| !keys.is_empty());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_reaches_out_is_listed_and_dropped() {
        let text = "bind = [\"/:/host\"]\ndevice = [\"/dev/sda\"]\nbind-read-only = [\"/etc\"]\nfirewall = false\nipv4 = \"192.0.2.9\"\n[network]\nmode = \"routed\"\nbridge = \"vbr0\"\nvlan = 20\nroutes = [\"2001:db8:c::/56\"]\n\
                    [nspawn.Exec]\nPrivateUsers = \"no\"\nKillSignal = \"SIGUSR2\"\n[nspawn.Files]\nBind = [\"/root\"]\n\
                    [networkd.Network]\nIPMasquerade = \"both\"\n[[expose]]\nport = \"tcp/80\"\nhost = 80\n";
        let parse = |text: &str| MachineSpec::parse(Path::new("x.toml"), text).unwrap();
        let all = reach(&parse(text)).join("\n");
        for word in [
            "/:/host",
            "/etc",
            "/dev/sda",
            "PrivateUsers = no",
            "Bind = /root",
            "IPMasquerade",
            "firewall",
            "port 80",
            "192.0.2.9",
            "2001:db8:c::/56",
            "vbr0 in VLAN 20",
        ] {
            assert!(all.contains(word), "{word} is not in\n{all}");
        }
        assert!(!all.contains("KillSignal"));
        let mut without = parse(text);
        contain(&mut without);
        assert_eq!(reach(&without), Vec::<String>::new());
        assert!(without.nspawn["Exec"].contains_key("KillSignal"));
    }
}
