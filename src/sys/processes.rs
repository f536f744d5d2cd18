//! Processes of machines, from /proc (proc(5)).

use std::collections::{BTreeMap, BTreeSet};

/// When a process was started, in ticks since the boot: with its number, that is it and no
/// later one (proc_pid_stat(5)).
pub fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A name that all processes of one machine share.
pub fn namespace(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The user id on the host of a process's root, where its users are a range of the
/// host's (user_namespaces(7)): what machined's GetMachineUIDShift reads, too.
pub fn uid_shift(pid: u32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    let mut numbers = map.split_whitespace().map(str::parse::<u32>);
    let (inside, outside, _) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?);
    (inside == 0 && numbers.next().is_none()).then_some(outside)
}

/// The names of all processes, by machine. A process chooses its own name: it is
/// good for a hint, and for nothing else.
pub fn by_namespace() -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return all };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        // The short name is cut off after 15 characters.
        let name = std::fs::read_link(format!("/proc/{pid}/exe"))
            .ok()
            .and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()));
        if let (Some(name), Some(namespace)) = (name, namespace(pid)) {
            all.entry(namespace).or_default().insert(name);
        }
    }
    all
}
