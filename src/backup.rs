//! Backups of machines, off this host: what is in one, which there are, and when one is due. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_with::DeserializeFromStr;

use crate::name::MachineName;
use crate::observed::TreeId;
use crate::snapshot::{Every, Record};
use crate::upgrade::Vitals;

/// The tag of all that nsctl puts into a repository.
pub const TAG: &str = "nsctl";
const SCHEDULED: &str = "scheduled";

/// What tells a machine's backup from others: no name of a machine has a ':' in it. `on` tells the host: several may
/// have one name.
pub fn tags(machine: &MachineName, on: &str, taken: u64, scheduled: bool) -> Vec<String> {
    let mut tags = vec![TAG.to_owned(), tag_of(machine), format!("on:{on}"), format!("taken:{taken}")];
    tags.extend(scheduled.then(|| SCHEDULED.to_owned()));
    tags
}

/// What tells a host from others of its name, and nothing else of it (machine-id(5)).
pub fn host_tag(machine_id: &str) -> String {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(b"nsctl's backups.");
    hasher.write(machine_id.trim().as_bytes());
    format!("{:016x}", hasher.finish())
}

/// The tag of one machine's.
pub fn tag_of(machine: &MachineName) -> String {
    format!("machine:{machine}")
}

/// A backup, as its repository knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    pub machine: MachineName,
    /// The host that it was made on.
    pub host: String,
    /// Which host of that name.
    #[serde(skip)]
    pub on: String,
    pub id: BackupId,
    /// When its snapshot was taken, in seconds since 1970.
    pub taken: u64,
    pub scheduled: bool,
    /// The snapshot that it was made of, where btrfs-send(8) made it.
    #[serde(skip)]
    pub of: Option<TreeId>,
}

/// What a repository knows a backup by; shown, and found again, by its beginning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, DeserializeFromStr)]
pub struct BackupId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is no backup's id", .0.escape_debug())]
pub struct BackupIdError(String);

impl crate::hint::Hint for BackupIdError {
    fn hint(&self) -> Option<String> {
        Some("`nsctl backup list NAME` shows them, such as 40dc1520".into())
    }
}

impl std::str::FromStr for BackupId {
    type Err = BackupIdError;

    fn from_str(word: &str) -> Result<BackupId, BackupIdError> {
        let good = (4..=64).contains(&word.len()) && word.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        if good { Ok(BackupId(word.to_owned())) } else { Err(BackupIdError(word.to_owned())) }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.get(..8).unwrap_or(&self.0))
    }
}

