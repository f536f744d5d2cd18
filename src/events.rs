//! What happens to machines: read from the journal, where machined, systemd and nsctl write it down, and from the
//! signals of the services, of which some tell the same. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::name::MachineName;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Started,
    Stopped,
    /// It ended otherwise than it should.
    Failed,
    /// Processes were killed for want of memory.
    Oom,
    /// The firewall's rules were loaded again as a whole.
    Firewall,
    /// nsctl changed something, or tried to.
    Changed,
    /// An address came or went.
    Address,
    /// networkd found a link in another state.
    Link,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Started => "started",
            Kind::Stopped => "stopped",
            Kind::Failed => "failed",
            Kind::Oom => "oom",
            Kind::Firewall => "firewall",
            Kind::Changed => "changed",
            Kind::Address => "address",
            Kind::Link => "link",
        }
    }

    /// Whether both the journal and a signal tell of it.
    fn is_told_twice(self) -> bool {
        matches!(self, Kind::Started | Kind::Stopped | Kind::Failed | Kind::Firewall)
    }
}

/// One of them, in the words of `events --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Microseconds since 1970.
    pub time_usec: u64,
    pub event: Kind,
    /// Those that it is about; none: the host.
    pub machines: Vec<String>,
    pub text: String,
    /// The machine's first process, where it has just started.
    #[serde(skip)]
    pub leader: Option<u32>,
}

/// Who told of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Journal,
    Signal,
}

/// How much later the second one tells of an event, at most, in microseconds.
const LATE: u64 = 10_000_000;

/// What one of two sources has told of, and the other not yet.
#[derive(Debug, Default)]
pub struct Pairs(VecDeque<(Source, Event)>);

impl Pairs {
    /// Whether nobody has told of this event yet.
    pub fn is_new(&mut self, source: Source, event: &Event) -> bool {
        if !event.event.is_told_twice() {
            return true;
        }
        while self.0.front().is_some_and(|(_, old)| old.time_usec.saturating_add(LATE) < event.time_usec) {
            self.0.pop_front();
        }
        let is_other = |(from, other): &(Source, Event)| {
            *from != source && other.event == event.event && other.machines == event.machines
        };
        let told = self.0.iter().position(is_other);
        match told {
            Some(told) => drop(self.0.remove(told)),
            None => self.0.push_back((source, event.clone())),
        }
        told.is_none()
    }
}

/// sd-messages(3), and ours.
const MACHINE_START: &str = "24d8d4452573402496068381a6312df2";
const MACHINE_STOP: &str = "58432bd3bace477cb514b56381b8a758";
const UNIT_FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
const OUT_OF_MEMORY: &str = "fe6faa94e7774663a0da52717891d8ef";
const UNIT_STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
const UNIT_RELOADED: &str = "7b05ebc668384222baa8881179cfda54";
pub const CHANGED: &str = "0e51b5d62c5f4a50a4b1f9e9a4a9c7b3";

pub const FIREWALL: &str = "nsctl-firewall.service";

/// What journalctl(1) is to look for: any of these.
pub fn matches() -> Vec<String> {
    let of_id = |id: &str| vec![format!("MESSAGE_ID={id}")];
    // Nobody else tells of machines and units.
    let of_units = |id: &str| vec!["_PID=1".to_owned(), format!("MESSAGE_ID={id}")];
    let all = [
        of_id(MACHINE_START),
        of_id(MACHINE_STOP),
        of_units(UNIT_FAILED),
        of_units(OUT_OF_MEMORY),
        of_units(UNIT_STARTED),
        of_units(UNIT_RELOADED),
        of_id(CHANGED),
    ];
    all.join(&"+".to_owned())
}

/// The fields that are read; others may be long.
pub const FIELDS: &str = "MESSAGE_ID,MESSAGE,NAME,LEADER,UNIT,UNIT_RESULT,NSCTL_MACHINES,_UID";

/// One entry of `journalctl --output=json`.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "MESSAGE_ID")]
    id: String,
    #[serde(rename = "MESSAGE", default)]
    message: String,
    #[serde(rename = "NAME")]
    name: Option<String>,
    #[serde(rename = "LEADER")]
    leader: Option<String>,
    #[serde(rename = "UNIT")]
    unit: Option<String>,
    #[serde(rename = "UNIT_RESULT")]
    result: Option<String>,
    #[serde(rename = "NSCTL_MACHINES")]
    machines: Option<String>,
    #[serde(rename = "_UID")]
    uid: Option<String>,
}

