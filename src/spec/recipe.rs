//! How a distribution's own tool makes a tree of its packages.

use super::image::{Build, Distribution};

/// One way to build a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub tool: &'static str,
    pub words: Vec<String>,
    pub output: Output,
}

/// Where the tree comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// As a tar on standard output.
    Tar,
    /// In the folder that stands as [`TARGET`] among the words.
    Folder,
}

/// Stands for the folder that a tool fills.
pub const TARGET: &str = "@target@";

/// What a guest of Debian's family has beside the essential packages.
const PACKAGES: &str =
    "systemd,systemd-sysv,systemd-resolved,dbus,libpam-systemd,iproute2,iputils-ping,ca-certificates";

/// The ways to build this, the best first. `mirror` is a URL, or for
/// mmdebstrap a line of sources.list(5).
pub fn recipes(build: &Build, mirror: Option<&str>) -> Vec<Recipe> {
    let Build { distribution, release } = build;
    match distribution {
        Distribution::Debian | Distribution::Ubuntu => {
            vec![mmdebstrap(release, mirror), debootstrap(release, mirror)]
        }
        Distribution::Arch => vec![folder("pacstrap", &format!("-c -K {TARGET} base"))],
        Distribution::Fedora => vec![folder(
            "dnf",
            &format!(
                "--assumeyes --use-host-config --installroot={TARGET} --releasever={release} \
                 --setopt=install_weak_deps=False install fedora-release systemd systemd-networkd \
                 systemd-resolved dbus-broker passwd dnf iproute iputils"
            ),
        )],
    }
}

/// mmdebstrap(1). The name and the servers of the host that builds are not the guest's.
fn mmdebstrap(release: &str, mirror: Option<&str>) -> Recipe {
    let mut words: Vec<String> = [
        "--variant=minbase",
        "--format=tar",
        &format!("--include={PACKAGES}"),
        "--customize-hook=rm -f \"$1/etc/hostname\"",
        release,
        "-",
    ]
    .map(str::to_owned)
    .into();
    words.extend(mirror.map(str::to_owned));
    Recipe { tool: "mmdebstrap", words, output: Output::Tar }
}

/// debootstrap(8).
fn debootstrap(release: &str, mirror: Option<&str>) -> Recipe {
    let words = format!("--variant=minbase --include={PACKAGES} {release} {TARGET}");
    let mut recipe = folder("debootstrap", &words);
    if let Some(mirror) = mirror {
        // A line of sources.list(5) that says to trust it says so here, too.
        if mirror.contains("[trusted=yes]") {
            recipe.words.insert(0, "--no-check-gpg".into());
        }
        let url = mirror.split_whitespace().find(|word| word.contains("://")).unwrap_or(mirror);
        recipe.words.push(url.replacen("copy://", "file://", 1));
    }
    recipe
}

fn folder(tool: &'static str, words: &str) -> Recipe {
    Recipe { tool, words: words.split_whitespace().map(str::to_owned).collect(), output: Output::Folder }
}

/// The Debian package of a tool.
pub fn package(tool: &str) -> &str {
    match tool {
        "pacstrap" => "arch-install-scripts",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_has_its_tools() {
        let recipes = |word: &str, mirror: Option<&str>| match word.parse().unwrap() {
            crate::spec::image::ImageWord::Build(build) => recipes(&build, mirror),
            other => panic!("{other:?}"),
        };
        let debian = recipes("debian:forky", Some("deb [trusted=yes] copy:///r forky main"));
        assert_eq!(debian[0].words.last().unwrap(), "deb [trusted=yes] copy:///r forky main");
        assert_eq!(debian[1].words.last().unwrap(), "file:///r");
        assert_eq!(debian[1].words[0], "--no-check-gpg");
        assert!(recipes("arch:", None)[0].words.contains(&TARGET.to_owned()));
        assert!(recipes("fedora:43", None)[0].words.contains(&"--releasever=43".to_owned()));
    }
}
