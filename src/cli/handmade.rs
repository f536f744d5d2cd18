//! Machines made by hand: their .nspawn settings go into the definition.

use std::path::PathBuf;

use crate::emit::ini::Ini;
use crate::emit::{Origin, nspawn_file};
use crate::name::MachineName;
use crate::observed::Observed;
use crate::plan::{Wanted, kept_beside};
use crate::spec::{MachineSpec, NspawnTable, Values, decided_by_network};

/// A .nspawn file that somebody wrote for this machine.
pub struct Handwritten {
    path: PathBuf,
    text: String,
}

impl Handwritten {
    pub fn find(observed: &Observed, name: &MachineName) -> Option<Handwritten> {
        let path = nspawn_file(name);
        let text = observed.file(&path).filter(|text| Origin::of(text) == Origin::Foreign)?.to_owned();
        Some(Handwritten { path, text })
    }

    /// Its settings, but for those that the definition's network decides.
    pub fn settings(&self) -> NspawnTable {
        let mut table = NspawnTable::new();
        for (section, settings) in Ini::parse(&self.text).sections() {
            for (key, value) in settings.iter().filter(|(key, _)| !decided_by_network(section, key)) {
                let keys = table.entry(section.to_owned()).or_default();
                let mut texts = keys.get(key).map_or_else(Vec::new, Values::texts);
                texts.push(value.clone());
                let several = texts.len() > 1;
                let first = texts.first().cloned().unwrap_or_default();
                keys.insert(key.clone(), if several { Values::Many(texts) } else { Values::One(first) });
            }
        }
        table
    }

    /// Lets the plan replace the file; its text is kept beside it.
    pub fn take_over(self, wanted: &mut Wanted) {
        wanted.inputs.insert(kept_beside(&self.path), Some(self.text));
        wanted.take_over.insert(self.path);
    }
}

/// Puts a hand-made machine's own settings into its spec.
pub fn absorb(machine: &mut MachineSpec, handwritten: Option<&Handwritten>) {
    if let Some(file) = handwritten {
        machine.nspawn = file.settings();
    }
}
