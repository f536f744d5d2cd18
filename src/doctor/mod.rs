//! What is wrong with a host and its machines: one subject a file, each a pure
//! function of what was seen. Each finding is of a trap, which has a page.

mod backups;
mod bridges;
pub mod facts;
mod firewalls;
mod fleet;
mod forwarding;
mod guests;
mod keys;
mod mtu;
mod pool;
mod records;
mod routes;
mod routing;
mod secrets;
pub mod services;
mod translation;
mod trap;
mod tunnel;

use serde::Serialize;

pub use facts::Facts;
pub use firewalls::OUR_TABLE;
pub use trap::Trap;

use std::path::{Path, PathBuf};

use crate::emit::ManagedFile;
use crate::name::MachineName;

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
    /// The command that fixes it.
    pub fix: String,
    /// Whether that command takes nothing away that somebody may want.
    pub safe: bool,
    /// What somebody fell into; last, as findings are sorted by what they say.
    pub trap: Trap,
}

impl Finding {
    /// Whether it is about this machine, its interface, or one of its files.
    pub fn is_of(&self, machine: &str, link: Option<&str>) -> bool {
        let named = |word: &str| word == machine || Some(word) == link;
        let file = self.object.rsplit_once(':').map_or(self.object.as_str(), |(file, _)| file);
        self.object.split(", ").any(named)
            || owner_of(Path::new(file)).is_some_and(|owner| owner.as_str() == machine)
    }

    fn error(
        trap: Trap,
        object: impl Into<String>,
        what: impl Into<String>,
        causes: impl Into<String>,
    ) -> Finding {
        Finding {
            level: Level::Error,
            object: object.into(),
            what: what.into(),
            causes: causes.into(),
            fix: String::new(),
            safe: false,
            trap,
        }
    }

    fn warning(
        trap: Trap,
        object: impl Into<String>,
        what: impl Into<String>,
        causes: impl Into<String>,
    ) -> Finding {
        Finding { level: Level::Warning, ..Finding::error(trap, object, what, causes) }
    }

    fn fix(self, command: impl Into<String>) -> Finding {
        Finding { fix: command.into(), ..self }
    }

    /// The same, by a command that `--fix` may run.
    fn fix_safely(self, command: impl Into<String>) -> Finding {
        Finding { fix: command.into(), safe: true, ..self }
    }
}

/// The machine whose file this is, wherever systemd reads it, or a drop-in of that file.
fn owner_of(path: &Path) -> Option<MachineName> {
    // Of a drop-in the folder tells.
    let of = path.parent().and_then(|folder| folder.to_str()?.strip_suffix(".d")).map(PathBuf::from);
    let candidates = [Some(path.to_owned()), of].into_iter().flatten();
    let mut files = candidates.filter_map(|path| {
        let settings = path.file_name()?.to_str()?.strip_suffix(".nspawn");
        let settings = settings.and_then(|name| Some(ManagedFile::Nspawn(name.parse().ok()?)));
        ManagedFile::parse(&path).or(settings)
    });
    files.find_map(|file| file.machine())
}

/// All that is wrong, the worst first.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 16] = [
        services::check,
        keys::check,
        forwarding::check,
        routes::check,
        pool::check,
        routing::check,
        fleet::check,
        bridges::check,
        firewalls::check,
        translation::check,
        mtu::check,
        tunnel::check,
        records::check,
        secrets::check,
        backups::check,
        guests::check,
    ];
    let mut findings: Vec<Finding> = checks.iter().flat_map(|check| check(facts)).collect();
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_files_are_its_own() {
        let of = |object: &str| Finding::error(Trap::OutOfStep, object, "", "").is_of("web", Some("ve-web"));
        for object in [
            "web",
            "db, web",
            "ve-web",
            "/etc/nsctl/machines.d/web.toml:4",
            "/etc/systemd/nspawn/web.nspawn:2",
            "/run/systemd/nspawn/web.nspawn:2",
            "/etc/systemd/network/05-nsctl-ve-web.network:3",
            "/etc/systemd/network/05-nsctl-ve-web.network.d/50-x.conf:1",
        ] {
            assert!(of(object), "{object}");
        }
        for object in
            ["db", "the host", "/etc/nsctl/machines.d/webb.toml:4", "/etc/systemd/network/web.network:3"]
        {
            assert!(!of(object), "{object}");
        }
    }
}
