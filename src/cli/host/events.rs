//! `nsctl events`: what happened to machines, and what happens now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::sync::oneshot;

use crate::apply::Interrupt;
use crate::cli::machine::snapshot::moment;
use crate::cli::session::live_bus;
use crate::cli::text::sanitize;
use crate::cli::{Fault, Global};
use crate::events::{Event, FIELDS, Kind, matches, read};
use crate::sys::{Bus, Net, journald, microseconds_since_1970};

/// Show what happened to machines: starts, stops, deaths, changes by nsctl, reloads of the firewall
///
/// It comes from the journal of this host. With --follow it goes on, and tells of addresses, too, that machines and
/// the host get and lose. With --json it is a document a line.
#[derive(Debug, Args)]
pub struct Events {
    /// Only what is about these machines [default: all, and the host]
    #[arg(add = crate::cli::complete::any_machines())]
    names: Vec<String>,
    /// Go on showing what comes
    #[arg(long, short)]
    follow: bool,
    /// Only what is not older: "2026-11-28 12:00", yesterday, -1h (systemd.time(7)) [default: -1d; with --follow: now]
    #[arg(long, short = 'S', value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
}

pub async fn run(global: &Global, args: Events) -> Result<u8, Fault> {
    let bus = live_bus(global, "events are told").await?;
    global.report.streams();
    let mut words: Vec<String> = vec![format!("--output-fields={FIELDS}")];
    match (&args.since, args.follow) {
        (Some(since), _) => words.push(format!("--since={since}")),
        (None, false) => words.push("--since=-1d".to_owned()),
        (None, true) => {}
    }
    if args.follow {
        let lines = if args.since.is_some() { "all" } else { "0" };
        words.extend(["--follow".to_owned(), format!("--lines={lines}")]);
    }
    let mut journal = journald::entries(&[words, matches()].concat())?;
    let lines = journal.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let mut watchers = Watchers::default();
    if args.follow {
        watchers.all(&bus).await?;
    }
    if !tell(global, &args, lines, watchers).await? {
        return Ok(0);
    }
    let status = journal.wait().await?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Until the journal has no more; false: until who reads wants no more, or says so by a signal.
async fn tell(
    global: &Global,
    args: &Events,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    mut watchers: Watchers,
) -> Result<bool, Fault> {
    let Some(mut lines) = lines else { return Ok(true) };
    let mut interrupt = Interrupt::begin();
    let begun = microseconds_since_1970();
    loop {
        let event = tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => read(&line),
                None => return Ok(true),
            },
            Some(event) = watchers.events.next() => Some(event),
            () = interrupt.came() => return Ok(false),
        };
        let Some(event) = event else { continue };
        // What is told of earlier has been looked at as it is now; its process may be another's by now.
        if args.follow && event.time_usec >= begun {
            watchers.hear(&event).await;
        }
        if is_wanted(&event, &args.names) && !print(global, &event) {
            return Ok(false);
        }
    }
}

fn is_wanted(event: &Event, names: &[String]) -> bool {
    names.is_empty() || event.machines.iter().any(|name| names.contains(name))
}

fn print(global: &Global, event: &Event) -> bool {
    use std::io::Write;
    let text = if global.json {
        serde_json::to_string(event).unwrap_or_default()
    } else {
        let who = if event.machines.is_empty() { "-".to_owned() } else { event.machines.join(",") };
        let (when, kind) = (moment(event.time_usec / 1_000_000), event.event.word());
        sanitize(&format!("{when}  {kind:8}  {who}  {}", event.text))
    };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok()
}

/// Who watches the addresses of the host, and of each machine as long as it runs.
#[derive(Default)]
struct Watchers {
    events: SelectAll<BoxStream<'static, Event>>,
    /// Each ends when this is dropped.
    running: BTreeMap<String, oneshot::Sender<()>>,
}

impl Watchers {
    /// Those of the host, and of all machines that run.
    async fn all(&mut self, bus: &Bus) -> Result<(), Fault> {
        self.events.push(watch(None).await?);
        for (name, running) in bus.machines().await? {
            self.begin(&name, running.leader).await;
        }
        Ok(())
    }

    /// A machine that has ended already has no addresses.
    async fn begin(&mut self, name: &str, leader: u32) {
        let Ok(events) = watch(Some((name, leader))).await else { return };
        let (until, over) = oneshot::channel();
        self.running.insert(name.to_owned(), until);
        self.events.push(events.take_until(over).boxed());
    }

    async fn hear(&mut self, event: &Event) {
        match (event.event, event.machines.first(), event.leader) {
            (Kind::Started, Some(name), Some(leader)) => self.begin(name, leader).await,
            (Kind::Stopped, Some(name), _) => _ = self.running.remove(name),
            _ => {}
        }
    }
}

/// The addresses that come and go in a machine, or on the host; those of the whole world and of the LAN.
async fn watch(machine: Option<(&str, u32)>) -> Result<BoxStream<'static, Event>, Fault> {
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
