//! The commands people type.

pub mod crd;
pub mod credentials;
pub mod operator;
pub mod registry;

use clap::{Parser, Subcommand};

/// Container images for more than one platform, on Kubernetes.
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
    /// Print the CustomResourceDefinition of MultiArchImage as YAML.
    Crd,
}

/// Why a command failed, for the person who typed it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
