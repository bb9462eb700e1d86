//! `multiarch render`: what the operator would build, shown without a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Error;
use super::builder::BuilderArguments;
use super::exit::{Exit, Failure};
use super::output::write;
use super::{file, progress, resource};
use crate::api::{self, BuildContext, MultiArchImage, PlatformSource};
use crate::build::{self, BuildRequest, BuilderSettings, PinnedContext};
use crate::platform::Platform;

/// Stands for the UID that only the cluster gives.
const NO_UID: &str = "00000000-0000-0000-0000-000000000000";

/// What to render.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A file with MultiArchImages; `-` is standard input.
    #[arg(value_name = "FILE", required_unless_present = "named")]
    file: Option<PathBuf>,
    /// The same, as kubectl has it.
    #[arg(short = 'f', long = "filename", value_name = "FILE", id = "named", conflicts_with = "file")]
    named: Option<PathBuf>,
    /// Print what each platform is made from instead of the Jobs: its image, or spec.build with what differs for it.
    #[arg(long)]
    sources: bool,
    /// Print the Jobs, which is what is printed unless `--sources` is given.
    #[arg(long, conflicts_with = "sources")]
    jobs: bool,
    /// Only this platform; may be given more than once.
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
    #[command(flatten)]
    builder: BuilderArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One document after the other.
    Yaml,
    /// One list.
    Json,
}

/// Prints what would be built.
///
/// # Errors
/// When the file cannot be read, something in it would be refused, or it has none of the platforms that were named.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let builder = arguments.builder.read()?;
    let path = arguments.file.iter().chain(&arguments.named).next();
    let path = path.ok_or_else(|| Failure::usage("name a file; `-` is standard input"))?;
    let (name, text) = file::read(path)?;
    let images = resource::read_all(&name, &text)?;
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for image in &images {
        for entry in &image.spec.platforms {
            let platform: Platform = entry.platform.parse()?;
            if !arguments.platforms.is_empty() && !arguments.platforms.contains(&platform) {
                continue;
            }
            let rendered = Rendered { image, entry, platform };
            found.extend(match arguments.sources {
                true => Some(rendered.source()?),
                false => rendered.job(&builder.settings, &mut unknown)?,
            });
        }
    }
    if found.is_empty() {
        let what = match arguments.sources {
            true => "no such platform",
            false => "nothing is built of it; --sources shows where its platforms come from",
        };
        return Err(Failure::new(Exit::NotFound, format!("{name}: {what}")).into());
    }
    unknown.dedup();
    for what in unknown {
        progress::say(&format!("{name}: {what}"));
    }
    match arguments.output {
        Format::Yaml => {
            let documents: Result<Vec<String>, _> = found.iter().map(serde_saphyr::to_string).collect();
            write(documents?.join("---\n").as_bytes())
        }
        Format::Json if !arguments.sources => {
            print_json(&json!({"apiVersion": "v1", "kind": "List", "items": found}))
        }
        Format::Json => print_json(&Value::Array(found)),
    }
}

