//! What is found in files, and under which name.

use clap::ValueEnum;
use serde::Serialize;

/// The names of findings. They are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The file is no YAML.
    Yaml,
    /// The API server refuses the resource.
    Schema,
    /// Another resource publishes the same tag.
    TagConflict,
    /// A Docker manifest list is asked for, and builds make OCI images.
    DockerFormat,
    /// There is no tag but latest.
    LatestOnly,
    /// A tag that is there to be moved is never moved.
    ImmutableLatest,
    /// A tag has a form that caches or signatures have.
    ReservedTag,
    /// A version's tag is built from a branch.
    VersionFromBranch,
    /// A source image is whatever latest is.
    SourceLatest,
    /// A source image is the tag that the resource itself publishes.
    SourceIsTarget,
    /// A registry is called localhost, which is another machine for everybody.
    Localhost,
    /// A platform that few clusters have nodes for is waited for without an end.
    ScarcePlatform,
    /// A field has no effect.
    Unused,
    /// What is built is whatever the default branch is.
    DefaultBranch,
    /// A git repository is fetched without TLS.
    PlainHttpGit,
    /// A base image is whatever latest is.
    BaseLatest,
    /// A named context may differ between platforms.
    ContextUnpinned,
    /// A build argument looks like a secret.
    SecretInArgs,
    /// A build may take all memory of its node.
    MemoryLimit,
    /// A remote builder is used without TLS.
    RemoteWithoutTls,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is refused, or cannot work.
    Error,
    /// It works, and somebody will wish it were otherwise.
    Warning,
}

impl Rule {
    /// The name, as `--allow` takes it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::Yaml | Self::Schema | Self::TagConflict | Self::DockerFormat => Severity::Error,
            Self::LatestOnly
            | Self::ImmutableLatest
            | Self::ReservedTag
            | Self::VersionFromBranch
            | Self::SourceLatest
            | Self::SourceIsTarget
            | Self::Localhost
            | Self::ScarcePlatform
            | Self::Unused
            | Self::DefaultBranch
            | Self::PlainHttpGit
            | Self::BaseLatest
            | Self::ContextUnpinned
            | Self::SecretInArgs
            | Self::MemoryLimit
            | Self::RemoteWithoutTls => Severity::Warning,
        }
    }
}

/// What is to be said about a place in a resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Advice {
    pub rule: Rule,
    /// `spec.target.tags[1]`
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Advice {
    pub(super) fn new(rule: Rule, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { rule, path: path.into(), message: message.into() }
    }
}

/// The same, and where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub file: String,
    /// The first is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    pub severity: Severity,
    pub rule: Rule,
    /// `namespace/name`, or the name alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    pub message: String,
}

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// How many resources were looked at.
    pub resources: usize,
    pub errors: usize,
    pub warnings: usize,
    pub findings: Vec<Finding>,
}

impl Report {
    /// Without what is allowed, counted and in the order of files and lines.
    pub(super) fn new(resources: usize, mut findings: Vec<Finding>, allowed: &[Rule]) -> Self {
        findings.retain(|finding| !allowed.contains(&finding.rule));
        findings.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        Self { resources, errors, warnings, findings }
    }

    /// `1 error, 2 warnings in 3 MultiArchImages`
    pub(super) fn summary(&self) -> String {
        let number = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            count => format!("{count} {word}s"),
        };
        format!(
            "{}, {} in {}",
            number(self.errors, "error"),
            number(self.warnings, "warning"),
            number(self.resources, "MultiArchImage")
        )
    }
}
