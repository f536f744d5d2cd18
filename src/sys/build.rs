//! Tools that make trees: mmdebstrap and its like, run to their end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::hint::Hint;
use crate::spec::recipe::{Output, Recipe, TARGET};

/// How many of a tool's last lines are told when it fails.
const LAST: usize = 8;

/// Why a tool made nothing.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot run {tool}")]
    Run { tool: String, source: io::Error },
    #[error("{tool} failed:\n{said}")]
    Failed { tool: String, said: String },
}

impl Hint for BuildError {}

/// The first of some ways whose tool is there.
pub fn choose(recipes: &[Recipe]) -> Option<&Recipe> {
    recipes.iter().find(|recipe| is_there(recipe.tool))
}

/// Whether a program is where root's programs are.
pub fn is_there(tool: &str) -> bool {
    PATH.split(':').any(|folder| Path::new(folder).join(tool).exists())
}

/// sbin is not on everybody's path.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where tools work: nobody else's.
const SCRATCH: &str = "/var/lib/nsctl/build";
/// Where a tool sees its folder, in mounts of its own. It may be one that gives up its
/// privileges, as apt does: such a user does not get below [`SCRATCH`], but gets here.
const SEEN: &str = "/var/tmp";
/// Puts the folder there, then runs the tool.
const ENTER: &str = "mount --bind \"$1\" /var/tmp && shift && exec \"$@\"";

/// A tool at work, in mounts and processes of its own: when it ends, or is dropped,
/// they all end, and nothing of its folder is left.
#[derive(Debug)]
pub struct Building {
    tool: String,
    child: Child,
    folder: PathBuf,
}

impl Building {
    /// Starts a tool; where it gives a tar, that can be read from the file. Only
    /// one may work at a time: what a killed one left is taken away.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn begin(recipe: &Recipe) -> Result<(Building, Option<File>), BuildError> {
        let run = |source| BuildError::Run { tool: recipe.tool.to_owned(), source };
        let folder = scratch().map_err(run)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", ENTER, "sh"]);
        command.arg(&folder).arg(recipe.tool);
        let seen = tree(Path::new(SEEN));
        command.args(recipe.words.iter().map(|word| word.replace(TARGET, &seen.to_string_lossy())));
        command.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command.env("TMPDIR", SEEN).stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let pipe = match recipe.output {
            Output::Tar => {
                let (reader, writer) = io::pipe().map_err(run)?;
                command.stdout(Stdio::from(OwnedFd::from(writer)));
                Some(File::from(OwnedFd::from(reader)))
            }
            Output::Folder => {
                command.stdout(Stdio::null());
                None
            }
        };
        // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        let child = command.spawn().map_err(run)?;
        Ok((Building { tool: recipe.tool.to_owned(), child, folder }, pipe))
    }

    /// Where a tool that gives no tar puts its tree.
    pub fn tree(&self) -> PathBuf {
        tree(&self.folder)
    }

    /// Waits for its end, and tells each line that it says.
    ///
    /// # Errors
    /// When it fails, with its last lines.
    pub async fn end(&mut self, hears: &dyn Fn(&str)) -> Result<(), BuildError> {
        let tool = self.tool.clone();
        let run = |source| BuildError::Run { tool: tool.clone(), source };
        let mut last: Vec<String> = Vec::new();
        if let Some(said) = self.child.stderr.take() {
            let mut lines = BufReader::new(said).split(b'\n');
            while let Some(line) = lines.next_segment().await.map_err(run)? {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                hears(&line);
                last.push(line);
                if last.len() > LAST {
                    last.remove(0);
                }
            }
        }
        if self.child.wait().await.map_err(run)?.success() {
            return Ok(());
        }
        Err(BuildError::Failed { tool, said: last.join("\n") })
    }
}

fn tree(folder: &Path) -> PathBuf {
    folder.join("tree")
}

fn scratch() -> io::Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(SCRATCH)?;
    for entry in std::fs::read_dir(SCRATCH)? {
        std::fs::remove_dir_all(entry?.path())?;
    }
    let folder = tempfile::tempdir_in(SCRATCH)?.keep();
    std::fs::create_dir(tree(&folder))?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777))?;
    Ok(folder)
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // The kernel takes a moment to end all of them; until then, they may still write.
        for _ in 0..100 {
            let _ = self.child.try_wait();
            if std::fs::remove_dir_all(&self.folder).is_ok() || !self.folder.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
