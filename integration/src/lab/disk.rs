//! A disk of a host's own: ext4 in an image file. What the file holds at an instant is what
//! the disk holds; what the file system still has in memory is lost with the power.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use fs_err as fs;

use super::run::{capture, check, words};

const SIZE: u64 = 6 << 30;

/// A mounted image.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    place: PathBuf,
    cuts: u32,
}

/// The disk as it was at an instant.
#[derive(Debug)]
pub struct Cut(PathBuf);

impl Disk {
    /// Makes an empty disk in a folder of the cache's pool.
    pub fn make(folder: &Path) -> Result<Disk> {
        let disk = Disk { image: folder.join("disk.img"), place: folder.join("disk"), cuts: 0 };
        fs::create_dir_all(&disk.place)?;
        fs::File::create(&disk.image)?.set_len(SIZE)?;
        check(&mut words(&["mkfs.ext4", "-q", "-F", &disk.image.to_string_lossy()]))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Copies the disk at this instant, while the host goes on: the blocks are shared, and no
    /// write gets in between.
    pub fn cut(&mut self) -> Result<Cut> {
        self.cuts += 1;
        let copy = self.image.with_extension(format!("cut{}", self.cuts));
        check(&mut words(&[
            "cp",
            "--reflink=always",
            &self.image.to_string_lossy(),
            &copy.to_string_lossy(),
        ]))?;
        Ok(Cut(copy))
    }

    /// Puts the disk back to what it was at a cut. Its host is off.
    ///
    /// # Errors
    /// When more than the file system's journal has to be replayed to fix it.
    pub fn fall_back(&mut self, cut: Cut) -> Result<()> {
        self.unmount()?;
        fs::rename(cut.0, &self.image)?;
        let image = self.image.to_string_lossy();
        let replayed = capture(&mut words(&["e2fsck", "-p", &image]))?;
        // 1: something was done, which is the journal.
        ensure!(replayed.status <= 1, "the file system is damaged:\n{}", replayed.all());
        let again = capture(&mut words(&["e2fsck", "-f", "-n", &image]))?;
        ensure!(again.ok(), "the file system is damaged:\n{}\n{}", replayed.all(), again.all());
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let (image, place) = (self.image.to_string_lossy(), self.place.to_string_lossy());
        check(&mut words(&["mount", "-t", "ext4", "-o", "loop", &image, &place])).map(drop)
    }

    /// Lazily: the last of the host's processes may be going just now.
    fn unmount(&self) -> Result<()> {
        check(&mut words(&["umount", "--lazy", &self.place.to_string_lossy()])).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("cannot unmount a disk: {error:#}");
        }
    }
}
