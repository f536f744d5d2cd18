//! Settings that systemd passes over in silence: misspelt, in the wrong case, of
//! another version, or out of date.

use std::path::{Path, PathBuf};

use super::{Facts, Finding, Trap};
use crate::emit::{ManagedFile, Origin};
use crate::settings::{Program, Verdict, judge};
use crate::spec::{Problem, definition_path};

pub fn check(facts: &Facts) -> Vec<Finding> {
    let files = facts.settings.iter();
    files.flat_map(|(path, text)| in_file(path, text, facts.observed.systemd, facts)).collect()
}

fn in_file(path: &Path, text: &str, version: u32, facts: &Facts) -> Vec<Finding> {
    let nspawn = path.extension().is_some_and(|end| end == "nspawn");
    let program = if nspawn { Program::Nspawn } else { Program::Networkd };
    let mut findings = Vec::new();
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) {
            let key = key.trim();
            let place =
                Setting { path: path.to_owned(), line: index + 1, program, section: &section, ours: false };
            let place =
                if Origin::of(text) == Origin::Foreign { place } else { place.in_definition(key, facts) };
            findings.extend(place.look_at(key, version));
        }
    }
    findings
}

fn is_rendered(path: &Path) -> bool {
    ManagedFile::parse(path).is_some_and(|file| file.is_rendered())
}

/// Where a setting stands: in a file that somebody wrote, or in the definition that a
/// file of nsctl's is made from.
struct Setting<'a> {
    path: PathBuf,
    line: usize,
    program: Program,
    section: &'a str,
    ours: bool,
}

