//! The objects that a cause is about, and the commands that show them.

use super::advice::{self, Place, Turn};
use crate::api::{BuildContext, MultiArchImage, PlatformStatus, Reason};
use crate::build;
use crate::registry::Reference;

/// A cause before it is explained: one platform of an image, or the image as a whole.
pub(super) struct Subject<'a> {
    pub image: &'a MultiArchImage,
    pub platform: Option<&'a PlatformStatus>,
    pub reason: Reason,
    /// A reason that only a newer operator knows. It has [`Reason::Pending`] in its stead.
    pub unknown: Option<&'a str>,
    pub message: &'a str,
}

/// How commands are typed here.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    /// `multiarch` or `kubectl multiarch`.
    pub program: &'static str,
    /// What leads to the cluster and the namespace: ` -n team-a`.
    pub flags: String,
    /// What leads to the cluster alone, for what has no namespace.
    pub cluster_flags: String,
}

impl Typed {
    /// A command of ours.
    pub fn ours(&self, command: &str) -> String {
        format!("{} {command}{}", self.program, self.flags)
    }

    fn kubectl(&self, command: &str) -> String {
        format!("kubectl {command}{}", self.flags)
    }

    /// A command of ours that needs no cluster.
    fn index(&self, command: &str) -> String {
        format!("{} index {command}", self.program)
    }
}

/// Pods and Jobs that are there, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    /// `pod/web-…`, `job/web-…`; `None` where it could not be asked.
    pub objects: Option<Vec<String>>,
}

impl Present {
    pub fn has(&self, object: &str) -> bool {
        self.objects.as_ref().is_none_or(|objects| objects.iter().any(|found| found == object))
    }
}

