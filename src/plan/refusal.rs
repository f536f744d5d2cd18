//! What stands in the way of a plan, in words; who finds it says what mends it.

use std::collections::BTreeSet;

use crate::hint::Hint;
use crate::name::MachineName;
use crate::visible::few;

/// Why a plan cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    /// The machine that alone it is about; none: the host, or a bridge.
    pub machine: Option<MachineName>,
    /// A file is in the way that somebody edited, or wrote.
    pub over_a_file: bool,
    what: String,
    hint: Option<String>,
}

impl Refusal {
    pub fn of(machine: &MachineName, what: impl ToString, hint: impl Into<String>) -> Refusal {
        Refusal { machine: Some(machine.clone()), ..Refusal::of_host(what, hint) }
    }

    /// An empty hint is none.
    pub fn of_host(what: impl ToString, hint: impl Into<String>) -> Refusal {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        Refusal { machine: None, over_a_file: false, what: what.to_string(), hint }
    }

    pub fn over_a_file(self) -> Refusal {
        Refusal { over_a_file: true, ..self }
    }

    pub fn no_tree(name: &MachineName) -> Refusal {
        let definition = crate::spec::definition_path(name);
        let hint =
            format!("name one in {}: image = \"…\"; `nsctl image list` lists them", definition.display());
        let what = "it has no tree in /var/lib/machines, and its definition names no image";
        Refusal::of(name, format!("'{name}' cannot start: {what}"), hint)
    }

    pub fn no_image(to: &MachineName, image: &str, images: &BTreeSet<String>) -> Refusal {
        let there_are = if images.is_empty() { "none".to_owned() } else { few(images) };
        let what = format!("'{to}' cannot be made: there is no image '{image}'; there are: {there_are}");
        let hint = "an image is one of these, debian:trixie, or the path of a tar file; `nsctl image list`";
        Refusal::of(to, what, hint)
    }
}

impl Hint for Refusal {
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
