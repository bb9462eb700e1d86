//! The programs side by side, and how each is told what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::measure::Words;

/// A program that publishes or copies images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    Multiarch,
    Crane,
    Regctl,
    Buildx,
    Skopeo,
    Curl,
}

use Tool::{Buildx, Crane, Curl, Multiarch, Regctl, Skopeo};

/// An index to be made.
pub struct Publication {
    /// One image for each platform, by tag.
    pub images: Vec<String>,
    /// The same as an index that is there already, for who can only copy.
    pub index: String,
    /// `repository:tag`, of one repository.
    pub targets: Vec<String>,
    /// Whether images and targets are in one repository.
    pub in_place: bool,
}

impl Tool {
    /// Those that publish an index, ours first.
    pub const PUBLISHERS: [Self; 5] = [Multiarch, Crane, Regctl, Buildx, Skopeo];

    pub fn name(self) -> &'static str {
        match self {
            Multiarch => "multiarch",
            Crane => "crane",
            Regctl => "regctl",
            Buildx => "buildx",
            Skopeo => "skopeo",
            Curl => "curl",
        }
    }

    /// Where it is: ours as just built, the others as `make bench-tools` has installed them, else on the `PATH`.
    pub fn program(self) -> String {
        if self == Multiarch {
            return env!("CARGO_BIN_EXE_multiarch").to_owned();
        }
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(self.name());
        if installed.is_file() { installed.display().to_string() } else { self.name().to_owned() }
    }

    /// Its version, on one line; none if it does not run.
    pub fn version(self) -> Option<String> {
        let said = run(&self.version_command())?;
        match self {
            // What `go install` has built knows less of itself than Go does.
            Crane | Regctl | Buildx => {
                let built = run(&["go", "version", "-m", &self.program()].map(str::to_owned)).unwrap_or(said);
                let module = built.lines().find(|line| line.trim_start().starts_with("mod\t"));
                module
                    .or(built.lines().next())
                    .and_then(|line| line.split('\t').nth(3).or(Some(line)))
                    .map(str::to_owned)
            }
            Multiarch | Skopeo | Curl => {
                said.lines().next()?.split_whitespace().find(|word| word.contains('.')).map(str::to_owned)
            }
        }
    }

    pub fn version_command(self) -> Words {
        let argument = match self {
            Crane | Regctl | Buildx => "version",
            Multiarch | Skopeo | Curl => "--version",
        };
        self.words([argument])
    }

    /// Help for its commands that have to do with indexes; none if there are none.
    pub fn help_command(self) -> Option<Words> {
        match self {
            Multiarch | Crane | Regctl => Some(self.words(["index", "--help"])),
            Buildx => Some(self.words(["imagetools", "--help"])),
            Skopeo => Some(self.words(["copy", "--help"])),
            Curl => None,
        }
    }

    /// Looks at an image; `host` has no registry.
    pub fn inspect_command(self, host: &str) -> Option<Words> {
        let reference = format!("{host}/x:1");
        match self {
            Multiarch => Some(self.words(["index", "inspect", &reference])),
            Crane => Some(self.words(["manifest", &reference])),
            Regctl => Some(self.words(["manifest", "get", &reference])),
            Buildx => Some(self.words(["imagetools", "inspect", &reference])),
            Skopeo => {
                Some(self.words(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")]))
            }
            Curl => Some(self.words(["--silent", "--fail", &format!("http://{host}/v2/x/manifests/1")])),
        }
    }

    /// The commands that publish; none if the tool cannot. Several tags are what its manual has for them: one command
    /// where it takes several, else one more for each tag, one after the other as in a script.
    pub fn publish(self, publication: &Publication) -> Option<Vec<Words>> {
        let Publication { images, index, targets, in_place } = publication;
        let (first, others) = targets.split_first()?;
        let tag = |target: &str| target.rsplit(':').next().unwrap_or_default().to_owned();
        match self {
            Multiarch => {
                let images = images.iter().flat_map(|image| ["--image", image]);
                let targets = targets.iter().map(String::as_str);
                Some(vec![self.words(["index", "create"].into_iter().chain(targets).chain(images))])
            }
            Crane => {
                let images = images.iter().flat_map(|image| ["-m", image]);
                let append = self.words(["index", "append", "-t", first].into_iter().chain(images));
                let tags = others.iter().map(|target| self.words(["tag", first, &tag(target)]));
                Some([append].into_iter().chain(tags).collect())
            }
            Regctl => {
                let images = images.iter().flat_map(|image| ["--ref", image]);
                let create = self.words(["index", "create", first].into_iter().chain(images));
                let tags = others.iter().map(|target| self.words(["image", "copy", first, target]));
                Some([create].into_iter().chain(tags).collect())
            }
            Buildx => {
                let targets = targets.iter().flat_map(|target| ["-t", target]);
                let images = images.iter().map(String::as_str);
                let words = ["imagetools", "create", "--progress", "none"];
                Some(vec![self.words(words.into_iter().chain(targets).chain(images))])
            }
            Skopeo if *in_place => None,
            Skopeo => Some(targets.iter().map(|target| self.skopeo_copy(index, target)).collect()),
            Curl => None,
        }
    }

    /// The command that copies an image or index as it is; none if the tool cannot.
    pub fn copy(self, source: &str, target: &str) -> Option<Words> {
        match self {
            Multiarch => Some(self.words(["index", "copy", source, target])),
            Crane => Some(self.words(["copy", source, target])),
            Regctl => Some(self.words(["image", "copy", source, target])),
            Buildx => Some(self.words(["imagetools", "create", "--progress", "none", "-t", target, source])),
            Skopeo => Some(self.skopeo_copy(source, target)),
            Curl => None,
        }
    }

    fn skopeo_copy(self, source: &str, target: &str) -> Words {
        let [source, target] = [source, target].map(|reference| format!("docker://{reference}"));
        // Without --preserve-digests it compresses layers anew, which makes other images of them.
        let words = ["--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet"];
        let hosts = ["--src-tls-verify=false", "--dest-tls-verify=false", &source, &target];
        self.words(words.into_iter().chain(hosts))
    }

    fn words<'a>(self, arguments: impl IntoIterator<Item = &'a str>) -> Words {
        [self.program()].into_iter().chain(arguments.into_iter().map(str::to_owned)).collect()
    }
}

/// What a command prints if it succeeds.
fn run(command: &[String]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The whole of a shell's line as a command.
pub fn shell(line: &str) -> Words {
    ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
}

/// Where the results go.
pub fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}
