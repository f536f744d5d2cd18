//! A guest's packages, upgraded by its own package manager, and what must be as before afterwards. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::name::MachineName;
use crate::snapshot::Label;
use crate::spec::{OpenPort, Protocol};

/// What installs a guest's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageManager {
    Apt,
    Dnf,
    Pacman,
    Apk,
}

/// Whose packages come by which, by the `ID=` and `ID_LIKE=` of os-release(5).
const FAMILIES: [(&str, PackageManager); 8] = [
    ("debian", PackageManager::Apt),
    ("ubuntu", PackageManager::Apt),
    ("fedora", PackageManager::Dnf),
    ("rhel", PackageManager::Dnf),
    ("centos", PackageManager::Dnf),
    ("arch", PackageManager::Pacman),
    ("alpine", PackageManager::Apk),
    ("postmarketos", PackageManager::Apk),
];

impl PackageManager {
    /// That of a guest with this os-release(5); none where it names nobody that we know.
    pub fn of(os_release: &str) -> Option<PackageManager> {
        let words = ["ID", "ID_LIKE"].into_iter().flat_map(|key| value(os_release, key).split_whitespace());
        let known = words.filter_map(|word| FAMILIES.iter().find(|(family, _)| *family == word));
        known.map(|(_, manager)| *manager).next()
    }

    /// Hears what there is by now, and prints what an upgrade would install, a package a line.
    pub fn refresh(self) -> &'static str {
        match self {
            // A mirror that cannot be reached is an error, and not a reason to upgrade nothing.
            PackageManager::Apt => {
                "quiet apt-get -q -o APT::Update::Error-Mode=any -o DPkg::Lock::Timeout=120 update
                 list=$(apt-get -s -o DPkg::Lock::Timeout=120 --with-new-pkgs upgrade 2>&1) || { printf '%s\\n' \"$list\"; exit 1; }
                 printf '%s\\n' \"$list\" | sed -n 's/^Inst //p' | head -n 5000
                 dpkg -l | sed -n 's/^i[UFHWt] *\\([^ ]*\\) .*/\\1 (half installed)/p' | head -n 5000"
            }
            // 100: there are some (dnf(8), check-update).
            PackageManager::Dnf => {
                "status=0; said=$(dnf -q -y --refresh check-update 2>&1) || status=$?
                 printf '%s\n' \"$said\" | sed -n '/^Obsoleting/,$d; /^[^ ]\\{1,\\} \\{1,\\}[^ ]\\{1,\\} \\{1,\\}[^ ]\\{1,\\} *$/p' | head -n 5000
                 [ $status = 0 ] || [ $status = 100 ]"
            }
            PackageManager::Pacman => "quiet pacman -Sy --noconfirm; pacman -Qu 2> /dev/null | sed '/\\[ignored\\]/d' | head -n 5000",
            PackageManager::Apk => "quiet apk update; apk version -l '<' | sed '/^Installed:/d' | head -n 5000",
        }
    }

    /// Installs it, and asks nobody anything. Changed files of /etc stay as they are.
    pub fn upgrade(self) -> &'static str {
        match self {
            PackageManager::Apt => {
                "export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
                 [ -z \"$(dpkg --audit)\" ] || dpkg --force-confdef --force-confold --configure -a
                 apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confdef \
                 -o Dpkg::Options::=--force-confold --with-new-pkgs upgrade"
            }
            PackageManager::Dnf => "dnf -y upgrade",
            PackageManager::Pacman => "pacman -Su --noconfirm --noprogressbar",
            PackageManager::Apk => "apk upgrade --no-progress",
        }
    }

    /// Prints what is installed: a name and a version a line.
    //
    // Never with a brace behind a dollar: the guest's systemd takes that for a variable (systemd.service(5)).
    pub fn installed(self) -> &'static str {
        match self {
            // One that is half installed is another once it is whole.
            PackageManager::Apt => {
                "dpkg -l | sed -n 's/^ii *\\([^ ]*\\) *\\([^ ]*\\) .*/\\1 \\2/p; s/^i\\([UFHWt]\\) *\\([^ ]*\\) *\\([^ ]*\\) .*/\\2 \\3 (half installed)/p'"
            }
            PackageManager::Dnf => "rpm -qa --qf '%{NAME}.%{ARCH} %{VERSION}-%{RELEASE}\\n'",
            // To a terminal it writes more than names.
            PackageManager::Pacman => "pacman -Q | cat",
            PackageManager::Apk => "apk info -v | sed 's/-\\([^-]*-r[0-9]*\\)$/ \\1/'",
        }
    }
}

