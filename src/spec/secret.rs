//! Secrets of machines: what a credential is called (systemd.exec(5), Credentials). What is in one, no
//! definition says.

use std::fmt;
use std::str::FromStr;

use serde_with::{DeserializeFromStr, SerializeDisplay};

use crate::hint::Hint;

/// What a secret is called, in its machine as here: it serves unescaped as a file's name, and in a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, SerializeDisplay, DeserializeFromStr)]
pub struct SecretId(String);

/// Why a word is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' cannot be the name of a secret", .0.escape_debug())]
pub struct SecretIdError(String);

impl Hint for SecretIdError {
    fn hint(&self) -> Option<String> {
        Some(
            "letters, digits, '-', '_' and '.', 128 at the most, and first a letter or a digit, such as \
             db-password"
                .into(),
        )
    }
}

impl SecretId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretId {
    type Err = SecretIdError;

    fn from_str(word: &str) -> Result<SecretId, SecretIdError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let good = word.len() <= 128
            && word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(plain);
        if good { Ok(SecretId(word.to_owned())) } else { Err(SecretIdError(word.to_owned())) }
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_called_what_a_file_and_a_unit_take_as_it_is() {
        let long = "x".repeat(129);
        for word in ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "a@b", "%n", "a\n", "é", "$A", &long] {
            assert!(word.parse::<SecretId>().is_err(), "{word:?}");
        }
        for word in ["db-password", "ssh.authorized_keys.root", "passwd.hashed-password.root", "0"] {
            assert_eq!(word.parse::<SecretId>().unwrap().as_str(), word);
        }
    }
}
