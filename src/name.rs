//! Names, parsed once and valid ever after.

use std::fmt;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};
use siphasher::sip::SipHasher24;

use crate::hint::Hint;

/// Why a word is no name. The text completes "'WORD' is not a valid …: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not a valid {kind} name: {reason}")]
pub struct NameError {
    word: String,
    kind: &'static str,
    reason: &'static str,
}

impl Hint for NameError {
    fn hint(&self) -> Option<String> {
        let (longest, example) = if self.kind == "interface" { (15, "vbr0") } else { (64, "web-1") };
        let underscore = if self.kind == "interface" { ", '_'" } else { "" };
        Some(format!("letters, digits, '-'{underscore} and '.', {longest} at the most, such as {example}"))
    }
}

/// The name of a machine: what systemd takes as a host name (hostname(7)), at
/// most 64 characters, so that it serves unescaped as a unit instance, a file
/// name and a folder below /var/lib/machines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct MachineName(String);

impl MachineName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unit that runs the machine (systemd-nspawn@.service).
    pub fn unit(&self) -> String {
        format!("systemd-nspawn@{}.service", self.0)
    }

    /// The machine that a unit runs, if it is an nspawn unit.
    pub fn from_unit(unit: &str) -> Option<MachineName> {
        unit.strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?.parse().ok()
    }

    /// The host's end of a routed machine's veth. Longer than an interface
    /// name may be, it is the interface's alternative name (systemd-nspawn(1),
    /// `--network-veth`), which `[Match] Name=` matches as well.
    pub fn routed_link(&self) -> String {
        format!("ve-{}", self.0)
    }

    /// The host's end of a bridged machine's veth (`--network-bridge`).
    pub fn bridged_link(&self) -> String {
        format!("vb-{}", self.0)
    }

    /// The host's end of a routed machine's second veth, which nspawn does not shorten by itself
    /// (`--network-veth-extra`).
    pub fn lan_link(&self) -> String {
        kernel_name(&self.bridged_link())
    }
}

/// The longest name that the kernel gives an interface (IFNAMSIZ, netdevice(7)).
const LONGEST: usize = 15;

/// The name that the kernel knows an interface of nspawn by. Longer than it may
/// be, nspawn keeps the first 11 characters and adds 4 of a hash, in base64url
/// (systemd.net-naming-scheme(7), v247; the key is of systemd's
/// `shorten_ifname()`). nftables matches this name alone.
pub fn kernel_name(link: &str) -> String {
    const KEY: [u8; 16] = 0xe190_a404_a8ef_4b51_8ccc_c33a_9f11_fca2_u128.to_be_bytes();
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if link.len() <= LONGEST {
        return link.to_owned();
    }
    let hash = SipHasher24::new_with_key(&KEY).hash(link.as_bytes());
    let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[(hash >> shift & 63) as usize]));
    link.chars().take(LONGEST - digits.len()).chain(digits).collect()
}

fn machine_name_fault(word: &str) -> Option<&'static str> {
    if word.is_empty() {
        return Some("it is empty");
    }
    if word.len() > 64 {
        return Some("it has more than 64 characters");
    }
    if word.contains('_') {
        return Some("systemd-nspawn takes no name with '_'");
    }
    if !word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')) {
        return Some("only letters, digits, '-' and '.' may stand in it");
    }
    if word.starts_with(['-', '.']) || word.ends_with(['-', '.']) {
        return Some("it begins or ends with a sign");
    }
    word.contains("..").then_some("it holds two dots in a row")
}

/// The name of a network interface: at most 15 characters (IFNAMSIZ,
/// netdevice(7)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr)]
pub struct IfName(String);

impl IfName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn if_name_fault(word: &str) -> Option<&'static str> {
    if word.is_empty() {
        return Some("it is empty");
    }
    if word.len() > LONGEST {
        return Some("it has more than 15 characters");
    }
    if !word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@')) {
        return Some("only letters, digits, '-', '_', '.' and '@' may stand in it");
    }
    if matches!(word, "." | ".." | "all" | "default" | "lo") {
        return Some("the kernel keeps that word for itself");
    }
    if word.starts_with(['-', '.']) {
        return Some("it begins with a sign");
    }
    word.chars().all(|c| c.is_ascii_digit()).then_some("it is a number")
}

macro_rules! name_type {
    ($type:ident, $kind:literal, $fault:ident) => {
        impl FromStr for $type {
            type Err = NameError;

            fn from_str(word: &str) -> Result<Self, NameError> {
                match $fault(word) {
                    None => Ok($type(word.to_owned())),
                    Some(reason) => {
                        Err(NameError { word: word.escape_debug().to_string(), kind: $kind, reason })
                    }
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(MachineName, "machine", machine_name_fault);
name_type!(IfName, "interface", if_name_fault);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_what_systemd_takes() {
        for good in ["a", "minecraft", "BuildBot", "web-1.example", "0day", &"n".repeat(64)] {
            assert!(good.parse::<MachineName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            ".a",
            "a.",
            "a..b",
            "a b",
            "Build_Bot",
            "a/b",
            "ä",
            "a\n",
            "../x",
            &"n".repeat(65),
        ] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn interface_names_are_short_and_no_numbers() {
        for good in ["wan0", "enp6s0", "vbr0", "eth0.10"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", "lo", "all", "12", "a/b", "a b", "sixteencharacter", "a:b", "..", "-x"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn unit_and_back() {
        let name: MachineName = "minecraft".parse().unwrap();
        assert_eq!(name.unit(), "systemd-nspawn@minecraft.service");
        assert_eq!(MachineName::from_unit(&name.unit()), Some(name));
        assert_eq!(MachineName::from_unit("ssh.service"), None);
    }

    proptest! {
        #[test]
        fn a_valid_name_is_safe_in_paths_and_units(word in "\\PC{0,70}") {
            if let Ok(name) = word.parse::<MachineName>() {
                prop_assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
                prop_assert!(name.as_str().is_ascii());
                prop_assert_eq!(MachineName::from_unit(&name.unit()), Some(name));
            }
        }
    }
}
