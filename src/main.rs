//! The `multiarch` command line: it wires things and does nothing else.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use multiarch::cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Operator(arguments) => multiarch::cli::operator::run(arguments).await,
        Command::Crd => multiarch::cli::crd::print(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("multiarch: {error}");
            ExitCode::FAILURE
        }
    }
}
