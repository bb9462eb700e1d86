//! `multiarch index create`: an index of images that exist.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use futures::future::try_join_all;

use super::Context;
use super::publish::{Published, print_composed};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, progress, reference};
use crate::image::{
    Composition, DescriptorEdits, Format, Index, PlatformCheck, Publication, Source, TagPolicy, Tags, Target,
    by_repository, compose, publish_composition,
};
use crate::platform::Platform;
use crate::registry::{Digest, Kind, Reference, Repository, Session};

/// What the index is made of, and where it goes.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where it is published: `registry/repository:tag`, as many as are wanted. All get the same digest.
    #[arg(value_name = "TARGET", required = true, value_parser = reference::target)]
    targets: Vec<Reference>,
    /// An image of the index, in this order; of an index, all its images or the one for the platform.
    ///
    /// REF[,platform=linux/arm64][,os.version=…][,os.features=a+b][,annotation.KEY=VALUE]…; a field with a comma in
    /// it is put in double quotes.
    #[arg(short, long = "image", value_name = "REF[,platform=…]", required = true)]
    images: Vec<ImageArgument>,
    /// An annotation of the index; may be given more than once.
    #[arg(short, long = "annotation", value_name = "KEY=VALUE", value_parser = reference::annotation)]
    annotations: Vec<(Arc<str>, Arc<str>)>,
    /// The format of the index; without it, Docker's only if every image is Docker's own.
    #[arg(long, value_enum)]
    format: Option<FormatArgument>,
    /// What happens to a tag that has something else.
    #[arg(long, value_enum, default_value_t = TagPolicyArgument::Overwrite)]
    tag_policy: TagPolicyArgument,
    /// What happens to an image whose config names another platform.
    #[arg(long, value_enum, default_value_t = VerifyArgument::Enforce)]
    verify_platform: VerifyArgument,
    /// The same as --verify-platform off.
    #[arg(long, conflicts_with = "verify_platform")]
    no_verify_platform: bool,
    /// Start from what the first TARGET has now; images for the same platform are replaced.
    #[arg(long)]
    amend: bool,
    /// Write nothing and print the index that would be published; with --output json, its exact bytes.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    pub(super) registry: RegistryArguments,
}

impl Arguments {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Error> {
        let mut composition = self.composition(self.targets());
        let session = self.registry.session(&context.client, &composition.repositories()).await?;
        let session = session.observed_by(progress::observer(context.quiet));
        if self.amend {
            self.keep_what_is_there(&session, &mut composition).await?;
        }
        if self.dry_run {
            let composed = compose(&session, &composition).await?;
            return print_composed(context, &composed, &self.targets, self.output.output);
        }
        let publication = if self.amend {
            self.publish_amended(&session, composition).await?
        } else {
            publish_composition(&session, &composition).await?
        };
        Published::from(publication).print(context, self.output.output)
    }

    fn targets(&self) -> Vec<Target> {
        let target = |(repository, tags): (&Repository, Vec<&str>)| Target {
            repository: repository.clone(),
            tags: tags.into_iter().map(str::to_owned).collect(),
        };
        by_repository(&self.targets).into_iter().map(target).collect()
    }

    fn composition(&self, targets: Vec<Target>) -> Composition {
        let check = if self.no_verify_platform { PlatformCheck::Off } else { self.verify_platform.into() };
        let annotations = self.annotations.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        Composition {
            base: None,
            sources: self.images.iter().map(ImageArgument::source).collect(),
            format: self.format.map(Format::from),
            annotations: annotations.collect(),
            check,
            targets,
            policy: match self.tag_policy {
                TagPolicyArgument::Overwrite => TagPolicy::Overwrite,
                TagPolicyArgument::IfAbsent => TagPolicy::IfAbsent,
            },
        }
    }

    /// Publishes what was made of what the first target had, unless it has something else by now: somebody else may be
    /// amending it too. Everything is brought by digest before the tags are looked at, and they are written at once
    /// after that, as no registry can do both in one step.
    async fn publish_amended(
        &self,
        session: &Session,
        mut composition: Composition,
    ) -> Result<Publication, Error> {
        let base = composition.base.as_ref().and_then(Reference::digest).cloned();
        let targets = composition.targets.clone();
        composition.targets.iter_mut().for_each(|target| target.tags.clear());
        let mut publication = publish_composition(session, &composition).await?;
        let index = &publication.composed.index;
        let tags = targets.iter().map(|target| Tags::read(session, &target.repository, &target.tags));
        let tags = try_join_all(tags).await?;
        for tags in &tags {
            tags.check(composition.policy, &index.descriptor.digest)?;
        }
        if let (Some(first), Some(held)) = (self.targets.first(), tags.first()) {
            check_unmoved(first, base.as_ref(), held.held_by(first))?;
        }
        let mut changes = Vec::new();
        for tags in tags {
            changes.extend(tags.write(session, index).await?);
        }
        publication.tags = changes;
        Ok(publication)
    }

