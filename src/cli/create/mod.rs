//! `multiarch create`: a `MultiArchImage` of what one would have typed after `docker buildx build`.

mod argument;
mod build;
mod tree;

use clap::{Args, ValueEnum};

use self::argument::{Image, Tag, WhenNoNode};
use self::build::BuildArguments;
use self::tree::{Map, Tree};
use super::exit::Failure;
use super::output::write;
use super::registry::RegistryArguments;
use super::{Error, cluster, document, lint, progress, resource};
use crate::image::inspect::{read_children, read_configs};
use crate::platform::Platform;

/// What the image is made of, and where it goes.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The name of the MultiArchImage.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its namespace; the one it is applied to unless given.
    #[arg(short, long, value_name = "NAME", value_parser = cluster::namespace_name)]
    namespace: Option<String>,
    /// Where the image is published, without tag: registry.example.com/team-a/web
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    /// A tag, or as in buildx REPOSITORY:TAG; may be given more than once.
    #[arg(short, long = "tag", value_name = "TAG", required = true, value_parser = argument::tag)]
    tags: Vec<Tag>,
    /// The platforms; those without an image are built.
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// An image that exists: linux/s390x=REF, or an index REF for all platforms, or for those of --platform.
    #[arg(short, long = "image", value_name = "[PLATFORM=]REF", value_parser = argument::image)]
    images: Vec<Image>,
    /// What is done while no node can build a platform, or any of them: Wait, Emulate, Fail, Skip.
    #[arg(long, value_name = "[PLATFORM=]POLICY", value_parser = argument::when_no_node)]
    when_no_node: Vec<WhenNoNode>,
    /// An annotation of the index; may be given more than once.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = argument::pair)]
    annotations: Vec<(String, String)>,
    /// The format of the index; without it, Docker's only if every image is Docker's own.
    #[arg(long, value_enum, ignore_case = true)]
    format: Option<Format>,
    /// What happens to a tag that has something else.
    #[arg(long, value_enum, default_value_t = TagPolicy::Overwrite)]
    tag_policy: TagPolicy,
    /// A Secret of type kubernetes.io/dockerconfigjson; may be given more than once.
    #[arg(long = "registry-secret", value_name = "NAME")]
    registry_secrets: Vec<String>,
    #[command(flatten)]
    build: BuildArguments,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Oci,
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TagPolicy {
    /// It is moved.
    Overwrite,
    /// It is never moved; nothing is published.
    IfAbsent,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// To be kept in git.
    Yaml,
    /// For programs.
    Json,
}

/// One platform, and what is known of it.
struct Entry {
    platform: Platform,
    image: Option<String>,
    policy: Option<String>,
}

/// Prints the resource, and on standard error what is unwise about it.
///
/// # Errors
/// When the API server would refuse it, or it does not say what is to be built from what.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let entries = arguments.entries()?;
    let resource = arguments.resource(&entries)?;
    let yaml = serde_saphyr::to_string(&resource)?;
    // What is printed is what was checked.
    let images = resource::read_all("what would be created", &yaml)?;
    for (image, document) in images.iter().zip(document::read(&yaml)?) {
        for advice in lint::advice(image, &document.value) {
            progress::say(&format!("warning: {advice}"));
        }
    }
    match arguments.output {
        Output::Yaml => write(yaml.as_bytes()),
        Output::Json => write((serde_json::to_string_pretty(&resource)? + "\n").as_bytes()),
    }
}

impl Arguments {
    fn resource(&self, entries: &[Entry]) -> Result<Map, Error> {
        let namespace = self.namespace.as_ref().filter(|name| !name.is_empty());
        let metadata = Map::default().with("name", &self.name).with_given("namespace", namespace);
        let spec = Map::default()
            .with("target", self.target()?)
            .with("platforms", entries.iter().map(Entry::tree).collect::<Vec<_>>())
            .with("build", self.build.tree()?)
            .with("registrySecrets", named(&self.registry_secrets));
        Ok(Map::default()
            .with("apiVersion", resource::API_VERSION)
            .with("kind", resource::KIND)
            .with("metadata", metadata)
            .with("spec", spec))
    }

    fn target(&self) -> Result<Map, Failure> {
        let mut repositories: Vec<&String> = self
            .repository
            .iter()
            .chain(self.tags.iter().filter_map(|tag| tag.repository.as_ref()))
            .collect();
        repositories.dedup();
        let repository = match repositories.as_slice() {
            [repository] => repository,
            [] => {
                return Err(Failure::usage(
                    "say where it goes: --repository REPOSITORY, or --tag REPOSITORY:TAG",
                ));
            }
            [one, other, ..] => {
                return Err(Failure::usage(format!(
                    "one MultiArchImage publishes to one repository; {one} and {other} are two"
                )));
            }
        };
        let format = self.format.map(|format| match format {
            Format::Oci => "OCI",
            Format::Docker => "Docker",
        });
        let policy = (self.tag_policy == TagPolicy::IfAbsent).then_some("IfAbsent");
        Ok(Map::default()
            .with("repository", *repository)
            .with("tags", self.tags.iter().map(|tag| &tag.tag).collect::<Vec<_>>())
            .with_given("format", format)
            .with("annotations", self.annotations.as_slice())
            .with_given("tagPolicy", policy))
    }

