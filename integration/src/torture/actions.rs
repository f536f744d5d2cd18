//! What is done to a host, chosen by a seed alone: the same seed chooses the same.

use std::fmt;

use fastrand::Rng;

/// One blow, and how it is cut short.
#[derive(Debug, Clone)]
pub struct Blow {
    pub action: Action,
    pub cut: Cut,
}

/// What happens in the middle of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    None,
    /// SIGKILL between two steps.
    KillAt(u32),
    /// SIGKILL after so many milliseconds.
    KillAfter(u64),
    /// The whole host ends after so many milliseconds; its kernel, so to speak, lives on.
    CrashAfter(u64),
    /// The power goes: what was not on the disk is lost.
    PowerAfter(u64),
}

/// What is done; to which machine, as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        name: usize,
        bridge: bool,
        start: bool,
        open: bool,
    },
    Remove {
        name: usize,
        keep: bool,
    },
    Unit {
        verb: &'static str,
        name: usize,
    },
    Attach {
        name: usize,
        bridge: bool,
    },
    Port {
        verb: &'static str,
        name: usize,
        port: u16,
    },
    Expose {
        verb: &'static str,
        name: usize,
    },
    Clone {
        from: usize,
        to: usize,
        start: bool,
    },
    Rename {
        from: usize,
        to: usize,
    },
    /// A definition is edited, written or deleted, and all are applied.
    Edit {
        name: usize,
        edit: Edit,
    },
    /// Somebody edits a file of ours, and a command comes upon it.
    ForeignEdit {
        name: usize,
        file: usize,
    },
    /// Somebody adds a line to /etc/hosts.
    ForeignLine {
        first: bool,
    },
    /// A tree that nsctl did not make, where there is none.
    ForeignTree {
        name: usize,
    },
    /// The tree goes behind nsctl's back; another takes its place.
    BehindBack {
        name: usize,
        replace: bool,
    },
    /// A machine ends by itself.
    Ends {
        name: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    Environment(u8),
    Tasks(u16),
    New,
    Delete,
}

/// How many machines there may be.
pub const MACHINES: usize = 5;

/// The name of a machine.
pub fn name(number: usize) -> String {
    // One whose interface needs another name.
    if number == 0 { "machine-with-a-long-name".into() } else { format!("m{number}") }
}

impl Blow {
    pub fn choose(rng: &mut Rng) -> Blow {
        let action = Action::choose(rng);
        // All of them are drawn, whichever is needed, so that the choices that follow stay.
        let (kind, point, late) = (rng.u8(0..100), rng.u32(1..40), rng.u64(5..900));
        let cut = match kind {
            _ if action.line().is_none() => Cut::None,
            0..30 => Cut::None,
            30..62 => Cut::KillAt(point),
            62..86 => Cut::KillAfter(late),
            86..93 => Cut::CrashAfter(late),
            _ => Cut::PowerAfter(late),
        };
        Blow { action, cut }
    }
}

impl Action {
    fn choose(rng: &mut Rng) -> Action {
        let (name, other) = (rng.usize(0..MACHINES), rng.usize(0..MACHINES));
        let (one, two, number) = (rng.bool(), rng.bool(), rng.u8(..));
        let other = if other == name { (other + 1) % MACHINES } else { other };
        match rng.u8(0..100) {
            0..24 => Action::Create { name, bridge: number < 50, start: one, open: two },
            24..35 => Action::Remove { name, keep: number < 60 },
            35..47 => Action::Unit { verb: ["start", "stop", "restart"][usize::from(number) % 3], name },
            47..55 => Action::Attach { name, bridge: one },
            55..62 => Action::Port {
                verb: if one { "open" } else { "close" },
                name,
                port: 8000 + u16::from(number % 4),
            },
            62..65 => Action::Expose { verb: if one { "expose" } else { "unexpose" }, name },
            65..71 => Action::Clone { from: name, to: other, start: one },
            71..77 => Action::Rename { from: name, to: other },
            77..87 => {
                let edit = match number % 4 {
                    0 => Edit::Environment(number),
                    1 => Edit::Tasks(100 + u16::from(number)),
                    2 => Edit::New,
                    _ => Edit::Delete,
                };
                Action::Edit { name, edit }
            }
            87..90 => Action::ForeignEdit { name, file: usize::from(number) },
            90..92 => Action::ForeignLine { first: one },
            92..94 => Action::ForeignTree { name },
            94..98 => Action::BehindBack { name, replace: one },
            _ => Action::Ends { name },
        }
    }

    /// The words after `nsctl`, if it is one of its commands.
    pub fn line(&self) -> Option<String> {
        let network = |bridge: bool| if bridge { "--bridge vbr0" } else { "--routed" };
        Some(match self {
            Action::Create { name: k, bridge, start, open } => {
                let open = if *open && !bridge { " --open tcp/22" } else { "" };
                let start = if *start { "" } else { " --no-start" };
                format!("create {} {} --image tiny{open}{start}", name(*k), network(*bridge))
            }
            Action::Remove { name: k, keep } => {
                format!("remove {} --yes{}", name(*k), if *keep { " --keep-image" } else { "" })
            }
            Action::Unit { verb, name: k } => format!("{verb} {}", name(*k)),
            Action::Attach { name: k, bridge } => format!("attach {} {}", name(*k), network(*bridge)),
            Action::Port { verb, name: k, port } => format!("{verb} {} tcp/{port}", name(*k)),
            Action::Expose { verb, name: k } => format!("{verb} {} tcp/8080", name(*k)),
            Action::Clone { from, to, start } => {
                format!("clone {} {}{}", name(*from), name(*to), if *start { "" } else { " --no-start" })
            }
            Action::Rename { from, to } => format!("rename {} {}", name(*from), name(*to)),
            Action::Edit { .. } | Action::ForeignEdit { .. } => "apply --yes".into(),
            Action::ForeignLine { .. }
            | Action::ForeignTree { .. }
            | Action::BehindBack { .. }
            | Action::Ends { .. } => return None,
        })
    }

    /// The machines that it is about.
    pub fn names(&self) -> Vec<String> {
        match self {
            Action::Create { name: k, .. }
            | Action::Remove { name: k, .. }
            | Action::Unit { name: k, .. }
            | Action::Attach { name: k, .. }
            | Action::Port { name: k, .. }
            | Action::Expose { name: k, .. }
            | Action::Edit { name: k, .. }
            | Action::ForeignEdit { name: k, .. }
            | Action::ForeignTree { name: k }
            | Action::BehindBack { name: k, .. }
            | Action::Ends { name: k } => vec![name(*k)],
            Action::Clone { to, .. } => vec![name(*to)],
            Action::Rename { from, to } => vec![name(*from), name(*to)],
            Action::ForeignLine { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.action, self.action.line()) {
            (action @ (Action::Edit { .. } | Action::ForeignEdit { .. }), Some(line)) => {
                write!(f, "{action:?}, then nsctl {line}")?;
            }
            (_, Some(line)) => write!(f, "nsctl {line}")?,
            (action, None) => write!(f, "{action:?}")?,
        }
        match self.cut {
            Cut::None => Ok(()),
            Cut::KillAt(point) => write!(f, ", killed at point {point}"),
            Cut::KillAfter(late) => write!(f, ", killed after {late} ms"),
            Cut::CrashAfter(late) => write!(f, ", the host crashes after {late} ms"),
            Cut::PowerAfter(late) => write!(f, ", the power goes after {late} ms"),
        }
    }
}
