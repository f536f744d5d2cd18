//! The files of machines made by hand, as verbs read them.

use std::path::Path;

use crate::cli::Fault;
use crate::cli::session::Session;
use crate::handwritten::{FOLDERS, Handwritten};
use crate::name::MachineName;
use crate::plan::Change;
use crate::spec::{MachineSpec, Problems, definition_path, edit};

/// The settings that somebody wrote for the machine or image of this name. What of them is left
/// out is told.
pub fn find(session: &Session, name: &str) -> Result<Option<Handwritten>, Fault> {
    for folder in FOLDERS {
        let path = Path::new(folder).join(format!("{name}.nspawn"));
        let Some(text) = session.disk.read(&path)? else { continue };
        let found = Handwritten::new(&path, text)?;
        if let Some(file) = found.as_ref().filter(|file| !file.left_out.is_empty()) {
            let (path, less) = (path.display(), file.left_out.join(", "));
            session.note(format!(
                "{path} came with the image; left out is what it may not grant itself: {less}"
            ));
        }
        return Ok(found);
    }
    Ok(None)
}

/// Lets the plan replace the file, if ours takes its place; its text is kept beside it.
pub fn taken_over<'o>(change: Change<'o>, handwritten: Option<Handwritten>) -> Change<'o> {
    match handwritten.filter(Handwritten::is_in_the_way) {
        Some(file) => change.take_over(file.path, file.text),
        None => change,
    }
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