impl Subject<'_> {
    /// What to look at, the most telling first: `pod/web-…`, `secret/regcred`, a reference, an address.
    pub fn objects(&self, present: &Present) -> Vec<String> {
        let runs = matches!(self.reason, Reason::VerifyRunning | Reason::VerifyRunFailed);
        let job = self.job().filter(|_| !runs);
        let build = || [self.pod(), job.clone()].into_iter().flatten().filter(|object| present.has(object));
        match advice::place(self.reason) {
            Place::Log if runs => build().chain(self.checked()).take(1).collect(),
            Place::Log | Place::Nodes => build().take(1).collect(),
            Place::Pod => build().take(1).chain(self.node()).collect(),
            Place::Job => job.into_iter().filter(|job| present.has(job)).collect(),
            Place::Named => self.named().into_iter().collect(),
            Place::Registry => self.address().or_else(|| self.own_address()).into_iter().collect(),
            Place::Context => self.named().or_else(|| self.context()).into_iter().collect(),
            Place::Spec => vec![format!("multiarchimage/{}", self.name())],
        }
    }

    /// The next commands to type.
    pub fn commands(&self, present: &Present, typed: &Typed) -> Vec<String> {
        let mut commands = self.looks(present, typed);
        commands.extend(match advice::turn(self.reason) {
            Turn::Operator => None,
            Turn::Reconcile => Some(typed.ours(&format!("reconcile {}", self.name()))),
            Turn::Rebuild => Some(typed.ours(&format!("rebuild {}", self.name()))),
            Turn::Edit => Some(typed.kubectl(&format!("edit multiarchimage/{}", self.name()))),
            Turn::Resume => Some(typed.ours(&format!("resume {}", self.name()))),
        });
        commands
    }

    fn looks(&self, present: &Present, typed: &Typed) -> Vec<String> {
        let objects = self.objects(present);
        let describe = |object: &String| typed.kubectl(&format!("describe {object}"));
        let in_cluster = || objects.iter().filter(|object| is_object(object));
        match advice::place(self.reason) {
            Place::Log => {
                let goes_on = matches!(self.reason, Reason::Building | Reason::VerifyRunning);
                let log = self.log(present, typed, if goes_on { " -f" } else { "" });
                let image = objects.iter().filter(|object| is_address(object));
                let image = image.map(|reference| typed.index(&format!("inspect --config {reference}")));
                log.into_iter().chain(in_cluster().map(describe)).chain(image).collect()
            }
            Place::Pod => in_cluster().map(describe).chain(self.log(present, typed, "")).collect(),
            Place::Job => in_cluster().map(describe).collect(),
            Place::Nodes => {
                let nodes = "kubectl get nodes -L kubernetes.io/os -L kubernetes.io/arch";
                let nodes = format!("{nodes}{}", typed.cluster_flags);
                in_cluster().map(describe).chain([nodes, typed.ours("platforms")]).collect()
            }
            Place::Named | Place::Context => {
                in_cluster().map(|object| typed.kubectl(&format!("get {object}"))).collect()
            }
            Place::Registry => {
                let address = objects.iter().filter(|object| object.parse::<Reference>().is_ok());
                address.map(|reference| typed.index(&format!("inspect {reference}"))).collect()
            }
            Place::Spec => in_cluster().map(describe).collect(),
        }
    }

    /// The log of the platform's build: of its pod, or what the status keeps of it.
    fn log(&self, present: &Present, typed: &Typed, follow: &str) -> Option<String> {
        let platform = self.platform?;
        let is_there = self.pod().is_some_and(|pod| present.has(&pod)) || platform.log_tail.is_some();
        let command = format!("logs {} --platform {}{follow}", self.name(), platform.platform);
        is_there.then(|| typed.ours(&command))
    }

    fn name(&self) -> &str {
        self.image.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pod that the message names, which may run the image instead of building it; else that of the build.
    fn pod(&self) -> Option<String> {
        named(self.message, "pod/").or_else(|| Some(format!("pod/{}", self.platform?.pod.as_ref()?)))
    }

    fn job(&self) -> Option<String> {
        Some(format!("job/{}", self.platform?.job.as_ref()?))
    }

    /// The platform's image in the target repository, as it was checked.
    fn checked(&self) -> Option<String> {
        let digest = &self.platform?.verification.as_ref()?.digest;
        Some(format!("{}@{digest}", self.image.spec.target.repository))
    }

    fn node(&self) -> Option<String> {
        Some(format!("node/{}", self.platform?.node.as_ref()?))
    }

    /// The Secret or ConfigMap that the message names.
    fn named(&self) -> Option<String> {
        named(self.message, "secret/").or_else(|| named(self.message, "configmap/"))
    }

    /// The image, repository or address that the message speaks of first.
    fn address(&self) -> Option<String> {
        let words = self.message.split_whitespace();
        words.map(|word| word.trim_matches(BESIDE_WORDS)).find(|word| is_address(word)).map(str::to_owned)
    }

    /// The existing image that the platform comes from, or the target. Base images stand in the Dockerfile.
    fn own_address(&self) -> Option<String> {
        if matches!(self.reason, Reason::BaseImageNotFound | Reason::BaseImagePlatformMissing) {
            return self.context();
        }
        if self.reason == Reason::BinaryMismatch {
            return self.checked();
        }
        let source = self.platform.and_then(|platform| platform.source.as_ref());
        let target = &self.image.spec.target;
        source.map(|source| source.image.clone()).or_else(|| {
            let tag = target.tags.first()?;
            Some(format!("{}:{tag}", target.repository))
        })
    }

    fn context(&self) -> Option<String> {
        let build = self.image.spec.build.as_ref()?;
        let platform = self.platform.and_then(|platform| self.image.spec.platform(&platform.platform));
        let build = build::for_platform(build, platform.and_then(|entry| entry.build.as_ref()));
        let BuildContext { git, http, oci, config_map, inline: _ } = build.context;
        git.map(|git| git.url)
            .or_else(|| http.map(|http| http.url))
            .or_else(|| oci.map(|oci| oci.image))
            .or_else(|| config_map.map(|config_map| format!("configmap/{}", config_map.name)))
    }
}

/// The object of a kind (`secret/`) that a message names.
pub(super) fn named(message: &str, kind: &str) -> Option<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    let (_, rest) = message.split_once(kind)?;
    let name = rest.split(ends).next()?.trim_end_matches('.');
    (!name.is_empty()).then(|| format!("{kind}{name}"))
}

/// What stands beside the words of a message without being a part of them.
const BESIDE_WORDS: [char; 8] = [':', ';', ',', '.', '(', ')', '"', '\''];

/// Whether this names a place in a registry, or has a scheme. Only what begins with a host does: `linux/arm64` does not.
fn is_address(word: &str) -> bool {
    let begins_with_host = word
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains('.') || host.contains(':'));
    word.contains("://") || begins_with_host && word.parse::<Reference>().is_ok()
}

/// Whether this names an object of the cluster.
fn is_object(text: &str) -> bool {
    let kinds = ["pod/", "job/", "node/", "secret/", "configmap/", "multiarchimage/"];
    kinds.iter().any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.contains(['/', ':'])))
}