/// What a line of `journalctl --output=json` tells; none where it is nothing of ours. Anybody may write to the journal:
/// only what root's processes say is believed.
pub fn read(line: &str) -> Option<Event> {
    let entry: Entry = serde_json::from_str(line).ok()?;
    let time_usec = entry.time.parse().ok()?;
    if entry.uid.as_deref() != Some("0") {
        return None;
    }
    let leader = entry.leader.and_then(|leader| leader.parse().ok());
    let of = |event, machines: Vec<String>, text: String, leader| {
        Some(Event { time_usec, event, machines, text, leader })
    };
    let unit = entry.unit.unwrap_or_default();
    let machine = MachineName::from_unit(&unit).map(|name| vec![name.to_string()]);
    match entry.id.as_str() {
        MACHINE_START => of(Kind::Started, vec![entry.name?], "started".into(), leader),
        MACHINE_STOP => of(Kind::Stopped, vec![entry.name?], "stopped".into(), None),
        UNIT_FAILED => {
            let result = entry.result.unwrap_or_default();
            of(Kind::Failed, machine?, failed(&result), None)
        }
        OUT_OF_MEMORY => of(Kind::Oom, machine?, "a process was killed for want of memory".into(), None),
        UNIT_STARTED if unit == FIREWALL => {
            of(Kind::Firewall, vec![], "the firewall was loaded".into(), None)
        }
        UNIT_RELOADED if unit == FIREWALL => {
            of(Kind::Firewall, vec![], "the firewall was loaded again".into(), None)
        }
        CHANGED => {
            let machines = entry.machines.unwrap_or_default();
            of(Kind::Changed, machines.split_whitespace().map(str::to_owned).collect(), entry.message, None)
        }
        _ => None,
    }
}

/// Why a unit failed (systemd.exec(5), `$SERVICE_RESULT`).
pub fn failed(result: &str) -> String {
    match result {
        "oom-kill" => "was ended for want of memory".to_owned(),
        "timeout" => "did not start or end in time".to_owned(),
        "exit-code" => "ended with an error".to_owned(),
        "signal" | "core-dump" => "was killed".to_owned(),
        "start-limit-hit" => "failed too often, and is not started again".to_owned(),
        other => format!("failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn told(entry: serde_json::Value) -> Option<(Kind, Vec<String>, String)> {
        let mut entry = entry;
        entry["__REALTIME_TIMESTAMP"] = "7".into();
        if entry["_UID"].is_null() {
            entry["_UID"] = "0".into();
        }
        read(&entry.to_string()).map(|event| (event.event, event.machines, event.text))
    }

    #[test]
    fn what_is_written_down_is_read() {
        let web = || vec!["web".to_owned()];
        let started = json!({"MESSAGE_ID": MACHINE_START, "NAME": "web", "LEADER": "7"});
        assert_eq!(told(started), Some((Kind::Started, web(), "started".into())));
        let failed = |unit: &str, result: &str| {
            told(json!({"MESSAGE_ID": UNIT_FAILED, "UNIT": unit, "UNIT_RESULT": result}))
        };
        let oom = Some((Kind::Failed, web(), "was ended for want of memory".to_owned()));
        assert_eq!(failed("systemd-nspawn@web.service", "oom-kill"), oom);
        assert_eq!(failed("ssh.service", "exit-code"), None);
        let reload = |unit: &str| told(json!({"MESSAGE_ID": UNIT_RELOADED, "UNIT": unit}));
        assert_eq!(reload(FIREWALL).map(|event| event.0), Some(Kind::Firewall));
        assert_eq!(reload("nginx.service"), None);
        let changed = json!({"MESSAGE_ID": CHANGED, "MESSAGE": "open: done", "NSCTL_MACHINES": "web db"});
        assert_eq!(
            told(changed),
            Some((Kind::Changed, vec!["web".into(), "db".into()], "open: done".into()))
        );
    }

    #[test]
    fn nobody_but_root_tells_of_machines() {
        let feigned = json!({"MESSAGE_ID": MACHINE_STOP, "NAME": "web", "_UID": "1000"});
        assert_eq!(told(feigned), None);
        assert_eq!(read("{\"MESSAGE_ID\":\"x\"}"), None);
        // What is no text is an array of bytes there.
        assert_eq!(told(json!({"MESSAGE_ID": CHANGED, "MESSAGE": [1, 2]})), None);
    }

    fn event(kind: Kind, name: &str, time_usec: u64) -> Event {
        Event { time_usec, event: kind, machines: vec![name.into()], text: String::new(), leader: None }
    }

    #[test]
    fn what_two_tell_is_one_event() {
        let mut pairs = Pairs::default();
        let mut is_new = |source, kind, name, time| pairs.is_new(source, &event(kind, name, time));
        use Source::{Journal, Signal};
        assert!(is_new(Signal, Kind::Stopped, "web", 1));
        assert!(is_new(Signal, Kind::Started, "web", 2));
        assert!(is_new(Signal, Kind::Stopped, "db", 2));
        // A restart of a restart, of which the journal tells late.
        assert!(is_new(Signal, Kind::Stopped, "web", 3));
        for _ in 0..2 {
            assert!(!is_new(Journal, Kind::Stopped, "web", 3));
        }
        assert!(is_new(Journal, Kind::Stopped, "web", 4));
        assert!(!is_new(Journal, Kind::Started, "web", 4));
        // What the other one never told of is not taken for another.
        assert!(is_new(Journal, Kind::Stopped, "db", LATE + 3));
        // Both are right.
        assert!(is_new(Signal, Kind::Address, "web", 5));
        assert!(is_new(Journal, Kind::Address, "web", 5));
    }

    proptest! {
        #[test]
        fn none_is_lost_where_one_is_silent(times in proptest::collection::vec(0u64..LATE * 3, 0..40)) {
            let mut times = times;
            times.sort_unstable();
            let mut pairs = Pairs::default();
            for time in times {
                assert!(pairs.is_new(Source::Signal, &event(Kind::Started, "web", time)));
            }
        }

        #[test]
        fn whatever_the_journal_says_is_read(text in "\\PC{0,200}") {
            let _ = read(&text);
        }
    }
}
