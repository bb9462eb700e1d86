//! `multiarch index inspect`: an index in words, or as it is.

use std::collections::BTreeMap;

use clap::Args;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{BOLD, Cell, OutputArguments, OutputFormat, RED, Table, readable, write_exactly};
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, reference};
use crate::image::EditableIndex;
use crate::image::inspect::{Child, Problem, artifact_type, read_children, read_configs};
use crate::platform::Platform;
use crate::registry::{Descriptor, Digest, Manifest, MediaType, Reference, Session};

/// The annotation of an attestation's layer with the kind of statement in it: in-toto's attestation storage.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// What is shown.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The index, or an image: `registry/repository:tag` or `…@sha256:…`.
    #[arg(value_name = "REF", value_parser = reference::source)]
    reference: Reference,
    /// Only this platform.
    #[arg(short, long)]
    platform: Option<Platform>,
    /// The exact bytes of the manifest; with --platform, of that image's manifest.
    #[arg(long, conflicts_with_all = ["config", "output"])]
    raw: bool,
    /// The image configs by platform; with --platform, the exact bytes of that one.
    #[arg(long)]
    config: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let session = self.registry.session(&context.client, &[self.reference.repository()]).await?;
        // People look for what is wrong at the registry; a mirror would hide it.
        let session = session.without_mirrors();
        let manifest = session.get_manifest(&self.reference).await?;
        if self.raw && self.platform.is_none() {
            return write_exactly(&manifest.bytes);
        }
        let children = self.children(&session, &manifest).await?;
        match (self.raw, self.config) {
            (true, _) => self.print_manifest(&children),
            (_, true) => self.print_configs(&children),
            _ => {
                let inspected = InspectedIndex::new(&self.reference, &manifest, &children);
                self.output.output.print(&inspected, InspectedIndex::render)
            }
        }
    }

    /// The images that are asked for with all that belongs to them.
    async fn children(&self, session: &Session, manifest: &Manifest) -> Result<Vec<Child>, Error> {
        let narrowed = self.platform.as_ref().and_then(|platform| narrowed(manifest, platform));
        let children = read_children(session, &self.reference, narrowed.as_ref().unwrap_or(manifest)).await?;
        let mut children = read_configs(session, self.reference.repository(), children).await?;
        let Some(platform) = &self.platform else { return Ok(children) };
        let available: Vec<String> =
            children.iter().filter(|child| child.is_image()).map(Child::platform_in_words).collect();
        let chosen =
            |child: &Child| child.is_image() && child.platform().is_some_and(|p| platform.matches(&p));
        let images: Vec<Digest> =
            children.iter().filter(|child| chosen(child)).map(|c| c.descriptor.digest.clone()).collect();
        if images.is_empty() {
            let message =
                format!("{}: no image for {platform}; it has {}", self.reference, available.join(", "));
            return Err(Failure::new(Exit::NotFound, message).into());
        }
        children.retain(|child| chosen(child) || images.iter().any(|image| child.descriptor.attests(image)));
        Ok(children)
    }

    fn print_manifest(&self, children: &[Child]) -> Result<(), Error> {
        let child = self.only_one(children)?;
        match &child.manifest {
            Some(manifest) => write_exactly(&manifest.bytes),
            None => Err(self.complaint(child)),
        }
    }

    fn print_configs(&self, children: &[Child]) -> Result<(), Error> {
        if self.platform.is_some() && self.output.output == OutputFormat::Table {
            let child = self.only_one(children)?;
            return match &child.config {
                Some((_, bytes)) => write_exactly(bytes),
                None => Err(self.complaint(child)),
            };
        }
        let mut configs = BTreeMap::new();
        for child in children.iter().filter(|child| child.is_image()) {
            let Some((_, bytes)) = &child.config else { return Err(self.complaint(child)) };
            configs.insert(child.platform_in_words(), serde_json::from_slice::<Value>(bytes)?);
        }
        let output =
            if self.output.output == OutputFormat::Table { OutputFormat::Json } else { self.output.output };
        output.print(&configs, |_| String::new())
    }

    /// The one image for the platform. Windows has several that differ in the version only.
    fn only_one<'a>(&self, children: &'a [Child]) -> Result<&'a Child, Error> {
        let images: Vec<&Child> = children.iter().filter(|child| child.is_image()).collect();
        match images[..] {
            [image] => Ok(image),
            _ => {
                let candidates: Vec<String> = images
                    .iter()
                    .map(|child| format!("{} ({})", child.descriptor.digest, child.platform_in_words()))
                    .collect();
                Err(Failure::usage(format!(
                    "{}: {} images: {}; name one of them by its digest",
                    self.reference,
                    images.len(),
                    candidates.join(", ")
                ))
                .into())
            }
        }
    }

    fn complaint(&self, child: &Child) -> Error {
        let messages: Vec<&str> = child.problems.iter().map(|problem| problem.message.as_str()).collect();
        let place = self.reference.repository().with_digest(&child.descriptor.digest);
        let exit = Exit::of_problems(&child.problems);
        Failure::new(exit, format!("{place}: {}", messages.join("; "))).into()
    }
}

