//! The host that is struck at: how, and what is looked at afterwards.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

use super::actions::{Action, Blow, Cut, Edit, name};
use super::invariants::{self, EDIT, Memory, Outcome, Scene};
use super::look::Sight;
use crate::lab::run::Done;
use crate::lab::{Lab, install_tiny_guest};

/// What fixes what is left, and has nothing to do for itself.
const MEND: &str = "bridge create vbr0 --uplink enp6s0";
/// Ends when systemd starts or stops no machine any more.
const QUIET: &str =
    "until test -z \"$(systemctl list-jobs --no-legend --plain | grep nspawn)\"; do sleep 0.05; done";

/// The host, and what we know of it.
pub struct Victim<'a> {
    lab: &'a mut Lab,
    memory: Memory,
    foreign: u32,
    pub kills: u64,
    pub crashes: u64,
}

impl Victim<'_> {
    pub fn new(lab: &mut Lab) -> Result<Victim<'_>> {
        lab.move_to_ext4()?;
        install_tiny_guest(&lab.machines().join("tiny"))?;
        lab.nsctl_ok("init --pool 2001:db8:a::/48 --uplink wan0")?;
        lab.nsctl_ok(MEND)?;
        lab.sh("sync")?;
        Ok(Victim { lab, memory: Memory::default(), foreign: 0, kills: 0, crashes: 0 })
    }

    /// How often something was cut short.
    pub fn cuts(&self) -> u64 {
        self.kills + self.crashes
    }

    /// One blow, and all that must hold after it; how it ended, if there was something to strike at.
    ///
    /// # Errors
    /// What does not.
    pub fn strike(&mut self, blow: &Blow) -> Result<Option<Outcome>> {
        if !self.prepare(&blow.action)? {
            return Ok(None);
        }
        let before = Sight::of(self.lab)?;
        let Some(line) = blow.action.line() else {
            self.alone(&blow.action)?;
            self.settle()?;
            return Ok(Some(Outcome::Done));
        };
        let crashes = self.crashes;
        let (outcome, said) = self.cut(&line, blow.cut)?;
        self.fix().with_context(|| said.clone())?;
        let after = Sight::of(self.lab)?;
        self.learn(&blow.action, outcome);
        let rebooted = self.crashes > crashes;
        let scene = Scene { blow, outcome, rebooted, before: &before, after: &after, memory: &self.memory };
        // Of an edit that was cut short, or refused, the definition is ahead of the rest.
        let is_ahead = matches!(blow.action, Action::Edit { .. } | Action::ForeignEdit { .. })
            && outcome != Outcome::Done;
        for (what, of_records, holds) in invariants::ALL {
            if !is_ahead || !of_records {
                holds(&scene).with_context(|| format!("not so: {what} ({outcome:?})\n{said}"))?;
            }
        }
        self.forget(&blow.action, outcome, &after);
        if let Action::ForeignEdit { .. } = blow.action {
            self.lab.sh(&format!("grep -rlF \"{EDIT}\" /etc/systemd /var/lib/nsctl | xargs -r rm"))?;
        }
        self.settle().with_context(|| said.clone())?;
        Ok(Some(outcome))
    }

    /// What comes before the command; false where there is nothing to strike at.
    fn prepare(&mut self, action: &Action) -> Result<bool> {
        let root = self.lab.root()?;
        match action {
            Action::Edit { name: k, edit } => {
                let file = root.join(format!("etc/nsctl/machines.d/{}.toml", name(*k)));
                let text = std::fs::read_to_string(&file).ok();
                match (edit, text) {
                    (Edit::New, None) => {
                        fs::create_dir_all(root.join("etc/nsctl/machines.d"))?;
                        fs::write(file, "image = \"tiny\"\n\n[network]\nmode = \"routed\"\n")?;
                        self.lab.sh("sync")?;
                    }
                    (Edit::Delete, Some(_)) => {
                        fs::remove_file(file)?;
                        self.memory.loose.insert(name(*k));
                        self.lab.sh("sync")?;
                    }
                    (Edit::Environment(n), Some(text)) => {
                        fs::write(file, with_section(&text, "environment", &format!("BLOW = \"{n}\"")))?;
                        self.lab.sh("sync")?;
                    }
                    (Edit::Tasks(n), Some(text)) => {
                        fs::write(file, with_section(&text, "limits", &format!("tasks = {n}")))?;
                        self.lab.sh("sync")?;
                    }
                    _ => return Ok(false),
                }
            }
            Action::ForeignEdit { name: k, file } => {
                let sight = Sight::of(self.lab)?;
                let own: Vec<&str> = sight
                    .belongings(&name(*k))
                    .into_iter()
                    .filter(|(_, text)| text.starts_with("# Written by nsctl"))
                    .map(|(path, _)| path)
                    .collect();
                if own.is_empty() {
                    return Ok(false);
                }
                let path = root.join(own[file % own.len()]);
                let text = fs::read_to_string(&path)?;
                fs::write(path, format!("{text}{EDIT}\n"))?;
                self.lab.sh("sync")?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// What is none of nsctl's commands.
    fn alone(&mut self, action: &Action) -> Result<()> {
        let sight = Sight::of(self.lab)?;
        match action {
            Action::ForeignLine { first } => {
                self.foreign += 1;
                let (line, file) = (
                    format!("192.0.2.{} host{}", self.foreign % 250, self.foreign),
                    self.lab.root()?.join("etc/hosts"),
                );
                let text = fs::read_to_string(&file).unwrap_or_default();
                let new = if *first { format!("{line}\n{text}") } else { format!("{text}{line}\n") };
                fs::write(file, new)?;
                self.memory.lines.insert(line);
            }
            Action::ForeignTree { name: k } => self.foreign_tree(&name(*k), &sight)?,
            Action::BehindBack { name: k, replace } => {
                let name = name(*k);
                if let Some(tree) = sight.trees.get(&name) {
                    self.memory.foreign.retain(|mark| {
                        let others = sight.trees.iter().filter(|(other, _)| **other != name);
                        !tree.contains(mark.as_str())
                            || others.into_iter().any(|(_, tree)| tree.contains(mark.as_str()))
                    });
                    self.lab
                        .sh(&format!("systemctl stop systemd-nspawn@{name}; machinectl remove {name}"))?;
                    self.memory.made.remove(&name);
                    self.memory.loose.remove(&name);
                }
                if *replace {
                    self.foreign_tree(&name, &Sight::of(self.lab)?)?;
                }
            }
            Action::Ends { name: k } => {
                self.lab.sh(&format!("machinectl terminate {} 2> /dev/null || true", name(*k)))?;
            }
            _ => {}
        }
        self.lab.sh(&format!("sync; {QUIET}"))?;
        Ok(())
    }

    fn foreign_tree(&mut self, name: &str, sight: &Sight) -> Result<()> {
        if sight.trees.contains_key(name) {
            return Ok(());
        }
        self.foreign += 1;
        let (mark, tree) = (format!("foreign-{}.", self.foreign), self.lab.machines().join(name));
        install_tiny_guest(&tree)?;
        fs::write(tree.join(&mark), &mark)?;
        self.memory.foreign.insert(mark);
        self.memory.loose.insert(name.to_owned());
        Ok(())
    }

    /// Runs a command, and cuts it short; how it ended, and what it said.
    fn cut(&mut self, line: &str, cut: Cut) -> Result<(Outcome, String)> {
        let done = match cut {
            Cut::None => self.lab.nsctl(line)?,
            Cut::KillAt(point) => {
                self.lab.run(&["sh", "-c", &format!("NSCTL_KILL_AT={point} nsctl-faults {line}")])?
            }
            Cut::KillAfter(late) => {
                let time = format!("{}.{:03}", late / 1000, late % 1000);
                let mut words = vec!["timeout", "-s", "KILL", &time, "nsctl"];
                words.extend(line.split(' '));
                self.lab.run(&words)?
            }
            Cut::CrashAfter(late) => return self.crash(line, late, false),
            Cut::PowerAfter(late) => return self.crash(line, late, true),
        };
        let outcome = match done.status {
            0 => Outcome::Done,
            // timeout(1) ends as its command did.
            137 | -1 => Outcome::CutShort,
            1 | 2 => Outcome::Refused,
            other => bail!("`nsctl {line}` ended with {other}:\n{}", done.all()),
        };
        self.kills += u64::from(outcome == Outcome::CutShort);
        Ok((outcome, done.all()))
    }

    fn crash(&mut self, line: &str, late: u64, power: bool) -> Result<(Outcome, String)> {
        let mut words = vec!["nsctl"];
        words.extend(line.split(' '));
        let log = self.lab.scratch("said");
        let file = fs::File::create(&log)?.into_parts().0;
        let mut child =
            self.lab.enter(&words)?.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if start.elapsed() >= Duration::from_millis(late) {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Its journal does not outlive it.
        let told = if matches!(status, Some(1 | 2)) { self.journal() } else { String::new() };
        if power {
            let copy = self.lab.cut()?;
            self.lab.lose_power(copy)?;
        } else {
            self.lab.power_off()?;
        }
        child.wait()?;
        self.crashes += 1;
        self.lab.power_on()?;
        let outcome = match status {
            Some(0) => Outcome::Done,
            Some(1 | 2) => Outcome::Refused,
            _ => Outcome::CutShort,
        };
        Ok((outcome, format!("{}{told}", fs::read_to_string(log)?)))
    }

    /// The last that the host's services said.
    pub fn journal(&self) -> String {
        self.lab.sh("journalctl -q --no-pager -n 60").unwrap_or_default()
    }

    /// Lets the next nsctl finish or undo what is left, and waits for what systemd still does.
    fn fix(&self) -> Result<()> {
        self.lab.sh(QUIET)?;
        let done = self.lab.nsctl(MEND)?;
        ensure!(done.ok(), "the next nsctl ended with {}:\n{}", done.status, done.all());
        Ok(())
    }

    /// What we know after a blow.
    fn learn(&mut self, action: &Action, outcome: Outcome) {
        match action {
            Action::Remove { name: k, keep: true } => _ = self.memory.loose.insert(name(*k)),
            // A foreign tree keeps its place, and so may what is attached to one.
            Action::Remove { name: k, .. } if !self.memory.made.contains(&name(*k)) => {
                self.memory.loose.insert(name(*k));
            }
            Action::Rename { from, to } => {
                for (one, other) in [(from, to), (to, from)] {
                    if self.memory.loose.contains(&name(*one)) {
                        self.memory.loose.insert(name(*other));
                    }
                }
            }
            Action::Edit { name: k, edit: Edit::New } if outcome != Outcome::Done => {
                // The tree may have been made, and the machine not be there yet.
                self.memory.loose.insert(name(*k));
            }
            _ => {}
        }
    }

    /// What is no longer so, or is so from now on.
    fn forget(&mut self, action: &Action, outcome: Outcome, after: &Sight) {
        let memory = &mut self.memory;
        match (action, outcome) {
            (Action::Create { name: k, .. } | Action::Clone { to: k, .. }, Outcome::Done) => {
                memory.made.insert(name(*k));
                memory.loose.remove(&name(*k));
            }
            (Action::Remove { name: k, .. } | Action::Edit { name: k, edit: Edit::Delete }, _) => {
                memory.made.remove(&name(*k));
            }
            (Action::Rename { from, to }, Outcome::Done) if memory.made.remove(&name(*from)) => {
                memory.made.insert(name(*to));
            }
            (Action::Rename { from, to }, Outcome::CutShort) => {
                memory.made.remove(&name(*from));
                memory.made.remove(&name(*to));
            }
            _ => {}
        }
        memory.loose.retain(|name| after.trees.contains_key(name));
    }

    /// Brings all to what the definitions say, for the next blow; nothing is then left to do
    /// but to start what was stopped.
    fn settle(&mut self) -> Result<()> {
        if !self.is_settled()? {
            let mut applied = self.lab.nsctl("apply --yes")?;
            if let Some(machine) = waits_inside(&applied.stderr) {
                self.lab.nsctl_ok(&format!("stop {machine}"))?;
                applied = self.lab.nsctl("apply --yes")?;
            }
            if !applied.ok() {
                self.drop_treeless().with_context(|| applied.all())?;
            }
        }
        let plan = self.lab.nsctl("plan")?;
        ensure!(self.is_settled()?, "not so: after an apply there is nothing to do:\n{}", plan.all());
        Ok(())
    }

    fn is_settled(&self) -> Result<bool> {
        let Done { status, stdout, stderr } = self.lab.nsctl("plan")?;
        let harmless = |line: &str| {
            let line = line.trim_start_matches([' ', '+', '~', '-', '*']);
            line.is_empty()
                || line == "nothing to do"
                || line.ends_with("or the next boot")
                || ["start ", "wait "].iter().any(|begin| line.starts_with(begin))
        };
        Ok(status == 0 && stderr.is_empty() && stdout.lines().all(harmless))
    }

    /// A machine whose tree has gone, and that names no image, can only be removed.
    fn drop_treeless(&mut self) -> Result<()> {
        let sight = Sight::of(self.lab)?;
        for name in sight.defined().into_iter().filter(|name| !sight.trees.contains_key(*name)) {
            self.lab.nsctl_ok(&format!("remove {name} --yes"))?;
        }
        self.lab.nsctl_ok("apply --yes").map(drop)
    }
}

/// The machine in which something could not be undone: it goes when that stops.
fn waits_inside(said: &str) -> Option<&str> {
    let (before, after) = said.split_once("' waits until `")?;
    let is_inside = after.contains("change listeners inside");
    before.rsplit('\'').next().filter(|_| is_inside)
}

/// The text with this section alone of its name.
fn with_section(text: &str, name: &str, body: &str) -> String {
    let mut inside = false;
    let rest = text.lines().filter(|line| {
        if line.starts_with('[') {
            inside = *line == format!("[{name}]");
        }
        !inside
    });
    let rest: Vec<&str> = rest.collect();
    format!("{}\n\n[{name}]\n{body}\n", rest.join("\n").trim_end())
}
