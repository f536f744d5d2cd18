//! `nsctl events`: what happened to machines, and what happens now.

use clap::Args;
use futures_util::StreamExt;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

use super::watchers::{Heard, Watchers};
use crate::apply::Interrupt;
use crate::cli::machine::snapshot::moment;
use crate::cli::session::live_bus;
use crate::cli::text::sanitize;
use crate::cli::{Fault, Global};
use crate::events::{Event, FIELDS, Pairs, Source, matches, read};
use crate::sys::{journald, microseconds_since_1970};

/// Show what happened to machines: starts, stops, deaths, changes by nsctl, reloads of the firewall
///
/// It comes from the journal of this host. With --follow it goes on, and hears machined, systemd, networkd and the
/// kernel themselves, too: it tells of addresses that machines and the host get and lose, and of links that lose their
/// carrier or find it again. With --json it is a document a line.
#[derive(Debug, Clone, Args)]
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
    let mut watchers = Watchers::new(&bus);
    if args.follow {
        watchers.all().await?;
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
    let (mut interrupt, mut pairs) = (Interrupt::begin(), Pairs::default());
    let begun = microseconds_since_1970();
    loop {
        let (source, event) = tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => (Source::Journal, read(&line)),
                None => return Ok(true),
            },
            Some(heard) = watchers.heard.next() => match heard {
                Heard::Event(event) => (Source::Signal, Some(event)),
                Heard::Job(name) => {
                    watchers.unit(name).await;
                    continue;
                }
            },
            () = interrupt.came() => return Ok(false),
        };
        let Some(event) = event else { continue };
        // What is told of earlier has been looked at as it is now; its process may be another's by now.
        if args.follow && event.time_usec >= begun {
            if !pairs.is_new(source, &event) {
                continue;
            }
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
