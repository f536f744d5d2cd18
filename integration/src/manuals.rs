//! Man pages: those of commands as clap knows them, and those of files and the network as they are written
//! in man/.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::{Command, CommandFactory};
use fs_err as fs;
use nsctl::cli::Cli;
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, line_break, roman};

/// Writes all pages into a folder.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut command = Cli::command();
    command.build();
    commands(folder, &command, "nsctl")?;
    let mut sources: Vec<_> = fs::read_dir("man")?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    sources.sort();
    for source in sources {
        let name = source.file_stem().and_then(|stem| stem.to_str()).context("a page without a name")?;
        fs::write(folder.join(name), page(&fs::read_to_string(&source)?)?)?;
    }
    Ok(())
}

/// A page for a command, and for each below it: nsctl-bridge-create(1).
fn commands(folder: &Path, command: &Command, name: &str) -> Result<()> {
    let man =
        clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).manual("nsctl").source("nsctl");
    let mut text = Vec::new();
    man.render(&mut text)?;
    fs::write(folder.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        commands(folder, below, &format!("{name}-{}", below.get_name()))?;
    }
    Ok(())
}

/// A page of man(7) of CommonMark, as far as man/ has it.
fn page(text: &str) -> Result<String> {
    let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).context("no title")?;
    let (name, section) = title.trim_end_matches(')').split_once('(').context("no section")?;
    let mut page = Roff::new();
    page.control("TH", [name, section, "", "nsctl", "nsctl"]);
    let mut writer = Writer { page, ..Writer::default() };
    for event in
        Parser::new(text).skip_while(|event| !matches!(event, Event::End(TagEnd::Heading(HeadingLevel::H1))))
    {
        writer.event(event)?;
    }
    Ok(writer.page.to_roff())
}

#[derive(Default)]
struct Writer {
    page: Roff,
    line: Vec<Inline>,
    heading: Option<(HeadingLevel, String)>,
    is_bold: bool,
    in_code: bool,
    in_item: bool,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(Tag::Heading { level, .. }) => self.heading = Some((level, String::new())),
            Event::End(TagEnd::Heading(HeadingLevel::H1)) => {}
            Event::End(TagEnd::Heading(level)) => {
                let (_, text) = self.heading.take().unwrap_or((level, String::new()));
                let kind = if level == HeadingLevel::H2 { "SH" } else { "SS" };
                self.page.control(kind, [text.as_str()]);
            }
            Event::Start(Tag::Paragraph) if !self.in_item => _ = self.page.control("PP", []),
            Event::Start(Tag::Paragraph) => {}
            Event::End(TagEnd::Paragraph) => self.flush(),
            Event::Start(Tag::Item) => {
                self.page.control("IP", ["\u{2022}", "2"]);
                self.in_item = true;
            }
            Event::End(TagEnd::Item) => {
                self.flush();
                self.in_item = false;
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => {
                self.page.control("PP", []);
                self.page.control("RS", ["4"]);
                self.page.control("nf", []);
                self.in_code = true;
            }
            Event::End(TagEnd::CodeBlock) => {
                self.page.control("fi", []);
                self.page.control("RE", []);
                self.in_code = false;
            }
            Event::Start(Tag::Strong) => self.is_bold = true,
            Event::End(TagEnd::Strong) => self.is_bold = false,
            Event::Start(Tag::List(_)) | Event::End(TagEnd::List(_)) => {}
            Event::Text(text) if self.in_code => {
                for line in text.lines() {
                    self.page.text([roman(line)]);
                }
            }
            Event::Text(text) => self.put(&text, self.is_bold),
            Event::Code(text) => self.put(&text, true),
            Event::SoftBreak => self.put(" ", false),
            Event::HardBreak => self.line.push(line_break()),
            Event::Start(Tag::Emphasis) | Event::End(TagEnd::Emphasis) => {}
            other => ensure!(false, "a page has what no page has: {other:?}"),
        }
        Ok(())
    }

    fn put(&mut self, text: &str, is_bold: bool) {
        match &mut self.heading {
            Some((_, heading)) => heading.push_str(text),
            None if is_bold => self.line.push(bold(text)),
            None => self.line.extend(with_references(text)),
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            self.page.text(std::mem::take(&mut self.line));
        }
    }
}

/// Other pages, such as systemd.nspawn(5), as a man page shows them.
fn with_references(text: &str) -> Vec<Inline> {
    let is_page = |word: &str| {
        let bare = word.trim_end_matches([',', '.', ';', ':', ')']);
        let bare = if word.ends_with(')') && bare.len() < word.len() { &word[..=bare.len()] } else { bare };
        bare.split_once('(').is_some_and(|(name, section)| {
            !name.is_empty() && section.trim_end_matches(')').parse::<u8>().is_ok_and(|section| section < 9)
        })
    };
    let words = text.split_inclusive(' ');
    words.map(|word| if is_page(word.trim()) { italic(word) } else { roman(word) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_of_man() {
        let text = "# x(5)\n\n## NAME\n\nx - a `file`, see y(7).\n\n### `key`\n\n- one\n- two\n\n```toml\n.a = \"b\"\n```\n";
        let page = page(text).unwrap();
        for line in [".TH x 5", ".SH NAME", ".SS key", ".IP", ".nf", "\\&.a = \"b\""] {
            assert!(page.contains(line), "{line}: {page}");
        }
    }
}
