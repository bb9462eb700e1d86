//! How the platforms without an image are built.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::argument::{self, Cache, Git, Provenance, Secret};
use super::tree::Map;
use crate::cli::exit::Failure;
use crate::cli::file;

/// What is built, and how.
#[derive(Args, Debug)]
#[command(next_help_heading = "Build", group = ArgGroup::new("context").multiple(false))]
pub(super) struct BuildArguments {
    /// A git repository; as in buildx, URL#REF:FOLDER is possible.
    #[arg(long, value_name = "URL", group = "context", value_parser = argument::git)]
    git: Option<Git>,
    /// The branch, tag or full ref name to build.
    #[arg(long, value_name = "REF", requires = "git")]
    r#ref: Option<String>,
    /// The full commit to build.
    #[arg(long, value_name = "COMMIT", requires = "git")]
    commit: Option<String>,
    /// The folder of the repository that is the context.
    #[arg(long, value_name = "FOLDER", requires = "git")]
    sub_path: Option<String>,
    /// A Secret with the credentials of the git server.
    #[arg(long, value_name = "NAME", requires = "git")]
    git_secret: Option<String>,
    /// A Dockerfile of this machine, which is written into the resource; `-` is standard input.
    #[arg(long, value_name = "FILE", group = "context")]
    dockerfile: Option<PathBuf>,
    /// The address of a tar archive.
    #[arg(long, value_name = "URL", group = "context", requires = "sha256")]
    http: Option<String>,
    /// The checksum of the archive.
    #[arg(long, value_name = "DIGITS", requires = "http")]
    sha256: Option<String>,
    /// An image or artifact whose files are the context.
    #[arg(long, value_name = "IMAGE", group = "context")]
    oci: Option<String>,
    /// A ConfigMap whose keys are the files of the context.
    #[arg(long, value_name = "NAME", group = "context")]
    config_map: Option<String>,
    /// The path of the Dockerfile within the context.
    #[arg(short, long, value_name = "PATH", requires = "context", conflicts_with = "dockerfile")]
    file: Option<String>,
    /// The stage to build.
    #[arg(long, value_name = "STAGE", requires = "context")]
    target: Option<String>,
    /// A build argument; a name alone takes its value from the environment. May be given more than once.
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", requires = "context", value_parser = argument::build_argument)]
    args: Vec<(String, String)>,
    /// A further context: docker-image://…, https://….git#COMMIT; may be given more than once.
    #[arg(long = "build-context", value_name = "NAME=ADDRESS", requires = "context", value_parser = argument::pair)]
    contexts: Vec<(String, String)>,
    /// A secret for RUN --mount=type=secret: a key of a Secret of the namespace. May be given more than once.
    #[arg(long = "secret", value_name = "id=ID,secret=NAME[,key=KEY]", requires = "context", value_parser = argument::secret)]
    secrets: Vec<Secret>,
    /// A Secret with the key for RUN --mount=type=ssh.
    #[arg(long, value_name = "NAME", requires = "context")]
    ssh: Option<String>,
    /// A label of the image; may be given more than once.
    #[arg(long = "label", value_name = "KEY=VALUE", requires = "context", value_parser = argument::pair)]
    labels: Vec<(String, String)>,
    /// What the image was built from and how: off, min, max.
    #[arg(long, value_name = "MODE", value_enum, hide_possible_values = true, requires = "context")]
    provenance: Option<Provenance>,
    /// A list of the software in the image.
    #[arg(long, requires = "context", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    sbom: bool,
    /// Where a build's cache is kept: type=registry[,ref=REPOSITORY][,mode=min], type=inline, type=volume,size=20Gi
    #[arg(long, value_name = "CACHE", requires = "context", value_parser = argument::cache)]
    cache_to: Option<Cache>,
    /// A cache of others, which is read and never written; may be given more than once.
    #[arg(long, value_name = "REF", requires = "context", value_parser = argument::cache_from)]
    cache_from: Vec<String>,
    /// How long a build may take: 45m.
    #[arg(long, value_name = "DURATION", requires = "context")]
    timeout: Option<String>,
    /// How long to wait for a node before --when-no-node applies.
    #[arg(long, value_name = "DURATION", requires = "context")]
    scheduling_timeout: Option<String>,
}

impl BuildArguments {
    /// Whether anything says from what is built.
    pub(super) fn has_context(&self) -> bool {
        self.git.is_some()
            || self.dockerfile.is_some()
            || self.http.is_some()
            || self.oci.is_some()
            || self.config_map.is_some()
    }

    /// `spec.build`; empty where nothing is built.
    pub(super) fn tree(&self) -> Result<Map, Failure> {
        if !self.has_context() {
            return Ok(Map::default());
        }
        let provenance = match self.provenance {
            None | Some(Provenance::Off) => None,
            Some(Provenance::Min) => Some("Min"),
            Some(Provenance::Max) => Some("Max"),
        };
        let attestations = Map::default().with_given("provenance", provenance).with("sbom", self.sbom);
        let cache = self.cache_to.clone().unwrap_or_default().tree(&self.cache_from);
        Ok(Map::default()
            .with("context", self.context()?)
            .with_given("dockerfile", self.file.as_ref().filter(|path| *path != "Dockerfile"))
            .with_given("target", self.target.as_ref())
            .with("args", self.args.as_slice())
            .with("contexts", self.contexts.as_slice())
            .with("secrets", self.secrets.iter().map(Secret::tree).collect::<Vec<_>>())
            .with("ssh", secret_ref(self.ssh.as_ref()))
            .with("labels", self.labels.as_slice())
            .with("attestations", attestations)
            .with("cache", cache)
            .with_given("timeout", self.timeout.as_ref())
            .with_given("schedulingTimeout", self.scheduling_timeout.as_ref()))
    }

    fn context(&self) -> Result<Map, Failure> {
        let inline = match &self.dockerfile {
            Some(path) => Map::default().with("dockerfile", file::read(path)?.1),
            None => Map::default(),
        };
        let http =
            Map::default().with_given("url", self.http.as_ref()).with_given("sha256", self.sha256.as_ref());
        Ok(Map::default()
            .with("git", self.git.as_ref().map(|git| self.git(git)).unwrap_or_default())
            .with("http", http)
            .with("oci", Map::default().with_given("image", self.oci.as_ref()))
            .with("configMap", Map::default().with_given("name", self.config_map.as_ref()))
            .with("inline", inline))
    }

    fn git(&self, git: &Git) -> Map {
        Map::default()
            .with("url", &git.url)
            .with_given("ref", self.r#ref.as_ref().or(git.r#ref.as_ref()))
            .with_given("commit", self.commit.as_ref())
            .with_given("subPath", self.sub_path.as_ref().or(git.sub_path.as_ref()))
            .with("secretRef", Map::default().with_given("name", self.git_secret.as_ref()))
    }
}

/// `{secretRef: {name: …}}`
fn secret_ref(name: Option<&String>) -> Map {
    Map::default().with("secretRef", Map::default().with_given("name", name))
}
