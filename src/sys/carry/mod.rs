//! What comes out of a guest. Its root owns the tree, and may change it while we read: so
//! nothing is copied as it stands. What is in plain files and folders is made anew, root's,
//! in a draft that nobody else sees, and moved into place when all of it is there: no mode
//! that grants rights, no capability, no device comes along, and no link is followed.

mod bring;
mod draft;
mod target;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};

pub use bring::LeftOut;
pub use target::Target;

use super::tree::Tree;
use super::within;

use crate::hint::Hint;

/// Opens a folder itself, and no link to one.
const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// How it is to be carried.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Symbolic links come too, those that stay within what is copied.
    pub links: bool,
    /// Files that are there are replaced, folders filled.
    pub force: bool,
    /// How many bytes at the most; each file, folder and link counts for some.
    pub limit: u64,
    /// Whose it is then; none: ours.
    pub owner: Option<(Uid, Gid)>,
    /// Set by who does not want to wait for it.
    pub stop: Arc<AtomicBool>,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error("{0} does not exist")]
    Missing(String),
    #[error("{0} is neither a file nor a folder")]
    Special(String),
    #[error("{0} is a link: what comes out of a machine goes through none")]
    Link(String),
    #[error("{0} is there already")]
    Taken(String),
    #[error(
        "{0} is there already, and what comes is of another kind: of file and folder, neither replaces the other"
    )]
    Unlike(String),
    #[error("{0} is no folder that is there")]
    NoFolder(String),
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
    #[error("its folders are more than {0} deep")]
    TooDeep(usize),
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
}

impl Hint for CarryError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            CarryError::Link(_) => "name the place where it leads to, or delete it",
            CarryError::Taken(_) => "--force replaces files that are there, and fills folders",
            CarryError::TooLarge(_) => "if that is as it should be: --max-size 200G, say",
            CarryError::TooDeep(_) => "pack it inside with tar(1), and copy that",
            CarryError::Unlike(_) => "choose another name, or delete it first",
            CarryError::Missing(_) | CarryError::Special(_) => "nothing was copied",
            CarryError::NoFolder(_) => "make it with mkdir(1), or leave out the '/' at its end",
            CarryError::Interrupted => "nothing is left of it",
            CarryError::Io(_, error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

fn io(what: impl Into<String>) -> impl FnOnce(Errno) -> CarryError {
    let what = what.into();
    move |errno| CarryError::Io(what, errno.into())
}

/// The files of a machine that runs, with all that is mounted in it.
#[derive(Debug)]
pub struct Inside {
    root: OwnedFd,
}

impl Inside {
    /// Those of a machine whose first process this is.
    ///
    /// # Errors
    /// When it has ended, or sees the host's own files.
    pub fn of(leader: u32) -> std::io::Result<Inside> {
        let mounts = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
        let root = std::fs::File::open(format!("/proc/{leader}/root"))?;
        if mounts(&leader.to_string())? == mounts("self")? {
            return Err(std::io::Error::other("it has no files of its own"));
        }
        Ok(Inside { root: root.into() })
    }

    /// Those of a machine that is stopped, as its tree has them.
    ///
    /// # Errors
    /// When no more files can be open.
    pub fn at_rest(tree: &Tree) -> std::io::Result<Inside> {
        Ok(Inside { root: tree.folder()? })
    }

    /// Those of this host.
    ///
    /// # Errors
    /// When no more files can be open.
    pub fn here() -> std::io::Result<Inside> {
        Ok(Inside { root: std::fs::File::open("/")?.into() })
    }

    /// What a path leads to there; links lead nowhere but there.
    fn find(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        within::open(&self.root, path, flags | OFlag::O_PATH)
    }

    /// Whether a path leads to a folder there.
    pub fn is_folder(&self, path: &Path) -> bool {
        self.find(path, OFlag::O_DIRECTORY).is_ok()
    }

    /// Whether something of that name is there, and be it a link.
    pub fn has(&self, path: &Path) -> bool {
        self.find(path, OFlag::O_NOFOLLOW).is_ok()
    }

    /// Carries a file or folder out, whole or not at all; gives what was left out. `shown` is
    /// what the user calls it.
    ///
    /// # Errors
    /// Why nothing came; of folders that are there and were to be filled, some files may have come.
    pub fn carry(&self, path: &Path, shown: &str, to: &Target, terms: &Terms) -> Result<LeftOut, CarryError> {
        let found = self.find(path, OFlag::empty()).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => CarryError::Missing(shown.to_owned()),
            errno => CarryError::Io(format!("{shown} cannot be read"), errno.into()),
        })?;
        to.must_take(&found, terms.force)?;
        let draft = draft::Draft::make(to)?;
        let left_out = bring::bring(&found, shown, &draft, terms)?;
        to.take(&draft, terms.force)?;
        Ok(left_out)
    }
}
