//! `multiarch index`: image indexes, made, read, changed, checked and copied without a cluster.

mod annotate;
mod apply;
mod copy;
mod create;
mod export;
mod import;
mod inspect;
mod publish;
mod verify;

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{self, Exit, Failure};
use super::registry::RegistryArguments;
use super::{Error, logging, progress};
use crate::platform::Platform;
use crate::registry::{Client, Digest};

/// How long the end of the process waits for uploads to be cancelled at their registries.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is to be done with an index.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Say nothing but results and errors.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say what is asked of registries; twice, also how connections are made. RUST_LOG says it more finely.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make an index of images and publish it under one or more tags.
    Create(Box<create::Arguments>),
    /// Show an index and its images, and what is wrong with them.
    Inspect(inspect::Arguments),
    /// Change annotations or platforms in an index and publish it again; its images stay as they are.
    Annotate(annotate::Arguments),
    /// Check everything an index names: manifests, configs, platforms, layers and programs.
    Verify(verify::Arguments),
    /// Copy an index with all its images and attestations, byte for byte.
    Copy(copy::Arguments),
    /// Write an index with everything it names into an OCI image layout: a directory or a tar archive.
    Export(export::Arguments),
    /// Push an index with everything it names from an OCI image layout.
    Import(import::Arguments),
    /// Publish what files say: MultiArchImages of existing images, or manifest-tool's YAML.
    Apply(apply::Arguments),
}

/// What all commands work with.
struct Context {
    client: Client,
    quiet: bool,
}

impl Context {
    /// Tells the person something that is no result.
    fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            progress::say(line.as_ref());
        }
    }

    /// Warns of what is no failure.
    fn warn(&self, warning: impl AsRef<str>) {
        self.say(format!("warning: {}", warning.as_ref()));
    }

    /// Tells that an index has some of its platforms only, and therefore another digest.
    fn say_filtered(&self, platforms: &[Platform], kept: &Digest, from: &Digest) {
        let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        self.say(format!(
            "only {}: the index gets the digest {kept} instead of {from}",
            platforms.join(", ")
        ));
    }
}

impl Command {
    fn registry(&self) -> &RegistryArguments {
        match self {
            Self::Create(arguments) => &arguments.registry,
            Self::Inspect(arguments) => &arguments.registry,
            Self::Annotate(arguments) => &arguments.registry,
            Self::Verify(arguments) => &arguments.registry,
            Self::Copy(arguments) => &arguments.registry,
            Self::Export(arguments) => &arguments.registry,
            Self::Import(arguments) => &arguments.registry,
            Self::Apply(arguments) => &arguments.registry,
        }
    }

    async fn run(&self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Create(arguments) => arguments.run(context).await,
            Self::Inspect(arguments) => arguments.run(context).await,
            Self::Annotate(arguments) => arguments.run(context).await,
            Self::Verify(arguments) => arguments.run(context).await,
            Self::Copy(arguments) => arguments.run(context).await,
            Self::Export(arguments) => arguments.run(context).await,
            Self::Import(arguments) => arguments.run(context).await,
            Self::Apply(arguments) => arguments.run(context).await,
        }
    }
}

/// Runs a command until it ends or somebody interrupts it.
///
/// # Errors
/// Those of the command; [`exit::report`] knows them all.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    logging::start(arguments.verbose, arguments.quiet);
    // One thread copies as fast as two, and neither of them wakes the other: less memory, fewer cycles.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(until_interrupted(arguments));
    // A look-up of a host name that nobody waits for any more holds nobody up.
    runtime.shutdown_background();
    result
}

async fn until_interrupted(arguments: &Arguments) -> Result<(), Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let context = Context { client: arguments.command.registry().client()?, quiet: arguments.quiet };
    let result = tokio::select! {
        result = arguments.command.run(&context) => result,
        _ = interrupt.recv() => Err(Failure::new(Exit::Interrupted, "interrupted").into()),
        _ = terminate.recv() => Err(Failure::new(Exit::Terminated, "terminated").into()),
    };
    // What was begun has been dropped by now; its uploads are being cancelled.
    context.client.settle(FAREWELL).await;
    result
}
