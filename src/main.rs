//! The `multiarch` command line: it wires things and does nothing else.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use multiarch::cli::{self, Cli, Command, Error};

/// Arguments first: whoever asks for help, a version or a completion waits for nothing else.
fn main() -> ExitCode {
    let result = match Cli::read().command {
        Command::Operator(arguments) => operate(*arguments),
        Command::Index(arguments) => cli::index::run(&arguments),
        Command::Status(arguments) => cli::image::status::run(&arguments),
        Command::Why(arguments) => cli::image::why::run(&arguments),
        Command::Logs(arguments) => cli::image::logs::run(&arguments),
        Command::Wait(arguments) => cli::image::wait::run(&arguments),
        Command::Reconcile(arguments) => cli::request::reconcile(&arguments),
        Command::Rebuild(arguments) => cli::request::rebuild(&arguments),
        Command::Suspend(arguments) => cli::request::suspend(&arguments),
        Command::Resume(arguments) => cli::request::resume(&arguments),
        Command::Platforms(arguments) => cli::platforms::run(&arguments),
        Command::Render(arguments) => cli::render::run(&arguments),
        Command::Create(arguments) => cli::create::run(&arguments),
        Command::Lint(arguments) => cli::lint::run(&arguments),
        Command::SupportBundle(arguments) => cli::support::run(&arguments),
        Command::Crd => cli::crd::print(),
        Command::Completions(arguments) => cli::completions::print(&arguments),
    };
    cli::exit::report(result)
}

fn operate(arguments: cli::operator::Arguments) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(cli::operator::run(arguments));
    // An image that is being unpacked keeps nobody waiting.
    runtime.shutdown_background();
    result
}
