//! `nsctl --host`: the same command on another host, by ssh(1). Files that it reads or writes are those of this side;
//! what definitions name is there.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::apply::Interrupt;
use crate::cli::{Fault, Verb};
use crate::sys;
use crate::sys::arrival::Arrival;
use crate::sys::remote::{Remote, Shown, SshError};

/// A file that a command names.
#[derive(Debug)]
pub enum Named {
    /// It is read; the option that names it, or none where it stands by itself.
    Read { option: Option<&'static str>, path: PathBuf },
    /// It is made, and has this name where `place` is a folder.
    Made { place: PathBuf, name: OsString, force: bool },
}

impl Named {
    /// One that is read.
    pub fn read(path: &Path) -> Named {
        Named::Read { option: None, path: path.to_owned() }
    }

    /// One that is read, by an option.
    pub fn by(option: &'static str, path: &Path) -> Named {
        Named::Read { option: Some(option), path: path.to_owned() }
    }

    /// A new file.
    pub fn new_file(place: &Path) -> Named {
        let name = place.file_name().unwrap_or_default().to_owned();
        Named::Made { place: place.to_owned(), name, force: false }
    }
}

/// Runs the command that we were called with on another host; its exit status.
pub async fn run(host: &str, verb: &Verb) -> Result<u8, Fault> {
    let words = without_host(&sys::arguments());
    let named = verb.named();
    let remote = Remote::new(host, !named.is_empty())?;
    if named.is_empty() {
        let mut interrupt = Interrupt::begin();
        return Ok(remote.nsctl(&words, Shown::AsIs, interrupt.came()).await?);
    }
    // Before anything is done there.
    let mut arrivals = named.iter().filter_map(|named| match named {
        Named::Made { place, name, force } => Some(Arrival::at(place, name, *force)),
        Named::Read { .. } => None,
    });
    let arrival = arrivals.next().transpose()?;
    // Whatever ends us, nothing of it stays, here or there.
    let mut interrupt = Interrupt::begin();
    let folder = unless(&mut interrupt, remote.folder()).await?;
    let done = with_files(&remote, &folder.path, words, &named, arrival, &mut interrupt).await;
    let at_once = match &done {
        Ok(status) => *status == Fault::interrupted().status(),
        Err(fault) => fault.is_interrupt(),
    };
    remote.end(folder, at_once).await;
    done
}

/// What nobody waits for any more is left where it is.
async fn unless<T>(
    interrupt: &mut Interrupt,
    work: impl Future<Output = Result<T, SshError>>,
) -> Result<T, Fault> {
    tokio::select! {
        biased;
        () = interrupt.came() => Err(Fault::interrupted()),
        done = work => Ok(done?),
    }
}

async fn with_files(
    remote: &Remote,
    folder: &str,
    mut words: Vec<String>,
    named: &[Named],
    arrival: Option<Arrival>,
    interrupt: &mut Interrupt,
) -> Result<u8, Fault> {
    let mut shown = Shown::AsIs;
    let (mut instead, mut of) = (String::new(), String::new());
    for (number, named) in named.iter().enumerate() {
        let (option, path, there) = match named {
            Named::Read { option, path } => {
                let folder = format!("{folder}/{number}");
                (*option, path, unless(interrupt, remote.put(path, &folder)).await?)
            }
            Named::Made { place, name, .. } => (None, place, format!("{folder}/{}", name.to_string_lossy())),
        };
        let file = path.to_string_lossy().into_owned();
        words = replaced(words, option, &file, &there);
        (instead, of) = (file, there);
    }
    // Who is asked sees it as it is.
    if arrival.is_some() || !std::io::stdin().is_terminal() {
        shown = Shown::With { instead: &instead, of: &of };
    }
    let status = remote.nsctl(&words, shown, interrupt.came()).await?;
    if let (0, Some(arrival)) = (status, arrival) {
        unless(interrupt, remote.fetch(folder, arrival.draft())).await?;
        arrival.settle()?;
    }
    Ok(status)
}

/// Options of those verbs whose next word is theirs.
const WITH_WORD: [&str; 4] = ["--name", "--max-size", "--root", "--wait"];

/// The words, in which the file is named as it is called there: the value of an option (`ID=FILE`, too), or the last
/// word that is no option's.
fn replaced(mut words: Vec<String>, option: Option<&str>, file: &str, there: &str) -> Vec<String> {
    let ends =
        |word: &str| word == file || word.strip_suffix(file).is_some_and(|before| before.ends_with('='));
    let is_it = |at: usize| {
        let before = at.checked_sub(1).map_or("", |before| words[before].as_str());
        match option {
            Some(option) => {
                let own = words[at].strip_prefix(option).is_some_and(|rest| rest.starts_with('='));
                ends(&words[at]) && (own || before == option)
            }
            None => words[at] == file && !WITH_WORD.contains(&before),
        }
    };
    if let Some(at) = (0..words.len()).rfind(|at| is_it(*at)) {
        let before = words[at].strip_suffix(file).unwrap_or_default();
        words[at] = format!("{before}{there}");
    }
    words
}

/// What we were called with, but for the host: it stands before the verb.
fn without_host(words: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let short = word.strip_prefix('-').filter(|short| !short.starts_with('-'));
        match (word.as_str(), short.and_then(|short| short.split_once('H'))) {
            ("--host", _) => _ = rest.next(),
            (long, _) if long.starts_with("--host=") => {}
            (_, Some((flags, value))) => {
                kept.extend((!flags.is_empty()).then(|| format!("-{flags}")));
                if value.is_empty() {
                    rest.next();
                }
            }
            ("--root" | "--wait", _) => kept.extend([Some(word), rest.next()].into_iter().flatten().cloned()),
            (option, _) if option.starts_with('-') => kept.push(word.clone()),
            _ => {
                kept.push(word.clone());
                break;
            }
        }
    }
    kept.extend(rest.cloned());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_host_goes_and_all_else_stays() {
        for (line, rest) in [
            ("--host vps list", "list"),
            ("--host=vps list --json", "list --json"),
            ("-H vps -q list", "-q list"),
            ("-qHvps list", "-q list"),
            ("-qvH vps list", "-qv list"),
            ("--root list --host vps list", "--root list list"),
            ("--json -H root@vps expose web tcp/80 --host 8080", "--json expose web tcp/80 --host 8080"),
            ("-H a shell web -- ssh -H b", "shell web -- ssh -H b"),
        ] {
            assert_eq!(without_host(&words(line)), words(rest), "{line}");
        }
    }

