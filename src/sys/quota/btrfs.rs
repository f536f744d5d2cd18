//! Simple quotas: a group above the tree's own, which subvolumes that the guest makes are counted in, too.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;

use super::QuotaError;
use crate::sys::subvolume;

/// linux/btrfs.h
mod ioctl {
    #[repr(C)]
    pub struct Control {
        pub command: u64,
        pub status: u64,
    }

    #[repr(C)]
    pub struct Create {
        pub create: u64,
        pub group: u64,
    }

    #[repr(C)]
    pub struct Assign {
        pub assign: u64,
        pub from: u64,
        pub to: u64,
    }

    #[repr(C)]
    pub struct Limit {
        pub group: u64,
        pub flags: u64,
        pub referenced: u64,
        pub exclusive: u64,
        pub reserved: [u64; 2],
    }

    #[repr(C)]
    pub struct Info {
        pub devices: [u64; 2],
        pub id: [u8; 16],
        pub rest: [u64; 124],
    }

    /// Which items of a tree are looked for, as (object, type, offset), and what is found: headers, each
    /// followed by its item.
    #[repr(C)]
    pub struct Search {
        pub tree: u64,
        pub objects: [u64; 2],
        pub offsets: [u64; 2],
        pub generations: [u64; 2],
        pub types: [u32; 2],
        pub count: u32,
        pub unused: [u32; 9],
        pub found: [u8; 3992],
    }

    nix::ioctl_readwrite!(search, 0x94, 17, Search);
    nix::ioctl_readwrite!(control, 0x94, 40, Control);
    nix::ioctl_write_ptr!(assign, 0x94, 41, Assign);
    nix::ioctl_write_ptr!(create, 0x94, 42, Create);
    nix::ioctl_read!(limit, 0x94, 43, Limit);
    nix::ioctl_read!(info, 0x94, 31, Info);
}

/// `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA`, Linux 6.7.
const ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const REFERENCED: u64 = 1;
/// Groups of the first level are above those of subvolumes (btrfs-qgroup(8)).
const LEVEL: u64 = 1 << 48;

pub fn limit(tree: &File, path: &Path, bytes: Option<u64>) -> Result<(), QuotaError> {
    let refused = |errno| QuotaError::Refused(path.to_owned(), errno);
    let Some(own) = subvolume::of(tree).map(|own| own.id) else {
        return if bytes.is_none() { Ok(()) } else { Err(QuotaError::NoSubvolume(path.to_owned())) };
    };
    match (mode(tree).map_err(refused)?.as_str(), bytes) {
        ("squota", _) => {}
        (_, None) => return Ok(()),
        ("qgroup", _) => return Err(QuotaError::Groups),
        _ => turn_on(tree, path)?,
    }
    let beside = beside(tree, path);
    let tree = beside.as_ref().unwrap_or(tree);
    let group = LEVEL | own;
    let create = ioctl::Create { create: 1, group };
    // SAFETY: here and below the kernel reads or fills in a value of ours, of the size that it knows, that
    // lives through the call.
    there(unsafe { ioctl::create(tree.as_raw_fd(), &raw const create) }).map_err(refused)?;
    // What the guest makes later is counted with that in which it makes it.
    for from in family(tree, own).map_err(refused)? {
        let assign = ioctl::Assign { assign: 1, from, to: group };
        // SAFETY: as above.
        there(unsafe { ioctl::assign(tree.as_raw_fd(), &raw const assign) }).map_err(refused)?;
    }
    let referenced = bytes.unwrap_or(u64::MAX);
    let mut limit = ioctl::Limit { group, flags: REFERENCED, referenced, exclusive: 0, reserved: [0; 2] };
    // SAFETY: as above.
    unsafe { ioctl::limit(tree.as_raw_fd(), &raw mut limit) }.map(drop).map_err(refused)
}

/// The folder that a tree is in, where that is of its file system: a tree that is full has no room to be told of
/// another limit.
fn beside(tree: &File, path: &Path) -> Option<File> {
    let parent = File::open(path.parent()?).ok()?;
    (id(&parent) == id(tree)).then_some(parent)
}

/// Of the file system.
fn id(file: &File) -> nix::Result<[u8; 16]> {
    let mut info = ioctl::Info { devices: [0; 2], id: [0; 16], rest: [0; 124] };
    // SAFETY: the kernel fills in a value of ours, of the size that it knows, that lives through the call.
    unsafe { ioctl::info(file.as_raw_fd(), &raw mut info) }?;
    Ok(info.id)
}

/// A subvolume and all below.
fn family(tree: &File, own: u64) -> nix::Result<BTreeSet<u64>> {
    let (mut all, mut next) = (BTreeSet::from([own]), vec![own]);
    while let Some(parent) = next.pop() {
        let children = children(tree, parent)?;
        next.extend(children.into_iter().filter(|child| all.insert(*child)));
    }
    Ok(all)
}

/// The tree of all roots has an item for each of a subvolume's children: the offset in its key is the child.
fn children(tree: &File, parent: u64) -> nix::Result<Vec<u64>> {
    let mut children = Vec::new();
    let mut least = 0;
    loop {
        let mut search = ioctl::Search {
            tree: ROOTS,
            objects: [parent; 2],
            offsets: [least, u64::MAX],
            generations: [0, u64::MAX],
            types: [ROOT_REF; 2],
            count: u32::MAX,
            unused: [0; 9],
            found: [0; 3992],
        };
        // SAFETY: as above.
        unsafe { ioctl::search(tree.as_raw_fd(), &raw mut search) }?;
        let mut rest = &search.found[..];
        for _ in 0..search.count {
            let Some((header, items)) = rest.split_at_checked(32) else { break };
            let number =
                |at: usize| header[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default();
            children.push(number(16));
            // The type, and how long the item is.
            rest = items.get((number(24) >> 32) as usize..).unwrap_or_default();
        }
        match children.last() {
            Some(last) if search.count > 0 && *last < u64::MAX => least = last + 1,
            _ => return Ok(children),
        }
    }
}

/// linux/btrfs_tree.h: the tree of all roots, and the type of an item that leads from a subvolume to a child.
const ROOTS: u64 = 1;
const ROOT_REF: u32 = 156;

/// What is there already is as it should be.
fn there(done: nix::Result<i32>) -> nix::Result<()> {
    match done {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn turn_on(tree: &File, path: &Path) -> Result<(), QuotaError> {
    let mut control = ioctl::Control { command: ENABLE_SIMPLE, status: 0 };
    // SAFETY: as above.
    match unsafe { ioctl::control(tree.as_raw_fd(), &raw mut control) } {
        Ok(_) => Ok(()),
        Err(Errno::EINVAL | Errno::ENOTTY | Errno::EOPNOTSUPP) => Err(QuotaError::Old),
        Err(errno) => Err(QuotaError::Refused(path.to_owned(), errno)),
    }
}

/// How the file system counts: "disabled", "qgroup" or "squota" (btrfs-quota(5), sysfs).
fn mode(tree: &File) -> nix::Result<String> {
    let hex: String = id(tree)?.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    let folder = Path::new("/sys/fs/btrfs").join(parts.join("-")).join("qgroups");
    // Without quotas there is no such folder.
    let mode = std::fs::read_to_string(folder.join("mode")).unwrap_or_default();
    Ok(mode.trim().to_owned())
}
