//! Subvolumes of btrfs, as far as the kernel is asked itself (linux/btrfs.h).

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::within;

mod ioctl {
    /// What the kernel says of a subvolume, `btrfs_ioctl_get_subvol_info_args`.
    #[repr(C)]
    pub struct Subvolume {
        pub id: u64,
        pub before: [u64; 36],
        pub uuid: [u8; 16],
        pub after: [u64; 24],
    }

    /// `btrfs_ioctl_vol_args`.
    #[repr(C)]
    pub struct New {
        pub fd: i64,
        pub name: [u8; 4088],
    }

    /// `btrfs_ioctl_get_subvol_rootref_args`: which subvolumes are right in this one, by their number and their
    /// folder's.
    #[repr(C)]
    pub struct Inner {
        pub least: u64,
        pub found: [[u64; 2]; 255],
        pub count: u8,
        pub padding: [u8; 7],
    }

    /// `btrfs_ioctl_ino_lookup_user_args`: where one of them is.
    #[repr(C)]
    pub struct Lookup {
        pub folder: u64,
        pub id: u64,
        pub name: [u8; 256],
        pub path: [u8; 3824],
    }

    nix::ioctl_write_ptr!(create, 0x94, 14, New);
    nix::ioctl_read!(flags, 0x94, 25, u64);
    nix::ioctl_write_ptr!(set_flags, 0x94, 26, u64);
    nix::ioctl_read!(info, 0x94, 60, Subvolume);
    nix::ioctl_readwrite!(inner, 0x94, 61, Inner);
    nix::ioctl_readwrite!(lookup, 0x94, 62, Lookup);
}

pub use ioctl::Subvolume;

impl Subvolume {
    /// Whether it came from elsewhere (btrfs-receive(8)), and is told by what it was there.
    pub fn is_received(&self) -> bool {
        // Behind the uuid of what it was made of.
        self.after[2..4] != [0, 0]
    }
}

/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// The inode of each subvolume's root (btrfs(5), `BTRFS_FIRST_FREE_OBJECTID`).
const ROOT: u64 = 256;

/// The subvolume that a folder is the root of.
pub fn of(folder: &File) -> Option<Subvolume> {
    folder.metadata().ok().filter(|meta| meta.is_dir() && meta.ino() == ROOT)?;
    let mut subvolume = Subvolume { id: 0, before: [0; 36], uuid: [0; 16], after: [0; 24] };
    // SAFETY: the kernel fills in a value of ours, of the size that it knows, that lives through the call.
    unsafe { ioctl::info(folder.as_raw_fd(), &raw mut subvolume) }.ok()?;
    Some(subvolume)
}

/// Makes one of this name in a folder.
///
/// # Errors
/// ENOTTY and the like where the file system has none.
pub fn make(folder: &File, name: &str) -> nix::Result<()> {
    let mut new = ioctl::New { fd: 0, name: [0; 4088] };
    new.name.iter_mut().zip(name.bytes().take(255)).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads a value of ours that lives through the call, and whose name ends with a zero.
    unsafe { ioctl::create(folder.as_raw_fd(), &raw const new) }.map(drop)
}

/// Whether nobody can write to it.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_read_only(folder: &File) -> nix::Result<bool> {
    let mut flags = 0;
    // SAFETY: the kernel fills in a number of ours that lives through the call.
    unsafe { ioctl::flags(folder.as_raw_fd(), &raw mut flags) }?;
    Ok(flags & READ_ONLY != 0)
}

/// Lets it be written to.
///
/// # Errors
/// When the kernel does not.
pub fn let_write(folder: &File) -> nix::Result<()> {
    let mut flags = 0;
    // SAFETY: the kernel fills in, and reads, a number of ours that lives through the calls.
    unsafe {
        ioctl::flags(folder.as_raw_fd(), &raw mut flags)?;
        ioctl::set_flags(folder.as_raw_fd(), &(flags & !READ_ONLY))?;
    }
    Ok(())
}

/// The first subvolume in this one that has something in it; guests make empty ones at each boot (tmpfiles.d(5)).
///
/// # Errors
/// When that cannot be told.
pub fn filled_inner(folder: &File) -> io::Result<Option<PathBuf>> {
    let mut request = ioctl::Inner { least: 0, found: [[0; 2]; 255], count: 0, padding: [0; 7] };
    loop {
        // SAFETY: the kernel reads and fills in a value of ours, of the size that it knows, that lives through the call.
        let done = unsafe { ioctl::inner(folder.as_raw_fd(), &raw mut request) };
        // There are more than one answer holds; `least` is the next then.
        if !matches!(done, Ok(_) | Err(Errno::EOVERFLOW)) {
            done?;
        }
        for [id, parent] in &request.found[..usize::from(request.count)] {
            let path = path_of(folder, *id, *parent)?;
            if !is_empty(folder, &path)? {
                return Ok(Some(path));
            }
        }
        if done.is_ok() {
            return Ok(None);
        }
    }
}

fn path_of(folder: &File, id: u64, parent: u64) -> io::Result<PathBuf> {
    let mut request = ioctl::Lookup { folder: parent, id, name: [0; 256], path: [0; 3824] };
    // SAFETY: the same.
    unsafe { ioctl::lookup(folder.as_raw_fd(), &raw mut request) }?;
    let text = |bytes: &[u8]| CStr::from_bytes_until_nul(bytes).map(|text| text.to_bytes().to_vec());
    let (path, name) = (text(&request.path), text(&request.name));
    let (Ok(path), Ok(name)) = (path, name) else { return Err(Errno::ENAMETOOLONG.into()) };
    Ok(Path::new(OsStr::from_bytes(&path)).join(OsStr::from_bytes(&name)))
}

fn is_empty(folder: &File, path: &Path) -> io::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let mut inner = Dir::from_fd(within::open(folder, path, flags)?)?;
    let mut names = inner.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(names.all(|name| name.is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))))
}

/// Opens a folder, and no link to one.
///
/// # Errors
/// When there is none.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn the_kernel_is_given_as_much_as_it_fills() {
        let sizes = [
            size_of::<Subvolume>(),
            size_of::<ioctl::New>(),
            size_of::<ioctl::Inner>(),
            size_of::<ioctl::Lookup>(),
        ];
        assert_eq!(sizes, [504, 4096, 4096, 4096]);
    }
}
