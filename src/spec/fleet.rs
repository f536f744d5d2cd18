//! `[fleet]`: where the hosts of a pool agree on who has which machine, and which subnet.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pool::Subnet;

/// An etcd cluster that several hosts with one pool share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fleet {
    /// Its members: `https://` URLs, or one socket of this host's, `unix:///run/etcd/nsctl:0`.
    pub etcd: Vec<String>,
    /// The certificate of who signed theirs; none: of whom this host trusts.
    pub ca: Option<PathBuf>,
    /// By which etcd knows this host.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Who this host is to etcd, where that asks for a password.
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    /// The subnet that this host has for itself, and no machine.
    pub own: Subnet,
}

impl Fleet {
    /// Where etcd listens on this host alone: the folder, and the name of the socket in it.
    pub fn socket(&self) -> Option<(&Path, &str)> {
        let path = Path::new(self.etcd.first()?.strip_prefix("unix://")?);
        Some((path.parent()?, path.file_name()?.to_str()?))
    }

    /// What cannot be as it is said.
    pub fn fault(&self) -> Option<String> {
        let fault = |text: &str| Some(format!("fleet.{text}"));
        if self.etcd.is_empty() {
            return fault("etcd: where is it? `etcd = [\"https://etcd.example.org:2379\"]`");
        }
        if let Some(url) =
            self.etcd.iter().find(|url| url.contains([',', ' ']) || url.chars().any(char::is_control))
        {
            return Some(format!("fleet.etcd: '{}' is no URL", url.escape_debug()));
        }
        let is_socket = |url: &String| url.starts_with("unix:///");
        let is_tls = |url: &String| url.starts_with("https://") && url.len() > "https://".len();
        if let Some(url) = self.etcd.iter().find(|url| !is_socket(url) && !is_tls(url)) {
            return Some(format!(
                "fleet.etcd: '{url}' must begin with https://, or be a socket that only root of this host may use: \
                 unix:///run/etcd/nsctl:0. Who may write there moves machines"
            ));
        }
        if self.etcd.iter().any(is_socket)
            && (self.etcd.len() > 1 || self.socket().is_none_or(|(_, name)| !name.contains(':')))
        {
            return fault("etcd: one socket alone, as etcd names it: unix:///FOLDER/NAME:NUMBER");
        }
        if self.cert.is_some() != self.key.is_some() {
            return fault("cert: it goes with `key`");
        }
        if self.user.is_some() != self.password_file.is_some() {
            return fault("user: it goes with `password-file`");
        }
        let all = [&self.ca, &self.cert, &self.key, &self.password_file];
        if all.into_iter().flatten().any(|path| !path.is_absolute()) {
            return fault("ca, cert, key and password-file: whole paths, from / on");
        }
        self.user
            .as_ref()
            .is_some_and(|user| user.contains(':') || user.is_empty())
            .then(|| "fleet.user: a name without a colon".into())
    }
}
