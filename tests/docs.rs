//! The pages for people: links lead somewhere, commands are ones that nsctl takes, files ones that it reads.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use clap::Parser;
use nsctl::cli::Cli;
use nsctl::spec::{Definitions, Spec, profile_path};

/// Every page, README first.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("docs")];
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
            .map(|name| root.join(name))
            .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                files.push(path);
            }
        }
    }
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// What stands between the fences: the word behind the first, and the lines.
fn blocks(text: &str) -> Vec<(String, Vec<String>)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(word) = line.trim_start().strip_prefix("```") {
            let inside = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
            blocks.push((word.to_owned(), inside.map(str::to_owned).collect()));
        }
    }
    blocks
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        let fences = text.split("```").step_by(2).collect::<String>();
        for link in fences.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") || link.contains(' ') {
                continue;
            }
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = target.exists();
            let text = std::fs::read_to_string(&target).unwrap_or_default();
            if !there || !(wanted.is_empty() || anchors(&text).iter().any(|anchor| anchor == wanted)) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The words of a line, as a shell has them; none of one that goes on.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" # ").next().unwrap_or(line);
    let parts = line.split(['"', '\'']).enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn commands_are_ones_that_nsctl_takes() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in pages() {
        for (kind, lines) in blocks(&text).into_iter().filter(|(kind, _)| kind == "sh" || kind == "console") {
            let typed = lines.iter().filter_map(|line| match kind.as_str() {
                "console" => line.strip_prefix("# "),
                _ => Some(line.as_str()),
            });
            for line in
                typed.filter(|line| line.starts_with("nsctl ") && !line.contains(['|', '>', ';', '&', '$']))
            {
                seen += 1;
                match Cli::try_parse_from(words(line)) {
                    Err(error) if error.use_stderr() => {
                        wrong.push(format!("{}: {line}: {error}", path.display()))
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(seen > 50, "just {seen} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A text is a definition, or nsctl.toml, or a part of the one of them.
fn is_read(text: &str) -> bool {
    let path = PathBuf::from("/etc/nsctl/machines.d/web.toml");
    let host = "pool = \"2001:db8:a::/48\"\n[bridge.vbr0]\nuplink = \"eth1\"\nvlans = [20, 30]\n";
    let definition = |text: String| {
        let profile = |name| (profile_path(name), Ok("[network]\nmode = \"routed\"\n".to_owned()));
        let profiles = ["web", "small"].map(profile);
        let definitions: Definitions = [(path.clone(), Ok(text))].into_iter().chain(profiles).collect();
        let (spec, problems) = Spec::read(Some(host), &definitions);
        problems.is_empty() && spec.broken.is_empty()
    };
    Spec::read(Some(text), &Definitions::new()).1.is_empty()
        || Spec::read(Some(&format!("pool = \"2001:db8:a::/48\"\n{text}")), &Definitions::new()).1.is_empty()
        || definition(text.to_owned())
        || definition(format!("{text}\n[network]\nmode = \"routed\"\n"))
}

#[test]
fn files_are_ones_that_nsctl_reads() {
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        let files = blocks(&text).into_iter().filter(|(kind, _)| kind == "toml");
        wrong.extend(
            files
                .map(|(_, lines)| lines.join("\n"))
                .filter(|text| !is_read(text))
                .map(|text| format!("{}:\n{text}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
