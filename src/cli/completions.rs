//! `multiarch completions`: what a shell needs to complete our commands.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Error, output};

/// Which completions.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// When they cannot be written to standard output.
pub fn print(arguments: &Arguments) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "multiarch", &mut script);
    output::write(&script)
}