/// What each script begins with: nobody is asked anything, and what is not to be heard is only said by what fails.
pub const PREPARE: &str = "exec < /dev/null
 export LC_ALL=C.UTF-8 TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
 quiet() { said=$(\"$@\" 2>&1) || { status=$?; printf '%s\n' \"$said\"; exit $status; }; }\n";

/// Prints why a guest asks for a restart, a reason a line: it says so itself (Debian, dnf-plugins-core), or what
/// runs still has files open that are gone, as only a restart replaces them in programs.
pub const ASKS_FOR_RESTART: &str = "for flag in /run/reboot-required /var/run/reboot-required; do
     [ ! -e $flag ] || { echo \"$flag\"; break; }
 done
 ! command -v dnf > /dev/null || LC_ALL=C dnf -q needs-restarting -r 2> /dev/null | grep -i 'reboot is required' || true
 for process in $(grep -lsE ' r?-?x[ps] .* /(usr|lib|lib64|bin|sbin|opt)/.* \\(deleted\\)$' /proc/[0-9]*/maps | cut -d / -f 3); do
     read -r name 2> /dev/null < /proc/$process/comm || continue
     printf '%s runs what is no longer installed\\n' \"$name\"
 done | sort -u | head -n 20";

/// Prints the units that have failed, once the guest has booted as far as it can; not what somebody did at a terminal.
pub const FAILED_UNITS: &str = "systemctl is-system-running --wait > /dev/null || true
 systemctl list-units --failed --plain --no-legend --full --no-pager | cut -d ' ' -f 1 \\
 | grep -vE '^(container-(shell|getty)@|session-|user@)' | head -n 100 || true";

/// A value of os-release(5), without its quotes.
fn value<'t>(text: &'t str, key: &str) -> &'t str {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let value = lines.find(|(name, _)| *name == key).map_or("", |(_, value)| value.trim());
    value.trim_matches(['"', '\''])
}

/// A package that is another now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    pub name: String,
    /// Its version before; none: it is new.
    pub old: Option<String>,
    /// Its version now; none: it is gone.
    pub new: Option<String>,
}

impl fmt::Display for PackageChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{} {old} -> {new}", self.name),
            (_, Some(new)) => write!(f, "{} {new} (new)", self.name),
            _ => write!(f, "{} (gone)", self.name),
        }
    }
}

/// What has changed between two lists of what is installed.
pub fn changes(before: &str, after: &str) -> Vec<PackageChange> {
    let (before, after) = (packages(before), packages(after));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let version = |all: &BTreeMap<&str, BTreeSet<&str>>, name: &str| {
        all.get(name).map(|versions| crate::visible::joined(versions, ", "))
    };
    let each = names.into_iter().map(|name| PackageChange {
        name: name.to_owned(),
        old: version(&before, name),
        new: version(&after, name),
    });
    each.filter(|change| change.old != change.new).collect()
}

/// Several versions of one package may be installed: kernels are.
fn packages(list: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, version) in list.lines().filter_map(|line| line.trim().split_once(char::is_whitespace)) {
        all.entry(name).or_default().insert(version);
    }
    all
}

/// What a machine does, as far as it can be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Units that have failed; none: its systemd did not tell in time.
    pub failed: Option<BTreeSet<String>>,
    /// Ports at which it listens.
    pub tcp: BTreeSet<u16>,
    pub udp: BTreeSet<u16>,
    /// Whether it has an address that others may reach.
    pub has_address: bool,
}

impl Vitals {
    /// Only ports that others may come to are anybody's business.
    #[must_use]
    pub fn at(mut self, open: &[OpenPort]) -> Vitals {
        let is_open = |protocol: Protocol, port: u16| {
            open.iter().any(|open| open.protocol == protocol && (open.first..=open.last).contains(&port))
        };
        self.tcp.retain(|port| is_open(Protocol::Tcp, *port));
        self.udp.retain(|port| is_open(Protocol::Udp, *port));
        self
    }

    /// Whether a unit has failed that had not.
    pub fn has_failed_since(&self, now: &Vitals) -> bool {
        matches!((&self.failed, &now.failed), (Some(before), Some(now)) if !now.is_subset(before))
    }

