//! What makes a tree fit to boot unattended as one machine among others, and what
//! its owner asked for at its first boot. What the tree brings stays. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::name::MachineName;

/// What a tree is, as far as it concerns its first boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    pub init: Init,
    /// Unit files that it brings.
    pub has_networkd: bool,
    pub has_resolved: bool,
    /// Whether some unit or service that manages its network is enabled.
    pub network_managed: bool,
    /// What /etc/resolv.conf holds; none where it is missing or leads nowhere.
    pub resolv_conf: Option<String>,
    pub has_dbus_id: bool,
    pub shadow: Option<String>,
    /// Whether OpenRC runs what is in /etc/local.d.
    pub has_local_d: bool,
}

/// The first program of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Init {
    /// Its version is in the name of its library.
    Systemd(u32),
    Busybox,
    #[default]
    Other,
}

impl Init {
    /// The signal on which it shuts down, where that is not nspawn's SIGRTMIN+3
    /// (busybox's init.c; systemd(1)).
    pub fn kill_signal(self) -> Option<&'static str> {
        (self == Init::Busybox).then_some("SIGUSR2")
    }
}

/// What the owner asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBoot {
    pub hostname: Option<String>,
    /// Files of the host, read when the tree is there.
    pub ssh_key: Option<PathBuf>,
    pub root_password: Option<PathBuf>,
    pub run: Option<PathBuf>,
    /// Whom a guest without a resolver of its own asks, and the domain that it searches.
    pub servers: Vec<IpAddr>,
    pub zone: Option<String>,
}

impl FirstBoot {
    /// Whether anything needs a tree that can be written to.
    pub fn is_plain(&self) -> bool {
        let FirstBoot { hostname, ssh_key, root_password, run, .. } = self;
        hostname.is_none() && ssh_key.is_none() && root_password.is_none() && run.is_none()
    }
}

/// The texts of the files that were wished for.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    pub ssh_key: Option<String>,
    /// As it stands in shadow(5).
    pub password_hash: Option<String>,
    pub run: Option<String>,
}

/// One change of a tree; paths are below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEdit {
    Write { path: String, text: String, mode: u32 },
    Link { path: String, to: String },
    Remove { path: String },
}

/// Why a tree cannot be made so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    #[error("the guest has no /etc/shadow with a line for root, so root gets no password")]
    NoShadow,
    #[error("the guest has neither systemd nor OpenRC's /etc/local.d, so nothing runs at its first boot")]
    NoFirstBoot,
}

impl Hint for ProvisionError {}

const SCRIPT: &str = "var/lib/nsctl-first-boot";
const UNIT: &str = "etc/systemd/system/nsctl-first-boot.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/nsctl-first-boot.service";

/// The changes that a fresh tree needs. `id` is its machine-id, 32 digits.
///
/// # Errors
/// What was wished for that this guest cannot have.
pub fn changes(
    guest: &Guest,
    first_boot: &FirstBoot,
    texts: &Texts,
    machine: &MachineName,
    id: &str,
) -> Result<Vec<TreeEdit>, ProvisionError> {
    let mut changes = identity(guest, id);
    changes.extend(network(guest));
    changes.extend(resolver(guest, first_boot));
    changes.push(hostname(guest, first_boot.hostname.as_deref(), machine));
    changes.extend(texts.ssh_key.iter().map(|key| ssh_key(guest, key)));
    if let Some(hash) = &texts.password_hash {
        changes.push(password(guest, hash).ok_or(ProvisionError::NoShadow)?);
    }
    if let Some(script) = &texts.run {
        changes.extend(run_once(guest, script).ok_or(ProvisionError::NoFirstBoot)?);
    }
    Ok(changes)
}

fn file(path: &str, text: impl Into<String>, mode: u32) -> TreeEdit {
    TreeEdit::Write { path: path.to_owned(), text: text.into(), mode }
}

fn link(path: &str, to: &str) -> TreeEdit {
    TreeEdit::Link { path: path.to_owned(), to: to.to_owned() }
}

