//! Backups by btrfs-send(8) and btrfs-receive(8), into a folder here or on another host. Each is a folder of its own,
//! named by its id: `tree`, a subvolume; `machine.toml`; and `backup.json`, whose backup it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::{Save, Saved};
use crate::backup::{Backup, BackupId, card, host_tag, on_cards};
use crate::hint::Hint;
use crate::name::MachineName;
use crate::spec::BtrfsFolder;
use crate::sys::ssh::Shell;
use crate::sys::{build, kernel, subvolume, tree};

/// No list or record of ours is larger, in bytes.
const ANSWER_LIMIT: u64 = 16 << 20;
/// How much is handed on at a time, in bytes.
const PIECE: usize = 256 << 10;
/// How much of what a tool complains of is kept, in bytes.
const COMPLAINT: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum BtrfsError {
    #[error("{0} cannot be run: {1}")]
    Run(&'static str, std::io::Error),
    #[error("there is no repository at {0}")]
    NoRepository(String),
    #[error("{at}: {said}")]
    Failed { at: String, said: String },
    #[error("{at}: what was sent did not arrive whole: {said}")]
    Torn { at: String, said: String },
    #[error("{0} is no subvolume of btrfs, and nothing else can be sent")]
    NoSubvolume(PathBuf),
    #[error("there is a subvolume with files in it: /{0}, which btrfs-send(8) leaves out")]
    Inner(PathBuf),
    #[error("{0} is about to be full")]
    Full(&'static str),
    #[error("{0} cannot be read")]
    Place(PathBuf, #[source] std::io::Error),
}

impl Hint for BtrfsError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            BtrfsError::Run(..) | BtrfsError::Torn { .. } => {
                "it needs btrfs-progs, and openssh-client for another host; `-v` shows what was called"
            }
            BtrfsError::NoRepository(_) => {
                "`nsctl backup NAME` makes one with the first backup; for another, --from or [backup] in \
                 /etc/nsctl/nsctl.toml"
            }
            BtrfsError::Failed { at, .. } if at.starts_with('/') => {
                "it must be on a btrfs that has room, and btrfs-progs installed"
            }
            BtrfsError::Failed { .. } => {
                "root here must come in there by ssh (openssh-client) without being asked, as root or as one whom sudo \
                 asks nothing; and there, too, it must be a btrfs, with btrfs-progs"
            }
            BtrfsError::NoSubvolume(_) => {
                "/var/lib/machines must be on btrfs, and the machine made there; restic takes every file system"
            }
            BtrfsError::Full(_) => "`nsctl prune` and `nsctl snapshot remove` make room",
            BtrfsError::Inner(_) => "`--to` a repository of restic's: it takes them along",
            BtrfsError::Place(_, error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

/// Whether btrfs-send(8) takes all of a tree along.
///
/// # Errors
/// When it does not.
pub fn sendable(tree: &Path) -> Result<(), BtrfsError> {
    let unreadable = |error| BtrfsError::Place(tree.to_owned(), error);
    let folder = subvolume::open(tree).map_err(unreadable)?;
    if subvolume::of(&folder).is_none() {
        return Err(BtrfsError::NoSubvolume(tree.to_owned()));
    }
    match subvolume::filled_inner(&folder).map_err(unreadable)? {
        Some(path) => Err(BtrfsError::Inner(path)),
        None => Ok(()),
    }
}

/// What came from elsewhere itself is told by the name that it had there, which others may have there, too.
fn is_received(tree: &Path) -> bool {
    let folder = subvolume::open(tree).ok();
    folder.and_then(|folder| subvolume::of(&folder)).is_none_or(|subvolume| subvolume.is_received())
}

/// What makes a folder a repository.
const MARK: &str = ".nsctl-backups";
/// Deletes what was begun and not ended; what another host is at work with just now is deleted the next time.
const TIDY: &str = "tidy() { for one in \"$@\"; do
        for tree in \"$one\"/* \"$one\"/.[!.]*; do
            test ! -d \"$tree\" || btrfs subvolume delete \"$tree\" > /dev/null 2>&1 || :
        done
        rm -rf -- \"$one\" 2> /dev/null || :
    done; }\n";

/// A folder that backups are sent to.
#[derive(Debug, Clone)]
pub struct BtrfsStore {
    shell: Shell,
    path: String,
    /// As it is shown.
    at: String,
}

impl BtrfsStore {
    pub fn of(folder: BtrfsFolder<'_>) -> BtrfsStore {
        let at = folder.host.map_or(folder.path.to_owned(), |host| format!("{host}:{}", folder.path));
        BtrfsStore { shell: Shell::at(folder.host), path: folder.path.to_owned(), at }
    }

    /// Lines that run in the folder, whose `$1` and so on are these words.
    fn command(&self, lines: &str, words: &[&str]) -> Command {
        tracing::debug!(call = %lines.trim(), words = ?words, at = %self.at, "sh");
        let lines = format!("cd \"$1\"; shift\n{TIDY}{lines}");
        self.shell.command(&lines, &[&[self.path.as_str()], words].concat())
    }

    fn failed(&self, said: &[u8]) -> BtrfsError {
        BtrfsError::Failed { at: self.at.clone(), said: last_of(said) }
    }

    /// What the lines say, when they are given this.
    async fn ask(&self, mut command: Command, given: &str) -> Result<String, BtrfsError> {
        let run = |error| BtrfsError::Run("sh, or ssh,", error);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(run)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let give = async {
            if let Some(mut stdin) = stdin {
                // Who does not want it says why.
                let _ = stdin.write_all(given.as_bytes()).await;
            }
        };
        let ((), said, complaint) =
            tokio::join!(give, all_of(stdout, ANSWER_LIMIT), all_of(stderr, COMPLAINT));
        if child.wait().await.map_err(run)?.success() {
            Ok(String::from_utf8_lossy(&said).into_owned())
        } else {
            Err(self.failed(&complaint))
        }
    }

    /// Whether there is a repository.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn is_there(&self) -> Result<bool, BtrfsError> {
        // Not in the folder: that may be what is not there. And said, as a host that is away fails, too.
        const LINES: &str = "if test -e \"$1/$2\"; then echo yes; else echo no; fi";
        let said = self.ask(self.shell.command(LINES, &[&self.path, MARK]), "").await?;
        Ok(said.trim() == "yes")
    }

    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn init(&self) -> Result<(), BtrfsError> {
        const LINES: &str = "mkdir -p -- \"$1\"; cd \"$1\"; type=$(stat -f -c %T .)
            test \"$type\" = btrfs || { echo \"it is on $type, not on btrfs\" >&2; exit 1; }
            command -v btrfs > /dev/null || { echo 'btrfs-progs are not installed there' >&2; exit 1; }
            : > \"$2\"; btrfs filesystem sync . > /dev/null";
        self.ask(self.shell.command(LINES, &[&self.path, MARK]), "").await.map(drop)
    }

    async fn must_be_there(&self) -> Result<(), BtrfsError> {
        if self.is_there().await? { Ok(()) } else { Err(BtrfsError::NoRepository(self.at.clone())) }
    }

    /// The backups in it, the oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn backups(&self, machine: Option<&MachineName>) -> Result<Vec<Backup>, BtrfsError> {
        const LINES: &str = "for one in */backup.json; do
                printf '%s ' \"${one%/*}\"; head -n 1 \"$one\" 2> /dev/null || :; echo; done";
        self.must_be_there().await?;
        let said = self.ask(self.command(LINES, &[]), "").await?;
        let mut all = on_cards(&said);
        all.retain(|one| machine.is_none_or(|machine| one.machine == *machine));
        Ok(all)
    }

    /// What lies beside the tree in a backup.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn contents(&self, id: &BackupId) -> Result<String, BtrfsError> {
        self.ask(self.command("cat \"$1/machine.toml\"", &[id.as_str()]), "").await
    }

    /// Sends a snapshot, as its difference to one that is on both sides where there is such; `hears` how many bytes
    /// have been sent.
    ///
    /// # Errors
    /// When that is not done whole.
    pub async fn save(&self, save: &Save<'_>, hears: impl Fn(u64)) -> Result<Saved, BtrfsError> {
        sendable(save.tree)?;
        let there = self.backups(Some(save.machine)).await?;
        let is_there = |sent: &&PathBuf| {
            let id = tree::identity_at(sent);
            id.is_some() && there.iter().any(|one| one.of == id) && !is_received(sent)
        };
        let parent = save.sent.iter().rfind(is_there).filter(|_| !is_received(save.tree));
        match self.save_after(save, parent, &hears).await {
            // Its copy there may be another one now, or the difference one that btrfs-receive(8) cannot make.
            Err(BtrfsError::Torn { .. }) if parent.is_some() => self.save_after(save, None, &hears).await,
            saved => saved,
        }
    }

    async fn save_after(
        &self,
        save: &Save<'_>,
        parent: Option<&PathBuf>,
        hears: &impl Fn(u64),
    ) -> Result<Saved, BtrfsError> {
        // A stream that ends early may look whole: what takes it does not know, so that a second call says so.
        const RECEIVE: &str = "tidy .part-\"$1\"-* $(find . -maxdepth 1 -name '.part-*' -mtime +6); mkdir -m 0700 \".part-$1-$2\"
            exec btrfs receive \".part-$1-$2\"";
        const COMMIT: &str = "part=\".part-$1-$2\"; mv \"$part/$3\" \"$part/tree\"
            test \"$(btrfs property get -ts \"$part/tree\" ro)\" = ro=true
            cat > \"$part/machine.toml\"; test \"$(wc -c < \"$part/machine.toml\")\" -eq \"$4\"
            printf '%s\\n' \"$5\" > \"$part/backup.json\"
            btrfs filesystem sync . > /dev/null; mv \"$part\" \"$2\"; btrfs filesystem sync . > /dev/null";
        let run = |error| BtrfsError::Run("sh, or ssh,", error);
        let random = kernel::random().map_err(run)?;
        let (id, own) = (BackupId::of(random), host_tag(&kernel::machine_id()));
        let receive =
            self.command(RECEIVE, &[&own, id.as_str()]).stdin(Stdio::piped()).spawn().map_err(run)?;
        let mut send = tool("btrfs", &["send", "-q"]);
        send.args(parent.iter().flat_map(|parent| [Path::new("-p"), parent.as_path()])).arg(save.tree);
        let send = send.spawn().map_err(|error| BtrfsError::Run("btrfs", error))?;
        let goes_on = |bytes| {
            hears(bytes);
            true
        };
        let bytes = self.carry(send, receive, &goes_on).await?;
        let name = save.tree.file_name().unwrap_or_default().to_string_lossy();
        let card = card(&id, &kernel::hostname(), save.tags, tree::identity_at(save.tree));
        let length = save.contents.len().to_string();
        let words = [own.as_str(), id.as_str(), &name, &length, &card];
        self.ask(self.command(COMMIT, &words), save.contents).await?;
        Ok(Saved { id, added: bytes })
    }

    /// Makes a tree of this name of one that was sent here.
    ///
    /// # Errors
    /// When that is not done whole; what there is of it has that name, too.
    pub async fn restore(&self, id: &BackupId, image: &str, hears: impl Fn(u64)) -> Result<(), BtrfsError> {
        let place = Path::new(MACHINES).join(image);
        let io = |error| BtrfsError::Place(place.clone(), error);
        if !is_btrfs(MACHINES).map_err(io)? {
            return Err(BtrfsError::NoSubvolume(MACHINES.into()));
        }
        self.clear().await?;
        fs::create_dir(&place).map_err(io)?;
        let run = |error| BtrfsError::Run("sh, or ssh,", error);
        let send = self.command("exec btrfs send -q \"$1/tree\"", &[id.as_str()]).spawn().map_err(run)?;
        // A stream may name other subvolumes of the file system to take files of, and lead out of them: in a mount of
        // its own there are none.
        const RECEIVE: &str = "mount --bind \"$1\" \"$1\"; cd \"$1\"; exec btrfs receive -q --chroot \"$1\"";
        let mut receive =
            tool("unshare", &["--mount", "--propagation", "private", "sh", "-euc", RECEIVE, "sh"]);
        let receive = receive.arg(&place).stdin(Stdio::piped()).spawn();
        let receive = receive.map_err(|error| BtrfsError::Run("btrfs", error))?;
        let has_room = |bytes| {
            hears(bytes);
            has_room(MACHINES)
        };
        let received = self.carry(send, receive, &has_room).await;
        if received.is_err() && !has_room(0) {
            return Err(BtrfsError::Full(MACHINES));
        }
        received?;
        let unpacked = unpack(image).map_err(io);
        if unpacked.is_err() {
            self.clear().await?;
        }
        unpacked
    }

    /// Deletes what was received by who was killed at the very end.
    async fn clear(&self) -> Result<(), BtrfsError> {
        let names = tree::names().map_err(|error| BtrfsError::Place(MACHINES.into(), error))?;
        for name in names.iter().filter(|name| name.starts_with('.') && name.ends_with(ASIDE)) {
            let place = Path::new(MACHINES).join(name);
            self.ask(tool("btrfs", &["subvolume", "delete", &place.to_string_lossy()]), "").await?;
        }
        Ok(())
    }

    /// Hands on a stream from one process to another; how many bytes that were. `goes_on` hears how
    /// many there are by now.
    async fn carry(
        &self,
        mut from: Child,
        mut to: Child,
        goes_on: &impl Fn(u64) -> bool,
    ) -> Result<u64, BtrfsError> {
        let run = |error| BtrfsError::Run("btrfs", error);
        let handed_on = hand_on(from.stdout.take(), to.stdin.take(), goes_on);
        let (complaint, other) = (from.stderr.take(), to.stderr.take());
        let rest = all_of(to.stdout.take(), COMPLAINT);
        let (bytes, complaint, other, _) =
            tokio::join!(handed_on, all_of(complaint, COMPLAINT), all_of(other, COMPLAINT), rest);
        let (from, to) = (from.wait().await.map_err(run)?, to.wait().await.map_err(run)?);
        if from.success() && to.success() {
            return Ok(bytes);
        }
        // Who stops makes the other one stop, too, and either may be the cause.
        let said = format!("{}; {}", last_of(&complaint), last_of(&other));
        Err(BtrfsError::Torn { at: self.at.clone(), said: said.trim_matches([';', ' ']).to_owned() })
    }

    /// Forgets backups, and what only they had.
    ///
    /// # Errors
    /// When they cannot be forgotten.
    pub async fn forget(&self, ids: &[BackupId]) -> Result<(), BtrfsError> {
        const LINES: &str =
            "for id in \"$@\"; do test ! -e \"$id\" || mv \"$id\" \".gone-$id\"; done; tidy .gone-*";
        // One word of a command line has room for some thousand.
        for ids in ids.chunks(100) {
            let words: Vec<&str> = ids.iter().map(BackupId::as_str).collect();
            self.ask(self.command(LINES, &words), "").await?;
        }
        Ok(())
    }
}

