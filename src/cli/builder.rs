//! How builds are run: the settings that the operator and `multiarch render` share.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Error;
use crate::build::{BuilderSettings, buildkit_registries};
use crate::registry::{RegistrySettings, read_limited};

/// How builds are run, and how registries are reached.
#[derive(Args, Debug)]
pub struct BuilderArguments {
    /// The image that builds run in, of the shape of moby/buildkit:*-rootless.
    #[arg(long, env = "MULTIARCH_BUILDER_IMAGE", default_value = BuilderSettings::IMAGE)]
    builder_image: String,
    /// A file of build settings (YAML): security profile, limits, what is particular to namespaces.
    #[arg(long, env = "MULTIARCH_BUILDS", value_name = "FILE")]
    builds: Option<PathBuf>,
    /// A file of registry settings (YAML): plain HTTP, certificates, mirrors, limits.
    #[arg(long, env = "MULTIARCH_REGISTRIES", value_name = "FILE")]
    registries: Option<PathBuf>,
    /// A registry (host or host:port) that speaks plain HTTP; may be given more than once.
    #[arg(long = "plain-http", env = "MULTIARCH_PLAIN_HTTP", value_delimiter = ',', value_name = "HOST")]
    pub plain_http: Vec<String>,
}

/// What the arguments and the files that they name say.
pub struct Builder {
    /// How builds are run.
    pub settings: BuilderSettings,
    /// How registries are reached.
    pub registries: Vec<RegistrySettings>,
    /// What builds do not know of registries, for people.
    pub warnings: Vec<String>,
}

impl BuilderArguments {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them, or a file of certificates that is named there, cannot be used.
    pub fn read(&self) -> Result<Builder, Error> {
        // An empty MULTIARCH_BUILDS is none.
        let file = self.builds.as_deref().filter(|file| !file.as_os_str().is_empty());
        let settings = file.map(BuilderSettings::read_file).transpose()?.unwrap_or_default();
        let registries = super::registry::settings(self.registries.as_deref())?;
        let (buildkit_registries, warnings) =
            buildkit_registries(&registries, &self.plain_http, read_certificates)?;
        let image = self.builder_image.clone();
        let settings = BuilderSettings { image, buildkit_registries, ..settings };
        Ok(Builder { settings, registries, warnings })
    }
}

fn read_certificates(path: &Path) -> Result<String, String> {
    String::from_utf8(read_limited(path)?).map_err(|_| "not text, so not PEM".to_owned())
}
