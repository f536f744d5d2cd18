//! Who is listened to while events are followed: machined, systemd and networkd by their signals, the kernel by
//! its messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, LocalBoxStream, SelectAll};
use tokio::sync::oneshot;

use crate::cli::Fault;
use crate::events::{Event, FIREWALL, Kind, failed};
use crate::name::MachineName;
use crate::sys::{Bus, Net, Signal, microseconds_since_1970};

/// What comes of listening.
pub enum Heard {
    Event(Event),
    /// systemd is about to do something with a machine.
    Job(MachineName),
}

type Events = BoxStream<'static, Event>;

/// What is heard of the host, of its links, and of each machine.
pub struct Watchers {
    bus: Bus,
    pub heard: SelectAll<LocalBoxStream<'static, Heard>>,
    /// Each of them ends when this is dropped.
    addresses: BTreeMap<String, oneshot::Sender<()>>,
    failures: BTreeMap<MachineName, oneshot::Sender<()>>,
    links: BTreeMap<u32, oneshot::Sender<()>>,
}

impl Watchers {
    pub fn new(bus: &Bus) -> Watchers {
        let bus = bus.clone();
        let (addresses, failures, links) = Default::default();
        Watchers { bus, heard: SelectAll::new(), addresses, failures, links }
    }

    /// The host, and all machines that run.
    pub async fn all(&mut self) -> Result<(), Fault> {
        self.heard.push(signals(&self.bus).await?);
        self.heard.push(addresses(None).await?.map(Heard::Event).boxed_local());
        for name in self.bus.nspawn_units().await?.into_keys() {
            self.unit(name).await;
        }
        for (name, running) in self.bus.machines().await? {
            self.begin(&name, running.leader).await;
        }
        self.links().await;
        Ok(())
    }

    /// How a machine's unit fails, also before machined knows the machine.
    pub async fn unit(&mut self, name: MachineName) {
        if self.failures.contains_key(&name) {
            return;
        }
        // Where it has gone already, the journal tells why.
        let Ok(results) = self.bus.failures(&name.unit()).await else { return };
        let machine = name.clone();
        let events = results.map(move |result| event(Kind::Failed, Some(&machine), failed(&result)));
        let until = self.push(events.boxed());
        self.failures.insert(name, until);
    }

    /// A machine that has ended already has no addresses.
    async fn begin(&mut self, name: &str, leader: u32) {
        if let Ok(events) = addresses(Some((name, leader))).await {
            let until = self.push(events);
            self.addresses.insert(name.to_owned(), until);
        }
    }

    /// The links that networkd manages: those of machines come and go with them. A host that has no networkd has none.
    async fn links(&mut self) {
        let managed = self.bus.managed().await.unwrap_or_default();
        let Ok(net) = Net::host() else { return };
        for link in net.links().await.unwrap_or_default() {
            let is_machines = ["ve-", "vb-"].iter().any(|start| link.name.starts_with(start));
            let is_managed = managed.get(&link.index).is_some_and(|managed| managed.file.is_some());
            if is_machines || !is_managed || self.links.contains_key(&link.index) {
                continue;
            }
            if let Ok(states) = self.bus.link_states(link.index).await {
                let name = link.name;
                let events = states.map(move |state| event(Kind::Link, None, format!("{name}: {state}")));
                let until = self.push(events.boxed());
                self.links.insert(link.index, until);
            }
        }
    }

    /// Listens until what is returned is dropped.
    fn push(&mut self, events: Events) -> oneshot::Sender<()> {
        let (until, over) = oneshot::channel();
        self.heard.push(events.map(Heard::Event).take_until(over).boxed_local());
        until
    }

    /// What else is to be listened to from now on.
    pub async fn hear(&mut self, event: &Event) {
        match (event.event, event.machines.first()) {
            (Kind::Started, Some(name)) => {
                let leader = match (event.leader, name.parse::<MachineName>()) {
                    (None, Ok(machine)) => self.bus.leader(&machine).await.ok().flatten(),
                    (leader, _) => leader,
                };
                if let Some(leader) = leader {
                    self.begin(name, leader).await;
                }
            }
            // How it ended is told later.
            (Kind::Stopped, Some(name)) => _ = self.addresses.remove(name),
            (Kind::Changed, _) => self.links().await,
            _ => {}
        }
    }
}

fn event(kind: Kind, machine: Option<&MachineName>, text: String) -> Event {
    let machines = machine.map(ToString::to_string).into_iter().collect();
    Event { time_usec: microseconds_since_1970(), event: kind, machines, text, leader: None }
}

/// Of machines, and of jobs that are about them or the firewall.
async fn signals(bus: &Bus) -> Result<LocalBoxStream<'static, Heard>, Fault> {
    let (signals, bus) = (bus.signals().await?, bus.clone());
    let events = signals.filter_map(move |signal| {
        let bus = bus.clone();
        async move {
            let event = match signal {
                Signal::JobNew { unit } => return MachineName::from_unit(&unit).map(Heard::Job),
                Signal::MachineNew(name) => of_machine(Kind::Started, name, "started"),
                Signal::MachineRemoved(name) => of_machine(Kind::Stopped, name, "stopped"),
                Signal::JobRemoved { unit, result } if unit == FIREWALL && result == "done" => {
                    let is_there = bus.is_active(FIREWALL).await.unwrap_or(false);
                    is_there.then(|| event(Kind::Firewall, None, "the firewall was loaded".to_owned()))
                }
                Signal::JobRemoved { .. } => None,
            };
            event.map(Heard::Event)
        }
    });
    Ok(events.boxed_local())
}

fn of_machine(kind: Kind, name: String, text: &str) -> Option<Event> {
    // That of the host itself.
    let machines = vec![name].into_iter().filter(|name| name != ".host").collect::<Vec<_>>();
    let time_usec = microseconds_since_1970();
    (!machines.is_empty()).then(|| Event {
        time_usec,
        event: kind,
        machines,
        text: text.to_owned(),
        leader: None,
    })
}

/// The addresses that come and go in a machine, or on the host; those of the whole world and of the LAN.
async fn addresses(machine: Option<(&str, u32)>) -> Result<BoxStream<'static, Event>, Fault> {
    let (net, changes) = Net::watch_addresses(machine.map(|(_, leader)| leader))?;
    let known: BTreeSet<IpAddr> = net
        .addresses()
        .await?
        .into_iter()
        .filter(|one| one.global && !one.tentative)
        .map(|one| one.address)
        .collect();
    let machines: Vec<String> = machine.map(|(name, _)| name.to_owned()).into_iter().collect();
    let events = changes.scan((known, net), move |(known, _), (is_there, address)| {
        // The kernel tells each time that its lifetime changes, too.
        let is_new = if is_there && !address.tentative {
            address.global && known.insert(address.address)
        } else {
            !is_there && known.remove(&address.address)
        };
        let word = if is_there { "has" } else { "has no longer" };
        let event = is_new.then(|| Event {
            time_usec: microseconds_since_1970(),
            event: Kind::Address,
            machines: machines.clone(),
            text: format!("{word} {}", address.address),
            leader: None,
        });
        std::future::ready(Some(event))
    });
    Ok(events.filter_map(std::future::ready).boxed())
}
