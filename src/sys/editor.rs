//! The user's editor, on a draft of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

/// A text that somebody edits: nobody else may read it.
#[derive(Debug)]
pub struct Draft(NamedTempFile);

impl Draft {
    /// # Errors
    /// When it cannot be written.
    pub fn new(name: &str, text: &str) -> std::io::Result<Draft> {
        let mut draft =
            tempfile::Builder::new().prefix(&format!("nsctl-{name}-")).suffix(".toml").tempfile()?;
        draft.write_all(text.as_bytes())?;
        draft.flush()?;
        Ok(Draft(draft))
    }

    /// Has the user edit it; gives what it is then.
    ///
    /// # Errors
    /// When no editor can be run, it failed, or it left nothing that can be read.
    pub fn edit(&self) -> std::io::Result<String> {
        let editor = editor();
        // An editor may be given with words of its own, as in `code --wait` (environ(7)).
        let status =
            Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(self.0.path()).status()?;
        if !status.success() {
            return Err(std::io::Error::other(format!("the editor `{editor}` ended with {status}")));
        }
        // Many put another file in its place.
        std::fs::read_to_string(self.0.path())
    }

    /// Leaves it where it is, if it is not what it was; where that is.
    pub fn keep_unless(self, before: &str) -> Option<PathBuf> {
        let path = self.0.into_temp_path();
        let same = std::fs::read(&path).is_ok_and(|bytes| bytes == before.as_bytes());
        if same { None } else { path.keep().ok() }
    }
}

/// As sudoedit(8) and git-var(1) choose it, and Debian's own choice where nothing is said.
fn editor() -> String {
    let said = ["VISUAL", "EDITOR"].into_iter().filter_map(|name| std::env::var(name).ok());
    let said = { said }.find(|word| !word.trim().is_empty());
    let usual =
        || ["sensible-editor", "editor", "nano"].into_iter().find(|name| is_there(name)).unwrap_or("vi");
    said.unwrap_or_else(|| usual().to_owned())
}

fn is_there(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|folder| Path::new(folder).join(program).is_file())
}
