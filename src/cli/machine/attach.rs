//! `nsctl attach`: a machine on another network, also one made by hand.

use clap::Args;

use crate::cli::fault::argument;
use crate::cli::machine::create::NetworkArgs;
use crate::cli::machine::handwritten::{self, checked, taken_over};
use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::handwritten::Handwritten;
use crate::name::MachineName;
use crate::plan::Scope;
use crate::spec::{MachineSpec, Network, Routed};

/// Move a machine to a bridge or to a subnet of its own
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("way").args(["routed", "bridge"]).multiple(true).required(true))]
pub struct Attach {
    /// The machine's name
    #[arg(add = crate::cli::complete::any_machines())]
    name: String,
    #[command(flatten)]
    network: NetworkArgs,
}

pub async fn run(global: &Global, args: Attach) -> Result<u8, Fault> {
    let name: MachineName = argument(&args.name)?;
    let mut network = args.network.network()?;
    let mut session = Session::begin(global, About::Those(&[&name])).await?;
    if network.routed().is_some() && session.state.leases.get(&name).is_none() {
        session.ask_neighbours(&[&name]).await?;
    }
    if session.spec.broken.contains_key(&name) {
        session.machine(&name)?;
    }
    let change = session.change(Scope::Machine(name.clone()));
    let change = match session.spec.machines.get(&name) {
        Some(machine) => {
            let mut machine = machine.clone();
            match (&machine.network, &network) {
                // Its own subnet and token stay.
                (Network::Routed(old), Network::Routed(new)) => {
                    network = Network::Routed(Routed { lan: new.lan.clone(), ..old.clone() });
                    machine.network = network.clone();
                }
                (_, Network::Routed(_)) => machine.network = network.clone(),
                (_, Network::Bridge(port)) => tell_lost(&session, &name, &machine.bridge(port.clone())),
            }
            change.edit(&name, &machine)?
        }
        None => {
            let (machine, handwritten) = adopt(&session, &name, network.clone())?;
            taken_over(checked(change.define(&name, &machine)?, &machine, &name)?, handwritten)
        }
    };
    let wanted = session.make(change).await?;
    if !session.observed.is_running(&name) {
        let subnet = wanted.leases.get(&name).map(|subnet| format!("routed with {subnet}"));
        let on = network.port().map(|port| match port.vlan {
            Some(vlan) => format!("on {} in VLAN {vlan}", port.bridge),
            None => format!("on {}", port.bridge),
        });
        let place: Vec<String> = subnet.into_iter().chain(on).collect();
        let place = place.join(" and ");
        session.say(format!("{name} is {place}; it is not running: `nsctl start {name}`"));
    }
    Ok(0)
}

/// What a machine loses on a bridge.
fn tell_lost(session: &Session, name: &MachineName, lost: &[String]) {
    if !lost.is_empty() {
        session.note(format!(
            "on a bridge '{name}' is a host of the LAN, and nsctl filters and translates nothing; forgotten: {}",
            lost.join(", ")
        ));
    }
}

/// A machine that nsctl did not make: it starts with the host as it did before.
fn adopt(
    session: &Session,
    name: &MachineName,
    network: Network,
) -> Result<(MachineSpec, Option<Handwritten>), Fault> {
    must_be_there(session, name)?;
    let observed = &session.observed;
    let nspawn = handwritten::find(session, name.as_str())?;
    let mut machine = MachineSpec { autostart: observed.enabled.contains(name), ..MachineSpec::new(network) };
    if let Some(file) = &nspawn {
        file.absorbed_by(&mut machine);
    }
    Ok((machine, nspawn))
}

/// There is a machine or a tree of that name.
pub fn must_be_there(session: &Session, name: &MachineName) -> Result<(), Fault> {
    let observed = &session.observed;
    if !observed.images.contains(name.as_str()) && !observed.is_running(name) {
        let known: Vec<&str> = session.spec.machines.keys().map(MachineName::as_str).collect();
        let images: Vec<&str> =
            observed.images.iter().map(String::as_str).filter(|i| !known.contains(i)).collect();
        return Err(Fault::new(format!("there is no machine or tree named '{name}'")).hint(format!(
            "machines: {}; trees: {}; `nsctl create` makes a new one",
            or_none(&known),
            or_none(&images)
        )));
    }
    Ok(())
}

fn or_none(words: &[&str]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
