//! Archives on their way to and from systemd-importd, which takes and gives plain
//! ones: unpacked and packed by the tools of their formats, and counted, as an
//! archive of a few bytes may hold more than the disk.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Seek, Take, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::build::PATH;
use super::disk::DiskError;
use super::tarball;
use crate::hint::Hint;
use crate::provision::Init;
use crate::spec::image::Kind;

/// Where the definition of an exported machine stands, before its tree.
const DEFINITION: &str = "nsctl-definition.toml";
/// No definition is longer.
const DEFINITION_LIMIT: u64 = 1 << 20;

/// What went wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{tool} is needed for {path}, and cannot be run")]
    Tool { tool: &'static str, path: String, source: io::Error },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{0} cannot be read")]
    Io(String, #[source] io::Error),
    #[error("{0} is there already")]
    Taken(String),
    #[error("{0} cannot be written")]
    Write(String, #[source] io::Error),
    #[error("{0} is damaged, or not whole")]
    Torn(String),
    #[error("{path} holds more than {limit} bytes")]
    TooLarge { path: String, limit: u64 },
}

impl Hint for ArchiveError {
    fn hint(&self) -> Option<String> {
        match self {
            ArchiveError::Tool { tool, .. } => {
                let package = if *tool == "xz" { "xz-utils" } else { tool };
                Some(format!("on Debian: `apt install {package}`"))
            }
            ArchiveError::Disk(error) => error.hint(),
            ArchiveError::TooLarge { .. } => Some("if that is as it should be: --max-size 200G, say".into()),
            ArchiveError::Taken(_) => Some("choose another name, or delete it first".into()),
            ArchiveError::Write(_, error) => {
                error.hint().or_else(|| Some("is its folder there, and may it be written to?".into()))
            }
            ArchiveError::Torn(_) => Some("fetch or pack it again; no part of it is left here".into()),
            ArchiveError::Io(_, error) => error.hint(),
        }
    }
}

/// The tool of a packed file, told by its name.
fn packer(path: &Path) -> Option<&'static str> {
    match path.extension()?.to_str()? {
        "gz" | "tgz" => Some("gzip"),
        "xz" => Some("xz"),
        "bz2" => Some("bzip2"),
        "zst" => Some("zstd"),
        _ => None,
    }
}

fn command(tool: &'static str, words: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.args(words).env("PATH", PATH).stderr(Stdio::null());
    // One that hangs does not outlive us: more precisely, the thread that starts it (prctl(2)).
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
    }
    command
}

/// An archive that is being read, unpacked.
#[derive(Debug)]
pub struct Unpacked {
    path: String,
    source: Source,
    tool: Option<Child>,
    reader: Box<dyn ReadSend>,
}

/// The file, which shares its position with who reads it, and its size. Of a pipe there is
/// none: as long as somebody held it, who writes would not learn that nobody reads.
type Source = Option<(File, u64)>;

trait ReadSend: Read + Send + std::fmt::Debug {}
impl<T: Read + Send + std::fmt::Debug> ReadSend for T {}

impl Unpacked {
    /// Opens an archive that the user named. What unpacks it ends with the thread that calls this.
    ///
    /// # Errors
    /// When it cannot be read, or its tool is not there.
    pub fn open(path: &Path) -> Result<Unpacked, ArchiveError> {
        let file = super::Disk::open_foreign(path)?;
        let shown = path.display().to_string();
        let io = |error| ArchiveError::Io(shown.clone(), error);
        let size = file.metadata().map_err(io)?.len();
        let again = file.try_clone().map_err(io)?;
        let source = Some((file, size));
        let Some(tool) = packer(path) else {
            return Ok(Unpacked { path: shown, source, tool: None, reader: Box::new(again) });
        };
        let child = command(tool, &["-dc"]).stdin(again).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|source| ArchiveError::Tool { tool, path: shown.clone(), source })?;
        let output = child.stdout.take().ok_or_else(|| io(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Unpacked { path: shown, source, tool: Some(child), reader: Box::new(output) })
    }