fn print_json(value: &Value) -> Result<(), Error> {
    write((serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// One platform of an image.
struct Rendered<'a> {
    image: &'a MultiArchImage,
    entry: &'a PlatformSource,
    platform: Platform,
}

impl Rendered<'_> {
    fn name(&self) -> &str {
        self.image.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.image.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// `spec.build` with what differs for the platform; nothing of it where the platform has an image.
    fn merged(&self) -> Option<api::Build> {
        let build = self.image.spec.build.as_ref().filter(|_| self.entry.image.is_none())?;
        Some(build::for_platform(build, self.entry.build.as_ref()))
    }

    fn source(&self) -> Result<Value, Error> {
        let mut rendered = json!({"name": self.name(), "platform": self.platform.to_string()});
        if let Some(namespace) = &self.image.metadata.namespace {
            rendered["namespace"] = json!(namespace);
        }
        match (&self.entry.image, self.merged()) {
            (Some(image), _) => rendered["image"] = json!(image),
            (None, Some(build)) => rendered["build"] = serde_json::to_value(build)?,
            (None, None) => return Err(self.neither().into()),
        }
        Ok(rendered)
    }

    /// The Job, and in `unknown` what only the cluster knows of it. Nothing where the platform has an image.
    fn job(&self, settings: &BuilderSettings, unknown: &mut Vec<String>) -> Result<Option<Value>, Error> {
        if self.entry.image.is_some() {
            return Ok(None);
        }
        let build = self.merged().ok_or_else(|| self.neither())?;
        let metadata = &self.image.metadata;
        let uid = metadata.uid.as_deref().unwrap_or(NO_UID);
        if metadata.uid.is_none() {
            unknown.push(format!(
                "{}: without metadata.uid, which the cluster gives, the Job's name ends in other digits",
                self.name()
            ));
        }
        let mut owner = MultiArchImage::new(self.name(), self.image.spec.clone());
        owner.metadata.uid = Some(uid.to_owned());
        let owner = api::owner_reference(&owner).unwrap_or_default();
        let revision = self.image.status.as_ref().and_then(|status| status.source_revision.as_deref());
        let (context, looked_up) = placeholder(&build.context, &build.dockerfile, revision)
            .ok_or_else(|| Failure::usage(format!("{}: spec.build.context is empty", self.name())))?;
        unknown.extend(looked_up.map(|what| {
            format!("{}: {what} is looked up by the operator; a placeholder in <> stands for it", self.name())
        }));
        let reconcile = self.image.reconcile_request();
        let request = BuildRequest {
            namespace: self.namespace(),
            image_name: self.name(),
            image_uid: uid,
            platform: &self.platform,
            build: &build,
            emulated: false,
            context: &context,
            repository: &self.image.spec.target.repository,
            registry_secrets: &self.image.spec.registry_secrets,
            rebuild: self.image.rebuild_request(),
            reconcile: reconcile.as_deref(),
            previous: None,
        };
        let name = request.job_name();
        let credentials = (!request.registry_secrets.is_empty()).then_some(name.as_str());
        let mut job = serde_json::to_value(build::job(&request, settings, credentials, owner))?;
        // Where kubectl or the operator is told the namespace, the file need not.
        if metadata.namespace.is_none() {
            job["metadata"].as_object_mut().map(|metadata| metadata.remove("namespace"));
        }
        Ok(Some(job))
    }

    fn neither(&self) -> Failure {
        Failure::usage(format!("{}: {} has no image, and spec.build is missing", self.name(), self.platform))
    }
}

/// The context as far as the file tells it, and what has to be looked up. `revision` is the commit of the status.
fn placeholder(
    context: &BuildContext,
    dockerfile: &str,
    revision: Option<&str>,
) -> Option<(PinnedContext, Option<String>)> {
    if let Some(git) = &context.git {
        let known = git.commit.as_deref().or(revision);
        let what = format!("commit of {}", git.r#ref.as_deref().unwrap_or("HEAD"));
        let pinned = PinnedContext::Git {
            url: git.url.clone(),
            commit: known.map_or_else(|| format!("<{what}>"), str::to_owned),
            sub_path: git.sub_path.clone(),
            secret: git.secret_ref.as_ref().map(|secret| secret.name.clone()),
        };
        return Some((pinned, known.is_none().then(|| format!("the {what}"))));
    }
    if let Some(http) = &context.http {
        return Some((PinnedContext::Http { url: http.url.clone(), sha256: http.sha256.clone() }, None));
    }
    if let Some(oci) = &context.oci {
        let (repository, digest) = match oci.image.split_once('@') {
            Some((name, digest)) => (name.to_owned(), digest.to_owned()),
            None => (oci.image.clone(), format!("<digest of {}>", oci.image)),
        };
        let what = format!("what {} is", oci.image);
        return Some((PinnedContext::Oci { repository, digest, archive: None }, Some(what)));
    }
    if let Some(config_map) = &context.config_map {
        let what = format!("content of configmap/{}", config_map.name);
        let files = [(dockerfile.to_owned(), format!("<{what}>"))].into();
        let pinned = PinnedContext::ConfigMap { name: config_map.name.clone(), files };
        return Some((pinned, Some(format!("the {what}"))));
    }
    let inline = context.inline.as_ref()?;
    Some((PinnedContext::Inline { dockerfile: inline.dockerfile.clone() }, None))
}
