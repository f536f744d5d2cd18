//! The runtime and the exit status; nothing else.

use std::process::ExitCode;

use clap::Parser;
use nsctl::cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(status) => ExitCode::from(status),
        Err(fault) => {
            fault.print();
            ExitCode::from(fault.status())
        }
    }
}
