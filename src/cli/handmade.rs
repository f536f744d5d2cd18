//! Machines made by hand: their .nspawn settings go into the definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Fault;
use super::session::Session;
use crate::emit::Origin;
use crate::emit::ini::Ini;
use crate::plan::{Wanted, kept_beside};
use crate::spec::{MachineSpec, NspawnTable, Values, decided_by_network};

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

    /// Lets the plan replace the file, if ours takes its place; its text is kept beside it.
    pub fn take_over(self, wanted: &mut Wanted) {
        if self.path.starts_with(FOLDERS[0]) {
            wanted.inputs.insert(kept_beside(&self.path), Some(self.text));
            wanted.take_over.insert(self.path);
        }
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