    /// What it does no longer, in sentences.
    pub fn lost(&self, now: &Vitals) -> Vec<String> {
        let mut lost: Vec<String> = Vec::new();
        match (&self.failed, &now.failed) {
            (Some(before), Some(now)) => {
                lost.extend(now.difference(before).map(|unit| format!("{unit} has failed")));
            }
            (Some(_), None) => lost.push("it has not booted yet".to_owned()),
            (None, _) => {}
        }
        let alone = self.has_address && !now.has_address;
        lost.extend(alone.then(|| "it has no address".to_owned()));
        lost.extend(self.tcp.difference(&now.tcp).map(|port| format!("nothing listens at tcp/{port}")));
        lost.extend(self.udp.difference(&now.udp).map(|port| format!("nothing listens at udp/{port}")));
        lost
    }
}

/// How a machine becomes what it was before its upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    /// The snapshot that was taken before.
    pub snapshot: Label,
    /// The snapshot that becomes of what the upgrade made, and its record.
    pub aside: Label,
    pub record: String,
    /// What its tree may take of the disk, in bytes.
    pub disk: Option<u64>,
    /// What it is given when it starts.
    pub addresses: BTreeMap<MachineName, Ipv6Addr>,
    /// Until then, in seconds since 1970, nobody has waited for what the machine did since: who finds an upgrade
    /// that was cut short later than that leaves the machine as it is.
    pub until: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_package_manager_is_told_by_os_release() {
        let of = PackageManager::of;
        assert_eq!(of("ID=debian\n"), Some(PackageManager::Apt));
        assert_eq!(of("NAME=x\nID=raspbian\nID_LIKE=debian\n"), Some(PackageManager::Apt));
        assert_eq!(of("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n"), Some(PackageManager::Dnf));
        assert_eq!(of("ID=manjaro\nID_LIKE='arch'\n"), Some(PackageManager::Pacman));
        assert_eq!(of("ID=alpine"), Some(PackageManager::Apk));
        assert_eq!(of("ID=nixos\n"), None);
        assert_eq!(of("ID=$(reboot)\nVERSION_ID=debian\n"), None);
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_changed_is_told_by_name() {
        let before = "libc6:amd64\t2.36-9\nold 1\nkernel 1\nsame 1\n";
        let after = "libc6:amd64 2.36-10\nnew 3\nkernel 1\nkernel 2\nsame 1\nno-version\n";
        let all: Vec<String> = changes(before, after).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["kernel 1 -> 1, 2", "libc6:amd64 2.36-9 -> 2.36-10", "new 3 (new)", "old (gone)"]);
    }

    #[test]
    fn what_is_lost_is_told_and_what_was_never_there_is_not() {
        let set = |ports: &[u16]| ports.iter().copied().collect::<BTreeSet<u16>>();
        let failed = |units: &[&str]| Some(units.iter().map(|unit| (*unit).to_owned()).collect());
        let before = Vitals {
            failed: failed(&["a.service"]),
            tcp: set(&[22, 80, 9999]),
            udp: set(&[53]),
            has_address: true,
        };
        let open: Vec<OpenPort> = ["tcp/22", "tcp/80-90", "udp/53"].map(|port| port.parse().unwrap()).into();
        let before = before.at(&open);
        assert_eq!(before.tcp, set(&[22, 80]));
        let same = Vitals { failed: failed(&[]), tcp: set(&[22, 80, 1]), udp: set(&[53]), has_address: true };
        assert_eq!(before.lost(&same), Vec::<String>::new());
        let now = Vitals {
            failed: failed(&["a.service", "b.service"]),
            tcp: set(&[22]),
            udp: set(&[]),
            has_address: false,
        };
        let lost = [
            "b.service has failed",
            "it has no address",
            "nothing listens at tcp/80",
            "nothing listens at udp/53",
        ];
        assert_eq!(before.lost(&now), lost);
        let mute = Vitals { failed: None, ..same };
        assert_eq!(before.lost(&mute), ["it has not booted yet"]);
        assert_eq!(Vitals { failed: None, ..before }.lost(&mute), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_is_read(text in "\\PC{0,200}") {
            let _ = PackageManager::of(&text);
            prop_assert!(changes(&text, &text).is_empty());
        }
    }
}