/// The index with the entries for the platform alone, so that no others are read. None if no entry names it: then an
/// index within the index may have it, or an entry that names no platform.
fn narrowed(manifest: &Manifest, platform: &Platform) -> Option<Manifest> {
    let mut index = EditableIndex::read(&manifest.bytes).ok()?;
    index.keep(std::slice::from_ref(platform)).ok()?;
    index.write("the index", &manifest.descriptor.media_type).ok()
}

/// An index in the words that programs read. The names of the fields are stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InspectedIndex<'a> {
    reference: &'a Reference,
    digest: &'a Digest,
    media_type: &'a MediaType,
    size: u64,
    annotations: BTreeMap<String, String>,
    platforms: Vec<InspectedImage<'a>>,
    /// What is neither an image nor an attestation of one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    artifacts: Vec<InspectedArtifact<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InspectedImage<'a> {
    platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    os_features: &'a [String],
    digest: &'a Digest,
    media_type: &'a MediaType,
    size: u64,
    annotations: &'a BTreeMap<String, String>,
    /// The sum of the layers as they are in the registry, in bytes.
    compressed_size: u64,
    layers: &'a [Descriptor],
    #[serde(flatten)]
    config: ConfigSummary,
    attestations: Vec<InspectedAttestation<'a>>,
    /// The index within the index that lists it.
    #[serde(skip_serializing_if = "Option::is_none")]
    nested_in: Option<&'a Digest>,
    problems: &'a [Problem],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InspectedAttestation<'a> {
    digest: &'a Digest,
    predicate_types: Vec<&'a str>,
    problems: &'a [Problem],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InspectedArtifact<'a> {
    digest: &'a Digest,
    artifact_type: &'a str,
    size: u64,
    problems: &'a [Problem],
}

/// What people want to know of a config.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct ConfigSummary {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
}

impl ConfigSummary {
    /// Lenient: others wrote it, and nothing depends on it.
    fn read(bytes: &[u8]) -> Self {
        #[derive(Deserialize, Default)]
        struct Config {
            created: Option<String>,
            config: Option<Execution>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase")]
        struct Execution {
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
        }
        let config: Config = serde_json::from_slice(bytes).unwrap_or_default();
        let execution = config.config.unwrap_or_default();
        Self {
            created: config.created,
            entrypoint: execution.entrypoint.unwrap_or_default(),
            command: execution.cmd.unwrap_or_default(),
        }
    }
}

impl<'a> InspectedIndex<'a> {
    fn new(reference: &'a Reference, manifest: &'a Manifest, children: &'a [Child]) -> Self {
        let images: Vec<&Child> = children.iter().filter(|child| child.is_image()).collect();
        let belongs =
            |child: &Child| images.iter().any(|image| child.descriptor.attests(&image.descriptor.digest));
        let platforms = images.iter().map(|image| InspectedImage::new(image, children)).collect();
        let artifacts = children.iter().filter(|child| !child.is_image() && !belongs(child));
        Self {
            reference,
            digest: &manifest.descriptor.digest,
            media_type: &manifest.descriptor.media_type,
            size: manifest.descriptor.size,
            annotations: annotations(&manifest.bytes),
            platforms,
            artifacts: artifacts.map(InspectedArtifact::new).collect(),
        }
    }