    /// Takes the definition, and its permissions, off an exported machine, whose tree is what is
    /// left; none of any other archive, which stays as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn definition(mut self) -> Result<(Option<(String, u32)>, Unpacked), ArchiveError> {
        match definition(&mut self.reader).map_err(|error| ArchiveError::Io(self.path.clone(), error))? {
            Ok((text, mode)) => Ok((Some((text, mode & 0o644 | 0o600)), self)),
            Err(begin) => {
                self.reader = Box::new(io::Cursor::new(begin).chain(self.reader));
                Ok((None, self))
            }
        }
    }

    /// The first program of the guest in a tar, as far as its entries tell before it is unpacked.
    /// No more than `limit` bytes are looked through: a few of a packed archive may be as many as one likes.
    pub fn init(self, limit: u64) -> Init {
        let init = init(self.reader.take(limit));
        if let Some(mut tool) = self.tool {
            let _ = tool.kill();
            let _ = tool.wait();
        }
        init
    }

    /// What a tool gives, unpacked.
    pub fn stream(tool: &str, pipe: File) -> Unpacked {
        Unpacked { path: format!("what {tool} gives"), source: None, tool: None, reader: Box::new(pipe) }
    }

    /// Feeds a pipe with it, as far as `limit` bytes.
    ///
    /// # Errors
    /// When no pipe can be had.
    pub fn feed(self, kind: Kind, limit: u64) -> Result<(File, Feed), ArchiveError> {
        let Unpacked { path, source, tool, reader } = self;
        let (output, input) = io::pipe().map_err(|error| ArchiveError::Io(path.clone(), error))?;
        let pump = std::thread::spawn(move || pump(path, reader.take(limit), tool, input, kind));
        Ok((File::from(OwnedFd::from(output)), Feed { source, pump }))
    }
}

/// An archive on its way to importd.
#[derive(Debug)]
pub struct Feed {
    source: Source,
    pump: JoinHandle<Result<(), ArchiveError>>,
}

impl Feed {
    /// How far the file has been read, from 0 to 1.
    pub fn progress(&self) -> f64 {
        let Some((file, size)) = &self.source else { return 0.0 };
        let at = { file }.stream_position().unwrap_or(0);
        if *size == 0 { 0.0 } else { at as f64 / *size as f64 }
    }

    /// Whether it was fed whole.
    ///
    /// # Errors
    /// When it is too large, torn, or cannot be read.
    pub fn end(self) -> Result<(), ArchiveError> {
        self.pump.join().unwrap_or(Ok(()))
    }
}

fn pump(
    path: String,
    mut reader: Take<Box<dyn ReadSend>>,
    mut tool: Option<Child>,
    mut input: PipeWriter,
    kind: Kind,
) -> Result<(), ArchiveError> {
    let limit = reader.limit();
    let passed = match kind {
        Kind::Tar => tarball::pass_on(&mut reader, input),
        Kind::Raw => io::copy(&mut reader, &mut input).map(drop),
    };
    let is_more = reader.limit() == 0 && reader.get_mut().read(&mut [0]).is_ok_and(|length| length > 0);
    if let Some(tool) = tool.as_mut().filter(|_| is_more || passed.is_err()) {
        let _ = tool.kill();
    }
    let whole = tool.is_none_or(|mut tool| tool.wait().is_ok_and(|status| status.success()));
    match passed.map_err(|error| (error.kind(), error)) {
        Ok(()) if is_more => Err(ArchiveError::TooLarge { path, limit }),
        Ok(()) if whole => Ok(()),
        Ok(()) => Err(ArchiveError::Torn(path)),
        // importd has said why it reads no further.
        Err((io::ErrorKind::BrokenPipe, _)) => Ok(()),
        Err((_, error)) => Err(ArchiveError::Io(path, error)),
    }
}