const MACHINES: &str = "/var/lib/machines";
/// The end of the name that what was received has between the folder that it came in and that folder's name; no label of
/// a snapshot has it.
const ASIDE: &str = "+received";
/// What stays free for the others, in bytes.
const RESERVE: u64 = 256 << 20;

fn has_room(place: &str) -> bool {
    nix::sys::statvfs::statvfs(place).is_ok_and(|all| all.blocks_available() * all.fragment_size() > RESERVE)
}

fn is_btrfs(place: &str) -> std::io::Result<bool> {
    Ok(nix::sys::statfs::statfs(place)?.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC)
}

/// What was received in a folder takes that folder's place, and can be written to.
fn unpack(image: &str) -> std::io::Result<()> {
    let place = Path::new(MACHINES).join(image);
    let (received, aside) = (place.join("tree"), Path::new(MACHINES).join(format!("{image}{ASIDE}")));
    let folder = subvolume::open(&received)?;
    // As long as it is not whole, it can be written to.
    if !subvolume::is_read_only(&folder)? {
        return Err(std::io::Error::other("what was sent ended early"));
    }
    subvolume::let_write(&folder)?;
    fs::rename(&received, &aside)?;
    fs::remove_dir(&place)?;
    fs::rename(&aside, &place)?;
    fs::File::open(MACHINES)?.sync_all()
}

fn tool(name: &str, words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", name]).args(words).kill_on_drop(true);
    command.env("PATH", build::PATH).env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How many bytes have gone from the one to the other, until one of them wants no more.
async fn hand_on(
    source: Option<impl AsyncRead + Unpin>,
    sink: Option<impl AsyncWrite + Unpin>,
    goes_on: &impl Fn(u64) -> bool,
) -> u64 {
    let (Some(mut source), Some(mut sink)) = (source, sink) else { return 0 };
    let (mut piece, mut bytes) = (vec![0; PIECE], 0);
    while let Ok(length @ 1..) = source.read(&mut piece).await {
        if sink.write_all(&piece[..length]).await.is_err() {
            break;
        }
        bytes += length as u64;
        if !goes_on(bytes) {
            break;
        }
    }
    bytes
}

/// What a process says, up to so many bytes: who says more is cut off.
async fn all_of(source: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(source) = source {
        let _ = source.take(limit).read_to_end(&mut kept).await;
    }
    kept
}

/// The end of what a tool complained of, in one line.
fn last_of(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}