/// Its own name for itself: the one asked for, or the machine's, as nspawn gives it. systemd takes that
/// where no file says otherwise (hostname(5)), so that a machine that is renamed, or has a Hostname= in its
/// settings, is called so; others read the file.
fn hostname(guest: &Guest, asked: Option<&str>, machine: &MachineName) -> TreeEdit {
    match (asked, guest.init) {
        (None, Init::Systemd(_)) => TreeEdit::Remove { path: "etc/hostname".to_owned() },
        (asked, _) => file("etc/hostname", format!("{}\n", asked.unwrap_or(machine.as_str())), 0o644),
    }
}

/// A machine-id of its own: DHCP leases depend on it. With one, systemd does not take
/// the boot for the first, which would undo what the user enabled (machine-id(5)).
fn identity(guest: &Guest, id: &str) -> Vec<TreeEdit> {
    if !matches!(guest.init, Init::Systemd(_)) {
        return Vec::new();
    }
    let mut changes = vec![file("etc/machine-id", format!("{id}\n"), 0o444)];
    changes.extend(guest.has_dbus_id.then(|| file("var/lib/dbus/machine-id", format!("{id}\n"), 0o444)));
    changes
}

/// networkd, where nobody else manages the network: what `systemctl enable` does.
fn network(guest: &Guest) -> Vec<TreeEdit> {
    if !guest.has_networkd || guest.network_managed {
        return Vec::new();
    }
    let unit = "/usr/lib/systemd/system/systemd-networkd.service";
    let socket = "/usr/lib/systemd/system/systemd-networkd.socket";
    vec![
        link("etc/systemd/system/multi-user.target.wants/systemd-networkd.service", unit),
        link("etc/systemd/system/sockets.target.wants/systemd-networkd.socket", socket),
        link("etc/systemd/system/dbus-org.freedesktop.network1.service", unit),
    ]
}

/// A guest that has no resolv.conf gets resolved's, or the servers as they are.
fn resolver(guest: &Guest, first_boot: &FirstBoot) -> Vec<TreeEdit> {
    if guest.resolv_conf.is_some() {
        return Vec::new();
    }
    if guest.has_resolved {
        let unit = "/usr/lib/systemd/system/systemd-resolved.service";
        return vec![
            link("etc/systemd/system/sysinit.target.wants/systemd-resolved.service", unit),
            link("etc/systemd/system/dbus-org.freedesktop.resolve1.service", unit),
            link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        ];
    }
    let mut text: String = first_boot.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if text.is_empty() {
        return Vec::new();
    }
    text.extend(first_boot.zone.iter().map(|zone| format!("search {zone}\n")));
    vec![file("etc/resolv.conf", text, 0o644)]
}

/// systemd-tmpfiles of 252 and later puts the credential where sshd looks
/// (systemd.system-credentials(7)).
fn ssh_key(guest: &Guest, key: &str) -> TreeEdit {
    let text = format!("{}\n", key.trim_end());
    match guest.init {
        Init::Systemd(252..) => file("etc/credstore/ssh.authorized_keys.root", text, 0o600),
        _ => file("root/.ssh/authorized_keys", text, 0o600),
    }
}

/// systemd takes a password from a credential only for an account that it makes
/// itself: root's is there already.
fn password(guest: &Guest, hash: &str) -> Option<TreeEdit> {
    let shadow = guest.shadow.as_ref()?;
    shadow.lines().find(|line| line.starts_with("root:"))?;
    // Not lines(), which takes a carriage return away, too.
    let lines = shadow.split_terminator('\n').map(|line| match line.strip_prefix("root:") {
        Some(rest) => format!("root:{hash}{}\n", rest.find(':').map_or("", |at| &rest[at..])),
        None => format!("{line}\n"),
    });
    Some(file("etc/shadow", lines.collect::<String>(), 0o640))
}

/// The script runs once, when the network is up, and goes.
fn run_once(guest: &Guest, script: &str) -> Option<Vec<TreeEdit>> {
    match guest.init {
        Init::Systemd(_) => Some(vec![
            file(SCRIPT, script, 0o700),
            file(UNIT, first_boot_unit(), 0o644),
            link(WANTED, &format!("/{UNIT}")),
        ]),
        _ if guest.has_local_d => {
            let whole = format!("#!/bin/sh\nrm -f \"$0\"\n/{SCRIPT}\nrm -f /{SCRIPT}\n");
            Some(vec![file(SCRIPT, script, 0o700), file("etc/local.d/nsctl-first-boot.start", whole, 0o755)])
        }
        _ => None,
    }
}

