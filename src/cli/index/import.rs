//! `multiarch index import`: an index of files, into registries.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Context;
use super::publish::Published;
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::layout::{Imported, Layout, import};
use crate::platform::Platform;
use crate::registry::{Reference, Repository};

/// From where to where.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// An image layout: a directory, a tar archive, which gzip may have compressed, or `-`, an archive on standard
    /// input. What is compressed or on standard input lies in $TMPDIR meanwhile.
    #[arg(value_name = "DIR|FILE.tar|-")]
    from: PathBuf,
    /// Where it goes: `registry/repository:tag`, as many as are wanted.
    #[arg(value_name = "TARGET", required = true, value_parser = reference::target)]
    targets: Vec<Reference>,
    /// Which image of the layout, if it has several: its name, tag or digest.
    #[arg(long = "ref", value_name = "NAME")]
    name: Option<String>,
    /// Only this platform with its attestations; may be given more than once. The index gets another digest.
    #[arg(short, long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let layout = if self.from.as_os_str() == "-" {
            self.registry.leave_standard_input()?;
            Layout::read("standard input", io::stdin()).await?
        } else {
            Layout::open(&self.from).await?
        };
        let entry = layout.choose(self.name.as_deref())?.clone();
        let repositories: Vec<&Repository> = self.targets.iter().map(Reference::repository).collect();
        let session = self.registry.session(&context.client, &repositories).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        let Imported { root, filtered_from, copied, tags, .. } =
            import(&session, Arc::new(layout), &entry, &self.platforms, &self.targets).await?;
        if let Some(from) = filtered_from {
            context.say_filtered(&self.platforms, &root.digest, &from);
        }
        let published = Published::new(&root, tags);
        Published { copied: Some(copied.into()), ..published }.print(context, self.output.output)
    }
}