    /// Begins with what the first target has now, annotations included. Pinned: it may move meanwhile.
    async fn keep_what_is_there(
        &self,
        session: &Session,
        composition: &mut Composition,
    ) -> Result<(), Error> {
        let Some(target) = self.targets.first() else { return Ok(()) };
        let found = match session.without_mirrors().get_manifest(target).await {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if found.descriptor.media_type.is_index() {
            let index: Index = serde_json::from_slice(&found.bytes)?;
            for (key, value) in index.annotations {
                composition.annotations.entry(key).or_insert(value);
            }
        }
        composition.base = Some(target.repository().with_digest(&found.descriptor.digest));
        Ok(())
    }
}

/// Nobody's work is overwritten unseen.
fn check_unmoved(tag: &Reference, was: Option<&Digest>, now: Option<&Digest>) -> Result<(), Error> {
    let message = match (was, now) {
        _ if was == now => return Ok(()),
        (Some(was), Some(now)) => format!("{tag} is {now} by now, and was {was}"),
        (None, Some(now)) => format!("{tag} is {now} by now, and was not there"),
        (_, None) => format!("{tag} is gone by now"),
    };
    Err(Failure::new(Exit::Conflict, format!("{message}; no tag was changed, amend it again")).into())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArgument {
    Oci,
    Docker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TagPolicyArgument {
    /// It is moved.
    Overwrite,
    /// It stays, and the command fails.
    IfAbsent,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VerifyArgument {
    /// It is refused.
    Enforce,
    /// It is taken, with a warning.
    Warn,
    /// It is taken.
    Off,
}

/// The fields of `--image`.
#[derive(Debug, Clone, PartialEq)]
struct ImageArgument {
    reference: Reference,
    platform: Option<Platform>,
    os_version: Option<String>,
    os_features: Option<Vec<String>>,
    annotations: BTreeMap<String, String>,
}

impl FromStr for ImageArgument {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut fields = reference::fields(text)?.into_iter();
        let mut image = Self {
            reference: reference::source(&fields.next().unwrap_or_default())?,
            platform: None,
            os_version: None,
            os_features: None,
            annotations: BTreeMap::new(),
        };
        for field in fields {
            image.set(&field)?;
        }
        Ok(image)
    }
}

impl ImageArgument {
    fn set(&mut self, field: &str) -> Result<(), Error> {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{field:?} is no key=value; {}", Self::KEYS)))?;
        match key {
            "platform" => self.platform = Some(value.parse()?),
            "os.version" => self.os_version = Some(value.to_owned()),
            "os.features" => self.os_features = Some(value.split('+').map(str::to_owned).collect()),
            _ => match key.strip_prefix("annotation.") {
                Some(key) if !key.is_empty() => {
                    self.annotations.insert(key.to_owned(), value.to_owned());
                }
                _ => {
                    return Err(
                        Failure::usage(format!("{key:?} is no field of an image; {}", Self::KEYS)).into()
                    );
                }
            },
        }
        Ok(())
    }

    fn source(&self) -> Source {
        Source {
            reference: self.reference.clone(),
            platform: self.platform.clone(),
            edits: DescriptorEdits {
                variant: None,
                os_version: self.os_version.clone(),
                os_features: self.os_features.clone(),
                annotations: self.annotations.clone(),
            },
        }
    }

    const KEYS: &str = "known are platform, os.version, os.features and annotation.KEY";
}

impl From<FormatArgument> for Format {
    fn from(format: FormatArgument) -> Self {
        match format {
            FormatArgument::Oci => Self::Oci,
            FormatArgument::Docker => Self::Docker,
        }
    }
}

impl From<VerifyArgument> for PlatformCheck {
    fn from(verify: VerifyArgument) -> Self {
        match verify {
            VerifyArgument::Enforce => Self::Enforce,
            VerifyArgument::Warn => Self::Warn,
            VerifyArgument::Off => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<ImageArgument>().unwrap_err().to_string()
    }

    #[test]
    fn an_image_is_a_reference_and_fields() {
        let image: ImageArgument =
            r#"a.io/web:1,platform=windows/amd64,os.version=10.0.17763.1,os.features=win32k+x,annotation.a.b=c=d,"annotation.e=f,g""#
                .parse()
                .unwrap();
        assert_eq!(image.reference.to_string(), "a.io/web:1");
        assert_eq!(image.platform.unwrap().to_string(), "windows/amd64");
        assert_eq!(image.os_version.as_deref(), Some("10.0.17763.1"));
        assert_eq!(image.os_features.unwrap(), ["win32k", "x"]);
        let annotations = [("a.b", "c=d"), ("e", "f,g")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(image.annotations, BTreeMap::from(annotations));
    }

    #[test]
    fn what_is_mistyped_is_named() {
        assert!(refusal("web:1,platform=linux/amd46").contains("did you mean amd64?"));
        assert!(
            refusal("web:1,plaform=linux/amd64")
                .contains(r#""plaform" is no field of an image; known are platform"#)
        );
        assert!(refusal("web:1,linux/amd64").contains("is no key=value"));
        assert!(refusal("docker://web:1").contains("without docker://"));
        assert!(refusal("web:1,annotation.=x").contains("known are"));
    }
}
