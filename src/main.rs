//! The runtime and the exit status; nothing else.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use nsctl::cli::{Cli, usage};

fn main() -> std::io::Result<ExitCode> {
    // A shell that asks what may follow ends here.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::try_parse().unwrap_or_else(|mut error| {
        only_near(&mut error);
        // Help and versions are no errors.
        let for_program = error.use_stderr() && std::env::args_os().any(|word| word == "--json");
        if !for_program {
            error.exit();
        }
        usage(&error);
        std::process::exit(2);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(cli.run());
    // What still runs is what somebody did not want to wait for.
    runtime.shutdown_background();
    Ok(ExitCode::from(status))
}

/// Of the verbs that clap takes for similar, those that begin as the unknown one does: others mislead.
fn only_near(error: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue};
    let word = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => return,
    };
    let all = match error.remove(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(all)) => all,
        Some(ContextValue::String(one)) => vec![one],
        _ => return,
    };
    let near: Vec<String> =
        all.into_iter().filter(|verb| verb.chars().next() == word.chars().next()).collect();
    if !near.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(near));
    }
}
