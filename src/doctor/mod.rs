//! What is wrong with a host and its machines: one trap a file, each a pure
//! function of what was seen.

mod bridges;
pub mod facts;
mod firewalls;
mod forwarding;
mod guests;
mod keys;
mod mtu;
mod pool;
mod records;
mod routes;
pub mod services;
mod translation;

use serde::Serialize;

pub use facts::Facts;
pub use firewalls::OUR_TABLE;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something will not, or is not as it seems.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub level: Level,
    /// A machine's name, an interface, a file and line.
    pub object: String,
    pub what: String,
    pub causes: String,
    /// The command that mends it.
    pub mend: String,
    /// Whether that command takes nothing away that somebody may want.
    pub safe: bool,
}

impl Finding {
    fn error(object: impl Into<String>, what: impl Into<String>, causes: impl Into<String>) -> Finding {
        Finding {
            level: Level::Error,
            object: object.into(),
            what: what.into(),
            causes: causes.into(),
            mend: String::new(),
            safe: false,
        }
    }

    fn warning(object: impl Into<String>, what: impl Into<String>, causes: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, ..Finding::error(object, what, causes) }
    }

    fn mend(self, command: impl Into<String>) -> Finding {
        Finding { mend: command.into(), ..self }
    }

    /// The same, by a command that `--fix` may run.
    fn mend_safely(self, command: impl Into<String>) -> Finding {
        Finding { mend: command.into(), safe: true, ..self }
    }
}

/// All that is wrong, the worst first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 11] = [
        services::check,
        keys::check,
        forwarding::check,
        routes::check,
        pool::check,
        bridges::check,
        firewalls::check,
        translation::check,
        mtu::check,
        records::check,
        guests::check,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(facts)).collect();
    findings.sort();
    findings.dedup();
    findings
}
