//! Other container managers, of Debian's packages, with the same tree: each as quick as its
//! manual lets it be.

use anyhow::{Context, Result};
use fs_err as fs;

use crate::lab::{Lab, run::check};

/// One of them; its script has the verbs set-up, create NAME ADDRESS, start, stop, delete, tear-down.
pub struct Rival {
    pub name: &'static str,
    script: &'static str,
    packages: &'static str,
    /// Its machines' subnet, but for the host part.
    prefix: &'static str,
    /// The host's link to a machine; `NAME` is its own.
    link: &'static str,
    /// The name of the same with a hook against duplicate address detection, if it wants one.
    pub hooked: Option<&'static str>,
}

pub const LXC: Rival = Rival {
    name: "LXC",
    script: include_str!("rivals/lxc.sh"),
    packages: "lxc uidmap btrfs-progs",
    prefix: "2001:db8:1e::",
    link: "br-lxc",
    hooked: Some("LXC, a hook against DAD"),
};
pub const INCUS: Rival = Rival {
    name: "Incus",
    script: include_str!("rivals/incus.sh"),
    packages: "incus-base dnsmasq-base btrfs-progs",
    prefix: "2001:db8:1d::",
    link: "vr-NAME",
    hooked: Some("Incus, a hook against DAD"),
};
pub const PODMAN: Rival = Rival {
    name: "Podman",
    script: include_str!("rivals/podman.sh"),
    packages: "podman netavark crun uidmap btrfs-progs",
    prefix: "2001:db8:1f::",
    link: "br-podman",
    hooked: None,
};
pub const ALL: [Rival; 3] = [LXC, INCUS, PODMAN];

impl Rival {
    fn program(&self) -> String {
        format!("/usr/local/bin/rival-{}", self.name.to_lowercase())
    }

    /// A line of shell that does it.
    pub fn line(&self, words: &str) -> String {
        format!("{} {words}", self.program())
    }

    /// Does it, however long it takes.
    pub fn sh(&self, lab: &Lab, words: &str) -> Result<()> {
        let done = check(&mut lab.enter(&["sh", "-euc", &self.line(words)])?);
        done.map(drop).with_context(|| format!("{} {words}", self.name))
    }

    pub fn set_up(&self, lab: &Lab) -> Result<()> {
        lab.install(self.packages)?;
        let place = lab.root()?.join(self.program().trim_start_matches('/'));
        fs::write(&place, format!("#!/bin/sh\nset -eu\n{}\n\"$@\"\n", self.script))?;
        lab.sh(&format!("chmod 755 {}", self.program()))?;
        self.sh(lab, "set_up")
    }

    /// Its subvolumes lie deeper than the laboratory looks for them.
    pub fn tear_down(&self, lab: &Lab) -> Result<()> {
        self.sh(lab, "tear_down")
    }

    /// The address of its machine of this number.
    pub fn address(&self, number: usize) -> String {
        format!("{}{:x}", self.prefix, number + 16)
    }

    pub fn link(&self, name: &str) -> String {
        self.link.replace("NAME", name)
    }
}