    fn render(&self) -> String {
        let line = |name: &str, value: String| format!("{BOLD}{name:<13}{BOLD:#}{}\n", readable(&value));
        let mut text = line("Name:", self.reference.to_string());
        text += &line("Digest:", self.digest.to_string());
        text += &line("Media type:", self.media_type.as_str().to_owned());
        text += &line("Size:", HumanBytes(self.size).to_string());
        for (number, (key, value)) in self.annotations.iter().enumerate() {
            text += &line(if number == 0 { "Annotations:" } else { "" }, format!("{key}={value}"));
        }
        let mut images = Table::new([
            "PLATFORM",
            "DIGEST",
            "SIZE",
            "LAYERS",
            "CREATED",
            "ENTRYPOINT",
            "ATTESTATIONS",
            "PROBLEM",
        ]);
        self.platforms.iter().for_each(|image| images.row(image.cells()));
        text += &format!("\n{}", images.render());
        if !self.artifacts.is_empty() {
            let mut artifacts = Table::new(["ARTIFACT", "DIGEST", "SIZE", "PROBLEM"]);
            self.artifacts.iter().for_each(|artifact| artifacts.row(artifact.cells()));
            text += &format!("\n{}", artifacts.render());
        }
        text
    }
}

fn annotations(manifest: &[u8]) -> BTreeMap<String, String> {
    #[derive(Deserialize, Default)]
    struct Annotated {
        annotations: Option<BTreeMap<String, String>>,
    }
    serde_json::from_slice::<Annotated>(manifest).unwrap_or_default().annotations.unwrap_or_default()
}

impl<'a> InspectedImage<'a> {
    fn new(image: &'a Child, children: &'a [Child]) -> Self {
        let written = image.descriptor.platform.as_ref();
        let layers: &[Descriptor] = image.contents.as_ref().map_or(&[], |contents| &contents.layers);
        let attestations = children.iter().filter(|child| child.descriptor.attests(&image.descriptor.digest));
        Self {
            platform: image.platform().map_or_else(|| "unknown".to_owned(), |platform| platform.to_string()),
            os_version: written.and_then(|platform| platform.os_version.as_deref()),
            os_features: written.map_or(&[], |platform| &platform.os_features),
            digest: &image.descriptor.digest,
            media_type: &image.descriptor.media_type,
            size: image.descriptor.size,
            annotations: &image.descriptor.annotations,
            compressed_size: layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
            layers,
            config: image.config.as_ref().map(|(_, bytes)| ConfigSummary::read(bytes)).unwrap_or_default(),
            attestations: attestations.map(InspectedAttestation::new).collect(),
            nested_in: image.parent.as_ref(),
            problems: &image.problems,
        }
    }

    fn cells(&self) -> [Cell; 8] {
        let read = self.compressed_size > 0 || !self.layers.is_empty();
        let mut kinds: Vec<&str> =
            self.attestations.iter().flat_map(|a| &a.predicate_types).map(|kind| kind_of(kind)).collect();
        kinds.dedup();
        let version = self.os_version.iter().copied().chain(self.os_features.iter().map(String::as_str));
        let platform = version.fold(self.platform.clone(), |words, detail| format!("{words} {detail}"));
        let created = self.config.created.as_deref().unwrap_or_default();
        let program =
            if self.config.entrypoint.is_empty() { &self.config.command } else { &self.config.entrypoint };
        [
            platform.into(),
            self.digest.to_string().into(),
            if read { HumanBytes(self.compressed_size).to_string() } else { String::new() }.into(),
            if read { self.layers.len().to_string() } else { String::new() }.into(),
            created.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ").into(),
            shortened(&program.join(" ")).into(),
            kinds.join(", ").into(),
            self.complaints(),
        ]
    }

    /// What is wrong with the image, and with what was said about it.
    fn complaints(&self) -> Cell {
        let own = self.problems.iter().map(|problem| problem.message.clone());
        let of_others = self.attestations.iter().flat_map(|attestation| {
            let told = |problem: &Problem| format!("attestation {}: {}", attestation.digest, problem.message);
            attestation.problems.iter().map(told)
        });
        Cell::styled(own.chain(of_others).collect::<Vec<_>>().join("; "), RED)
    }
}

impl<'a> InspectedAttestation<'a> {
    fn new(child: &'a Child) -> Self {
        let layers = child.contents.iter().flat_map(|contents| &contents.layers);
        let predicate_types =
            layers.filter_map(|layer| layer.annotations.get(PREDICATE_TYPE)).map(String::as_str).collect();
        Self { digest: &child.descriptor.digest, predicate_types, problems: &child.problems }
    }
}

impl<'a> InspectedArtifact<'a> {
    fn new(child: &'a Child) -> Self {
        Self {
            digest: &child.descriptor.digest,
            artifact_type: artifact_type(child),
            size: child.descriptor.size,
            problems: &child.problems,
        }
    }

    fn cells(&self) -> [Cell; 4] {
        let problems: Vec<&str> = self.problems.iter().map(|problem| problem.message.as_str()).collect();
        [
            self.artifact_type.into(),
            self.digest.to_string().into(),
            HumanBytes(self.size).to_string().into(),
            Cell::styled(problems.join("; "), RED),
        ]
    }
}

/// The predicate types that BuildKit and its neighbours write, in the words of their users.
fn kind_of(predicate_type: &str) -> &str {
    match predicate_type {
        kind if kind.contains("slsa.dev/provenance") => "provenance",
        kind if kind.contains("spdx.dev/") || kind.contains("cyclonedx.org/") => "SBOM",
        other => other,
    }
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 32;
    match text.chars().count() {
        0..=LONGEST => text.to_owned(),
        _ => text.chars().take(LONGEST - 1).chain(['…']).collect(),
    }
}
