//! The commands people type.
//!
//! Results go to standard output, everything else to standard error. What went wrong becomes an exit code in
//! [`exit`], and nowhere else.

pub mod completions;
pub mod crd;
pub mod credentials;
pub mod exit;
pub mod index;
pub mod logging;
pub mod operator;
pub mod output;
pub mod progress;
pub mod reference;
pub mod registry;

use clap::{Parser, Subcommand};

/// Container images for more than one platform, on Kubernetes and without.
#[derive(Parser, Debug)]
#[command(name = "multiarch", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the operator: make every MultiArchImage of the cluster true.
    Operator(operator::Arguments),
    /// Create, inspect, annotate, verify, copy, export and import image indexes; no cluster is needed.
    Index(Box<index::Arguments>),
    /// Print the CustomResourceDefinition of MultiArchImage as YAML.
    Crd,
    /// Print the completions of a shell.
    Completions(completions::Arguments),
}

/// Why a command failed, for the person who typed it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
