//! Processes of machines, from /proc (proc(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// When a process was started, in ticks since the boot: with its number, that is it and no
/// later one (proc_pid_stat(5)).
pub fn started(pid: u32) -> Option<u64> {
    fields(pid)?.split_whitespace().nth(19)?.parse().ok()
}

/// How long ago a process was started (proc_uptime(5)).
pub fn age(pid: u32) -> Option<Duration> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let age = uptime - started(pid)? as f64 / ticks as f64;
    Some(Duration::from_secs_f64(age.max(0.0)))
}

/// Whether a process that was started then still does anything: one that has been killed may
/// take the kernel a moment to end, and stay as a zombie until its parent hears of it.
pub fn is_alive(pid: u32, since: u64) -> bool {
    /// linux/sched.h.
    const PF_EXITING: u64 = 0x4;
    let Some(fields) = fields(pid) else { return false };
    let words: Vec<&str> = fields.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let ends = ["Z", "X", "x"].contains(words.first().unwrap_or(&"X"))
        || number(6).is_none_or(|flags| flags & PF_EXITING != 0)
        || is_killed(pid);
    number(19) == Some(since) && !ends
}

/// What follows its name, which stands in brackets and may hold anything.
fn fields(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.to_owned())
}

/// Whether a SIGKILL waits for it to leave the kernel (proc_pid_status(5)).
fn is_killed(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().filter_map(|line| line.split_once("Pnd:"));
    let masks = pending.filter_map(|(_, mask)| u64::from_str_radix(mask.trim(), 16).ok());
    masks.fold(0, |all, mask| all | mask) & 1 << (nix::libc::SIGKILL - 1) != 0
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
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if let (Some(name), Some(namespace)) = (exe.file_name(), namespace(pid)) {
            all.entry(namespace).or_default().insert(name.to_string_lossy().into_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_is_not_alive() {
        let own = std::process::id();
        assert!(is_alive(own, started(own).unwrap()) && !is_alive(own, 0));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let since = started(child.id()).unwrap();
        assert!(is_alive(child.id(), since));
        child.kill().unwrap();
        // Not waited for yet: a zombie, or not even that.
        assert!(!is_alive(child.id(), since));
        child.wait().unwrap();
        assert!(!is_alive(child.id(), since));
    }
}
