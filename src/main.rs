//! The `multiarch` command line: it wires things and does nothing else.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use multiarch::cli::{self, Cli, Command, Error};

/// Arguments first: whoever asks for help, a version or a completion waits for nothing else.
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Operator(arguments) => operate(arguments),
        Command::Index(arguments) => cli::index::run(&arguments),
        Command::Crd => cli::crd::print(),
        Command::Completions(arguments) => cli::completions::print(&arguments),
    };
    cli::exit::report(result)
}

fn operate(arguments: cli::operator::Arguments) -> Result<(), Error> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(cli::operator::run(arguments))
}
