//! What of the host's files a machine's mounts need: nspawn does not start without
//! (systemd-nspawn(1), `--bind=`, `--overlay=`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{MachineSpec, Values};

/// One mount's source, and where the definition says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindSource {
    pub path: PathBuf,
    /// The tables that the setting is in.
    pub tables: &'static [&'static str],
    pub key: &'static str,
    /// The whole value that names it.
    pub value: String,
}

/// A file or folder of the host that a machine sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: String,
}

impl Bind {
    /// Of a value of `Bind=` or `BindReadOnly=`; none where it says more than two paths.
    pub fn of(value: &str) -> Option<Bind> {
        let parts = split(value);
        let (source, target) = match &parts[..] {
            [both] => (both, both),
            [source, target] => (source, target),
            _ => return None,
        };
        let is_plain = |path: &str| path.starts_with('/') && Path::new(path).components().all(is_name);
        let plain = is_plain(source) && is_plain(target) && !target.trim_matches('/').is_empty();
        plain.then(|| Bind { source: source.into(), target: target.clone() })
    }

    /// Whether what the other shows would be seen no more, being below.
    pub fn covers(&self, other: &Bind) -> bool {
        Path::new(&other.target).starts_with(&self.target)
    }
}

fn is_name(part: std::path::Component) -> bool {
    !matches!(part, std::path::Component::ParentDir)
}

/// The paths of the host that must be there, of these settings of [Files].
pub fn sources(key: &str, value: &str) -> Vec<PathBuf> {
    let parts = split(value);
    let needed = match (key, parts.len()) {
        ("Bind" | "BindReadOnly", _) => parts.first().into_iter().collect(),
        ("Overlay" | "OverlayReadOnly", 2) => parts.iter().collect(),
        // The last is a path of the machine.
        ("Overlay" | "OverlayReadOnly", 3..) => parts[..parts.len() - 1].iter().collect(),
        _ => Vec::new(),
    };
    // None is a folder for the time being; `+` begins a path of the machine's tree, and what
    // else is no path nspawn passes over.
    needed.into_iter().filter(|path| path.starts_with('/')).map(PathBuf::from).collect()
}

/// At its colons, unless they are escaped, as nspawn does it.
fn split(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in value.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ':' if !escaped => parts.push(String::new()),
            c => parts.iter_mut().last().into_iter().for_each(|part| part.push(c)),
        }
        escaped = false;
    }
    parts
}

impl MachineSpec {
    /// Every path of the host that it needs for its mounts.
    pub fn bind_sources(&self) -> Vec<BindSource> {
        let own = [
            ("bind", "Bind", &self.bind),
            ("bind-read-only", "BindReadOnly", &self.bind_read_only),
            ("device", "Bind", &self.device),
        ];
        let own = own.into_iter().flat_map(|(key, setting, values)| {
            values.iter().flat_map(move |value| found(&[], key, setting, value))
        });
        let files = self.nspawn.get("Files");
        let handed = ["Bind", "BindReadOnly", "Overlay", "OverlayReadOnly"].into_iter().flat_map(|key| {
            let values = files.and_then(|files| files.get(key)).map_or_else(Vec::new, Values::texts);
            values.into_iter().flat_map(move |value| found(&["nspawn", "Files"], key, key, &value))
        });
        own.chain(handed).collect()
    }
}

fn found(tables: &'static [&'static str], key: &'static str, setting: &str, value: &str) -> Vec<BindSource> {
    let paths = sources(setting, value).into_iter();
    paths.map(|path| BindSource { path, tables, key, value: value.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_paths_are_found_as_nspawn_reads_them() {
        let paths = |key: &str, value: &str| -> Vec<String> {
            sources(key, value).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(paths("Bind", "/srv"), ["/srv"]);
        assert_eq!(paths("Bind", "/srv/a\\:b:/c:idmap"), ["/srv/a:b"]);
        assert_eq!(paths("BindReadOnly", "+/etc:/c"), Vec::<String>::new());
        assert_eq!(paths("Bind", ":/c"), Vec::<String>::new());
        assert_eq!(paths("Overlay", "/a:/b"), ["/a", "/b"]);
        assert_eq!(paths("Overlay", "/a:+/b::/c"), ["/a"]);
        assert_eq!(paths("Inaccessible", "/a"), Vec::<String>::new());
    }

    #[test]
    fn a_plain_bind_is_two_paths_at_the_most() {
        let of = |value: &str| Bind::of(value).map(|bind| (bind.source, bind.target));
        assert_eq!(of("/srv"), Some(("/srv".into(), "/srv".into())));
        assert_eq!(of("/srv/a:/b"), Some(("/srv/a".into(), "/b".into())));
        for odd in ["/srv:/b:idmap", "+/srv:/b", ":/b", "/srv:b", "/srv:/", "/srv:/a/../b", "/srv/..:/b", ""]
        {
            assert_eq!(of(odd), None, "{odd}");
        }
        let bind = |value: &str| Bind::of(value).unwrap();
        assert!(bind("/a:/srv").covers(&bind("/b:/srv/world")) && bind("/a:/srv").covers(&bind("/b:/srv")));
        assert!(!bind("/a:/srv").covers(&bind("/b:/srv2")));
    }
}
