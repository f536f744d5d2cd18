//! Permissions: what is rendered of a definition is never wider than it, whoever wrote it,
//! and a definition that gets another name, or comes back by an undo, is as private as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::emit::{ManagedFile, Reader};
use crate::name::MachineName;
use crate::plan::{Plan, Step, origin_of_kept};
use crate::spec::{definition_path, profile_paths};
use crate::sys::{self, Disk};

/// The plan with the permissions of its files, as they are known before the first step:
/// later on the definition may be gone, and the journal must tell.
pub fn settled(disk: &Disk, plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let (mut definitions, mut texts) = (BTreeMap::new(), BTreeMap::new());
    for step in &mut plan.steps {
        let Step::Write { path, mode, new, .. } = step else { continue };
        if let Some(machine) = defined_by(path) {
            *mode = mode
                .or_else(|| disk.mode(path))
                .or_else(|| disk.mode(&ManagedFile::Nspawn(machine.clone()).path()));
            definitions.extend(mode.map(|mode| (machine, mode)));
            texts.extend(defined_by(path).zip(new.clone()));
        } else if let Some(original) = origin_of_kept(path) {
            *mode = mode.or_else(|| disk.mode(path)).or_else(|| disk.mode(&original));
        }
    }
    for step in &mut plan.steps {
        let Step::Write { path, mode, .. } = step else { continue };
        let Some((machine, file)) = rendered_of(path) else { continue };
        if let ManagedFile::Secret(..) = file {
            *mode = Some(0o600);
            continue;
        }
        let known = definitions.get(&machine).copied();
        let known = known.or_else(|| disk.mode(&definition_path(&machine)));
        let shared = profiles(disk, &machine, texts.get(&machine));
        // What is known to be narrower stays so.
        let most = known.map(|most| most_of(&file, most & shared));
        *mode = match (most, *mode) {
            (Some(most), Some(mode)) => Some(most & mode),
            (most, mode) => most.or(mode),
        };
    }
    plan
}

/// Makes what was rendered of definitions that have been made private since then private, too.
///
/// # Errors
/// When a file keeps its permissions.
pub fn follow<'a>(disk: &Disk, files: impl Iterator<Item = &'a PathBuf>) -> Result<(), sys::Error> {
    let mut definitions = BTreeMap::new();
    for path in files {
        let Some((machine, file)) = rendered_of(path) else { continue };
        let find = || Some(disk.mode(&definition_path(&machine))? & profiles(disk, &machine, None));
        if let Some(most) = *definitions.entry(machine.clone()).or_insert_with(find) {
            disk.narrow(path, most_of(&file, most))?;
        }
    }
    Ok(())
}

/// How widely what a machine's profiles say may be read; its definition is this text, or what is there.
fn profiles(disk: &Disk, machine: &MachineName, text: Option<&String>) -> u32 {
    let there = || disk.read_definition(&definition_path(machine)).ok().flatten();
    let text = text.cloned().or_else(there).unwrap_or_default();
    profile_paths(&text).iter().filter_map(|path| disk.mode(path)).fold(0o777, |most, mode| most & mode)
}

/// The machine whose definition this is.
fn defined_by(path: &Path) -> Option<MachineName> {
    match ManagedFile::parse(path)? {
        ManagedFile::Definition(name) => Some(name),
        _ => None,
    }
}

/// A file beside its definition that is one machine's.
fn rendered_of(path: &Path) -> Option<(MachineName, ManagedFile)> {
    let file = ManagedFile::parse(path).filter(|file| !matches!(file, ManagedFile::Definition(_)))?;
    file.machine().map(|machine| (machine, file))
}

/// The most that a file of a machine's may be readable, by who has to read it: the guest,
/// whose users are nobody here, networkd by its group, or root alone.
fn most_of(file: &ManagedFile, definition: u32) -> u32 {
    match file {
        // Addresses and ports, which everybody on the host sees anyway.
        ManagedFile::GuestEnd(_) | ManagedFile::BoundUnit(..) => 0o644,
        ManagedFile::Secret(..) => 0o600,
        _ if file.reader() == Reader::Networkd => definition & 0o644 | 0o040,
        _ => definition & 0o644,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_rendered_is_wider_than_its_definition() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        disk.write_private(Path::new("/etc/nsctl/machines.d/web.toml"), "x").unwrap();
        let write =
            |path: &str, mode| Step::Write { path: path.into(), old: None, new: Some("y".into()), mode };
        let steps = vec![
            write("/etc/nsctl/machines.d/new.toml", Some(0o640)),
            write("/etc/nsctl/machines.d/free.toml", None),
            write("/etc/systemd/nspawn/web.nspawn", None),
            write("/etc/systemd/network/05-nsctl-ve-web.network", None),
            write("/var/lib/nsctl/guest/web.network", None),
            write("/etc/systemd/nspawn/new.nspawn", None),
            write("/etc/systemd/nspawn/free.nspawn", None),
        ];
        let plan = settled(&disk, &Plan { steps, ..Plan::default() });
        let modes = plan.steps.iter().map(|step| match step {
            Step::Write { mode, .. } => *mode,
            _ => None,
        });
        let expected = [Some(0o640), None, Some(0o600), Some(0o640), Some(0o644), Some(0o640), None];
        assert_eq!(modes.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_there_gets_no_wider() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path());
        let path = Path::new("/etc/systemd/nspawn/web.nspawn");
        let mode = |mode| {
            disk.change(&[crate::sys::disk::FileEdit { path, text: Some("x"), mode }]).unwrap();
            disk.mode(path).unwrap()
        };
        assert_eq!(
            [mode(None), mode(Some(0o640)), mode(Some(0o644)), mode(Some(0o600))],
            [0o644, 0o640, 0o640, 0o600]
        );
        disk.narrow(path, 0o400).unwrap();
        assert_eq!(disk.mode(path), Some(0o400));
    }
}
