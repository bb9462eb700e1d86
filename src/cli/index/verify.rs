//! `multiarch index verify`: is everything there, and is it what it is said to be?

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::Context;
use crate::cli::exit::{Exit, Failure, conclude};
use crate::cli::output::{Cell, GREEN, OutputArguments, PLAIN, RED, Table, YELLOW, readable};
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::image::inspect::{Child, ProblemReason, read_children, read_configs};
use crate::image::{ProgramFinding, inspect_program};
use crate::registry::{
    BlobReader, Descriptor, Digest, Error as RegistryError, Kind, Reference, Repository, Session,
};

/// How many blobs are looked at at once.
const PARALLEL_BLOBS: usize = 16;
/// The programs of how many images are looked for at once; each may take 64 MB.
const PARALLEL_PROGRAMS: usize = 2;
/// How many blobs are read at once.
const PARALLEL_STREAMS: usize = 4;

/// What is checked.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The index, or an image.
    #[arg(value_name = "REF", value_parser = reference::source)]
    reference: Reference,
    /// Read and hash every byte of every blob, instead of asking whether it is there.
    #[arg(long)]
    deep: bool,
    /// What happens if the program that an image starts was made for another platform.
    #[arg(long, value_enum, default_value_t = BinariesArgument::Warn)]
    binaries: BinariesArgument,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BinariesArgument {
    /// The check fails.
    Enforce,
    /// It is told.
    Warn,
    /// Nobody looks.
    Off,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let repository = self.reference.repository();
        // What mirrors have says nothing about the registry.
        let session = self.registry.session(&context.client, &[repository]).await?.without_mirrors();
        let manifest = session.get_manifest(&self.reference).await?;
        let children = read_children(&session, &self.reference, &manifest).await?;
        let children = read_configs(&session, repository, children).await?;
        let blobs = Blobs { session, repository, deep: self.deep, quiet: context.quiet };
        let (faults, binaries) =
            futures::try_join!(blobs.check(&children), self.check_binaries(&blobs, &children))?;
        let platforms: Vec<CheckedChild> = children
            .iter()
            .zip(binaries)
            .map(|(child, binary)| CheckedChild::new(child, &faults, self.deep, binary))
            .collect();
        let failures: Vec<&Check> = platforms.iter().flat_map(CheckedChild::failures).collect();
        // An artifact alone is what it is; an index is there for its images.
        let has_images = !manifest.descriptor.media_type.is_index() || children.iter().any(Child::is_image);
        let verified = Verification {
            reference: &self.reference,
            digest: &manifest.descriptor.digest,
            verified: failures.is_empty() && has_images,
            platforms: &platforms,
        };
        let printed = self.output.output.print(&verified, Verification::render);
        let conclusion = match failures.len() {
            0 if has_images => Ok(()),
            0 => {
                let message = format!("{}: the index lists no image", self.reference);
                Err(Failure::new(Exit::VerificationFailed, message).into())
            }
            number => {
                let message = format!("{}: {number} checks failed", self.reference);
                Err(Failure::new(Exit::VerificationFailed, message.replace("1 checks", "1 check")).into())
            }
        };
        conclude(printed, conclusion)
    }
}

impl Arguments {
    /// The check of each child's program.
    async fn check_binaries(&self, blobs: &Blobs<'_>, children: &[Child]) -> Result<Vec<Check>, Error> {
        stream::iter(children)
            .map(async |child| {
                let finding = match self.binaries {
                    BinariesArgument::Off => None,
                    _ => blobs.program(child).await?,
                };
                Ok(Check::of_program(finding, self.binaries))
            })
            .buffered(PARALLEL_PROGRAMS)
            .try_collect()
            .await
    }
}

/// How the blobs of the children are looked at.
struct Blobs<'a> {
    session: Session,
    repository: &'a Repository,
    deep: bool,
    quiet: bool,
}

/// What is wrong with blobs, by their digests.
type Faults = HashMap<Digest, String>;

