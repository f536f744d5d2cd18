//! The laboratory: `lab test`, `lab shell SUITE`.

mod lab;

use anyhow::{Context, Result, bail};
use lab::{Lab, Suite, Trees};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("shell") => shell(&arguments[1..]),
        Some("trees") => Trees::open().map(drop),
        _ => bail!("usage: lab trees | lab shell SUITE [COMMAND...]"),
    }
}

fn suite(word: &str) -> Result<Suite> {
    Suite::ALL.into_iter().find(|s| s.name() == word).with_context(|| format!("no suite '{word}'"))
}

/// Boots a host, runs one command in it (a shell without any), ends it.
fn shell(arguments: &[String]) -> Result<()> {
    let (word, rest) = arguments.split_first().context("usage: lab shell SUITE [COMMAND...]")?;
    let trees = Trees::open()?;
    let lab = Lab::boot(&trees, suite(word)?)?;
    eprintln!(
        "router: nsenter --net=/proc/{}/ns/net; lan: nsenter --net=/proc/{}/ns/net",
        lab.router.pid(),
        lab.lan.pid()
    );
    let mut command = lab.command(&[])?;
    let _ = &mut command;
    let pid = lab.init()?.to_string();
    let mut enter = lab::run::words(&[
        "nsenter",
        "-t",
        &pid,
        "-a",
        "env",
        "-i",
        "HOME=/root",
        "TERM=xterm-256color",
        "LANG=C.UTF-8",
    ]);
    enter.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if rest.is_empty() {
        enter.args(["bash", "-l"]);
    } else {
        enter.args(rest);
    }
    let status = enter.status()?;
    drop(lab);
    std::process::exit(status.code().unwrap_or(1));
}
