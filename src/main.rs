//! The runtime and the exit status; nothing else.

use std::process::ExitCode;

use clap::Parser;
use nsctl::cli::Cli;

fn main() -> std::io::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(cli.run());
    // What still runs is what somebody did not want to wait for.
    runtime.shutdown_background();
    Ok(match done {
        Ok(status) => ExitCode::from(status),
        Err(fault) => {
            fault.print();
            ExitCode::from(fault.status())
        }
    })
}
