//! `[backup]` of nsctl.toml and of definitions: where to, how often, and how long they stay.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_with::DeserializeFromStr;

use crate::hint::Hint;
use crate::snapshot::{Every, Keep};

/// `[backup]` of a definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSchedule {
    /// How often one is made.
    pub every: Option<Every>,
    /// How many of the scheduled ones stay; none: all.
    pub keep: Option<Keep>,
    /// How often the latest is proved.
    pub verify: Option<Every>,
}

/// `[backup]` of nsctl.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupTarget {
    /// A repository, as restic(1) names it: "/mnt/usb/nsctl", "sftp:backup@nas:/srv/nsctl", "rest:https://…"; or
    /// a folder on a btrfs, here or on another host: "btrfs:root@nas:/srv/nsctl".
    pub to: Repository,
}

/// A repository of restic's, in restic's own words, or a folder that btrfs-send(8) fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeserializeFromStr)]
pub struct Repository(String);

/// Why a word is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' names no repository", .0.escape_debug())]
pub struct RepositoryError(String);

impl Hint for RepositoryError {
    fn hint(&self) -> Option<String> {
        Some(
            "an absolute path, or what restic(1) takes: sftp:USER@HOST:/PATH, rest:https://HOST/, s3:…; or \
             btrfs:USER@HOST:/PATH"
                .into(),
        )
    }
}

/// The backends that restic 0.14 and later have.
const BACKENDS: [&str; 8] = ["sftp", "rest", "s3", "swift", "b2", "azure", "gs", "rclone"];

impl std::str::FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(word: &str) -> Result<Repository, RepositoryError> {
        let backend = word.split_once(':').is_some_and(|(backend, _)| BACKENDS.contains(&backend));
        let plain = word.chars().all(|c| !c.is_control()) && word.len() <= 4096;
        let repository = Repository(word.to_owned());
        let good = plain && (backend || word.starts_with('/') || repository.folder().is_some());
        if good { Ok(repository) } else { Err(RepositoryError(word.to_owned())) }
    }
}

/// A folder on a btrfs, here or on another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BtrfsFolder<'a> {
    /// As ssh(1) takes it: USER@HOST, or a name of ssh_config(5).
    pub host: Option<&'a str>,
    pub path: &'a str,
}

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder that btrfs-send(8) fills; none: it is restic's.
    pub fn folder(&self) -> Option<BtrfsFolder<'_>> {
        let place = self.0.strip_prefix("btrfs:")?;
        if place.starts_with('/') {
            return Some(BtrfsFolder { host: None, path: place });
        }
        let (host, path) = place.split_once(":/").map(|(host, _)| (host, &place[host.len() + 1..]))?;
        let (user, name) = host.split_once('@').unwrap_or(("root", host));
        // The colons of an IPv6 address are its own.
        let is_address = name.parse::<std::net::Ipv6Addr>().is_ok();
        let plain = |word: &str| {
            !word.starts_with('-')
                && !word.is_empty()
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let good = plain(user) && (is_address || plain(name));
        good.then_some(BtrfsFolder { host: Some(host), path })
    }
}

/// Without the password that may stand in a URL.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str(&self.0) };
        let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        write!(f, "{scheme}://{host}")?;
        path.map_or(Ok(()), |path| write!(f, "/{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_named_as_restic_names_it() {
        for good in
            ["/mnt/x", "sftp:a@b:/c", "rest:https://u:p@h:8000/x", "s3:https://s3.example.org/b", "b2:x"]
        {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in ["", "x", "../x", "-r", "sftp", "ftp:x", "/a\nb"] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?}");
        }
        let shown = |word: &str| word.parse::<Repository>().unwrap().to_string();
        assert_eq!(shown("rest:https://u:p@h:8000/x/y"), "rest:https://h:8000/x/y");
        assert_eq!(shown("rest:https://u:p@h"), "rest:https://h");
        assert_eq!(shown("sftp:a@b:/c"), "sftp:a@b:/c");
    }

    #[test]
    fn a_folder_of_btrfs_may_be_on_another_host() {
        let folder = |word: &str| {
            let repository: Option<Repository> = word.parse().ok();
            repository
                .map(|it| it.folder().map(|folder| (folder.host.map(str::to_owned), folder.path.to_owned())))
        };
        let there = |host: &str, path: &str| Some(Some((Some(host.to_owned()), path.to_owned())));
        assert_eq!(folder("btrfs:root@nas:/srv/a b"), there("root@nas", "/srv/a b"));
        assert_eq!(folder("btrfs:nas:/a:/b"), there("nas", "/a:/b"));
        assert_eq!(folder("btrfs:2001:db8::1:/a"), there("2001:db8::1", "/a"));
        assert_eq!(folder("btrfs:/mnt/x"), Some(Some((None, "/mnt/x".to_owned()))));
        assert_eq!(folder("/mnt/x"), Some(None));
        for bad in
            ["btrfs:", "btrfs:x", "btrfs:nas:x", "btrfs:-oProxyCommand=x:/a", "btrfs:a@-x:/a", "btrfs:a b:/c"]
        {
            assert_eq!(folder(bad), None, "{bad}");
        }
    }
}