    /// The platforms, in the order in which they were named.
    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for platform in &self.platforms {
            entry(&mut entries, platform);
        }
        for image in &self.images {
            let Some(platform) = &image.platform else { continue };
            if let Some(other) = entry(&mut entries, platform).image.replace(image.text.clone()) {
                let message =
                    format!("--image: {platform} has one image; {other} and {} are two", image.text);
                return Err(Failure::usage(message).into());
            }
        }
        for image in self.images.iter().filter(|image| image.platform.is_none()) {
            if self.platforms.is_empty() {
                for platform in self.platforms_of(image)? {
                    entry(&mut entries, &platform).image.get_or_insert_with(|| image.text.clone());
                }
            }
            for entry in &mut entries {
                entry.image.get_or_insert_with(|| image.text.clone());
            }
        }
        self.check(&entries)?;
        for WhenNoNode { platform, policy } in &self.when_no_node {
            let meant =
                |entry: &&mut Entry| platform.as_ref().is_none_or(|platform| *platform == entry.platform);
            let mut is_used = false;
            for entry in entries.iter_mut().filter(|entry| entry.image.is_none()).filter(meant) {
                entry.policy = Some(policy.clone()).filter(|policy| policy != "Wait");
                is_used = true;
            }
            if !is_used {
                return Err(unused_policy(platform.as_ref(), &entries).into());
            }
        }
        Ok(entries)
    }

    fn check(&self, entries: &[Entry]) -> Result<(), Failure> {
        let built = entries.iter().find(|entry| entry.image.is_none());
        match (entries, built, self.build.has_context()) {
            ([], _, _) => Err(Failure::usage(
                "name the platforms: --platform linux/amd64,linux/arm64, or --image with the image they have",
            )),
            (_, Some(entry), false) => Err(Failure::usage(format!(
                "{0} is to be built, and nothing says from what: give --git URL, --dockerfile FILE, --http URL, --oci IMAGE or \
                 --config-map NAME, or the image it has by --image {0}=REF",
                entry.platform
            ))),
            (_, None, true) => Err(Failure::usage(
                "every platform has an image, so nothing is built; leave out what is to be built, or name the platforms that are \
                 built by --platform",
            )),
            _ => Ok(()),
        }
    }

    /// The platforms of an index, which its registry knows.
    fn platforms_of(&self, image: &Image) -> Result<Vec<Platform>, Error> {
        let mut platforms = Vec::new();
        cluster::run(async {
            let client = self.registry.client()?;
            let session = self.registry.session(&client, &[image.reference.repository()]).await?;
            let manifest = session.get_manifest(&image.reference).await?;
            let children = read_children(&session, &image.reference, &manifest).await?;
            let children = read_configs(&session, image.reference.repository(), children).await?;
            platforms = children
                .iter()
                .filter(|child| child.is_image())
                .filter_map(|child| child.platform())
                .collect();
            Ok(())
        })?;
        Ok(platforms)
    }
}

/// Why `--when-no-node` says nothing about any platform.
fn unused_policy(platform: Option<&Platform>, entries: &[Entry]) -> Failure {
    Failure::usage(match platform {
        Some(platform) if entries.iter().any(|entry| entry.platform == *platform) => {
            format!(
                "--when-no-node: {platform} has an image, so no node has to build it; leave one of the two out"
            )
        }
        Some(platform) => {
            format!("--when-no-node: {platform} is none of the platforms; name it by --platform too")
        }
        None => "--when-no-node: every platform has an image, so no node has to build one; leave it out"
            .to_owned(),
    })
}

/// The entry of a platform; a new one at the end if there is none.
fn entry<'a>(entries: &'a mut Vec<Entry>, platform: &Platform) -> &'a mut Entry {
    let number = entries.iter().position(|entry| entry.platform == *platform).unwrap_or_else(|| {
        entries.push(Entry { platform: platform.clone(), image: None, policy: None });
        entries.len() - 1
    });
    &mut entries[number]
}

impl Entry {
    fn tree(&self) -> Tree {
        Map::default()
            .with("platform", self.platform.to_string())
            .with_given("image", self.image.as_ref())
            .with_given("whenNoNode", self.policy.as_ref())
            .into()
    }
}

/// `[{name: …}]`
fn named(names: &[String]) -> Vec<Map> {
    names.iter().map(|name| Map::default().with("name", name)).collect()
}
