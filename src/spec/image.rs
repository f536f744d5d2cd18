//! The words for where a tree comes from: `debian:trixie`, a file, a folder, a URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::hint::Hint;

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageWord {
    /// An image of machined's, by its name.
    Name(String),
    /// Made here of a distribution's packages.
    Build(Build),
    /// A file or folder of this host.
    Path(PathBuf),
    /// A tar or disk image, fetched by systemd-importd.
    Url(String),
    /// An image of a container registry, fetched by systemd-importd (systemd 260).
    Oci(String),
}

/// A distribution and its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub distribution: Distribution,
    /// Empty for one that has none.
    pub release: String,
}

/// What nsctl can build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Debian,
    Ubuntu,
    Arch,
    Fedora,
}

impl Distribution {
    const ALL: [Distribution; 4] =
        [Distribution::Debian, Distribution::Ubuntu, Distribution::Arch, Distribution::Fedora];

    /// Its `ID=` of os-release(5).
    pub fn id(self) -> &'static str {
        match self {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
            Distribution::Arch => "arch",
            Distribution::Fedora => "fedora",
        }
    }

    /// The stable release when this nsctl was made.
    fn stable(self) -> &'static str {
        match self {
            Distribution::Debian => "trixie",
            Distribution::Ubuntu => "resolute",
            Distribution::Arch => "",
            Distribution::Fedora => "43",
        }
    }
}

impl Build {
    /// The distribution that an os-release(5) is of, at its stable release.
    pub fn of_host(os_release: &str) -> Option<Build> {
        let id = os_release.lines().find_map(|line| line.strip_prefix("ID="))?;
        build(id.trim_matches(['"', '\'']), "")
    }

    /// The name of the image that is kept.
    pub fn image(&self) -> String {
        let Build { distribution, release } = self;
        if release.is_empty() {
            distribution.id().to_owned()
        } else {
            format!("{}-{release}", distribution.id())
        }
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.distribution.id(), self.release)
    }
}

/// Why a word is none for an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' {why}", .word.escape_debug())]
pub struct ImageWordError {
    word: String,
    why: &'static str,
}

impl Hint for ImageWordError {
    fn hint(&self) -> Option<String> {
        Some("an image's name (`nsctl image list`), debian:trixie, a tar file, disk image or folder, https://…, or oci:…".into())
    }
}

impl fmt::Display for ImageWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageWord::Name(word) | ImageWord::Url(word) => f.write_str(word),
            ImageWord::Build(build) => build.fmt(f),
            ImageWord::Path(path) => path.display().fmt(f),
            ImageWord::Oci(reference) => write!(f, "oci:{reference}"),
        }
    }
}

impl FromStr for ImageWord {
    type Err = ImageWordError;

    fn from_str(word: &str) -> Result<ImageWord, ImageWordError> {
        let fault = |why| ImageWordError { word: word.to_owned(), why };
        if word.is_empty() || word.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(fault("is no image"));
        }
        if let Some(reference) = word.strip_prefix("oci:") {
            return Ok(ImageWord::Oci(reference.to_owned()));
        }
        if word.starts_with("https://") || word.starts_with("http://") {
            return Ok(ImageWord::Url(word.to_owned()));
        }
        if word.contains('/') || kind_of(word).is_some() {
            return Ok(ImageWord::Path(PathBuf::from(word)));
        }
        if let Some((id, release)) = word.split_once(':') {
            return build(id, release)
                .map(ImageWord::Build)
                .ok_or_else(|| fault("names no distribution that nsctl builds"));
        }
        if !is_image_name(word) {
            return Err(fault("is not the name of an image"));
        }
        Ok(ImageWord::Name(word.to_owned()))
    }
}

fn build(id: &str, release: &str) -> Option<Build> {
    let distribution = Distribution::ALL.into_iter().find(|one| one.id() == id)?;
    let release = if release.is_empty() { distribution.stable() } else { release };
    let plain = release.chars().all(|c| c.is_ascii_alphanumeric()) && release.len() <= 32;
    plain.then(|| Build { distribution, release: release.to_owned() })
}

/// What machined takes for the name of an image, as far as it is a file's name.
pub fn is_image_name(word: &str) -> bool {
    let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !word.is_empty() && word.len() <= 64 && word.chars().all(sign) && !word.starts_with(['.', '-'])
}

/// What kind of archive a file is, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tar,
    /// A disk image.
    Raw,
}

const PACKED: [&str; 5] = ["", ".gz", ".xz", ".bz2", ".zst"];

/// The kind of a file, if its name tells.
pub fn kind_of(name: &str) -> Option<Kind> {
    let ends = |end: &str| PACKED.iter().any(|packed| name.ends_with(&format!("{end}{packed}")));
    if ends(".tar") || name.ends_with(".tgz") {
        return Some(Kind::Tar);
    }
    (ends(".raw") || ends(".img") || name.ends_with(".qcow2")).then_some(Kind::Raw)
}

/// The name that an image gets which is made of a file or fetched from somewhere:
/// the last part of its path, without its endings.
pub fn name_for(word: &str) -> Option<String> {
    let path = word.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let last = path.rsplit('/').next().unwrap_or_default();
    let mut name = last;
    for packed in PACKED.iter().filter(|packed| !packed.is_empty()) {
        name = name.strip_suffix(packed).unwrap_or(name);
    }
    for end in [".tar", ".tgz", ".raw", ".img", ".qcow2"] {
        name = name.strip_suffix(end).unwrap_or(name);
    }
    let name: String = name.chars().map(|c| if matches!(c, ':' | '@') { '-' } else { c }).collect();
    is_image_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let parse = |word: &str| word.parse::<ImageWord>();
        assert_eq!(parse("debian-13").unwrap(), ImageWord::Name("debian-13".into()));
        let trixie = Build { distribution: Distribution::Debian, release: "trixie".into() };
        assert_eq!(parse("debian:trixie").unwrap(), ImageWord::Build(trixie.clone()));
        assert_eq!(parse("debian:").unwrap(), ImageWord::Build(trixie.clone()));
        assert_eq!(trixie.image(), "debian-trixie");
        assert!(matches!(parse("x.tar.xz").unwrap(), ImageWord::Path(_)));
        assert!(matches!(parse("./x").unwrap(), ImageWord::Path(_)));
        assert!(matches!(parse("https://example.org/a.raw.xz").unwrap(), ImageWord::Url(_)));
        assert_eq!(parse("oci:docker/x:1").unwrap(), ImageWord::Oci("docker/x:1".into()));
        for wrong in ["", "plan9:4", "debian:a/../b", "a b", "-x", ".x", "debian:../x", "debian:--x"] {
            let word = parse(wrong);
            assert!(word.is_err() || matches!(word, Ok(ImageWord::Path(_))), "{wrong}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(name_for("https://example.org/x/debian-13.tar.xz?a=b").unwrap(), "debian-13");
        assert_eq!(name_for("/srv/trees/web/").unwrap(), "web");
        assert_eq!(name_for("registry.example/alpine:3.22").unwrap(), "alpine-3.22");
        assert_eq!(name_for("/.."), None);
    }

    #[test]
    fn the_hosts_own() {
        assert_eq!(Build::of_host("NAME=x\nID=debian\n").unwrap().to_string(), "debian:trixie");
        assert_eq!(Build::of_host("ID=\"fedora\"\n").unwrap().image(), "fedora-43");
        assert_eq!(Build::of_host("ID=plan9\n"), None);
    }
}