    #[test]
    fn a_file_is_named_as_it_is_called_there() {
        let all = |line: &str, option: Option<&str>, file: &str| {
            replaced(words(line), option, file, "/there/x").join(" ")
        };
        assert_eq!(all("cp web web:/srv/web", None, "web"), "cp /there/x web:/srv/web");
        assert_eq!(all("cp web:/x x", None, "x"), "cp web:/x /there/x");
        assert_eq!(all("cp b web:/srv/a=b", None, "b"), "cp /there/x web:/srv/a=b");
        let wireguard = Some("--wireguard");
        assert_eq!(
            all("init --wireguard=wg.conf --pool P", wireguard, "wg.conf"),
            "init --wireguard=/there/x --pool P"
        );
        assert_eq!(
            all("init --wireguard wg.conf --pool P", wireguard, "wg.conf"),
            "init --wireguard /there/x --pool P"
        );
        assert_eq!(all("import --name a.tar a.tar", None, "a.tar"), "import --name a.tar /there/x");
        assert_eq!(
            all("image import rootfs --name rootfs", None, "rootfs"),
            "image import /there/x --name rootfs"
        );
        let secret = Some("--secret");
        assert_eq!(all("create a --secret b=c --run c", secret, "c"), "create a --secret b=/there/x --run c");
    }
}
