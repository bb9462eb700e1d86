//! `multiarch index create`: an index of images that exist.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::Context;
use crate::cli::exit::Failure;
use crate::cli::output::OutputArguments;
use crate::cli::registry::RegistryArguments;
use crate::cli::{Error, reference};
use crate::image::{Format, PlatformCheck};
use crate::platform::Platform;
use crate::registry::Reference;

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
                _ => return Err(Failure::usage(format!("{key:?} is no field of an image; {}", Self::KEYS)).into()),
            },
        }
        Ok(())
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
