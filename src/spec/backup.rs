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
    /// A repository, as restic(1) names it: "/mnt/usb/nsctl", "sftp:backup@nas:/srv/nsctl", "rest:https://…".
    pub to: Repository,
}

/// A repository of restic's, in restic's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeserializeFromStr)]
pub struct Repository(String);

/// Why a word is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' names no repository", .0.escape_debug())]
pub struct RepositoryError(String);

impl Hint for RepositoryError {
    fn hint(&self) -> Option<String> {
        Some(
            "an absolute path, or what restic(1) takes: sftp:USER@HOST:/PATH, rest:https://HOST/, s3:…"
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
        let good = plain && (backend || word.starts_with('/'));
        if good { Ok(Repository(word.to_owned())) } else { Err(RepositoryError(word.to_owned())) }
    }
}

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is on a disk of this host.
    pub fn is_here(&self) -> bool {
        self.0.starts_with('/')
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
}
