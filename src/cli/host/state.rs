//! `nsctl state rebuild`: the leases, read back from the rendered files.

use std::path::Path;

use clap::Subcommand;

use crate::cli::session::{About, Session};
use crate::cli::{Fault, Global};
use crate::plan::{Scope, Wanted};
use crate::state::{self, STATE_FILE, StateError};

/// The state file
#[derive(Debug, Clone, Subcommand)]
pub enum State {
    /// Make the state file anew from the rendered files; a damaged one is kept beside it
    Rebuild,
}

pub async fn run(global: &Global, State::Rebuild: State) -> Result<u8, Fault> {
    let session =
        Session::begin_with(global, About::Nobody, |observed| state::rebuild(&observed.files)).await?;
    let there = session.observed.file(Path::new(STATE_FILE));
    let parsed = there.map(|text| state::parse(Some(text)));
    if let Some(Err(newer @ StateError::Newer(_))) = parsed {
        return Err(newer.into());
    }
    if matches!(parsed, Some(Ok(_))) {
        return Err(Fault::new(format!("{STATE_FILE} is there and in order"))
            .hint("delete it first if you do want the leases of the rendered files"));
    }
    // The scope holds nothing that could have files: only the records are written.
    let mut wanted = Wanted::new(session.spec.clone(), session.state.clone(), Scope::Records);
    if let Some(text) = there {
        wanted.inputs.insert(format!("{STATE_FILE}.damaged").into(), Some(text.to_owned()));
    }
    session.carry_out(&wanted).await?;
    let count = session.state.leases.held().len();
    let leases = if count == 1 { "1 lease is".to_owned() } else { format!("{count} leases are") };
    session.say(format!("{leases} in {STATE_FILE} again"));
    Ok(0)
}