impl BackupId {
    /// From 128 bits that nobody has had before.
    pub fn of(bits: u128) -> BackupId {
        BackupId(format!("{bits:032x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn begins_with(&self, other: &BackupId) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// One of what `restic snapshots --json` says; and what lies beside the tree of one that btrfs-send(8) made:
/// backup.json.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    id: String,
    hostname: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<TreeId>,
}

/// The backups of machines in what `restic snapshots --json` says, the oldest first; what others keep there is no
/// matter of ours.
///
/// # Errors
/// When it is no such list.
pub fn listed(json: &str) -> Result<Vec<Backup>, serde_json::Error> {
    // restic of some versions says null for none.
    let all: Option<Vec<Listed>> = serde_json::from_str(json)?;
    Ok(in_order(all.unwrap_or_default().into_iter().filter_map(Listed::backup)))
}

fn in_order(backups: impl Iterator<Item = Backup>) -> Vec<Backup> {
    let mut backups: Vec<Backup> = backups.collect();
    backups.sort_by(|a, b| (a.taken, &a.machine, &a.id).cmp(&(b.taken, &b.machine, &b.id)));
    backups
}

/// The text of backup.json, in one line.
pub fn card(id: &BackupId, host: &str, tags: &[String], of: Option<TreeId>) -> String {
    let listed = Listed { id: id.0.clone(), hostname: host.to_owned(), tags: Some(tags.to_vec()), of };
    serde_json::to_string(&listed).unwrap_or_default()
}

/// The backups in a folder, by lines of a name and its backup.json, the oldest first; one that is none of ours, or
/// says that it is another, is no matter of ours.
pub fn on_cards(lines: &str) -> Vec<Backup> {
    let named = lines.lines().filter_map(|line| line.split_once(' '));
    let ours = named.filter_map(|(name, json)| {
        let listed: Listed = serde_json::from_str(json).ok()?;
        (listed.id == name).then(|| listed.backup())?
    });
    in_order(ours)
}

impl Listed {
    fn backup(self) -> Option<Backup> {
        let tags = self.tags.unwrap_or_default();
        let value = |key: &str| tags.iter().find_map(|tag| tag.strip_prefix(key));
        tags.iter().any(|tag| tag == TAG).then_some(())?;
        Some(Backup {
            machine: value("machine:")?.parse().ok()?,
            host: self.hostname.clone(),
            on: value("on:")?.to_owned(),
            id: self.id.parse().ok()?,
            taken: value("taken:")?.parse().ok()?,
            scheduled: tags.iter().any(|tag| tag == SCHEDULED),
            of: self.of,
        })
    }
}

/// What lies beside the tree in a backup: machine.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    #[serde(flatten)]
    pub record: Record,
    /// How widely its definition may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// What the machine did when its snapshot was taken; none: it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vitals: Option<Vitals>,
    /// The profiles that its definition names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, ProfileText>,
}

/// A profile as it was, and how widely it might be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileText {
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl Contents {
    pub fn render(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// None where the text is none of ours.
    pub fn parse(text: &str) -> Option<Contents> {
        toml::from_str(text).ok()
    }
}

/// What this host knows of a machine's backups without asking their repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct History {
    /// The latest that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Made>,
    /// The latest that was proved, or was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Why the last try to make one came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// In seconds since 1970.
    pub taken: u64,
    pub id: BackupId,
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// In seconds since 1970.
    pub when: u64,
    /// Of the backup of this moment.
    pub taken: u64,
    pub id: BackupId,
    /// Why it is none; none: the machine came up from it, and did what it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl History {
    pub fn render(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    pub fn parse(text: &str) -> History {
        toml::from_str(text).unwrap_or_default()
    }

    /// In a few words, as `list -o backup` shows it.
    pub fn words(&self, now: u64) -> String {
        let Some(last) = &self.last else { return "none".to_owned() };
        let made = age(now, last.taken);
        match &self.proof {
            None => format!("{made} old, not proved"),
            Some(Proof { why: Some(_), when, .. }) => {
                format!("{made} old, proof failed {} ago", age(now, *when))
            }
            Some(Proof { when, .. }) => format!("{made} old, proved {} ago", age(now, *when)),
        }
    }
}

/// How long ago a moment is, in the one unit that matters.
pub fn age(now: u64, then: u64) -> String {
    let seconds = now.saturating_sub(then);
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, _) => format!("{hours} h"),
        (days, ..) => format!("{days} d"),
    }
}

/// How long after one of these moments the next is overdue, in seconds: twice the time between them.
pub fn overdue(every: Every) -> u64 {
    let hours = match every {
        Every::Hourly => 1,
        Every::Daily => 24,
        Every::Weekly => 7 * 24,
        Every::Monthly => 31 * 24,
    };
    2 * hours * 3600
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::How;

    #[test]
    fn only_what_nsctl_put_there_is_a_backup() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let name: MachineName = "web".parse().unwrap();
        let one = |tags: &[String]| serde_json::json!({"id": id, "hostname": "h", "tags": tags, "time": "x"});
        let (later, first) = (one(&tags(&name, "x", 9, true)), one(&tags(&name, "x", 7, false)));
        let json = serde_json::json!([later, first, one(&["nsctl".into()]), {"id": id, "hostname": "h"},
            one(&["machine:web".into(), "taken:3".into()]),
            one(&["nsctl".into(), "machine:../x".into(), "taken:3".into()])]);
        let all = listed(&json.to_string()).unwrap();
        let told: Vec<(u64, bool)> = all.iter().map(|backup| (backup.taken, backup.scheduled)).collect();
        assert_eq!(told, [(7, false), (9, true)]);
        assert_eq!(all[0].id.to_string(), "01234567");
        assert!(listed("null").unwrap().is_empty() && listed("{}").is_err());
    }

    #[test]
    fn a_card_tells_of_the_backup_that_it_lies_in_alone() {
        let name: MachineName = "web".parse().unwrap();
        let (id, of) = (BackupId::of(0xfeed), TreeId::subvolume(7));
        let card = card(&id, "h", &tags(&name, "x", 9, true), Some(of.clone()));
        let lines = format!("{id} {card}\n{} {card}\n{id} {{}}\nx\n", BackupId::of(1), id = id.as_str());
        let all = on_cards(&lines);
        assert_eq!(all.into_iter().map(|one| (one.taken, one.of)).collect::<Vec<_>>(), [(9, Some(of))]);
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let record = Record {
            taken: 7,
            how: How::Running,
            scheduled: false,
            why: None,
            lease: "2001:db8:a:1::/64".parse().ok(),
            definition: "[network]\nmode = \"routed\"\n".into(),
        };
        let vitals = Vitals { failed: Some(["a.service".to_owned()].into()), ..Vitals::default() };
        for vitals in [None, Some(vitals)] {
            let contents = Contents {
                record: record.clone(),
                vitals,
                mode: Some(0o640),
                profiles: [("a".to_owned(), ProfileText { text: "open = []\n".into(), mode: None })].into(),
            };
            assert_eq!(Contents::parse(&contents.render()), Some(contents));
        }
        assert_eq!(Contents::parse("taken = 1"), None);
        let id: BackupId = "0123abcd".parse().unwrap();
        let made = Made { taken: 1000, id: id.clone(), to: "/x".into() };
        let proof = Proof { when: 90_000, taken: 1000, id, why: None };
        let mut history = History { last: Some(made), proof: Some(proof), fails: Some("x".into()) };
        assert_eq!(History::parse(&history.render()), history);
        assert_eq!(history.words(90_059), "1 d old, proved 59 s ago");
        history.proof = None;
        assert_eq!(history.words(8200), "2 h old, not proved");
        assert_eq!(History::parse("\0").words(1), "none");
    }

    proptest! {
        #[test]
        fn whatever_a_repository_says_is_read(text in "\\PC{0,200}") {
            let _ = listed(&text);
            let _ = on_cards(&text);
            let _ = Contents::parse(&text);
            let _ = History::parse(&text);
        }
    }
}
