//! The commands people type.
//!
//! Results go to standard output, everything else to standard error. What went wrong becomes an exit code in
//! [`exit`], and nowhere else.

pub mod builder;
pub mod cluster;
pub mod completions;
pub mod crd;
pub mod create;
pub mod credentials;
mod document;
pub mod exit;
mod file;
pub mod image;
pub mod index;
mod kubeconfig;
pub mod lint;
pub mod logging;
pub mod operator;
pub mod output;
pub mod platforms;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod render;
pub mod request;
mod resource;
mod schema;
pub mod server;
pub mod support;
pub mod telemetry;

use std::ffi::OsStr;
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Container images for more than one platform, on Kubernetes and without.
#[derive(Parser, Debug)]
#[command(name = "multiarch", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The name under which kubectl finds the command as a plugin of its own.
const PLUGIN: &str = "kubectl-multiarch";

impl Cli {
    /// Reads the command line of the process. Whoever calls the program `kubectl-multiarch` is shown how to type it for
    /// kubectl; everything else is the same.
    pub fn read() -> Self {
        let matches = Self::command().name(program()).bin_name(typed_as()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// What people type to get this program: `multiarch`, or `kubectl multiarch`.
pub fn typed_as() -> &'static str {
    if program() == PLUGIN { "kubectl multiarch" } else { "multiarch" }
}

/// The name that the program was called by, as far as it makes a difference.
fn program() -> &'static str {
    let called = std::env::args_os().next();
    let name = called.as_deref().map(Path::new).and_then(Path::file_stem);
    if name == Some(OsStr::new(PLUGIN)) { PLUGIN } else { "multiarch" }
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the operator: make every MultiArchImage of the cluster true.
    Operator(Box<operator::Arguments>),
    /// Create, inspect, annotate, verify, copy, export and import image indexes; no cluster is needed.
    Index(Box<index::Arguments>),
    /// Show how the MultiArchImages of a cluster stand; one of them by platform.
    Status(image::status::Arguments),
    /// Say why a MultiArchImage is not ready: the leaf cause, what to look at, what to do.
    Why(image::why::Arguments),
    /// Print what the builds of a MultiArchImage print, all platforms together.
    Logs(image::logs::Arguments),
    /// Wait until MultiArchImages are ready; fails at once when one of them is Stalled.
    Wait(image::wait::Arguments),
    /// Look at every source again, and try what has failed once more.
    Reconcile(request::WaitingArguments),
    /// Build every built platform again, though nothing has changed.
    Rebuild(request::WaitingArguments),
    /// Stop all work on MultiArchImages; what is published stays.
    Suspend(request::Arguments),
    /// Go on with MultiArchImages that were suspended.
    Resume(request::WaitingArguments),
    /// Show which platforms the cluster builds natively, emulates, reaches elsewhere or lacks, and with which nodes.
    Platforms(Box<platforms::Arguments>),
    /// Print what the operator would build for the MultiArchImages of a file; no cluster is needed.
    Render(Box<render::Arguments>),
    /// Print a MultiArchImage made of flags that users of docker buildx know; no cluster is needed.
    Create(Box<create::Arguments>),
    /// Say what would be refused in the MultiArchImages of files, and what is unwise; no cluster is needed.
    Lint(lint::Arguments),
    /// Collect what somebody else needs to see to help, without secrets, in one archive.
    SupportBundle(support::Arguments),
    /// Print the CustomResourceDefinition of MultiArchImage as YAML.
    Crd,
    /// Print the completions of a shell.
    Completions(completions::Arguments),
}

/// Why a command failed, for the person who typed it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
