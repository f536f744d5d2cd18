//! Steps in words.

use super::step::{Source, Step};
use crate::name::MachineName;
use crate::pool::Planned;
use crate::spec::Bind;
use crate::visible::joined;

impl Step {
    /// What the step does, for the plan: "write /etc/…".
    pub fn describe(&self) -> String {
        match self {
            Step::Write { path, old, new, .. } => {
                let verb = match (old, new) {
                    (_, None) => "remove",
                    (None, _) => "write",
                    _ => "change",
                };
                format!("{verb} {}", path.display())
            }
            Step::MakeTree { source: Source::Clone(from), to, sharing } => {
                format!("clone the image '{from}' as '{to}' ({})", sharing.words())
            }
            Step::MakeTree { source: Source::File { path, .. } | Source::Folder(path), to, .. } => {
                format!("import {} as '{to}'", path.display())
            }
            Step::Snapshot { machine, freeze: false, .. } => format!("take a snapshot of '{machine}'"),
            Step::Snapshot { machine, freeze: true, .. } => {
                format!("take a snapshot of '{machine}', which stands still meanwhile")
            }
            Step::RemoveSnapshot { image } => format!("delete the snapshot {}", shown(image)),
            Step::SwapTree { machine, from, aside } => {
                format!(
                    "make the tree of '{machine}' from {}, and keep what it had as {}",
                    shown(from),
                    shown(aside)
                )
            }
            Step::SwapBack { machine, aside } => {
                format!("give '{machine}' its tree back from {}", shown(aside))
            }
            Step::MoveTree { from, to } => format!("keep the tree of {} as {}", shown(from), shown(to)),
            Step::Upgrade { machine, .. } => format!("upgrade the packages of '{machine}'"),
            Step::Revert { machine, back } => {
                format!(
                    "make '{machine}' what it was before its upgrade, and keep what became of it as {}",
                    back.aside
                )
            }
            Step::RestartIfAsked { machine, .. } => format!("restart '{machine}' if its guest asks for that"),
            Step::WorksAsBefore { machine, .. } => format!("wait until '{machine}' does what it did before"),
            Step::Restore { machine, id, .. } => format!("bring '{machine}' back from its backup {id}"),
            Step::Prove { .. } => {
                "see that it starts, alone and without a network, and does what it did".into()
            }
            Step::EndProof { name } => format!("end '{name}'"),
            Step::RenameTree { from, to } => format!("rename the tree of '{from}' to '{to}'"),
            Step::Provision { machine, .. } => format!("make the tree of '{machine}' fit to boot unattended"),
            Step::Claim { machine } => format!("write down that the tree of '{machine}' is nsctl's"),
            Step::Disclaim { machine } => format!("forget whose the tree of '{machine}' is"),
            Step::RemoveImage { name, .. } => format!("delete the tree of '{name}'"),
            Step::Stop { machines } => format!("stop {}", list(machines)),
            Step::Start { machines, .. } => format!("start {}", list(machines)),
            Step::Listen { units } if are_timers(units) => format!("start {}", units.join(", ")),
            Step::Deafen { units } if are_timers(units) => format!("stop {}", units.join(", ")),
            Step::Listen { units } => format!("listen with {}", units.join(", ")),
            Step::Deafen { units } => format!("listen with {} no longer", units.join(", ")),
            Step::Inside { machine, old, new } => {
                let mut ports: Vec<&str> = old.iter().chain(new).map(|unit| unit.name.as_str()).collect();
                ports.sort_unstable();
                ports.dedup();
                format!("change listeners inside '{machine}': {}", ports.join(", "))
            }
            Step::LimitDisk { machine, new: Some(bytes), .. } => {
                format!("let the tree of '{machine}' take {} of the disk at the most", size(*bytes))
            }
            Step::LimitDisk { machine, new: None, .. } => {
                format!("let the tree of '{machine}' take all that the disk has")
            }
            Step::Bind { machine, binds, .. } => format!("show '{machine}' {}", sources(binds)),
            Step::Unbind { machine, binds, .. } => format!("show '{machine}' {} no longer", sources(binds)),
            Step::Limit { machine, new, .. } => {
                let all = new.iter().map(|(key, value)| match value.as_str() {
                    "" => format!("no {key}"),
                    value => format!("{key}={value}"),
                });
                format!("set limits of '{machine}' while it runs: {}", joined(all, ", "))
            }
            Step::Kill { machines } => format!("end {}", list(machines)),
            Step::Enable { machines } => format!("start {} with the host", list(machines)),
            Step::Disable { machines } => format!("start {} with the host no longer", list(machines)),
            Step::ReloadSystemd { .. } => "reload systemd".into(),
            Step::ReloadNetworkd => "reload networkd".into(),
            Step::ReloadBird => "reload bird".into(),
            Step::RestartResolved => "restart systemd-resolved".into(),
            Step::ReloadFirewall { .. } => "load the firewall".into(),
            Step::Switch { key, new, .. } => format!("set {} to {new}", key.replace('/', ".")),
            Step::PoolRoute { pool } => format!("wait for the unreachable route of {pool}"),
            Step::DropUnreachable { routes } => {
                let nets = routes.iter().map(|(net, _)| net);
                format!("take away the unreachable route of {}", joined(nets, ", "))
            }
            Step::TunnelUp { link, .. } => format!("wait for the tunnel {link}"),
            Step::Delegation => "wait for the delegated prefix".into(),
            Step::BridgeUp { bridge, port, .. } => format!("wait until {port} is a port of {bridge}"),
            Step::FilterVlans { bridge, on: true, .. } => format!("keep VLANs apart on {bridge}"),
            Step::FilterVlans { bridge, on: false, .. } => format!("keep VLANs apart on {bridge} no longer"),
            Step::DeleteLink { name } => format!("delete the interface {name}"),
            Step::FlushPort { port } => format!("take addresses and routes off {port}"),
            Step::Move { machine, bridge, .. } => format!("move '{machine}' to {bridge} while it runs"),
            Step::Probe { link, addresses } => {
                format!("see that nobody else on {link} has {}", joined(addresses.values().flatten(), ", "))
            }
            Step::Answer { machine, address: Planned::Token(_) } => format!("wait until '{machine}' answers"),
            Step::Answer { machine, address } => format!("wait until '{machine}' answers at {address}"),
            Step::LanAddress { machine, .. } => format!("wait for addresses of '{machine}' from the LAN"),
            Step::Check { machine, check } => format!("wait until '{machine}' passes its check, {check}"),
        }
    }
}

/// As in a definition.
fn size(bytes: u64) -> String {
    let whole = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')].into_iter();
    let mut whole = whole.filter(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.next().map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn are_timers(units: &[String]) -> bool {
    units.iter().all(|unit| unit.ends_with(".timer"))
}

/// A tree's name: a machine's, or a snapshot's.
fn shown(tree: &str) -> String {
    match tree.strip_prefix('.').and_then(|rest| rest.split_once('@')) {
        Some((machine, label)) => format!("'{label}' of '{machine}'"),
        None => format!("'{tree}'"),
    }
}

fn sources(binds: &[Bind]) -> String {
    joined(binds.iter().map(|bind| bind.source.display()), ", ")
}

fn list(machines: &[MachineName]) -> String {
    match machines {
        [one] => format!("'{one}'"),
        [first, .., last] if machines.len() > 6 => {
            format!("{} machines, '{first}' to '{last}'", machines.len())
        }
        some => joined(some.iter().map(|name| format!("'{name}'")), ", "),
    }
}
