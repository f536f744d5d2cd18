//! What a tree takes of its disk, and what of that it shares with others: of each file the kernel tells
//! (fiemap in the kernel's documentation of file systems).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};
use serde::Serialize;

use super::walk::{self, DEEP, folder};

/// Bytes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Usage {
    /// What would be free without it.
    pub own: u64,
    /// What other trees, or snapshots, have as well.
    pub shared: u64,
}

/// linux/fiemap.h
mod ioctl {
    /// How many extents are told at a time.
    pub const ROOM: usize = 128;

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Extent {
        pub logical: u64,
        pub physical: u64,
        pub length: u64,
        pub reserved: [u64; 2],
        pub flags: u32,
        pub more_reserved: [u32; 3],
    }

    /// What is asked; the extents follow it.
    #[repr(C)]
    pub struct Request {
        pub start: u64,
        pub length: u64,
        pub flags: u32,
        pub mapped: u32,
        pub room: u32,
        pub reserved: u32,
    }

    #[repr(C)]
    pub struct Map {
        pub request: Request,
        pub extents: [Extent; ROOM],
    }

    nix::ioctl_readwrite!(fiemap, b'f', 11, Request);
}

/// `FIEMAP_EXTENT_LAST`, `FIEMAP_EXTENT_DATA_INLINE` and `FIEMAP_EXTENT_SHARED`.
const LAST: u32 = 0x1;
const INLINE: u32 = 0x200;
const SHARED: u32 = 0x2000;

/// Of an image of machined's: a tree, or a disk image.
///
/// # Errors
/// When it cannot be read.
pub fn of_image(name: &str) -> io::Result<Usage> {
    let path = Path::new("/var/lib/machines").join(name);
    let mut usage = Usage::default();
    let Ok(tree) = folder(&path) else {
        let image = File::open(path.with_file_name(format!("{name}.raw")))?;
        usage.add(&image, 0)?;
        return Ok(usage);
    };
    walk::all(tree, DEEP, &mut |folder, name, meta| {
        let is_file = meta.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        if !is_file || meta.st_blocks == 0 {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(folder, name.as_c_str(), flags, Mode::empty()) {
            // Gone, or something else, by now.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => Ok(()),
            file => match usage.add(&File::from(file?), meta.st_size) {
                // A file system that tells nothing of that shares nothing.
                Err(Errno::EOPNOTSUPP | Errno::ENOTTY) => {
                    usage.own += u64::try_from(meta.st_blocks).unwrap_or_default() * 512;
                    Ok(())
                }
                added => added,
            },
        }
    })?;
    Ok(usage)
}

/// Of many at once, on all processors; one that cannot be read has none.
pub fn of_images(names: &[String]) -> BTreeMap<String, Usage> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(names.len().max(1));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut seen = Vec::new();
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            seen.extend(of_image(name).ok().map(|usage| (name.clone(), usage)));
        }
        seen
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        all.into_iter().filter_map(|one| one.join().ok()).flatten().collect()
    })
}

impl Usage {
    /// All of it.
    pub fn whole(self) -> u64 {
        self.own + self.shared
    }

    fn add(&mut self, file: &File, size: i64) -> nix::Result<()> {
        let size = u64::try_from(size).unwrap_or_default();
        let extent = ioctl::Extent {
            logical: 0,
            physical: 0,
            length: 0,
            reserved: [0; 2],
            flags: 0,
            more_reserved: [0; 3],
        };
        let mut start = 0;
        loop {
            let request = ioctl::Request {
                start,
                length: u64::MAX - start,
                flags: 0,
                mapped: 0,
                room: ioctl::ROOM as u32,
                reserved: 0,
            };
            let mut map = ioctl::Map { request, extents: [extent; ioctl::ROOM] };
            // SAFETY: the kernel fills in a value of ours, with room for as many extents as it is told, that
            // lives through the call.
            unsafe { ioctl::fiemap(file.as_raw_fd(), (&raw mut map).cast()) }?;
            let mut told = map.extents.iter().take(map.request.mapped as usize);
            for extent in told.clone() {
                let part = if extent.flags & SHARED == 0 { &mut self.own } else { &mut self.shared };
                // What lies beside a file's name is told as a whole block.
                *part += if extent.flags & INLINE == 0 { extent.length } else { extent.length.min(size) };
            }
            match told.next_back() {
                Some(last) if last.flags & LAST == 0 => start = last.logical.saturating_add(last.length),
                _ => return Ok(()),
            }
        }
    }
}