impl Blobs<'_> {
    /// Looks at each blob once, whoever names it.
    async fn check(&self, children: &[Child]) -> Result<Faults, Error> {
        let blobs: BTreeMap<(Digest, u64), Descriptor> = children
            .iter()
            .flat_map(blobs_of)
            .map(|blob| ((blob.digest.clone(), blob.size), blob.clone()))
            .collect();
        let parallel = if self.deep { PARALLEL_STREAMS } else { PARALLEL_BLOBS };
        let looked = stream::iter(blobs.into_values())
            .map(|blob| async move {
                let fault = if self.deep { self.read(&blob).await } else { self.look(&blob).await };
                Ok::<_, RegistryError>(fault?.map(|fault| (blob.digest, fault)))
            })
            .buffer_unordered(parallel)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(looked.into_iter().flatten().collect())
    }

    /// What is known of the program that an image starts; none of what is no image, or lacks its layers.
    async fn program(&self, child: &Child) -> Result<Option<ProgramFinding>, RegistryError> {
        let (Some(contents), Some((config, _)), Some(platform)) =
            (&child.contents, &child.config, child.platform())
        else {
            return Ok(None);
        };
        let store = Arc::new(self.session.blobs_of(self.repository));
        match inspect_program(store, contents, config, &platform).await {
            Ok(finding) => Ok(Some(finding)),
            // The check of the blobs tells that already.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::DigestMismatch) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn look(&self, blob: &Descriptor) -> Result<Option<String>, RegistryError> {
        let there = self.session.has_blob(self.repository, &blob.digest).await?;
        Ok((!there).then(|| format!("{} is not in the repository", blob.digest)))
    }

    async fn read(&self, blob: &Descriptor) -> Result<Option<String>, RegistryError> {
        let mut reader = BlobReader::new(Arc::new(self.session.blobs_of(self.repository)), blob);
        let bar = progress::bar(blob, self.quiet);
        loop {
            match reader.next().await {
                Ok(Some(bytes)) => bar.inc(bytes.len() as u64),
                Ok(None) => return Ok(None),
                Err(error) => match error.kind() {
                    Kind::NotFound => return Ok(Some(format!("{} is not in the repository", blob.digest))),
                    Kind::DigestMismatch => return Ok(Some(error.to_string())),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// The blobs that must be in the repository. Foreign layers are elsewhere by design.
fn blobs_of(child: &Child) -> impl Iterator<Item = &Descriptor> {
    let contents = child.contents.iter();
    contents.flat_map(|contents| {
        let layers = contents.layers.iter().filter(|layer| !layer.media_type.is_foreign_layer());
        std::iter::once(&contents.config).chain(layers)
    })
}

/// The outcome, in the words that programs read. The names of the fields are stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification<'a> {
    reference: &'a Reference,
    digest: &'a Digest,
    verified: bool,
    platforms: &'a [CheckedChild],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedChild {
    platform: String,
    digest: Digest,
    checks: Vec<Check>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    name: &'static str,
    result: CheckResult,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
enum CheckResult {
    Passed,
    Warned,
    Failed,
    Skipped,
}

impl Check {
    fn new(name: &'static str, problems: Vec<String>, otherwise: CheckResult) -> Self {
        let result = if problems.is_empty() { otherwise } else { CheckResult::Failed };
        Self { name, result, message: problems.join("; ") }
    }

    fn of_program(finding: Option<ProgramFinding>, binaries: BinariesArgument) -> Self {
        let result = match &finding {
            Some(ProgramFinding::Matches { .. }) => CheckResult::Passed,
            Some(ProgramFinding::Mismatch { .. }) if binaries == BinariesArgument::Enforce => {
                CheckResult::Failed
            }
            Some(ProgramFinding::Mismatch { .. } | ProgramFinding::Compatible { .. }) => CheckResult::Warned,
            // Who cannot tell does not warn: an image of mere data starts nothing.
            Some(ProgramFinding::Unknown { .. }) | None => CheckResult::Skipped,
        };
        Self {
            name: "binary",
            result,
            message: finding.map(|finding| finding.to_string()).unwrap_or_default(),
        }
    }

    fn cell(&self) -> Cell {
        match self.result {
            CheckResult::Passed => Cell::styled("ok", GREEN),
            CheckResult::Warned => Cell::styled("WARNING", YELLOW),
            CheckResult::Failed => Cell::styled("FAILED", RED),
            CheckResult::Skipped => Cell::styled("-", PLAIN),
        }
    }
}

impl CheckedChild {
    fn new(child: &Child, faults: &Faults, deep: bool, binary: Check) -> Self {
        use CheckResult::{Passed, Skipped};
        let problems = |wanted: fn(ProblemReason) -> bool| -> Vec<String> {
            let relevant = child.problems.iter().filter(|problem| wanted(problem.reason));
            relevant.map(|problem| problem.message.clone()).collect()
        };
        let is_platform = |reason| reason == ProblemReason::PlatformMismatch;
        let manifest =
            problems(|reason| !reason.is_about_config() && reason != ProblemReason::PlatformMismatch);
        let readable = child.contents.is_some();
        let if_readable = if readable { Passed } else { Skipped };
        let faulty: Vec<String> =
            blobs_of(child).filter_map(|blob| faults.get(&blob.digest)).cloned().collect();
        let mut blobs = Check::new("blobs", faulty, if_readable);
        if blobs.result == Passed {
            let verb = if deep { "hashed" } else { "there" };
            blobs.message = format!("{} {verb}", blobs_of(child).count());
        }
        let of_image = if child.config.is_some() { Passed } else { Skipped };
        Self {
            platform: name_of(child),
            digest: child.descriptor.digest.clone(),
            checks: vec![
                Check::new("manifest", manifest, Passed),
                Check::new("config", problems(ProblemReason::is_about_config), of_image),
                Check::new("platform", problems(is_platform), of_image),
                blobs,
                binary,
            ],
        }
    }

    fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.result == CheckResult::Failed)
    }
}

/// What people call it.
fn name_of(child: &Child) -> String {
    if child.descriptor.is_attestation() {
        "attestation".to_owned()
    } else if child.is_image() {
        child.platform_in_words()
    } else if child.descriptor.media_type.is_index() {
        "index".to_owned()
    } else {
        "artifact".to_owned()
    }
}

impl Verification<'_> {
    fn render(&self) -> String {
        let mut table =
            Table::new(["PLATFORM", "DIGEST", "MANIFEST", "CONFIG", "PLATFORM", "BLOBS", "BINARY"]);
        for CheckedChild { platform, digest, checks } in self.platforms {
            let names = [platform.as_str().into(), digest.to_string().into()];
            table.row(names.into_iter().chain(checks.iter().map(Check::cell)));
        }
        let mut text = table.render();
        for CheckedChild { platform, checks, .. } in self.platforms {
            for Check { name, result, message } in checks {
                let style = match result {
                    CheckResult::Failed => RED,
                    CheckResult::Warned => YELLOW,
                    CheckResult::Passed | CheckResult::Skipped => continue,
                };
                let line = readable(&format!("{platform}: {name}: {message}"));
                text += &format!("{style}{line}{style:#}\n");
            }
        }
        text
    }
}