/// A new archive, packed as its name says, that begins with a definition. It has
/// its name when it is whole; dropped before, nothing is left of it.
#[derive(Debug)]
pub struct Packing {
    path: String,
    draft: tempfile::TempPath,
    target: PathBuf,
    tool: Option<Child>,
    pump: JoinHandle<io::Result<u64>>,
}

impl Packing {
    /// Makes the file, which must not be there; what is written to the pipe follows the definition.
    ///
    /// # Errors
    /// When it cannot be made, or its tool is not there.
    pub fn begin(path: &Path, definition: &str, mode: u32) -> Result<(File, Packing), ArchiveError> {
        let shown = path.display().to_string();
        let io = |error| ArchiveError::Write(shown.clone(), error);
        if path.exists() {
            return Err(ArchiveError::Taken(shown));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let (file, draft) =
            tempfile::Builder::new().prefix(".nsctl-draft-").tempfile_in(folder).map_err(io)?.into_parts();
        let (mut output, input) = io::pipe().map_err(io)?;
        let (mut target, tool): (Box<dyn Write + Send>, _) = match packer(path) {
            None => (Box::new(file), None),
            Some(tool) => {
                let words: &[&str] = if tool == "zstd" || tool == "xz" { &["-c", "-T0"] } else { &["-c"] };
                let child = command(tool, words).stdin(Stdio::piped()).stdout(file).spawn();
                let mut child =
                    child.map_err(|source| ArchiveError::Tool { tool, path: shown.clone(), source })?;
                let stdin = child.stdin.take().ok_or_else(|| io(io::ErrorKind::BrokenPipe.into()))?;
                (Box::new(stdin), Some(child))
            }
        };
        let head = head(definition, mode);
        let pump = std::thread::spawn(move || {
            target.write_all(&head)?;
            let length = io::copy(&mut output, &mut target)?;
            target.flush()?;
            Ok(length)
        });
        Ok((
            File::from(OwnedFd::from(input)),
            Packing { path: shown, draft, target: path.to_owned(), tool, pump },
        ))
    }

    /// Waits until all of it is written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(self) -> Result<(), ArchiveError> {
        let Packing { path, draft, target, tool, pump } = self;
        let io = |error| ArchiveError::Write(path.clone(), error);
        let lost = || io(io::Error::other("it could not be packed"));
        let written = pump.join().map_err(|_| lost());
        let packed = tool.is_none_or(|mut tool| tool.wait().is_ok_and(|status| status.success()));
        if written?.map_err(io)? == 0 || !packed {
            return Err(lost());
        }
        // What has its name is whole, whatever happens next.
        File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
        draft.persist_noclobber(&target).map_err(|error| io(error.error))?;
        let folder = target.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

/// Takes the definition, and its permissions, off the beginning of a tar; gives what was read
/// where there is none.
///
/// # Errors
/// When it cannot be read.
pub fn definition(mut reader: impl Read) -> io::Result<Result<(String, u32), Vec<u8>>> {
    let mut begin = Vec::new();
    reader.by_ref().take(512).read_to_end(&mut begin)?;
    let header = (begin.len() == 512).then(|| tar::Header::from_byte_slice(&begin));
    let ours = header.filter(|header| header.path_bytes().as_ref() == DEFINITION.as_bytes());
    let size = ours.and_then(|header| header.entry_size().ok()).filter(|size| *size <= DEFINITION_LIMIT);
    let Some(size) = size else { return Ok(Err(begin)) };
    let mut text = Vec::new();
    reader.take(size.next_multiple_of(512)).read_to_end(&mut text)?;
    text.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    let mode = ours.and_then(|header| header.mode().ok()).unwrap_or_default();
    Ok(Ok((String::from_utf8_lossy(&text).into_owned(), mode)))
}

/// The first program of the guest in a tar.
pub fn init(reader: impl Read) -> Init {
    let mut archive = tar::Archive::new(reader);
    // Raw: nobody's long names are kept in memory.
    let entries = archive.entries().into_iter().flat_map(|entries| entries.raw(true)).flatten();
    let found = entries.filter_map(|entry| {
        let path = entry.path().ok()?.to_string_lossy().trim_start_matches("./").to_owned();
        let target = entry.link_name().ok().flatten();
        let busybox = target.is_some_and(|target| target.file_name().is_some_and(|name| name == "busybox"));
        match path.as_str() {
            "usr/lib/systemd/systemd" | "lib/systemd/systemd" => Some(Init::Systemd(0)),
            "sbin/init" | "usr/sbin/init" if busybox => Some(Init::Busybox),
            _ => None,
        }
    });
    { found }.next().unwrap_or_default()
}

/// A tar's entry (pax(1), ustar) with no end after it: the tree's own follow.
fn head(definition: &str, mode: u32) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let _ = header.set_path(DEFINITION);
    header.set_size(definition.len() as u64);
    header.set_mode(mode);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let mut head = header.as_bytes().to_vec();
    head.extend(definition.as_bytes());
    head.resize(head.len().next_multiple_of(512), 0);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_comes_back_and_what_follows_it() {
        let folder = tempfile::tempdir().unwrap();
        for end in ["tar", "tar.gz"] {
            let path = folder.path().join(format!("x.{end}"));
            let (mut pipe, packing) = Packing::begin(&path, "image = \"x\"\n", 0o640).unwrap();
            pipe.write_all(b"tree").unwrap();
            drop(pipe);
            packing.end().unwrap();
            let (definition, unpacked) = Unpacked::open(&path).unwrap().definition().unwrap();
            assert_eq!(definition.unwrap(), ("image = \"x\"\n".to_owned(), 0o640));
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777, 0o600);
            let (mut pipe, feed) = unpacked.feed(Kind::Tar, 100).unwrap();
            let mut rest = String::new();
            pipe.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "tree");
            feed.end().unwrap();
            assert!(Packing::begin(&path, "", 0o600).is_err(), "a file that is there is replaced");
        }
    }

    #[test]
    fn more_than_the_limit_is_not_fed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        std::fs::write(&path, vec![1; 400_000]).unwrap();
        let (mut pipe, feed) = Unpacked::open(&path).unwrap().feed(Kind::Tar, 200_000).unwrap();
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).unwrap();
        assert!(matches!(feed.end(), Err(ArchiveError::TooLarge { .. })) && rest.len() <= 200_000);
        let path = folder.path().join("x.tar.gz");
        std::fs::write(&path, "no gzip").unwrap();
        let (_pipe, feed) = Unpacked::open(&path).unwrap().feed(Kind::Tar, 200_000).unwrap();
        assert!(matches!(feed.end(), Err(ArchiveError::Torn(_))));
        let other = folder.path().join("other.tar");
        std::fs::write(&other, vec![7; 1000]).unwrap();
        let (definition, whole) = Unpacked::open(&other).unwrap().definition().unwrap();
        let (mut pipe, _feed) = whole.feed(Kind::Tar, 200_000).unwrap();
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).unwrap();
        assert!(definition.is_none() && rest == vec![7; 1000]);
    }

    #[test]
    fn a_tool_learns_that_nobody_reads_on() {
        let (reader, mut writer) = io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(reader));
        let (pipe, _feed) = Unpacked::stream("tool", pipe).feed(Kind::Raw, u64::MAX).unwrap();
        drop(pipe);
        let (learned, learns) = std::sync::mpsc::channel();
        std::thread::spawn(move || learned.send((0..100).find_map(|_| writer.write_all(&[0; 4096]).err())));
        let error = learns.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for ever");
        assert_eq!(error.unwrap().kind(), io::ErrorKind::BrokenPipe);
    }
}
