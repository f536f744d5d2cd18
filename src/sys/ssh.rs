//! Lines of shell, here or on another host by ssh(1).

use std::process::Stdio;

use tokio::process::Command;

/// Where lines run: here, or as root on another host, named as ssh(1) names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    host: Option<String>,
}

/// Who does not answer within a minute is away: nobody waits for ever for a host that was switched off.
const OPTIONS: [&str; 10] = [
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=30",
    "-o",
    "ServerAliveInterval=15",
    "-o",
    "ServerAliveCountMax=4",
    "--",
];

impl Shell {
    pub fn at(host: Option<&str>) -> Shell {
        Shell { host: host.map(str::to_owned) }
    }

    /// Lines of sh(1), whose `$1` and so on are these words; each line that fails ends them. Their three streams are
    /// pipes, and they end with us.
    pub fn command(&self, lines: &str, words: &[&str]) -> Command {
        let mut command = match &self.host {
            // No other way tells the kernel to end it with us, however we end.
            None => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "sh", "-euc", lines, "sh"]).args(words);
                command
            }
            Some(host) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--pdeathsig", "KILL", "ssh"])
                    .args(OPTIONS)
                    .arg(host)
                    .arg(remote(lines, words));
                command
            }
        };
        command.env("PATH", super::build::PATH).env("LC_ALL", "C.UTF-8").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// One line for the shell of whoever we are there: ssh hands on no words.
pub fn remote(lines: &str, words: &[&str]) -> String {
    as_root("sudo -n", "", &[&["sh", "-euc", lines, "sh"], words].concat())
}

/// The same of words that are a command; who is not root there becomes it by the words `sudo`, and root runs it after
/// those `before`.
pub fn as_root(sudo: &str, before: &str, words: &[&str]) -> String {
    let command = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let lines = format!("test \"$(id -u)\" = 0 || exec {sudo} {command}; exec {before}{command}");
    format!("exec sh -c {}", quoted(&lines))
}

/// As one word of sh(1).
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_other_side_whole() {
        let words = ["a b", "it's", "$HOME `id` \"x\" \\", "", "two\nlines", "-n", "*"];
        let line = remote("printf '<%s>' \"$@\"", &words);
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
        // Who is not root here has no sudo without a password, either.
        if nix::unistd::geteuid().is_root() {
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        }
        assert!(!line.contains("exec sh -c sh"));
    }
}
