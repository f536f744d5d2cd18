//! Machines made by hand: their .nspawn settings go into the definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::apply::Listener;
use crate::cli::Fault;
use crate::cli::session::Session;
use crate::emit::Origin;
use crate::emit::ini::Ini;
use crate::name::MachineName;
use crate::plan::Change;
use crate::spec::{MachineSpec, NspawnTable, Problems, Values, decided_by_network, definition_path, edit};

/// Where nspawn looks for a machine's settings; the first file counts
/// (systemd-nspawn(1), `--settings=`).
const FOLDERS: [&str; 3] = ["/etc/systemd/nspawn", "/run/systemd/nspawn", "/var/lib/machines"];

/// A .nspawn file that somebody wrote.
pub struct Handwritten {
    path: PathBuf,
    text: String,
}

impl Handwritten {
    /// The settings that somebody wrote for the machine or image of this name.
    pub fn find(session: &Session, name: &str) -> Result<Option<Handwritten>, Fault> {
        for folder in FOLDERS {
            let path = Path::new(folder).join(format!("{name}.nspawn"));
            let Some(text) = session.disk.read(&path)? else { continue };
            if Origin::of(&text) != Origin::Foreign {
                return Ok(None);
            }
            if text.contains('\u{fffd}') {
                return Err(Fault::new(format!("{} is not UTF-8 text", path.display()))
                    .hint("its settings are to go into a definition, which is: convert it with iconv"));
            }
            let trusted = folder != FOLDERS[2];
            let text = if trusted { text } else { without_privileges(session, &path, &text) };
            return Ok(Some(Handwritten { path, text }));
        }
        Ok(None)
    }

    /// Its settings, but for those that the definition's network decides.
    fn settings(&self) -> NspawnTable {
        let mut table = NspawnTable::new();
        for (section, settings) in Ini::parse(&self.text).sections() {
            for (key, value) in settings.iter().filter(|(key, _)| !decided_by_network(section, key)) {
                push(table.entry(section.to_owned()).or_default(), key, value);
            }
        }
        table
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Lets the plan replace the file, if ours takes its place; its text is kept beside it.
pub fn taken_over<'o>(change: Change<'o>, handwritten: Option<Handwritten>) -> Change<'o> {
    match handwritten {
        Some(file) if file.path.starts_with(FOLDERS[0]) => change.take_over(file.path, file.text),
        _ => change,
    }
}

/// What nspawn takes from a file that came with an image (systemd.nspawn(5)): it
/// grants nothing. The rest is told, and left out.
const HARMLESS: [(&str, &[&str]); 2] = [
    (
        "Exec",
        &[
            "Boot",
            "ProcessTwo",
            "Parameters",
            "Environment",
            "User",
            "WorkingDirectory",
            "KillSignal",
            "NotifyReady",
            "Hostname",
            "Timezone",
        ],
    ),
    ("Files", &["ReadOnly", "Volatile"]),
];

fn without_privileges(session: &Session, path: &Path, text: &str) -> String {
    let mut kept = Ini::new();
    let mut left_out = Vec::new();
    for (section, settings) in Ini::parse(text).sections() {
        kept = kept.section(section);
        for (key, value) in settings {
            if HARMLESS.iter().any(|(name, keys)| *name == section && keys.contains(&key.as_str())) {
                kept = kept.set(key, value);
            } else if !decided_by_network(section, key) {
                left_out.push(format!("{key}={value}"));
            }
        }
    }
    if !left_out.is_empty() {
        session.progress.says(&format!(
            "note: {} came with the image; left out is what it may not grant itself: {}",
            path.display(),
            left_out.join(", ")
        ));
    }
    kept.render()
}

/// The change, if what somebody wrote by hand can be a definition: systemd takes more than one does.
pub fn checked<'o>(
    change: Change<'o>,
    machine: &MachineSpec,
    name: &MachineName,
) -> Result<Change<'o>, Fault> {
    match MachineSpec::parse(&definition_path(name), &edit::fresh(machine)?) {
        Ok(_) => Ok(change),
        Err(problems) => Err(Fault::from(Problems(problems))
            .hint("that comes from the machine's hand-written files: fix it there, then try again")),
    }
}

/// Adds a value of a key, which may have some already.
pub fn push(keys: &mut BTreeMap<String, Values>, key: &str, value: &str) {
    let mut texts = keys.get(key).map_or_else(Vec::new, Values::texts);
    texts.push(value.to_owned());
    let values = if texts.len() > 1 { Values::Many(texts) } else { Values::One(value.to_owned()) };
    keys.insert(key.to_owned(), values);
}

/// Puts settings written by hand into the spec of a machine.
pub fn absorb(machine: &mut MachineSpec, handwritten: Option<&Handwritten>) {
    if let Some(file) = handwritten {
        machine.nspawn = file.settings();
    }
}
