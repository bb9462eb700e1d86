//! `multiarch index export`: an index as files.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde::Serialize;

use super::Context;
use crate::cli::exit::Failure;
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::layout::{Exported, export_to_directory, export_to_file, export_to_stream};
use crate::platform::Platform;
use crate::registry::{Digest, MediaType, Reference, Session};

/// From where to where.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The index, or an image.
    #[arg(value_name = "REF", value_parser = reference::source)]
    source: Reference,
    /// A directory, which may be an image layout already; a file that ends in .tar; or `-`, a tar archive on standard
    /// output.
    #[arg(value_name = "DIR|FILE.tar|-")]
    to: PathBuf,
    /// Only this platform with its attestations; may be given more than once. The index gets another digest.
    #[arg(short, long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    /// What is written, where the name does not say it.
    #[arg(long, value_enum)]
    format: Option<Form>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A directory.
    Directory,
    /// A tar archive.
    Tar,
}

/// What was exported, in the words that programs read.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    digest: Digest,
    media_type: MediaType,
    size: u64,
    /// The digest in the registry, if platforms were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    filtered_from: Option<Digest>,
    manifests: usize,
    fetched: usize,
    present: usize,
    bytes: u64,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let session = self.registry.session(&context.client, &[self.source.repository()]).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        let to_stdout = self.to.as_os_str() == "-";
        let exported =
            if to_stdout { self.to_stdout(&session).await? } else { self.to_files(&session).await? };
        let Exported { entry, filtered_from, manifests, fetched, present, bytes } = exported;
        if let Some(from) = &filtered_from {
            context.say_filtered(&self.platforms, &entry.digest, from);
        }
        context.say(format!(
            "{manifests} manifests; blobs: {fetched} fetched ({}), {present} there already",
            HumanBytes(bytes)
        ));
        if to_stdout {
            // Standard output has the archive.
            context.say(format!("exported {}@{}", self.source.repository(), entry.digest));
            return Ok(());
        }
        let (digest, media_type, size) = (entry.digest, entry.media_type, entry.size);
        let report = Report { digest, media_type, size, filtered_from, manifests, fetched, present, bytes };
        self.output.output.print(&report, |report| format!("{}@{}\n", self.to.display(), report.digest))
    }

    async fn to_files(&self, session: &Session) -> Result<Exported, Error> {
        let exported = match self.form() {
            Form::Directory => export_to_directory(session, &self.source, &self.platforms, &self.to).await,
            Form::Tar => export_to_file(session, &self.source, &self.platforms, &self.to).await,
        };
        Ok(exported?)
    }

    async fn to_stdout(&self, session: &Session) -> Result<Exported, Error> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Failure::usage(
                "an archive is not for a terminal; write it to a file, or into a pipe",
            )
            .into());
        }
        if self.format == Some(Form::Directory) {
            return Err(Failure::usage("standard output takes no directory").into());
        }
        let mut out = tokio::fs::File::from_std(File::from(stdout.as_fd().try_clone_to_owned()?));
        Ok(export_to_stream(session, &self.source, &self.platforms, "standard output", &mut out).await?)
    }

    fn form(&self) -> Form {
        let is_tar =
            |path: &Path| !path.is_dir() && path.extension().is_some_and(|extension| extension == "tar");
        self.format.unwrap_or(if is_tar(&self.to) { Form::Tar } else { Form::Directory })
    }
}