fn first_boot_unit() -> String {
    format!(
        "[Unit]\nDescription=First boot of the machine\nConditionPathExists=/{SCRIPT}\nAfter=network-online.target\n\
         Wants=network-online.target\n\n[Service]\nType=oneshot\nExecStart=/{SCRIPT}\nExecStartPost=rm -f /{SCRIPT}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(changes: &[TreeEdit]) -> Vec<&str> {
        changes
            .iter()
            .map(|change| match change {
                TreeEdit::Write { path, .. } | TreeEdit::Link { path, .. } | TreeEdit::Remove { path } => {
                    path.as_str()
                }
            })
            .collect()
    }

    fn web() -> MachineName {
        "web".parse().unwrap()
    }

    fn debian() -> Guest {
        Guest { init: Init::Systemd(257), has_networkd: true, has_resolved: true, ..Guest::default() }
    }

    #[test]
    fn what_is_there_stays() {
        let managed = Guest { network_managed: true, resolv_conf: Some("nameserver ::1".into()), ..debian() };
        let all = changes(&managed, &FirstBoot::default(), &Texts::default(), &web(), "1").unwrap();
        assert_eq!(paths(&all), ["etc/machine-id", "etc/hostname"]);
        let all = changes(&debian(), &FirstBoot::default(), &Texts::default(), &web(), "1").unwrap();
        assert!(paths(&all).iter().any(|path| path.ends_with("systemd-networkd.service")));
        assert!(paths(&all).contains(&"etc/resolv.conf"));
        let other = Guest::default();
        let all = changes(&other, &FirstBoot::default(), &Texts::default(), &web(), "1").unwrap();
        assert_eq!(all, [file("etc/hostname", "web\n", 0o644)]);
    }

    #[test]
    fn root_gets_the_password_and_nobody_else() {
        let guest = Guest { shadow: Some("root:*:1:0:99999:7:::\nbin:*:1::::::\n".into()), ..debian() };
        let texts = Texts { password_hash: Some("$6$x".into()), ..Texts::default() };
        let all = changes(&guest, &FirstBoot::default(), &texts, &web(), "1").unwrap();
        let text = "root:$6$x:1:0:99999:7:::\nbin:*:1::::::\n".to_owned();
        assert!(all.contains(&TreeEdit::Write { path: "etc/shadow".into(), text, mode: 0o640 }));
        assert_eq!(
            changes(&debian(), &FirstBoot::default(), &texts, &web(), "1"),
            Err(ProvisionError::NoShadow)
        );
        let guest = Guest { shadow: Some("root:*:1\nbin:*:1\r\n".into()), ..debian() };
        let all = changes(&guest, &FirstBoot::default(), &texts, &web(), "1").unwrap();
        let text = "root:$6$x:1\nbin:*:1\r\n".to_owned();
        assert!(all.contains(&TreeEdit::Write { path: "etc/shadow".into(), text, mode: 0o640 }));
    }

    #[test]
    fn keys_and_scripts_go_where_the_guest_looks() {
        let texts = Texts { ssh_key: Some("k".into()), run: Some("x".into()), ..Texts::default() };
        let all = changes(&debian(), &FirstBoot::default(), &texts, &web(), "1").unwrap();
        assert!(
            paths(&all).contains(&"etc/credstore/ssh.authorized_keys.root") && paths(&all).contains(&UNIT)
        );
        let alpine = Guest { init: Init::Busybox, has_local_d: true, ..Guest::default() };
        let all = changes(&alpine, &FirstBoot::default(), &texts, &web(), "1").unwrap();
        let local = "etc/local.d/nsctl-first-boot.start";
        assert_eq!(paths(&all), ["etc/hostname", "root/.ssh/authorized_keys", SCRIPT, local]);
        assert_eq!(
            changes(&Guest::default(), &FirstBoot::default(), &texts, &web(), "1"),
            Err(ProvisionError::NoFirstBoot)
        );
    }
}
