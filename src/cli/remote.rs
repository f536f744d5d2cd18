//! `nsctl --host`: the same command on another host, by ssh(1). Files that it reads or writes are those of this side;
//! what definitions name is there.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::cli::{Fault, Verb};
use crate::sys;
use crate::sys::remote::{Arrival, Remote, Shown};

/// A file that a command names, and the word that names it.
#[derive(Debug)]
pub enum Named {
    /// It is read.
    Read(PathBuf),
    /// It is made, and has this name where `place` is a folder.
    Made { place: PathBuf, name: OsString, force: bool },
}

impl Named {
    /// A new file.
    pub fn new_file(place: &Path) -> Named {
        let name = place.file_name().unwrap_or_default().to_owned();
        Named::Made { place: place.to_owned(), name, force: false }
    }

    fn word(&self) -> String {
        let (Named::Read(path) | Named::Made { place: path, .. }) = self;
        path.to_string_lossy().into_owned()
    }
}

/// Runs the command that we were called with on another host; its exit status.
pub async fn run(host: &str, verb: &Verb) -> Result<u8, Fault> {
    let words = without_host(&sys::arguments());
    let named = verb.named();
    let remote = Remote::new(host, named.is_some())?;
    let Some(named) = named else {
        return Ok(remote.nsctl(&words, Shown::AsIs).await?);
    };
    // Before anything is done there.
    let arrival = match &named {
        Named::Made { place, name, force } => Some(Arrival::at(place, name, *force)?),
        Named::Read(_) => None,
    };
    let folder = remote.folder().await?;
    let done = with_file(&remote, &folder, words, &named, arrival).await;
    remote.end(&folder).await;
    done
}

async fn with_file(
    remote: &Remote,
    folder: &str,
    words: Vec<String>,
    named: &Named,
    arrival: Option<Arrival>,
) -> Result<u8, Fault> {
    let (there, shown) = match named {
        Named::Read(file) => (remote.put(file, folder).await?, named.word()),
        Named::Made { name, .. } => (format!("{folder}/{}", name.to_string_lossy()), named.word()),
    };
    let words = replaced(words, &shown, &there);
    // Who is asked sees it as it is.
    let asks = arrival.is_none() && std::io::stdin().is_terminal();
    let shown = if asks { Shown::AsIs } else { Shown::With { instead: &shown, of: &there } };
    let status = remote.nsctl(&words, shown).await?;
    if let (0, Some(arrival)) = (status, arrival) {
        remote.fetch(folder, arrival.draft()).await?;
        arrival.settle()?;
    }
    Ok(status)
}

/// The last word that is a file's name, or ends in it after '=', names it there.
fn replaced(mut words: Vec<String>, file: &str, there: &str) -> Vec<String> {
    let option = |word: &String| {
        word.strip_suffix(file).is_some_and(|before| before.is_empty() || before.ends_with('='))
    };
    if let Some(word) = words.iter_mut().rfind(|word| option(word)) {
        let before = word.strip_suffix(file).unwrap_or_default();
        *word = format!("{before}{there}");
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
        let all = |line: &str, file: &str| replaced(words(line), file, "/there/x").join(" ");
        assert_eq!(all("cp web web:/srv/web", "web"), "cp /there/x web:/srv/web");
        assert_eq!(all("cp web:/x x", "x"), "cp web:/x /there/x");
        assert_eq!(
            all("init --wireguard=wg0.conf --pool P", "wg0.conf"),
            "init --wireguard=/there/x --pool P"
        );
        assert_eq!(all("import --name a.tar a.tar", "a.tar"), "import --name a.tar /there/x");
    }
}