impl Setting<'_> {
    /// nsctl refuses to touch a rendered file once somebody has edited it.
    fn in_definition(self, key: &str, facts: &Facts) -> Self {
        let Some(name) = ManagedFile::parse(&self.path).and_then(|file| file.machine()) else { return self };
        let definition = definition_path(&name);
        let text = facts.observed.file(&definition).unwrap_or_default();
        let table = if self.program == Program::Nspawn { "nspawn" } else { "networkd" };
        match Problem::at_setting(&definition, text, &[table, self.section], key, None, "").line() {
            Some(line) => Setting { path: definition, line, ours: true, ..self },
            None => self,
        }
    }

    fn look_at(&self, key: &str, version: u32) -> Option<Finding> {
        let section = self.section;
        let object = format!("{}:{}", self.path.display(), self.line);
        Some(match judge(self.program, section, key, version)? {
            Verdict::Renamed(new) => {
                let what = format!("{key}= is out of date; it is {new}= now");
                let causes = format!("systemd {version} logs it, and a later one will pass over it");
                Finding::warning(Trap::SettingOfAnotherVersion, object, what, causes)
                    .fix(self.replace(key, new))
            }
            // nsctl writes it for those that know it, and needs it of nobody.
            Verdict::Since(_) if section == "IPv6PREF64Prefix" && is_rendered(&self.path) => return None,
            Verdict::Since(since) => {
                let what = format!("systemd {version} does not know {key}= in [{section}]; {since} does");
                Finding::warning(Trap::SettingOfAnotherVersion, object, what, "it is passed over")
                    .fix(self.comment_out())
            }
            Verdict::NoSetting(near) => {
                let what = match near {
                    Some(near) => format!("{key}= is no setting of [{section}]; {near}= is"),
                    None => format!("{key}= is no setting of [{section}]"),
                };
                let fix = near.map_or_else(|| self.comment_out(), |near| self.replace(key, near));
                Finding::error(Trap::MisspeltSetting, object, what, "systemd passes over it in silence")
                    .fix(fix)
            }
            // The first setting of a section tells for all of it.
            Verdict::NoSection(near) => {
                let near = near?;
                let what = format!("[{section}] is no section; [{near}] is");
                let (old, new) = if self.ours {
                    (format!("\\.{section}\\]"), format!(".{near}]"))
                } else {
                    (format!("^\\[{section}\\]"), format!("[{near}]"))
                };
                let command = format!("sed -i 's/{old}/{new}/' {}", self.path.display());
                Finding::error(Trap::MisspeltSetting, object, what, "systemd passes over all of it")
                    .fix(self.then_reload(command))
            }
        })
    }

    fn replace(&self, key: &str, new: &str) -> String {
        let command = format!("sed -i '{}s/{key}/{new}/' {}", self.line, self.path.display());
        self.then_reload(command)
    }

    fn comment_out(&self) -> String {
        self.then_reload(format!("sed -i '{}s/^/#/' {}", self.line, self.path.display()))
    }

    fn then_reload(&self, command: String) -> String {
        match self.program {
            _ if self.ours => format!("{command} && nsctl apply --yes"),
            Program::Networkd => format!("{command} && networkctl reload"),
            Program::Nspawn => command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str, version: u32) -> Vec<Finding> {
        in_file(Path::new(file), text, version, &Facts::default())
    }

    #[test]
    fn the_right_spelling_is_told_with_the_line() {
        let one = &found("/x.network", "[Match]\nName=a\n[Network]\nbridge=vbr0\n", 257)[0];
        assert_eq!(one.object, "/x.network:4");
        assert!(one.what.contains("Bridge= is"), "{one:?}");
        assert_eq!(one.fix, "sed -i '4s/bridge/Bridge/' /x.network && networkctl reload");
        assert!(found("/x.network", "[Netwrok]\nDHCP=yes\n", 257)[0].what.contains("[Network] is"));
        assert!(found("/x.nspawn", "[Exec]\nBot=yes\n", 257)[0].what.contains("Boot= is"));
        assert_eq!(found("/x.network", "[Network]\n# bridge=x\nDHCP=yes\n[X-Mine]\na=b\n", 252), []);
    }

    #[test]
    fn versions_know_different_settings() {
        let text = "[Network]\nIPv6Forwarding=yes\n";
        assert!(found("/x.network", text, 252)[0].what.contains("does not know"));
        assert_eq!(found("/x.network", text, 255), []);
        assert_eq!(found("/x.network", text, 257), []);
        assert_eq!(found("/x.network", "[Network]\nIPForward=yes\n", 252), []);
        assert!(found("/x.network", "[Network]\nIPForward=yes\n", 257)[0].what.contains("out of date"));
        let old = "[Network]\nIPv6AcceptRouterAdvertisements=no\n";
        assert!(found("/x.network", old, 252)[0].what.contains("IPv6AcceptRA="));
    }

    #[test]
    fn what_nsctl_writes_is_known() {
        let sheet = include_str!("../emit/snapshots/nsctl__emit__tests__all_files.snap");
        for file in sheet.split("==> ").skip(1) {
            let (path, text) = file.split_once('\n').unwrap();
            if [".network", ".netdev", ".nspawn"].iter().any(|end| path.ends_with(end)) {
                for version in crate::settings::VERSIONS {
                    assert_eq!(found(path, text, version), [], "{path}");
                }
            }
        }
    }

    #[test]
    fn what_nsctl_rendered_is_mended_in_the_definition() {
        let mut facts = Facts::default();
        let definition = definition_path(&"web".parse().unwrap());
        let text = "[network]\nmode = \"routed\"\n[networkd.Network]\nLLPD = true\n";
        facts.observed.files.insert(definition, text.into());
        let rendered = "# Written by nsctl (0); edit its definition\n[Network]\nLLPD=yes\n";
        let path = Path::new("/etc/systemd/network/05-nsctl-ve-web.network");
        let one = &in_file(path, rendered, 257, &facts)[0];
        assert_eq!(one.object, "/etc/nsctl/machines.d/web.toml:4");
        assert_eq!(one.fix, "sed -i '4s/LLPD/LLDP/' /etc/nsctl/machines.d/web.toml && nsctl apply --yes");
    }
}
